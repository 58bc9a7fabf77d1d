"""What the tracker says of an event, in whichever order its three topics are read."""

import itertools
from collections.abc import Callable

import msgspec
import pytest

from pipeline.domain.event import Bed, EntityType, EventType
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Outcome, OutcomeKind, Reason
from pipeline.sources.http.answers import status_body
from pipeline.sources.http.tracker import Progress, Received, Suppressed, Tracker

NOW = Millis(1_790_000_000_000)
KEY = EntityKey("north", "bed", "GH", "ICU-12")


def event_id(number: int) -> EventId:
    return EventId(f"{number:032x}")


def revision(offset: int) -> Revision:
    return revision_of(1, offset)


def accepted(offset: int, previous: int | None = None, entity_id: str = KEY.id) -> Accepted:
    return Accepted(
        event_id=event_id(offset),
        tenant=KEY.tenant,
        facility="GH",
        entity_type=EntityType.BED,
        namespace=KEY.namespace,
        entity_id=entity_id,
        event_type=EventType.UPDATE,
        source_system="BEDBOARD",
        feed="board",
        epoch=1,
        partition=0,
        offset=offset,
        revision=revision(offset),
        previous_revision=Revision(0) if previous is None else revision(previous),
        lane=Lane.URGENT,
        changed=("staffed",),
        state=Bed(staffed=True),
        state_hash="s",
        content_hash="c",
        recorded_at=NOW,
        received_at=NOW,
        accepted_at=NOW,
        policy_version="1",
    )


def outcome(kind: OutcomeKind, offset: int, after: int | None = None, reason: Reason = Reason.NONE) -> Outcome:
    return Outcome(
        destination="ehr",
        tenant=KEY.tenant,
        entity_type=EntityType.BED,
        namespace=KEY.namespace,
        entity_id=KEY.id,
        kind=kind,
        reason=reason,
        revision=revision(offset),
        after=Revision(0) if after is None else revision(after),
        partition=0,
        event_id=event_id(offset),
        content_hash="c",
        state_hash="s",
        lane=Lane.URGENT,
        open_since=NOW,
        received_at=NOW,
        recorded_at=NOW,
        at=Millis(NOW + 700),
        writer="w-0",
    )


def decision(number: int, kind: DecisionKind, reason: Reason) -> Decision:
    return Decision(
        topic="landing.bed",
        epoch=1,
        partition=0,
        offset=number,
        kind=kind,
        reason=reason,
        detail="rule",
        event_id=event_id(number),
        revision=Revision(0),
        decided_at=NOW,
        policy_version="1",
    )


def tracker(**bounds: int) -> Tracker:
    return Tracker({"ehr": frozenset({EntityType.BED}), "other": frozenset({EntityType.PATIENT})}, **bounds)


def state_at_ehr(of: Tracker, number: int) -> str:
    status = of.status("north", event_id(number))
    assert isinstance(status, Progress)
    assert set(status.deliveries) == {"ehr"}
    return status.deliveries["ehr"].state


def test_a_comparison_passes_over_what_is_older_and_is_no_end_where_the_flags_change() -> None:
    of = tracker()
    for each in (accepted(1), accepted(2, 1)):
        of.on_accepted(each)
    of.on_outcome(outcome(OutcomeKind.SHADOWED, 2, reason=Reason.SHADOW))
    assert [state_at_ehr(of, number) for number in (1, 2)] == ["shadowed", "shadowed"]
    of.on_outcome(outcome(OutcomeKind.CONFIRMED, 2))
    assert [state_at_ehr(of, number) for number in (1, 2)] == ["superseded", "confirmed"]
    of.on_outcome(outcome(OutcomeKind.SHADOWED, 2))
    assert state_at_ehr(of, 2) == "confirmed"


def test_confirmation_closes_the_range_before_it_whatever_is_read_first() -> None:
    steps: list[Callable[[Tracker], None]] = [
        lambda of: of.on_accepted(accepted(1)),
        lambda of: of.on_accepted(accepted(2, 1)),
        lambda of: of.on_accepted(accepted(3, 2)),
        lambda of: of.on_outcome(outcome(OutcomeKind.CONFIRMED, 1)),
        lambda of: of.on_outcome(outcome(OutcomeKind.CONFIRMED, 3, after=1)),
    ]
    for order in itertools.permutations(steps):
        of = tracker()
        for step in order:
            step(of)
        assert [state_at_ehr(of, number) for number in (1, 2, 3)] == ["confirmed", "superseded", "confirmed"]


