"""What the gate counts and tells of its verdicts: counted as they come, put into the metrics once a cycle is stored.

A metric takes a lock and two look-ups each time; of ten thousand verdicts of a cycle only the sums are of use.
"""

from collections import Counter

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.judging.gate import Redelivered
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Reason
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import code_of, emit


class Counts:
    """Verdicts since the last `tell`. Called on one thread at a time: the batch's, and the loop's once the batch is stored."""

    def __init__(self) -> None:
        self._redelivered = 0
        self._accepted: Counter[tuple[Lane, EntityType]] = Counter()
        self._decided: Counter[tuple[DecisionKind, Reason, str]] = Counter()

    def observe(self, verdict: Accepted | Decision | Redelivered) -> None:
        """Count a verdict; what a person may have to look at is logged at once."""
        if type(verdict) is Accepted:
            self._accepted[verdict.lane, verdict.entity_type] += 1
            if verdict.sequence_reset:
                _tell_reset(verdict)
        elif type(verdict) is Decision:
            self._decided[verdict.kind, verdict.reason, verdict.topic] += 1
            if verdict.kind in (DecisionKind.QUARANTINED, DecisionKind.CONFLICT):
                _tell_decision(verdict)
        else:
            self._redelivered += 1

    def tell(self) -> None:
        """Put what was counted into the metrics."""
        for (lane, entity_type), count in self._accepted.items():
            metrics.GATE_DECISIONS.of(metrics.ACCEPTED, Reason.NONE, entity_type).inc(count)
            metrics.GATE_ACCEPTED.of(lane, entity_type).inc(count)
        for (kind, reason, topic), count in self._decided.items():
            metrics.GATE_DECISIONS.of(kind, reason, topic.removeprefix("landing.")).inc(count)
        if self._redelivered:
            metrics.GATE_REDELIVERED.of().inc(self._redelivered)
        self._redelivered = 0
        self._accepted.clear()
        self._decided.clear()


def _tell_reset(accepted: Accepted) -> None:
    metrics.GATE_SEQUENCE_RESETS.of().inc()
    emit(
        lines.SEQUENCE_RESET,
        source=code_of(accepted.source_system),
        topic=topology.LANDING[accepted.entity_type],
        partition=accepted.partition,
        offset=accepted.offset,
    )


def _tell_decision(decision: Decision) -> None:
    topic, partition, offset = decision.topic, decision.partition, decision.offset
    if decision.kind is DecisionKind.QUARANTINED:
        emit(lines.GATE_QUARANTINED, topic=topic, partition=partition, offset=offset, reason=decision.reason.value)
    else:
        emit(lines.GATE_CONFLICT, topic=topic, partition=partition, offset=offset)
