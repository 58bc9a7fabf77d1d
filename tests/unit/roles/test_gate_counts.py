"""What the gate counts of its verdicts, and when the metrics say so."""

import msgspec
import pytest

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.judging.gate import Redelivered
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Reason
from pipeline.ops import log_catalogue, metrics
from pipeline.roles.gates import counts as gate_counts
from pipeline.roles.gates.counts import Counts

DUPLICATE = Decision(
    topic="landing.bed",
    epoch=1,
    partition=0,
    offset=7,
    kind=DecisionKind.DUPLICATE,
    reason=Reason.REPEATED_ID,
    revision=Revision(0),
    decided_at=Millis(1),
    policy_version="1",
)


def accepted(**said: object) -> Accepted:
    named = {"lane": Lane.CRITICAL, "entity_type": EntityType.BED, "sequence_reset": False, "offset": 3, "partition": 0}
    blank: dict[str, object] = dict.fromkeys(Accepted.__struct_fields__)
    return Accepted(**{**blank, **named, "source_system": "capacity", **said})  # type: ignore[arg-type]  # counted by these alone


def figures() -> tuple[float, ...]:
    return tuple(
        series._value.get()  # what the metric shows
        for series in (
            metrics.GATE_DECISIONS.of(metrics.ACCEPTED, Reason.NONE, EntityType.BED),
            metrics.GATE_ACCEPTED.of(Lane.CRITICAL, EntityType.BED),
            metrics.GATE_DECISIONS.of(DecisionKind.DUPLICATE, Reason.REPEATED_ID, EntityType.BED),
            metrics.GATE_REDELIVERED.of(),
        )
    )


def test_each_verdict_is_counted_once_and_shown_once_it_is_stored() -> None:
    counts, before = Counts(), figures()
    for _ in range(3):
        counts.observe(accepted())
    counts.observe(DUPLICATE)
    counts.observe(Redelivered())
    assert figures() == before
    counts.tell()
    counts.tell()
    assert [after - known for after, known in zip(figures(), before, strict=True)] == [3, 3, 1, 1]


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (msgspec.structs.replace(DUPLICATE, kind=DecisionKind.QUARANTINED, reason=Reason.UNDECODABLE), "GATE_QUARANTINED"),
        (msgspec.structs.replace(DUPLICATE, kind=DecisionKind.CONFLICT, reason=Reason.CONTENT_DIFFERS), "GATE_CONFLICT"),
        (accepted(sequence_reset=True), "SEQUENCE_RESET"),
        (DUPLICATE, None),
    ],
)
def test_what_a_person_may_have_to_look_at_is_logged_at_once(
    monkeypatch: pytest.MonkeyPatch, verdict: Accepted | Decision, line: str | None
) -> None:
    told: list[object] = []
    monkeypatch.setattr(gate_counts, "emit", lambda what, **_: told.append(what))
    Counts().observe(verdict)
    assert told == ([getattr(log_catalogue, line)] if line else [])
