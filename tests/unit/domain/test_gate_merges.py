"""Merges at the gate, one promise a test: a few logs, judged in the order that the test says."""

from collections import defaultdict
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Event,
    EventType,
    Identifier,
    Name,
    Occupancy,
    Patient,
    Payload,
    Reference,
    sealed,
)
from pipeline.domain.head import Head, decode_head, encode_head
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, Millis, derive_event_id, revision_of
from pipeline.domain.judging.gate import Accept, Position, Send, Suppress, Verdict, decide
from pipeline.domain.judging.merges import ABSORBED_KEPT, HOPS
from pipeline.domain.records import Control, ControlKind, DecisionKind, Reason
from pipeline.domain.ring import EMPTY_RING
from tests.support.policies import shipped_policy

POLICY = shipped_policy()


def ref(name: str) -> Reference:
    return Reference("N", name)


class Logs:
    """A log for each entity; what a verdict sends to others waits in `sent` until the test lets it land."""

    def __init__(self, entity_type: EntityType = EntityType.PATIENT) -> None:
        self.type = entity_type
        self.heads: dict[str, Head] = {}
        self.ends: defaultdict[str, int] = defaultdict(int)
        self.sent: list[Send] = []
        self.aliases: dict[Reference, Reference] = {}
        self.numbers = 0

    def event(
        self,
        name: str,
        payload: Payload,
        recorded: int = 10,
        kind: EventType = EventType.UPDATE,
        replaces: str | None = None,
        system: str = "ehr",
    ) -> Event:
        self.numbers += 1
        key = EntityKey("t", self.type.value, "N", name)
        return sealed(
            Event(
                event_id=derive_event_id("t", system, (str(self.numbers),), key, 0),
                tenant="t",
                facility="F",
                source_system=system,
                feed="x",
                entity_type=self.type,
                namespace="N",
                entity_id=name,
                event_type=kind,
                recorded_at=Millis(recorded),
                received_at=Millis(1_000),
                payload=payload,
                replaces=ref(replaces) if replaces else None,
            )
        )

    def judge(self, name: str, record: Event | Control) -> Verdict:
        offset = self.ends[name]
        self.ends[name] += 1
        key = EntityKey("t", self.type.value, "N", name).encode()
        at = Position(self.type, 1, 0, offset, Millis(2_000 + offset))
        verdict = decide(self.heads.get(name), at, key, record, POLICY, lambda _, each: self.aliases.get(each, each))
        if isinstance(verdict, (Accept, Suppress)):
            self.sent += [send for send in verdict.sends if not send.everywhere]
            if verdict.head is not None:
                self.heads[name] = decode_head(encode_head(verdict.head))
        return verdict

    def tell(self, name: str, family: str = "One", recorded: int = 10) -> Verdict:
        return self.judge(name, self.event(name, Patient(name=Name(family)), recorded))

    def close(self, loser: str, survivor: str, recorded: int = 20, system: str = "ehr") -> Verdict:
        return self.judge(loser, self.event(loser, Patient(merged_into=ref(survivor)), recorded, EventType.MERGE, system=system))

    def expect(self, loser: str, survivor: str, recorded: int = 20) -> Verdict:
        return self.judge(survivor, self.event(survivor, Patient(name=Name("Both")), recorded, EventType.MERGE, loser))

    def deliver(self, most: int = 100) -> None:
        """Let land what was sent, and what that sends."""
        for _ in range(most):
            if not self.sent:
                return
            send = self.sent.pop(0)
            self.judge(EntityKey.decode(send.key).id, send.record)
        pytest.fail("it goes round")

    def family(self, name: str) -> str | None:
        state = self.heads[name].state
        assert isinstance(state, Patient)
        return state.name.family if isinstance(state.name, Name) else None


def accepted(verdict: Verdict) -> Any:
    assert isinstance(verdict, Accept), verdict
    return verdict.accepted


def decided(verdict: Verdict) -> tuple[DecisionKind, Reason]:
    assert isinstance(verdict, Suppress), verdict
    return verdict.decision.kind, verdict.decision.reason


def test_a_survivor_is_held_from_its_own_word_of_the_merge_until_the_loser_is_closed() -> None:
    logs = Logs()
    logs.tell("L")
    (held,) = accepted(logs.expect("L", "S")).awaits
    assert (held.loser, held.revision) == (ref("L"), NO_REVISION)
    assert accepted(logs.tell("S", "Later", 30)).awaits == (held,)
    closing = accepted(logs.close("L", "S"))
    (release,) = logs.sent
    assert isinstance(release.record, Control)
    (awaited,) = accepted(logs.judge("S", release.record)).awaits
    assert (awaited.revision, awaited.since) == (closing.revision, held.since)


