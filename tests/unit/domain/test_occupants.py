"""A bed is vacated at a destination before it is occupied there, whoever writes which stay."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.event import Encounter, EncounterStatus, EntityType, PatientClass, Place
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.records import Accepted, OutcomeKind, Reason
from pipeline.domain.writing import occupants
from pipeline.domain.writing.occupants import FREE, REVISIONS_KEPT, Occupants, bed_of
from pipeline.domain.writing.turns import GRACE_MS, WAIT_MS, AnyOrder, Turn, VacateFirst
from tests.support.changes import DESTINATION, change, outcome
from tests.support.examples import examples

NOW = Millis(1_000_000)


def key(stay: str) -> bytes:
    return EntityKey("t", "encounter", "N", stay).encode()


def stay(offset: int, who: str, bed: str | None, **more: Any) -> Accepted:
    """A stay in a bed; without one it is finished."""
    place = Place(point_of_care="ICU", room="1", bed=bed) if bed else None
    status = EncounterStatus.IN_PROGRESS if bed else EncounterStatus.FINISHED
    state = Encounter(**{"status": status, "location": place} | more)
    return msgspec.structs.replace(change(offset, who), entity_type=EntityType.ENCOUNTER, state=state)


class Ward:
    """Occupants, and the order made from them."""

    def __init__(self) -> None:
        self.flags_let_write = False
        self.occupants = Occupants(DESTINATION, lambda facts: self.flags_let_write)
        self.ready = True
        self.order = VacateFirst(self.occupants, lambda: self.ready)

    def accept(self, accepted: Accepted) -> Accepted:
        self.occupants.on_accepted(accepted)
        return accepted

    def confirm(self, accepted: Accepted, kind: OutcomeKind = OutcomeKind.CONFIRMED) -> None:
        self.occupants.on_outcome(outcome(accepted, kind))

    def lies(self, offset: int, who: str, bed: str | None) -> Accepted:
        accepted = self.accept(stay(offset, who, bed))
        self.confirm(accepted)
        return accepted

    def turn(self, accepted: Accepted, now: int = NOW) -> Turn:
        return self.order.turn(key(accepted.entity_id), accepted, Millis(now))


def test_a_bed_that_nobody_lies_in_is_occupied_at_once() -> None:
    ward = Ward()
    assert ward.turn(ward.accept(stay(1, "B", "X"))) is Turn.NOW


def test_who_leaves_goes_first_and_who_comes_follows_as_soon_as_it_is_confirmed() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    leaving = ward.accept(stay(2, "A", "Y"))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    assert ward.turn(leaving) is Turn.NOW
    ward.confirm(leaving)
    assert ward.turn(coming) is Turn.NOW


@pytest.mark.parametrize("status", [EncounterStatus.FINISHED, EncounterStatus.CANCELLED, EncounterStatus.ENTERED_IN_ERROR])
def test_a_stay_that_is_over_leaves_its_bed_though_its_location_stays_named(status: EncounterStatus) -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    over = ward.accept(stay(2, "A", "X", status=status))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    ward.confirm(over)
    assert ward.turn(coming) is Turn.NOW


def test_who_waits_is_told_as_soon_as_the_departure_is_confirmed_and_nobody_else_is() -> None:
    ward, freed, later = Ward(), list[bytes](), list[Callable[[], None]]()
    ward.order = VacateFirst(ward.occupants, lambda: True, later.append)
    ward.order.watch(freed.extend)
    for n, bed in enumerate("XYZ"):
        ward.lies(n, f"A{n}", bed)
    leaving = [ward.accept(stay(10 + n, f"A{n}", None)) for n in range(3)]
    coming = [ward.accept(stay(20 + n, f"B{n}", bed)) for n, bed in enumerate("XYZ")]
    assert [ward.turn(each) for each in coming[:2]] == [Turn.LATER, Turn.LATER]
    assert list(ward.order.ahead(key("B0"))) == [key("A0")]
    for each in (leaving[0], leaving[2]):
        ward.confirm(each)
    assert not freed, "what is told on another thread waits for ours"
    for do in later:
        do()
    assert freed == [key("B0")]
    assert ward.turn(coming[0]) is Turn.NOW
    assert not ward.order.ahead(key("B0"))


def test_who_waits_no_more_is_told_nothing_and_leaves_no_trace() -> None:
    ward, freed = Ward(), list[bytes]()
    ward.order.watch(freed.extend)
    ward.lies(1, "A", "X")
    ward.lies(2, "C", "X")
    leaving = ward.accept(stay(3, "A", None))
    for n in range(3):
        assert ward.turn(ward.accept(stay(4 + n, f"B{n}", "X"))) is Turn.LATER
    elsewhere = ward.accept(stay(10, "B0", "Y"))
    assert ward.turn(elsewhere) is Turn.NOW
    ward.order.forget((key("B1"),))
    ward.confirm(leaving)
    assert freed == [key("B2")]
    ward.order.forget((key("B2"),))
    assert ward.order._behind == ward.order._ahead == {}


def test_a_departure_that_does_not_come_shows_as_stuck_and_is_waited_for_all_the_same() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    leaving = ward.accept(stay(2, "A", None))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    assert ward.turn(coming, NOW + WAIT_MS - 1) is Turn.LATER
    assert ward.turn(coming, NOW + WAIT_MS) is Turn.STUCK
    ward.confirm(leaving)
    assert ward.turn(coming, NOW + WAIT_MS + 1) is Turn.NOW


def test_two_stays_that_claim_one_bed_are_a_disagreement_that_holds_nobody_up_for_long() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    coming = ward.accept(stay(2, "B", "X"))
    assert ward.occupants.double_occupied == 1
    assert ward.turn(coming) is Turn.LATER, "the departure may be on its way to us"
    assert ward.turn(coming, NOW + GRACE_MS) is Turn.NOW
    ward.accept(stay(3, "A", None))
    assert ward.occupants.double_occupied == 0


def test_a_swap_of_two_beds_does_not_wait_for_itself() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    ward.lies(2, "B", "Y")
    one, other = ward.accept(stay(3, "A", "Y")), ward.accept(stay(4, "B", "X"))
    assert [ward.turn(one), ward.turn(other)] == [Turn.NOW, Turn.LATER], "one of them has to go first"
    ward.confirm(one)
    assert ward.turn(other) is Turn.NOW


def test_a_ring_of_moves_is_opened_at_one_place() -> None:
    ward = Ward()
    beds = ["W", "X", "Y", "Z"]
    for n, bed in enumerate(beds):
        ward.lies(n, f"S{n}", bed)
    moves = [ward.accept(stay(10 + n, f"S{n}", beds[(n + 1) % 4])) for n in range(4)]
    assert [ward.turn(move) for move in moves] == [Turn.NOW, Turn.LATER, Turn.LATER, Turn.LATER]


def test_a_chain_of_moves_goes_from_its_free_end() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    ward.lies(2, "B", "Y")
    first, second, third = (ward.accept(stay(3 + n, who, bed)) for n, (who, bed) in enumerate(zip("BAC", "ZYX", strict=True)))
    assert [ward.turn(move) for move in (third, second, first)] == [Turn.LATER, Turn.LATER, Turn.NOW]
    ward.confirm(first)
    assert [ward.turn(move) for move in (third, second)] == [Turn.LATER, Turn.NOW]


def test_same_bed_name_elsewhere_is_another_bed() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    ward.accept(stay(2, "A", None))
    elsewhere = msgspec.structs.replace(stay(3, "B", "X"), facility="OTHER")
    assert ward.turn(ward.accept(elsewhere)) is Turn.NOW


def test_a_shadowed_departure_is_not_waited_for() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    leaving = ward.accept(stay(2, "A", None))
    ward.confirm(leaving, OutcomeKind.SHADOWED)
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.NOW


def test_a_departure_that_was_only_compared_is_waited_for_once_the_flags_let_it_be_written() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    leaving, coming = ward.accept(stay(2, "A", None)), ward.accept(stay(3, "B", "X"))
    for each in (leaving, coming):
        ward.confirm(each, OutcomeKind.SHADOWED)
    assert ward.turn(coming) is Turn.NOW
    ward.flags_let_write = True
    assert [ward.turn(each) for each in (coming, leaving)] == [Turn.LATER, Turn.NOW]
    ward.confirm(leaving)
    assert ward.turn(coming) is Turn.NOW


def test_a_stay_that_was_only_compared_lies_nowhere_at_the_destination() -> None:
    ward = Ward()
    ward.flags_let_write = True
    ward.confirm(ward.accept(stay(1, "A", "X")), OutcomeKind.SHADOWED)
    ward.accept(stay(2, "A", None))
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.NOW


def test_what_was_only_compared_and_is_over_is_forgotten() -> None:
    ward = Ward()
    for each in (stay(1, "A", "X"), stay(2, "A", None)):
        ward.confirm(ward.accept(each), OutcomeKind.SHADOWED)
    assert len(ward.occupants) == 0


def test_what_another_destination_shows_does_not_count() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    leaving = ward.accept(stay(2, "A", None))
    ward.occupants.on_outcome(msgspec.structs.replace(outcome(leaving, OutcomeKind.CONFIRMED), destination="another"))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    ward.confirm(leaving)
    assert ward.turn(coming) is Turn.NOW


def test_a_stay_that_perhaps_came_is_waited_for_until_it_has_left() -> None:
    """Its write may be done, and its answer or its process lost: then no outcome tells of it."""
    ward = Ward()
    ward.accept(stay(1, "A", "X"))
    ward.occupants.on_outcome(outcome(stay(1, "A", "X"), OutcomeKind.FAILED, reason=Reason.AMBIGUOUS))
    leaving = ward.accept(stay(2, "A", None))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    assert ward.turn(coming, NOW + GRACE_MS) is Turn.LATER
    ward.confirm(leaving)
    assert ward.turn(coming) is Turn.NOW


@pytest.mark.parametrize(
    ("reason", "turn"), [(Reason.REFUSED_INVALID, Turn.NOW), (Reason.TIMEOUT, Turn.LATER), (Reason.AMBIGUOUS, Turn.LATER)]
)
def test_a_stay_that_was_given_up_came_unless_the_destination_refused_it(reason: Reason, turn: Turn) -> None:
    ward = Ward()
    given_up = ward.accept(stay(1, "A", "X"))
    ward.occupants.on_outcome(outcome(given_up, OutcomeKind.PARKED, reason=reason))
    ward.accept(stay(2, "A", None))
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is turn


def test_a_swap_with_a_stay_that_perhaps_came_does_not_wait_for_itself() -> None:
    ward = Ward()
    ward.lies(1, "B", "Y")
    ward.accept(stay(2, "A", "X"))
    moves = [ward.accept(stay(3, "A", "Y")), ward.accept(stay(4, "B", "X"))]
    assert sorted(ward.turn(move).name for move in moves) == ["LATER", "NOW"]


def test_what_is_told_again_of_somebody_who_has_left_holds_nobody_up() -> None:
    ward = Ward()
    comes, leaves = ward.lies(1, "A", "X"), ward.lies(2, "A", None)
    for again in (comes, leaves):
        ward.accept(again)
    assert len(ward.occupants) == 0
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.NOW
    ward.accept(stay(4, "A", "Y"))
    assert ward.turn(ward.accept(stay(5, "B", "Y"))) is Turn.LATER, "somebody who comes again is known as before"


def test_nothing_goes_before_the_history_is_known_and_other_entities_always_go() -> None:
    ward = Ward()
    ward.ready = False
    assert ward.turn(stay(1, "A", "X")) is Turn.LATER
    assert ward.turn(change(2)) is Turn.NOW
    assert AnyOrder().turn(b"", stay(1, "A", "X"), NOW) is Turn.NOW


@pytest.mark.parametrize(
    "state",
    [
        {"patient_class": PatientClass.PREADMIT},
        {"status": EncounterStatus.PLANNED},
        {"location": Place(point_of_care="ICU")},
        {"location": None},
    ],
)
def test_who_lies_in_no_bed_waits_for_nobody(state: dict[str, Any]) -> None:
    accepted = stay(1, "A", "X", **state)
    assert bed_of(accepted) is None
    assert Occupants(DESTINATION).before(key("A"), accepted) == FREE


def test_memory_holds_who_lies_in_a_bed_and_nobody_else() -> None:
    ward = Ward()
    for n in range(200):
        ward.lies(2 * n, f"S{n}", f"B{n}")
        if n % 2:
            ward.lies(2 * n + 1, f"S{n}", None)
    assert len(ward.occupants) == 100
    for n in range(1_000, 1_000 + 2 * REVISIONS_KEPT):
        ward.accept(stay(n, "S0", f"B{n}"))
    assert max(len(known.beds) for known in ward.occupants._stays.values()) <= REVISIONS_KEPT + 1


def test_what_is_told_again_of_stays_that_were_forgotten_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, each repeat of a record of somebody who had left long ago stayed for the process's life."""
    monkeypatch.setattr(occupants, "NOWHERE_KEPT", 10)
    ward = Ward()
    ward.lies(1, "A", "X")
    told = [(ward.lies(10 * n + 2, f"S{n}", f"B{n}"), ward.lies(10 * n + 3, f"S{n}", None)) for n in range(100)]
    assert len(ward.occupants) == 1
    for n, (comes, leaves) in enumerate(told):
        if n % 3 == 0:
            ward.accept(leaves)
        elif n % 3 == 1:
            ward.occupants.on_outcome(outcome(leaves, OutcomeKind.SHADOWED))
        else:
            ward.accept(comes)
            ward.accept(leaves)
    assert len(ward.occupants) == 1 + 10
    ward.accept(stay(9_999, "A", None))
    assert ward.turn(ward.accept(stay(10_000, "B", "X"))) is Turn.LATER, "who lies in a bed is never among them"


