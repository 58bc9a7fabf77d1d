"""`surgeline hl7 send` and `hl7 listen`: each acknowledgement is shown, nothing of a patient is, and the exit code tells."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.formats.hl7v2 import batch
from pipeline.formats.hl7v2.framing import frame
from pipeline.local.ports import HOST, free_port
from tests.support.certificates import Authority, server_context
from tests.support.mllp_receiver import Receiver, Say, ack, always, listening, scripted

pytestmark = pytest.mark.timeout(120)
CANARY: Final = "Zzyzxqv"
BOUND_S: Final = 60.0


def message(control_id: str, more: str = "") -> bytes:
    return f"MSH|^~\\&|S|F|R||20260101||ADT^A08|{control_id}|P|2.5.1{more}\rPID|||1^^^G^MR||{CANARY}\r".encode()


@contextmanager
def receiver(say: Say | None = None, tls: object = None) -> Iterator[Receiver]:
    made, ready, end = Receiver(say or always()), threading.Event(), threading.Event()

    async def serve() -> None:
        async with listening(made, tls=tls):  # type: ignore[arg-type]
            ready.set()
            while not end.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(BOUND_S)
    try:
        yield made
    finally:
        end.set()
        thread.join(BOUND_S)


@contextmanager
def taking_frames(say: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answers the first frame of each connection as told, then ends it; gives the port."""
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        data = b""
                        while not data.endswith(b"\x1c\r"):
                            data += connection.recv(1 << 16)
                        connection.sendall(say(data[1:-2]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(BOUND_S)


def surgeline(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["hl7", *arguments], input=stdin)


def write(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def test_send_shows_each_answer_by_control_id_and_code_and_ends_with_1_where_one_was_not_taken(tmp_path: Path) -> None:
    codes = {"C1": ("AA",), "C2": ("AE", "207"), "C3": ("AR", "103")}
    with receiver(lambda seen: ack(codes[seen.control_id][0], seen.control_id, *codes[seen.control_id][1:])) as at:
        file = write(tmp_path, "some.hl7", message("C1") + message("C2") + frame(message("C3")))
        ended = surgeline("send", file, "--to", f"{HOST}:{at.port}")
        clean = surgeline("send", write(tmp_path, "one.hl7", message("C1")), "--to", f"{HOST}:{at.port}")
    rows = ended.stdout.splitlines()
    assert ended.exit_code == 1
    assert [("AA" in rows[0], "C1" in rows[0]), ("AE" in rows[1], "C2" in rows[1]), ("AR" in rows[2], "C3" in rows[2])] == [
        (True, True)
    ] * 3
    assert "103 Table value not found" in rows[2]
    assert rows[3] == "3 messages: 1 AA, 1 AE, 1 AR"
    assert clean.exit_code == 0
    assert CANARY not in ended.stdout + ended.stderr
    assert [seen.data for seen in at.seen[:3]] == [message("C1"), message("C2"), message("C3")]


def test_send_reads_batches_folders_and_standard_input_and_refuses_a_batch_with_a_wrong_count(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write(folder, "b.hl7", message("C2"))
    write(folder, "a.hl7", b"FHS|^~\\&\rBHS|^~\\&\r" + message("C1") + b"BTS|1\rFTS|1\r")
    with receiver() as at:
        ended = surgeline(
            "send", str(folder), "-", "--to", f"{HOST}:{at.port}", "--json", stdin=message("C3").replace(b"\r", b"\n")
        )
        bad = write(tmp_path, "bad.hl7", b"BHS|^~\\&\r" + message("C4") + b"BTS|2\r")
        refused = surgeline("send", bad, "--to", f"{HOST}:{at.port}")
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(row["control_id"], row["code"], row["taken"]) for row in told] == [(f"C{n}", "AA", True) for n in (1, 2, 3)]
    assert [seen.control_id for seen in at.seen] == ["C1", "C2", "C3"]
    assert refused.exit_code == 2
    assert "BTS-1" in refused.stderr


def test_send_makes_one_batch_of_many_messages_and_shows_the_answer_to_each(tmp_path: Path) -> None:
    took: list[batch.Batches] = []

    def say(data: bytes) -> bytes:
        whole = batch.read(data)
        assert isinstance(whole, batch.Batches)
        took.append(whole)
        codes = ("AA", "AE" if len(took) == 1 else "AA", "AR")
        answers = [ack(code, f"C{n}").strip(b"\x0b\x1c\r") for n, code in enumerate(codes, 1)]
        return frame(batch.acknowledgement(whole, answers[::-1]))

    file = write(tmp_path, "some.hl7", message("C1") + message("C2") + message("C3"))
    with taking_frames(say) as port:
        ended = surgeline("send", file, "--to", f"{HOST}:{port}", "--batch", "--retries", "1", "--json")
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(row["control_id"], row["code"], row["tries"]) for row in told] == [("C1", "AA", 2), ("C2", "AA", 2), ("C3", "AR", 2)]
    assert ended.exit_code == 1
    assert took[0].messages == (message("C1"), message("C2"), message("C3"))
    assert took[0].control_id == took[1].control_id
    assert CANARY not in ended.stdout + ended.stderr


def test_a_batch_that_is_refused_as_a_whole_or_never_answered_is_taken_of_no_message(tmp_path: Path) -> None:
    file = write(tmp_path, "some.hl7", message("C1") + message("C2"))
    with taking_frames(lambda _: ack("AR", "", "104")) as port:
        refused = surgeline("send", file, "--to", f"{HOST}:{port}", "--batch")
    with taking_frames(lambda _: b"") as port:
        silent = surgeline("send", file, "--to", f"{HOST}:{port}", "--batch", "--json")
    nobody = surgeline("send", file, "--to", f"{HOST}:{free_port()}", "--batch")
    assert (refused.exit_code, silent.exit_code, nobody.exit_code) == (1, 1, 1)
    assert refused.stdout.count("104 Value too long") == 2
    assert [json.loads(line)["code"] for line in silent.stdout.splitlines()] == ["no answer"] * 2
    assert nobody.stdout.count("not sent") == 3
    unnamed = write(tmp_path, "bad.hl7", message(""))
    assert surgeline("send", unnamed, "--to", f"{HOST}:{free_port()}", "--batch").exit_code == 2


def test_send_tries_again_as_told_and_keeps_the_control_id(tmp_path: Path) -> None:
    with receiver(scripted(["AE", "AE"])) as at:
        ended = surgeline("send", write(tmp_path, "one.hl7", message("C1")), "--to", f"{HOST}:{at.port}", "--retries", "3")
    assert ended.exit_code == 0
    assert "tries 3" in ended.stdout
    assert [seen.control_id for seen in at.seen] == ["C1"] * 3


def test_send_says_when_nobody_listens_or_a_message_can_not_be_answered(tmp_path: Path) -> None:
    file = write(tmp_path, "six.hl7", b"".join(message(f"C{n}") for n in range(6)))
    nobody = surgeline("send", file, "--to", f"{HOST}:{free_port()}")
    assert nobody.exit_code == 1
    assert "6 messages: 6 not sent" in nobody.stdout
    with receiver() as at:
        nameless = surgeline("send", write(tmp_path, "n.hl7", message("")), "--to", f"{HOST}:{at.port}")
    assert nameless.exit_code == 1
    assert "no MSH-10" in nameless.stdout
    assert at.seen == []
    assert surgeline("send", file, "--to", "nowhere").exit_code == 2


def test_send_uses_its_window_and_its_rate(tmp_path: Path) -> None:
    file = write(tmp_path, "many.hl7", b"".join(message(f"C{n}") for n in range(12)))
    held: list[bytes] = []

    def say(seen: object) -> bytes:
        held.append(ack("AA", seen.control_id))  # type: ignore[attr-defined]
        return b"".join(reversed(held[-4:])) if len(held) % 4 == 0 else b""

    with receiver(say) as at:
        began = time.monotonic()
        ended = surgeline("send", file, "--to", f"{HOST}:{at.port}", "--window", "4", "--rate", "20")
    assert ended.exit_code == 0, ended.stdout
    assert time.monotonic() - began >= 0.5
    assert [seen.control_id for seen in at.seen] == [f"C{n}" for n in range(12)]


def test_send_proves_who_it_is(tmp_path: Path) -> None:
    authority = Authority()
    ca = write(tmp_path, "ca.pem", authority.certificate)
    there, here = authority.issue("there").put(tmp_path, "there"), authority.issue("here").put(tmp_path, "here")
    file = write(tmp_path, "one.hl7", message("C1"))
    with receiver(tls=server_context(*there, clients=authority.certificate)) as at:
        to = ("--to", f"{HOST}:{at.port}", "--ca-file", ca)
        assert surgeline("send", file, *to, "--cert-file", str(here[0]), "--key-file", str(here[1])).exit_code == 0
        assert surgeline("send", file, *to).exit_code == 1
    assert len(at.seen) == 1


def say_to(port: int, *messages: bytes) -> list[bytes]:
    deadline = time.monotonic() + BOUND_S
    while True:
        try:
            connection = socket.create_connection((HOST, port), timeout=BOUND_S)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    answers = []
    with connection:
        for each in messages:
            connection.sendall(frame(each))
            answer = b""
            while not answer.endswith(b"\x1c\r") and (part := connection.recv(65_536)):
                answer += part
            answers.append(answer)
    return answers


def test_listen_answers_as_told_shows_what_came_and_keeps_nothing_unless_asked_to(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "kept"
    options = ("--port", str(port), "--answer", "AE", "--count", "3", "--for", str(BOUND_S), "--save", str(folder))
    with ThreadPoolExecutor(1) as pool:
        saying = pool.submit(say_to, port, message("C1"), b"no message", message("C3", "|||AL|NE"))
        ear = surgeline("listen", *options)
        answers = saying.result(BOUND_S)
    out, err = ear.stdout, ear.stderr
    assert ear.exit_code == 0
    assert [b"MSA|AE|C1" in answers[0], b"MSA|AR" in answers[1], b"MSA|CE|C3" in answers[2]] == [True] * 3
    rows = out.splitlines()
    assert len(rows) == 3
    assert all(part in rows[0] for part in ("AE", "C1", "ADT^A08", "MSH PID"))
    assert "3 messages" in err
    kept = sorted(folder.iterdir())
    assert len(kept) == 3
    assert kept[0].read_bytes() == message("C1")
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    assert CANARY not in out + err + "".join(path.name for path in kept)


def test_listen_ends_by_its_time_and_listens_beyond_this_machine_only_with_tls() -> None:
    assert surgeline("listen", "--port", "0", "--for", "0.2").exit_code == 0
    assert surgeline("listen", "--port", "0", "--host", "0.0.0.0", "--for", "0.2").exit_code == 2
    assert surgeline("listen", "--port", "0", "--answer", "XX").exit_code == 2