def test_a_release_that_comes_first_or_twice_is_remembered_and_says_nothing_new() -> None:
    logs = Logs()
    closing = accepted(logs.close("L", "S"))
    (release,) = logs.sent
    assert isinstance(release.record, Control)
    assert decided(logs.judge("S", release.record)) == (DecisionKind.CONTROL, Reason.RELEASE)
    (awaited,) = accepted(logs.expect("L", "S")).awaits
    assert awaited.revision == closing.revision
    assert decided(logs.judge("S", release.record)) == (DecisionKind.CONTROL, Reason.RELEASE)


def test_what_comes_later_about_a_retired_identity_goes_to_the_survivor_as_it_is() -> None:
    logs = Logs()
    logs.tell("L")
    logs.close("L", "S")
    late = logs.event("L", Patient(name=Name("Late"), identifiers=(Identifier("N", "L"),)), 40, EventType.OVERRIDE)
    assert decided(logs.judge("L", late)) == (DecisionKind.CONTROL, Reason.FORWARDED)
    handed = logs.sent[-1].record
    assert isinstance(handed, Event)
    assert (handed.event_id, handed.content_hash, handed.recorded_at) == (late.event_id, late.content_hash, late.recorded_at)
    assert (handed.key.id, handed.came_by) == ("S", (ref("L"),))
    assert isinstance(handed.payload, Patient)
    assert handed.payload.identifiers is UNSET, "they are the retired one's"
    logs.deliver()
    assert (logs.family("S"), logs.family("L")) == ("Late", "One")
    assert decided(logs.judge("L", late)) == (DecisionKind.DUPLICATE, Reason.REPEATED_ID)
    assert decided(logs.judge("S", handed)) == (DecisionKind.DUPLICATE, Reason.REPEATED_ID)


def test_what_the_retired_identity_knew_when_it_was_closed_is_told_to_nobody_again() -> None:
    logs = Logs()
    first = logs.event("L", Patient(name=Name("One")), 10)
    logs.judge("L", first)
    logs.close("L", "S")
    logs.heads["L"] = msgspec.structs.replace(logs.heads["L"], ring=EMPTY_RING)
    assert decided(logs.judge("L", first)) == (DecisionKind.NO_OP, Reason.SAME_STATE)
    assert decided(logs.tell("L", "Old", 5)) == (DecisionKind.STALE, Reason.OLDER_TIME)
    assert decided(logs.tell("L", "Other", 10)) == (DecisionKind.CONTROL, Reason.FORWARDED), "another word of the same second"


def test_what_is_late_about_a_chain_ends_at_its_end() -> None:
    logs = Logs()
    logs.close("A", "B")
    logs.close("B", "C")
    logs.deliver()
    logs.tell("A", "Late", 40)
    logs.deliver()
    assert logs.family("C") == "Late"


def test_a_chain_that_is_too_long_is_quarantined_and_ends() -> None:
    logs = Logs()
    for number in range(HOPS + 3):
        logs.close(f"{number}", f"{number + 1}")
    logs.tell("0", "Late", 40)
    logs.deliver(1_000)
    assert "Late" not in {logs.family(name) for name in logs.heads}


@pytest.mark.parametrize("order", ["halves of one first", "survivors first", "losers first"])
def test_inverse_merges_leave_at_most_one_in_force(order: str) -> None:
    logs = Logs()
    steps = {
        "halves of one first": [(logs.close, "A", "B"), (logs.expect, "A", "B"), (logs.expect, "B", "A"), (logs.close, "B", "A")],
        "survivors first": [(logs.expect, "A", "B"), (logs.expect, "B", "A"), (logs.close, "A", "B"), (logs.close, "B", "A")],
        "losers first": [(logs.close, "A", "B"), (logs.close, "B", "A"), (logs.expect, "A", "B"), (logs.expect, "B", "A")],
    }[order]
    for recorded, (step, loser, survivor) in enumerate(steps, start=20):
        step(loser, survivor, recorded if step == logs.close else 20)
    logs.deliver()
    retired = [name for name in "AB" if logs.heads[name].retired is not None]
    assert len(retired) == (0 if order == "survivors first" else 1)
    for name in "AB":
        assert all(each.told or not each.expected for each in logs.heads[name].absorbed if each.is_awaited)


def test_of_two_merges_that_were_both_quarantined_the_one_that_is_replayed_holds() -> None:
    logs = Logs()
    logs.expect("A", "B")
    logs.expect("B", "A")
    right = logs.event("A", Patient(merged_into=ref("B")), 20, EventType.MERGE)
    assert decided(logs.judge("A", right)) == (DecisionKind.QUARANTINED, Reason.MERGE_CYCLE)
    assert decided(logs.close("B", "A", 21)) == (DecisionKind.QUARANTINED, Reason.MERGE_CYCLE)
    logs.deliver()
    accepted(logs.judge("A", right))
    logs.deliver()
    assert [logs.heads[name].retired is not None for name in "AB"] == [True, False]
    (known,) = logs.heads["B"].absorbed
    assert known.told
    assert accepted(logs.tell("B", "Later", 30)).awaits[0].revision == logs.heads["A"].revision


