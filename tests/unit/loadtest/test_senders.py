"""Senders: what is handed to whom, what is a yes, and trouble that could not be made."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from loadtest.director import Director
from loadtest.evidence import Found, lost
from loadtest.feeder import Feeder, begins_at
from loadtest.mllp import MllpConnection
from loadtest.plan import Order, make_plan
from loadtest.shapes import SHAPES, Act, Deed
from loadtest.target import BadTarget, HttpTarget, KillTarget, MllpTarget, Opened, Target, write
from loadtest.tracker import Tracker
from pipeline.domain.identifiers import Millis
from pipeline.local.demo.drive import END, START, subject_of
from pipeline.local.ports import HOST, free_port

TIME = 0.01
AA = START + b"MSH|^~\\&|\rMSA|AA|1\r" + END


def now_ms(ahead_s: float = 0.0) -> Millis:
    return Millis(int((time.time() + ahead_s) * 1000))


def test_each_message_is_handed_out_once_when_it_is_due_and_a_patients_to_one_connection() -> None:
    feeder = Feeder()
    queues = [feeder.connection() for _ in range(3)]
    order = Order("steady-day", 1.0, TIME, 1, now_ms(-5), 1)
    feeder.play(order, 0)
    steps = make_plan(SHAPES["steady-day"].scaled(1.0, TIME), 1, order.begins_at).steps
    owners: dict[str, set[int]] = {}
    handed = []
    for number, queue in enumerate(queues):
        while not queue.empty():
            due = queue.get()
            handed.append(due.step.identity)
            owners.setdefault(subject_of(due.step), set()).add(number)
    while not feeder.http.empty():
        handed.append(feeder.http.get().step.identity)
    assert sorted(handed) == sorted(step.identity for step in steps)
    assert feeder.total == len(steps)
    assert all(len(numbers) == 1 for numbers in owners.values())
    assert {number for numbers in owners.values() for number in numbers} == {0, 1, 2}


def test_messages_that_come_before_any_connection_wait_for_the_first() -> None:
    feeder = Feeder()
    feeder.play(Order("steady-day", 1.0, TIME, 1, now_ms(-5), 1), 0)
    first, second = feeder.connection(), feeder.connection()
    assert not first.empty()
    assert second.empty()


def test_a_message_is_not_handed_out_before_it_is_due() -> None:
    feeder = Feeder()
    feeder.connection()
    playing = gevent.spawn(feeder.play, Order("steady-day", 1.0, TIME, 1, now_ms(30), 1), 0)
    feeder.started.wait(10)
    assert feeder.http.empty()
    playing.kill()


def test_a_plan_that_was_made_too_late_says_so() -> None:
    feeder = Feeder()
    feeder.connection()
    feeder.play(Order("steady-day", 1.0, TIME, 1, now_ms(-60), 1), 0)
    assert feeder.told()["slip_p99_ms"] > 30_000


def test_answered_ids_are_told_once_and_a_message_without_an_answer_stays_undone() -> None:
    feeder = Feeder()
    feeder.answered("202", ["a"])
    feeder.refused("422")
    first, second = feeder.told(), feeder.told()
    assert (first["yes"], first["answered"], first["refused"], first["done"]) == (["a"], 1, 1, 2)
    assert (second["yes"], second["done"]) == ([], 2)


def test_a_shape_begins_late_enough_for_its_plan_to_be_made() -> None:
    assert begins_at(1_000.0, 36_000, 30.0) > begins_at(1_000.0, 100, 1.0) > 1_000_000


def test_an_answered_event_that_nobody_judged_is_lost() -> None:
    found = Found(Tracker({}), {"a", "b"})
    assert lost(["a", "b", "a"], found) == 0
    assert lost(["a", "c", "d", "c"], found) == 2


# -- MLLP


@contextlib.contextmanager
def engine(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answers one message of each connection by one of `answers`, in chunks; then hangs up."""
    got: list[bytes] = []
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            for answer in answers:
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        frame = b""
                        while not frame.endswith(END):
                            frame += connection.recv(4)
                        got.append(frame)
                        for place in range(0, len(answer), 3):
                            connection.sendall(answer[place : place + 3])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], got
    thread.join(5)


def test_a_message_is_framed_and_its_acknowledgement_read_in_pieces() -> None:
    with engine(AA) as (port, got):
        connection = MllpConnection(HOST, port, None, 5)
        assert connection.exchange(b"MSH|x\r") == "AA"
        connection.close()
    assert got == [START + b"MSH|x\r" + END]


def test_an_answer_that_breaks_off_is_none_and_the_next_message_gets_a_new_connection() -> None:
    with engine(AA[:-3], AA) as (port, got):
        connection = MllpConnection(HOST, port, None, 5)
        with pytest.raises(OSError, match="ended before"):
            connection.exchange(b"MSH|x\r")
        assert connection.exchange(b"MSH|x\r") == "AA"
        connection.close()
    assert len(got) == 2


def test_nobody_listening_is_no_answer() -> None:
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's business
        MllpConnection(HOST, free_port(), None, 5).exchange(b"MSH|x\r")


# -- target and trouble


def target(**changes: object) -> Target:
    fields: dict[str, object] = {"surgeline": "s.yaml", "http": HttpTarget("http://h", "t"), "mllp": MllpTarget("h", 1)}
    return Target(**(fields | changes))  # type: ignore[arg-type]


def test_a_target_is_read_back_and_its_token_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("secret\n")
    write(target(), tmp_path / "target.yaml")
    opened = Opened(tmp_path / "target.yaml")
    assert opened.target == target()
    assert opened.token() == "secret"
    assert "secret" not in repr(opened.target)


@pytest.mark.parametrize(
    "text", ["", "[]", "http: {", "surgeline: s.yaml\nhttp: {url: u, token: secret}\nmllp: {host: h, port: 1}"]
)
def test_a_target_that_says_something_else_is_refused_without_its_values(tmp_path: Path, text: str) -> None:
    (tmp_path / "target.yaml").write_text(text)
    with pytest.raises(BadTarget) as refused:
        Opened(tmp_path / "target.yaml")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("act", "changes"),
    [
        (Act(Deed.SLOW, 0, 0.1), {}),
        (Act(Deed.OUT, 0, 0.1), {"ehr_faults": ("http://127.0.0.1:1/faults",)}),
        (Act(Deed.KILL, 0, role="gate"), {}),
        (Act(Deed.KILL, 0, role="gate"), {"kill": KillTarget(("false",), ("gate",))}),
        (Act(Deed.KILL, 0, role="gate"), {"kill": KillTarget(("/no/such/command",), ("gate",))}),
        (Act(Deed.KILL, 0, role="gate"), {"kill": KillTarget(("true",), ("writer-ehr",))}),
    ],
)
def test_trouble_that_could_not_be_made_is_said(act: Act, changes: dict[str, object]) -> None:
    (done,) = Director(target(**changes), now_ms()).play([act])
    assert not done.held


def test_a_kill_names_the_role_that_begins_with_its_kind(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", str(tmp_path / "{role}"))
    kill = KillTarget(command, ("gate", "writer-ehr", "http"))
    (done,) = Director(target(kill=kill), now_ms()).play([Act(Deed.KILL, 0, role="writer")])
    assert done.held
    assert (done.role, [path.name for path in tmp_path.iterdir()]) == ("writer-ehr", ["writer-ehr"])
