"""HL7 v2 out, on a real broker: from landing to a receiver that refuses, goes away and comes back, and to our own way in."""

import threading
import time
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.domain.event import EntityType
from pipeline.domain.records import Accepted, Outcome, OutcomeKind, Reason
from pipeline.local.ports import HOST
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack, wait_for
from pipeline.roles.accounts.books import close_books, current_status
from tests.support.mllp_desk import desk
from tests.support.mllp_receiver import Seen, ack, always
from tests.support.stacks import ANSWER_S, post, records, send_hl7, stack_at, stopped_at_end

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

QUICK: Final = {"ack_timeout_s: 30": "ack_timeout_s: 5", "max_attempts: 20": "max_attempts: 3"}


def profile(folder: Path, **changes: str) -> str:
    text = Path("pipeline/profiles/hl7-out/replica.yaml").read_text()
    for before, after in {**QUICK, **changes}.items():
        assert before in text
        text = text.replace(before, after)
    path = folder / "receiver.yaml"
    path.write_text(text)
    return str(path)


def stack_for(folder: Path, broker: Broker, port: int, **changes: str) -> Stack:
    section = {"host": HOST, "port": port, "profile": profile(folder, **changes), "role": "replica"}
    over = {"hl7_out": {"adt": {**section, "data_dir": str(folder / "data" / "adt")}}}
    return stack_at(folder, broker.bootstrap, overrides=over)


def bed(entity: str, number: int, environment: str) -> dict[str, Any]:
    moment = 1_790_000_000 + number
    return {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": f"ICU/{entity}/A",
        "event_type": "BED_STATUS",
        "recorded_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
        "payload": {"environment": environment},
    }


def change(stack: Stack, entity: str, number: int, environment: str) -> None:
    status, _ = post(stack, bed(entity, number, environment), f"{entity}-{number}")
    assert status == 202


STATES: Final = ("DIRTY", "CONTAMINATED")