def test_an_outcome_that_is_read_before_its_record_counts() -> None:
    ward = Ward()
    accepted = stay(1, "A", "X")
    ward.confirm(accepted)
    ward.accept(accepted)
    ward.accept(stay(2, "A", None))
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.LATER


def test_forgotten_keys_begin_to_wait_anew() -> None:
    ward = Ward()
    ward.lies(1, "A", "X")
    ward.accept(stay(2, "A", None))
    coming = ward.accept(stay(3, "B", "X"))
    ward.turn(coming)
    ward.order.forget((key("B"),))
    assert ward.turn(coming, NOW + WAIT_MS) is Turn.LATER


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_no_bed_is_ever_shown_with_two_stays_but_in_a_ring_or_where_two_claim_it(data: st.DataObject) -> None:
    """Stays move between beds; accepted records and outcomes are seen late and in any order; writes go when they may."""
    ward, stays, beds = Ward(), "ABCD", ["W", "X", "Y", None]
    newest: dict[str, Accepted] = {}
    shown: dict[str, str | None] = {}
    seen_later: list[tuple[str, Accepted]] = []
    now = NOW

    def see(count: int) -> None:
        for _ in range(min(count, len(seen_later))):
            kind, accepted = seen_later.pop(data.draw(st.integers(0, len(seen_later) - 1)))
            (ward.accept if kind == "accepted" else ward.confirm)(accepted)

    def write(who: str) -> bool:
        accepted = newest[who]
        if ward.order.turn(key(who), accepted, Millis(now)) is not Turn.NOW:
            return False
        bed = bed_of(accepted)
        shown[who] = bed[-1] if bed else None
        seen_later.append(("outcome", accepted))
        return True

    for offset in range(data.draw(st.integers(1, 12))):
        who, bed = data.draw(st.sampled_from(stays)), data.draw(st.sampled_from(beds))
        newest[who] = stay(offset, who, bed)
        seen_later.append(("accepted", newest[who]))
        see(data.draw(st.integers(0, 3)))
    see(len(seen_later))
    due = set(newest)
    for _ in range(100):
        for who in sorted(due):
            if write(who):
                due.discard(who)
                see(len(seen_later))
                lying = [bed for bed in shown.values() if bed]
                claimed = [bed[-1] for bed in map(bed_of, newest.values()) if bed]
                moving = {who for who in due if bed_of(newest[who]) is not None and shown.get(who)}
                assert len(set(lying)) == len(lying) or len(set(claimed)) < len(claimed) or moving, "two in one bed"
        now = Millis(now + GRACE_MS)
    assert not due, "everybody gets a turn"


