"""After a writer's start, stays that the history no longer reaches back to are waited for like any others."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.event import Encounter, EncounterStatus, Place
from pipeline.domain.head import Head
from pipeline.domain.identifiers import NO_REVISION, Revision
from pipeline.domain.records import Accepted, OutcomeKind, Reason
from pipeline.domain.ring import EMPTY_RING
from pipeline.domain.writing import occupants
from pipeline.domain.writing.occupants import Told, bed_of, told_of
from pipeline.domain.writing.pending import EMPTY
from pipeline.domain.writing.turns import GRACE_MS, Turn
from tests.support.changes import outcome
from tests.support.examples import examples
from tests.unit.domain.test_occupants import NOW, Ward, key, stay

NOTHING = Told(NO_REVISION, NO_REVISION, NO_REVISION)


def head(accepted: Accepted) -> Head:
    return Head(
        epoch=accepted.epoch,
        position=accepted.offset,
        revision=accepted.revision,
        state_hash=accepted.state_hash,
        facility=accepted.facility,
        state=accepted.state,
        clocks={},
        ring=EMPTY_RING,
        event_id=accepted.event_id,
        content_hash=accepted.content_hash,
        recorded_at=accepted.recorded_at,
        received_at=accepted.received_at,
    )


def told(confirmed: Accepted | None, **more: Revision) -> Told:
    return NOTHING._replace(confirmed=confirmed.revision if confirmed else NO_REVISION, **more)


def remember(ward: Ward, accepted: Accepted, what: Told) -> Accepted:
    ward.occupants.on_head(key(accepted.entity_id), head(accepted), what)
    return accepted


def over(offset: int, who: str, bed: str) -> Accepted:
    """A discharge, which leaves the last location named."""
    return stay(offset, who, bed, status=EncounterStatus.FINISHED)


def test_who_has_lain_in_a_bed_for_weeks_is_waited_for() -> None:
    ward, lies = Ward(), stay(1, "A", "X")
    remember(ward, lies, told(lies))
    leaving, coming = ward.accept(over(2, "A", "X")), ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    ward.confirm(leaving)
    assert ward.turn(coming) is Turn.NOW


def test_a_departure_that_is_in_the_tables_alone_is_waited_for() -> None:
    """As after a backlog of days: neither of the two is in the history that is read."""
    ward, lies, leaving = Ward(), stay(1, "A", "X"), over(2, "A", "X")
    for each in (lies, leaving):
        remember(ward, each, told(lies))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    ward.confirm(leaving)
    assert ward.turn(coming) is Turn.NOW


@pytest.mark.parametrize(
    "leaving",
    [over(2, "A", "X"), stay(2, "A", "Y", prior_location=Place(point_of_care="ICU", room="1", bed="X"))],
)
def test_where_the_older_head_is_compacted_away_the_newer_one_says_where_the_stay_was(leaving: Accepted) -> None:
    ward, lies = Ward(), stay(1, "A", "X")
    remember(ward, leaving, told(lies))
    remember(ward, leaving, told(lies))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.LATER
    ward.confirm(leaving)
    assert ward.turn(coming) is Turn.NOW


def test_a_stay_that_is_over_and_confirmed_so_holds_nobody_up_and_no_memory() -> None:
    ward, lies, left = Ward(), stay(1, "A", "X"), over(2, "A", "X")
    for each in (lies, left):
        remember(ward, each, told(left))
    ward.accept(lies)  # the history begins before both
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.NOW
    assert len(ward.occupants) == 1


def test_who_lies_in_a_bed_still_and_a_newcomer_are_a_disagreement() -> None:
    ward, lies = Ward(), stay(1, "A", "X")
    remember(ward, lies, told(lies))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.occupants.double_occupied == 1
    assert ward.turn(coming) is Turn.LATER
    assert ward.turn(coming, NOW + GRACE_MS) is Turn.NOW


@pytest.mark.parametrize("reading", ["before", "after"])
def test_the_tables_and_the_history_may_tell_the_same_in_any_order(reading: str) -> None:
    ward, lies, moved = Ward(), stay(1, "A", "X"), stay(2, "A", "Y")

    def history() -> None:
        ward.accept(moved)
        ward.confirm(moved)

    if reading == "before":
        history()
    for each in (lies, moved):
        remember(ward, each, told(lies))
    if reading == "after":
        history()
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.NOW
    assert ward.turn(ward.accept(stay(4, "C", "Y"))) is Turn.LATER


@pytest.mark.parametrize(
    ("what", "turn"),
    [
        (NOTHING, Turn.LATER),
        (NOTHING._replace(shadowed=stay(1, "A", "X").revision), Turn.NOW),
        (NOTHING._replace(refused=stay(1, "A", "X").revision), Turn.NOW),
    ],
    ids=["perhaps written", "only compared", "refused"],
)
def test_what_was_not_confirmed_is_waited_for_unless_it_did_not_come_there(what: Told, turn: Turn) -> None:
    ward = Ward()
    for each in (stay(1, "A", "X"), over(2, "A", "X")):
        remember(ward, each, what)
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is turn


@pytest.mark.parametrize("reading", ["tables", "history"])
def test_a_stay_that_was_taken_away_at_the_destination_holds_nobody_up(reading: str) -> None:
    """Its departure is refused for good: whoever comes next would wait for ever for somebody who isn't shown there."""
    ward, lies, leaving = Ward(), stay(1, "A", "X"), over(2, "A", "X")
    gone = told(lies, refused=leaving.revision, absent=leaving.revision)
    for each in (lies, leaving):
        remember(ward, each, gone if reading == "tables" else told(lies))
    if reading == "history":
        ward.occupants.on_outcome(outcome(leaving, OutcomeKind.PARKED, reason=Reason.REFUSED_GONE))
    coming = ward.accept(stay(3, "B", "X"))
    assert ward.turn(coming) is Turn.NOW
    back = ward.accept(stay(4, "A", "X"))
    ward.confirm(back)
    assert ward.turn(ward.accept(stay(5, "C", "X"))) is Turn.LATER