def test_a_circle_of_three_loses_the_merge_that_was_recorded_last() -> None:
    logs = Logs()
    for number, (loser, survivor) in enumerate((("A", "B"), ("B", "C"), ("C", "A"))):
        logs.close(loser, survivor, 20 + number)
    logs.deliver()
    assert [logs.heads[name].retired is not None for name in "ABC"] == [True, True, False]
    state = logs.heads["C"].state
    assert isinstance(state, Patient)
    assert state.merged_into is None


def test_an_identity_is_never_merged_into_itself() -> None:
    logs = Logs()
    assert decided(logs.close("A", "A")) == (DecisionKind.QUARANTINED, Reason.MERGE_CYCLE)
    assert decided(logs.expect("A", "A")) == (DecisionKind.QUARANTINED, Reason.MERGE_CYCLE)
    assert not logs.sent


def test_a_merge_by_who_may_not_merge_holds_nobody() -> None:
    logs = Logs()
    assert decided(logs.close("L", "S", system="capacity")) == (DecisionKind.NOT_OWNER, Reason.FIELD_NOT_OWNED)
    told = logs.event("S", Patient(name=Name("X")), 20, EventType.MERGE, "L", system="capacity")
    assert decided(logs.judge("S", told))[0] is DecisionKind.NOT_OWNER
    assert "S" not in logs.heads or not logs.heads["S"].absorbed


def test_a_merge_that_is_refused_ends_the_hold_whichever_word_comes_first() -> None:
    for release_first in (False, True):
        logs = Logs()
        logs.tell("S")
        logs.close("L", "C", 50)
        logs.sent.clear()
        assert decided(logs.close("L", "S", 20)) == (DecisionKind.STALE, Reason.OLDER_TIME)
        if release_first:
            logs.deliver()
        (awaits,) = (accepted(logs.expect("L", "S")).awaits,)
        assert bool(awaits) is not release_first
        logs.deliver()
        assert all(not each.is_awaited for each in logs.heads["S"].absorbed)


def test_the_same_merge_by_two_messages_is_one() -> None:
    logs = Logs()
    closing = accepted(logs.close("L", "S", 20))
    logs.expect("L", "S", 20)
    assert decided(logs.close("L", "S", 21)) == (DecisionKind.NO_OP, Reason.SAME_STATE)
    logs.expect("L", "S", 21)
    logs.deliver()
    (awaited,) = accepted(logs.tell("S", "Later", 90)).awaits
    assert awaited.revision == closing.revision


def test_a_loser_that_is_merged_into_another_leaves_the_first_survivor_alone() -> None:
    logs = Logs()
    logs.expect("L", "S", 20)
    logs.close("L", "S", 20)
    logs.close("L", "C", 30)
    logs.deliver()
    assert accepted(logs.tell("S", "Later", 90)).awaits == ()
    assert [each.loser for each in accepted(logs.tell("C", "Later", 90)).awaits] == [ref("L")]


def test_a_change_of_number_hands_the_state_on_and_overwrites_nothing() -> None:
    logs = Logs()
    known = Patient(name=Name("Old"), birth_date="1970-01-01", identifiers=(Identifier("N", "OLD"),))
    logs.judge("OLD", logs.event("OLD", known, 10))
    logs.judge("OLD", logs.event("OLD", Patient(merged_into=ref("NEW")), 20, EventType.RENAME))
    logs.judge("NEW", logs.event("NEW", Patient(name=Name("New")), 20, EventType.RENAME, "OLD"))
    logs.deliver()
    state = logs.heads["NEW"].state
    assert isinstance(state, Patient)
    assert (state.name, state.birth_date, state.identifiers) == (Name("New"), "1970-01-01", UNSET)


def test_a_reassert_of_a_retired_identity_sends_out_that_it_is_retired() -> None:
    logs = Logs()
    logs.close("L", "S")
    order = Control(
        kind=ControlKind.REASSERT,
        event_id=EventId("0" * 32),
        actor="repair",
        at=Millis(0),
        seen_revision=logs.heads["L"].revision,
    )
    state = accepted(logs.judge("L", order)).state
    assert state.merged_into == ref("S")
    assert logs.heads["L"].retired is not None


def test_an_ehr_that_takes_a_link_back_opens_the_head_again() -> None:
    logs = Logs()
    logs.close("L", "S", 20)
    logs.expect("L", "S", 20)
    logs.deliver()
    logs.judge("L", logs.event("L", Patient(merged_into=None), 30))
    logs.deliver()
    assert logs.heads["L"].retired is None
    assert accepted(logs.tell("L", "Again", 40)).entity_id == "L"
    assert accepted(logs.tell("S", "Later", 40)).awaits == ()