def test_records_that_come_twice_or_the_wrong_way_round_change_nothing() -> None:
    ward = Ward()
    accepted, leaving = stay(1, "A", "X"), stay(2, "A", "Y")
    ward.confirm(accepted)
    ward.accept(leaving)
    ward.accept(accepted)
    ward.accept(leaving)
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.LATER
    ward.confirm(leaving)
    ward.confirm(accepted)
    assert ward.turn(stay(3, "B", "X")) is Turn.NOW


def test_many_who_change_places_under_one_name_are_sorted_out_at_once_and_all_of_them_go() -> None:
    """Beds in a corridor often share one name: two such places that swap their people have countless rings."""
    ward, many = Ward(), 12
    for number in range(many):
        ward.lies(2 * number + 1, f"P{number:02}", "HALL-1")
        ward.lies(2 * number + 2, f"Q{number:02}", "HALL-2")
    ward.lies(98, "Z", "Y")
    moves = [ward.accept(stay(100 + number, f"P{number:02}", "HALL-2")) for number in range(many)]
    moves += [ward.accept(stay(200 + number, f"Q{number:02}", "HALL-1")) for number in range(many)]
    comes = ward.accept(stay(300, "Z", "HALL-1"))  # in no ring, and behind all of them
    assert ward.turn(comes) is Turn.LATER
    left = [*moves, comes]
    for number in range(2 * many + 1):
        for now in (NOW + number, NOW + GRACE_MS + number):
            ready = [move for move in left if ward.turn(move, now) is Turn.NOW]
            if ready:
                break
        assert ready, "nobody may go"
        ward.confirm(ready[0])
        left.remove(ready[0])
    assert not left