@pytest.mark.parametrize(
    ("reason", "refused", "absent"),
    [(Reason.REFUSED_INVALID, 7, 0), (Reason.ATTEMPTS_EXHAUSTED, 0, 0), (Reason.REFUSED_GONE, 7, 7)],
)
def test_only_what_the_destination_would_not_have_is_known_not_to_be_there(reason: Reason, refused: int, absent: int) -> None:
    known = msgspec.structs.replace(EMPTY, confirmed=Revision(5), shadowed=Revision(6), parked=Revision(7), parked_reason=reason)
    assert told_of(known) == (5, 6, refused, absent)


def test_an_entity_without_an_accepted_state_lies_nowhere() -> None:
    ward = Ward()
    empty = msgspec.structs.replace(head(stay(1, "A", "X")), revision=NO_REVISION)
    ward.occupants.on_head(key("A"), empty, NOTHING)
    assert ward.turn(ward.accept(stay(3, "B", "X"))) is Turn.NOW


def test_many_that_left_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupants, "NOWHERE_KEPT", 10)
    ward = Ward()
    for number in range(100):
        left = over(number + 1, f"P{number}", "X")
        remember(ward, left, told(left))
    assert len(ward.occupants) == 0
    assert len(ward.occupants._left) == 10


class Town:
    """Stays, their heads and their history, a destination that is written when it may be, and a writer that starts anew."""

    def __init__(self) -> None:
        self.ward = Ward()
        self.heads: dict[str, list[Accepted]] = {}
        self.confirmed: dict[str, Accepted] = {}
        self.shown: dict[str, str | None] = {}
        self._history: list[tuple[str, Accepted]] = []
        self._offset = 0

    @property
    def due(self) -> set[str]:
        return {who for who, past in self.heads.items() if self.confirmed.get(who) != past[-1]}

    def in_bed(self, bed: str) -> list[str]:
        return [who for who, past in self.heads.items() if (place := bed_of(past[-1])) and place[-1] == bed]

    def change(self, who: str, bed: str | None) -> None:
        self._offset += 1
        before = self.heads[who][-1].state if who in self.heads else Encounter()
        assert isinstance(before, Encounter)
        more: dict[str, Any] = {"prior_location": before.location} if bed else msgspec.structs.asdict(before)
        more["status"] = EncounterStatus.IN_PROGRESS if bed else EncounterStatus.FINISHED
        self.heads.setdefault(who, []).append(self.ward.accept(stay(self._offset, who, bed, **more)))
        self._history.append(("accepted", self.heads[who][-1]))

    def write(self, who: str) -> None:
        newest = self.heads[who][-1]
        if self.ward.turn(newest) is not Turn.NOW:
            return
        bed = bed_of(newest)
        self.shown[who] = bed[-1] if bed else None
        lying = [bed for bed in self.shown.values() if bed]
        assert len(set(lying)) == len(lying), "two in one bed"
        self.ward.confirm(newest)
        self.confirmed[who] = newest
        self._history.append(("outcome", newest))

    def start_anew(self, data: st.DataObject) -> None:
        """Of a stay that nothing is confirmed of its writers know nothing: nobody has begun to write it."""
        self.ward = Ward()
        read = self._history[data.draw(st.integers(0, len(self._history)), label="history begins at") :]
        recent = {accepted.entity_id for _, accepted in read}
        for who in self.confirmed:
            past = self.heads[who]
            compacted = 0 if who in recent else data.draw(st.integers(0, len(past) - 1), label="compacted")
            for each in past[compacted:]:
                remember(self.ward, each, told(self.confirmed[who]))
        for kind, accepted in read:
            (self.ward.occupants.on_accepted if kind == "accepted" else self.ward.confirm)(accepted)


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_no_bed_is_shown_with_two_stays_though_writers_start_anew_and_tables_are_compacted(data: st.DataObject) -> None:
    """One patient after the other in the same beds, each moved once at most. At a start the history begins anew; what was
    before it is in the heads, of which all but the newest may be gone, and in what the destination's writers know."""
    town = Town()
    for who in "ABCDE":
        bed = data.draw(st.sampled_from("XY"))
        for other in town.in_bed(bed):
            if data.draw(st.booleans(), label="moves"):
                town.change(other, f"own-{other}")
            else:
                town.change(other, None)
        town.change(who, bed)
        for gone in data.draw(st.lists(st.sampled_from("ABCDE"), max_size=2)):
            if f"own-{gone}" in [place[-1] for past in town.heads.values() if (place := bed_of(past[-1]))]:
                town.change(gone, None)
        for other in data.draw(st.lists(st.sampled_from(sorted(town.heads)), max_size=3)):
            town.write(other)
        if data.draw(st.booleans(), label="a start"):
            town.start_anew(data)
    for _ in range(len(town.heads) + 1):
        for who in sorted(town.due):
            town.write(who)
    assert not town.due, "everybody gets a turn"