def test_superseded_names_the_newer_revision_and_the_lag_ends_there() -> None:
    of = tracker()
    of.on_accepted(accepted(1))
    of.on_accepted(accepted(2, 1))
    of.on_outcome(outcome(OutcomeKind.CONFIRMED, 2))
    body = msgspec.to_builtins(status_body(event_id(1), of.status("north", event_id(1)) or Received("", NOW)))
    assert body["state"] == "accepted"
    assert body["revision_text"] == "1.1"
    assert list(body["destinations"]) == [
        {
            "destination": "ehr",
            "state": "superseded",
            "at": "2026-09-21T14:13:20.700Z",
            "lag_ms": 700,
            "superseded_by": revision(2),
            "superseded_by_text": "1.2",
            "attempts": 1,
        }
    ]


def test_parked_and_failed_stay_visible_until_a_higher_revision_is_confirmed() -> None:
    of = tracker()
    of.on_accepted(accepted(1))
    assert state_at_ehr(of, 1) == "open"
    of.on_outcome(outcome(OutcomeKind.FAILED, 1, reason=Reason.TIMEOUT))
    assert state_at_ehr(of, 1) == "open"
    of.on_outcome(outcome(OutcomeKind.PARKED, 1, reason=Reason.REFUSED_INVALID))
    assert state_at_ehr(of, 1) == "parked"
    of.on_outcome(outcome(OutcomeKind.PARKED, 2, reason=Reason.REFUSED_INVALID))
    assert state_at_ehr(of, 1) == "parked"
    of.on_outcome(outcome(OutcomeKind.CONFIRMED, 3))
    assert state_at_ehr(of, 1) == "superseded"


def test_a_confirmed_event_stays_confirmed() -> None:
    of = tracker()
    of.on_accepted(accepted(1))
    of.on_outcome(outcome(OutcomeKind.CONFIRMED, 1))
    of.on_outcome(outcome(OutcomeKind.FAILED, 1))
    of.on_outcome(outcome(OutcomeKind.CONFIRMED, 2))
    of.on_accepted(accepted(1))
    assert state_at_ehr(of, 1) == "confirmed"


@pytest.mark.parametrize(
    ("kind", "state"),
    [(DecisionKind.STALE, "suppressed"), (DecisionKind.CONFLICT, "suppressed"), (DecisionKind.QUARANTINED, "quarantined")],
)
def test_what_was_not_accepted_says_why(kind: DecisionKind, state: str) -> None:
    of = tracker()
    of.note_received("north", event_id(1), NOW)
    of.on_decision(decision(1, kind, Reason.OLDER_TIME), KEY.encode())
    status = of.status("north", event_id(1))
    assert status == Suppressed("north", kind, Reason.OLDER_TIME, "rule", NOW)
    body = status_body(event_id(1), status)
    assert (body.state, body.reason, body.rule) == (state, "OLDER_TIME", "rule")
    assert (body.remedy is not None) == (state == "quarantined")


def test_a_duplicate_does_not_change_what_an_accepted_event_is() -> None:
    of = tracker()
    of.on_accepted(accepted(1))
    of.on_decision(decision(1, DecisionKind.DUPLICATE, Reason.REPEATED_ID), KEY.encode())
    assert state_at_ehr(of, 1) == "open"
    other = tracker()
    other.on_decision(decision(1, DecisionKind.DUPLICATE, Reason.REPEATED_ID), KEY.encode())
    other.on_accepted(accepted(1))
    assert state_at_ehr(other, 1) == "open"


def test_only_the_own_tenant_sees_an_event() -> None:
    of = tracker()
    of.on_accepted(accepted(1))
    of.on_decision(decision(2, DecisionKind.STALE, Reason.OLDER_TIME), b"not a key of ours")
    assert of.status("south", event_id(1)) is None
    assert of.status("north", event_id(2)) is None
    assert len(of) == 1


def test_the_projection_is_bounded() -> None:
    of = tracker(max_events=10, max_entities=5)
    for number in range(100):
        of.on_accepted(accepted(number, entity_id=f"bed-{number}"))
        of.on_outcome(outcome(OutcomeKind.FAILED, number))
    assert len(of) == 10
    assert len(of._entities) == 5
    assert of.status("north", event_id(0)) is None
    assert of.status("north", event_id(99)) is not None


def test_what_was_told_is_not_changed_by_what_comes_later() -> None:
    of = tracker()
    of.on_accepted(accepted(1))
    told = of.status("north", event_id(1))
    of.on_outcome(outcome(OutcomeKind.CONFIRMED, 1))
    assert isinstance(told, Progress)
    assert told.deliveries["ehr"].state == "open"