def test_who_waited_for_one_bed_begins_to_wait_anew_for_another() -> None:
    """Else a stay that had shown as stuck behind one bed, or had shared one, would not be patient at the next."""
    ward = Ward()
    for offset, (who, bed) in enumerate((("A", "X"), ("C", "Y"), ("D", "Z")), 1):
        ward.lies(offset, who, bed)
    comes = ward.accept(stay(10, "B", "X"))
    assert ward.turn(comes) is Turn.LATER
    assert ward.turn(comes, NOW + GRACE_MS) is Turn.NOW
    ward.confirm(comes)
    moves, later = ward.accept(stay(11, "B", "Y")), NOW + 2 * WAIT_MS
    assert ward.turn(moves, later) is Turn.LATER, "C's departure may be on its way"
    ward.accept(stay(12, "C", None))
    assert ward.turn(moves, later + WAIT_MS) is Turn.STUCK
    elsewhere = ward.accept(stay(13, "B", "Z"))
    ward.accept(stay(14, "D", None))
    assert ward.turn(elsewhere, later + WAIT_MS) is Turn.LATER


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_no_bed_is_ever_shown_with_two_stays_though_answers_and_outcomes_are_lost(data: st.DataObject) -> None:
    """One patient after the other in the same beds; any revision may be written, and what was written may stay unknown."""
    ward, shown = Ward(), dict.fromkeys("ABCD")
    newest: dict[str, Accepted] = {}
    offset = 0

    def write(accepted: Accepted) -> None:
        if ward.turn(accepted) is not Turn.NOW:
            return
        bed = bed_of(accepted)
        shown[accepted.entity_id] = bed[-1] if bed else None
        lying = [bed for bed in shown.values() if bed]
        assert len(set(lying)) == len(lying), "two in one bed"
        if data.draw(st.booleans(), label="its outcome is known"):
            ward.confirm(accepted)

    for who in "ABCD":
        for bed in (*sorted(data.draw(st.sets(st.sampled_from("VWXYZ"), min_size=1))), None):
            claimed = {place[-1] for place in map(bed_of, newest.values()) if place}
            if bed in claimed:
                continue
            offset += 1
            newest[who] = ward.accept(stay(offset, who, bed))
            for other in data.draw(st.lists(st.sampled_from(sorted(newest)), max_size=3)):
                write(newest[other])
        if data.draw(st.booleans(), label="stays in its last bed"):
            offset += 1
            newest[who] = ward.accept(stay(offset, who, f"own-{who}"))