def changes_of(stack: Stack, entity: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        change(stack, entity, number, STATES[number % 2])


def codes(found: list[Seen]) -> list[str]:
    return [seen.message.field("NPU", 2) or "" for seen in found]


def about(entity: str) -> str:
    return f"GENERAL/ICU/{entity}/A"


def outcomes(stack: Stack) -> list[Outcome]:
    return [
        record for record in records(stack, "outcomes") if isinstance(record, Outcome) and record.kind is not OutcomeKind.FAILED
    ]


def started(stack: Stack) -> None:
    names = [stack.start("gate"), stack.start("http"), stack.start("writer", "adt")]
    stack.wait_ready(*names, timeout_s=ANSWER_S * 2)


def test_each_change_is_told_in_order_through_ae_ar_an_absence_and_a_kill_and_the_books_balance(
    broker: Broker, tmp_path: Path
) -> None:
    with desk() as at, stopped_at_end(stack_for(tmp_path, broker, at.port)) as stack:
        started(stack)

        # Order, one message each; AE goes again under its control id; AR is parked and the next one goes.
        refused: set[str] = set()

        def say(seen: Seen) -> bytes:
            said = "AA"
            if seen.about == about("AE") and seen.control_id not in refused:
                said = "AE"
            if seen.about == about("AR") and codes([seen]) == ["H"]:
                return ack("AR", seen.control_id, "103")
            refused.add(seen.control_id)
            return ack(said, seen.control_id)

        at.receiver.say = say
        for entity in ("ONE", "AE", "AR"):
            changes_of(stack, entity, 0, 4)
        wait_for(lambda: len(outcomes(stack)) == 12, ANSWER_S, "each change has its end")
        assert codes(at.receiver.of(about("ONE"))) == ["H", "K", "H", "K"]
        assert codes(at.receiver.of(about("AE"))) == ["H", "K", "H", "K"]
        twice = [seen.control_id for seen in at.receiver.seen if seen.about == about("AE")]
        assert twice == [control_id for one in dict.fromkeys(twice) for control_id in (one, one)]
        parked = [outcome for outcome in outcomes(stack) if outcome.kind is OutcomeKind.PARKED]
        assert [(o.entity_id, o.reason) for o in parked] == [("ICU/AR/A", Reason.REFUSED_INVALID)] * 2

        # The receiver goes away and comes back: nothing is parked, everything goes, in order.
        at.receiver.say = always()
        at.go()
        changes_of(stack, "AWAY", 0, 6)
        wait_for(lambda: current_status(stack.settings).destinations[0].mode == "outage", ANSWER_S, "the outage is seen")
        at.come()
        wait_for(lambda: len(outcomes(stack)) == 18, ANSWER_S, "what waited is told")
        assert codes(at.receiver.of(about("AWAY"))) == ["H", "K"] * 3

        # The writer is killed while a message is under way: it goes again as the same message.
        hold = threading.Event()
        at.receiver.say = lambda seen: b"" if not hold.is_set() else ack("AA", seen.control_id)
        changes_of(stack, "KILL", 0, 4)
        wait_for(lambda: at.receiver.of(about("KILL")), ANSWER_S, "one is under way")
        stack.kill("writer-adt-0")
        hold.set()
        stack.wait_ready(stack.start("writer", "adt"), timeout_s=ANSWER_S * 2)
        wait_for(lambda: len(outcomes(stack)) == 22, ANSWER_S * 2, "what was under way is told")
        assert codes(at.receiver.of(about("KILL"))) == ["H", "K"] * 2
        again = [seen.data for seen in at.receiver.seen if seen.about == about("KILL")]
        assert again[0] == again[1], "the same message, byte for byte"

        # Nothing that was told before the kill is told again, and each accepted change has an end of its own.
        assert len([seen for seen in at.receiver.seen if seen.about == about("ONE")]) == 4
        accepted = [record for record in records(stack, "events.accepted") if isinstance(record, Accepted)]
        assert {o.revision for o in outcomes(stack)} == {a.revision for a in accepted}
        books, _ = close_books(stack.settings, ask=True)
        told = books.destinations[0]
        assert books.complete, books.problems
        assert (told.expected, told.confirmed, told.superseded, told.parked) == (22, 20, 0, 2)
        wait_for(lambda: current_status(stack.settings).destinations[0].parked == 0, ANSWER_S, "a later change was told")
        assert current_status(stack.settings).destinations[0].mode in ("normal", "recovery")


def test_what_goes_out_of_one_comes_in_at_another_as_the_same_changes(broker: Broker, tmp_path: Path) -> None:
    other = stack_at(tmp_path / "other", broker.bootstrap)
    (tmp_path / "one").mkdir()
    one = stack_for(tmp_path / "one", broker, other.mllp_port)
    with stopped_at_end(one), stopped_at_end(other):
        names = [other.start("gate"), other.start("mllp")]
        other.wait_ready(*names, timeout_s=ANSWER_S * 2)
        started(one)
        for number in range(6):
            change(one, f"L{number % 2}", number, STATES[(number // 2) % 2])
        wait_for(lambda: len(_beds(other)) == 6, ANSWER_S, "the other one has them")
        wait_for(lambda: len(outcomes(one)) == 6, ANSWER_S, "and acknowledged them")
        sent, came = ([(b.entity_id, b.state.environment) for b in _beds(each)] for each in (one, other))
        for entity in {name for name, _ in sent}:
            assert [said for name, said in came if name == entity] == [said for name, said in sent if name == entity]


def adt(trigger: str, number: int, place: str, prior: str = "") -> bytes:
    at = f"202601021{number:03d}00+0000"
    return (
        f"MSH|^~\\&|EHR|GENERAL|||{at}||ADT^{trigger}|T{number}|P|2.5.1\rEVN||{at}\rPID|||P1^^^GENERAL^MR||Doe^Jo||19700102|F\r"
        f"PV1||I|{place}|||{prior}|||||||||||||V1^^^GENERAL^VN\r"
    ).encode()


def test_a_stay_that_came_in_by_hl7_goes_out_as_the_same_triggers_with_its_person_and_its_beds(
    broker: Broker, tmp_path: Path
) -> None:
    with desk() as at, stopped_at_end(stack_for(tmp_path, broker, at.port)) as stack:
        names = [stack.start("gate"), stack.start("mllp"), stack.start("writer", "adt")]
        stack.wait_ready(*names, timeout_s=ANSWER_S * 2)
        one, two = "ICU^1^A^GENERAL", "W2^7^B^GENERAL"
        for message in (adt("A01", 1, one), adt("A02", 2, two, one), adt("A03", 3, two)):
            assert b"MSA|AA|" in send_hl7(stack, message)
        wait_for(lambda: [seen.name for seen in at.receiver.of("V1")][-1:] == ["ADT^A03"], ANSWER_S, "the discharge is told")
        stay = at.receiver.of("V1")
        assert [seen.name for seen in stay] == ["ADT^A01", "ADT^A02", "ADT^A03"]
        assert [seen.message.field("PV1", 3, component=1) for seen in stay] == ["ICU", "W2", "W2"]
        assert stay[-1].message.field("PV1", 45) is not None
        assert {seen.message.field("PID", 3) for seen in stay} == {"P1"}
        wait_for(lambda: codes(at.receiver.of("GENERAL/W2/7/B"))[-1:] == ["U"], ANSWER_S, "the bed that was left is told")
        assert codes(at.receiver.of("GENERAL/ICU/1/A")) == ["O", "U"]
        assert codes(at.receiver.of("GENERAL/W2/7/B")) == ["O", "U"]
        person = at.receiver.of("P1")[0]
        assert (person.name, person.message.field("PID", 5, component=2)) == ("ADT^A28", "Jo")


def _beds(stack: Stack) -> list[Any]:
    found = [record for record in records(stack, "events.accepted") if isinstance(record, Accepted)]
    return sorted((each for each in found if each.entity_type is EntityType.BED), key=lambda each: each.accepted_at)