def test_no_more_than_so_many_are_remembered_and_none_that_is_waited_for_is_forgotten_first() -> None:
    logs = Logs()
    logs.expect("HELD", "S", 20)
    for number in range(ABSORBED_KEPT + 4):
        logs.close(f"{number}", "S", 20)
        logs.deliver()
    absorbed = logs.heads["S"].absorbed
    assert len(absorbed) == ABSORBED_KEPT
    assert absorbed[0].loser == ref("HELD")


def test_a_bed_knows_by_either_number_who_leaves_it() -> None:
    logs = Logs(EntityType.BED)
    logs.judge("1", logs.event("1", Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, ref("L"))), 10))
    logs.aliases[ref("L")] = ref("S")
    told = accepted(logs.judge("1", logs.event("1", Bed(occupancy=BedOccupancy(Occupancy.VACANT, ref("S"))), 20)))
    assert told.state.occupancy == BedOccupancy(Occupancy.VACANT, ref("S"))


def test_a_cancel_of_the_retired_visit_is_about_that_record_and_ends_nothing_of_the_survivor() -> None:
    logs = Logs(EntityType.ENCOUNTER)
    for visit in ("L", "S"):
        logs.judge(visit, logs.event(visit, Encounter(status=EncounterStatus.IN_PROGRESS), 10))
    logs.judge("L", logs.event("L", Encounter(merged_into=ref("S")), 20, EventType.MERGE))
    logs.deliver()
    for recorded, kind, status in (
        (30, EventType.CANCEL_ADMIT, EncounterStatus.CANCELLED),
        (31, EventType.DELETION, EncounterStatus.ENTERED_IN_ERROR),
        (32, EventType.UPDATE, EncounterStatus.ENTERED_IN_ERROR),
    ):
        logs.judge("L", logs.event("L", Encounter(status=status), recorded, kind))
    assert not logs.sent
    logs.judge("L", logs.event("L", Encounter(discharged_at=Millis(40)), 40, EventType.DISCHARGE))
    assert [EntityKey.decode(send.key).id for send in logs.sent] == ["S"], "a departure is the survivor's"

    beds = Logs(EntityType.BED)
    beds.judge("1", beds.event("1", Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, ref("S"))), 10))
    beds.aliases[ref("L")] = ref("S")
    vacant = Bed(occupancy=BedOccupancy(Occupancy.VACANT, ref("L")))
    assert decided(beds.judge("1", beds.event("1", vacant, 20, EventType.CANCEL_ADMIT)))[1] is Reason.OCCUPANT_CHANGED


def test_a_survivor_who_left_before_the_bed_heard_of_the_merge_has_left() -> None:
    for recorded, occupancy in ((30, Occupancy.VACANT), (5, Occupancy.OCCUPIED)):
        logs = Logs(EntityType.BED)
        logs.judge("1", logs.event("1", Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, ref("L"))), 10))
        departure = logs.event("1", Bed(occupancy=BedOccupancy(Occupancy.VACANT, ref("S"))), recorded)
        assert decided(logs.judge("1", departure))[0] is DecisionKind.STALE
        logs.aliases[ref("L")] = ref("S")
        order = Control(kind=ControlKind.REPOINT, event_id=EventId("0" * 32), actor="gate", at=Millis(0))
        assert accepted(logs.judge("1", order)).state.occupancy == BedOccupancy(occupancy, ref("S"))


def test_references_are_looked_at_again_once_and_their_clocks_stay() -> None:
    logs = Logs(EntityType.ENCOUNTER)
    logs.judge("V", logs.event("V", Encounter(patient=ref("L"), status=EncounterStatus.IN_PROGRESS), 10))
    clocks = logs.heads["V"].clocks
    logs.aliases[ref("L")] = ref("S")
    order = Control(kind=ControlKind.REPOINT, event_id=EventId("0" * 32), actor="gate", at=Millis(0))
    told = accepted(logs.judge("V", order))
    assert (told.changed, told.state.patient, told.revision) == (("patient",), ref("S"), revision_of(1, 1))
    assert logs.heads["V"].clocks == clocks
    assert decided(logs.judge("V", order)) == (DecisionKind.CONTROL, Reason.REPOINT)
    assert decided(logs.judge("V", logs.event("V", Encounter(patient=ref("L")), 30)))[0] is DecisionKind.NO_OP


def test_a_head_written_before_there_were_merges_is_read() -> None:
    logs = Logs()
    logs.tell("A")
    head = logs.heads["A"]
    version, fields = encode_head(head)[:1], msgspec.msgpack.decode(encode_head(head)[1:])
    assert decode_head(version + msgspec.msgpack.encode(fields[:-3])) == head
