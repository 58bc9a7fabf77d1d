"""The bench of the gate's latency: what it takes for a delay, and what it makes of many."""

from pathlib import Path

import msgspec
import pytest

from pipeline.domain.identifiers import EventId, Millis, Revision
from pipeline.domain.records import Control, ControlKind, Decision, DecisionKind, Reason
from pipeline.formats.avro import Codec
from pipeline.kafka.client import Message
from pipeline.local.bench.gate.pace import Options, Pace, PaceReport, delay_ms, markdown, percentile
from pipeline.local.errors import LocalPlatformError

CODEC = Codec.shipped()
DOCS = Path(__file__).parents[3] / "docs"
DECISION = Decision(
    topic="landing.bed",
    epoch=1,
    partition=0,
    offset=7,
    kind=DecisionKind.DUPLICATE,
    reason=Reason.REPEATED_ID,
    revision=Revision(0),
    decided_at=Millis(1_000),
    policy_version="1",
)


def test_a_delay_is_the_broker_s_time_of_the_verdict_less_that_of_the_landing_record() -> None:
    assert delay_ms(CODEC, Message("decisions", 0, 0, 1_012, b"k", CODEC.encode(DECISION))) == 12
    other = CODEC.encode(Control(kind=ControlKind.POLICY, event_id=EventId("0" * 32), actor="x", at=Millis(1)))
    with pytest.raises(LocalPlatformError):
        delay_ms(CODEC, Message("decisions", 0, 0, 1_012, b"k", other))


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)],
    ids=["least", "p50", "p99", "p99.1", "most"],
)
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: int) -> None:
    assert percentile(list(range(1, 101)), share) == expected
    assert percentile([], share) == 0
    assert percentile([7], share) == 7


def test_the_table_has_a_row_for_each_pace() -> None:
    pace = Pace(rate=5_000, within_ms=2, verdicts=50_000, p50_ms=9, p99_ms=40, max_ms=90, us=71.6)
    report = PaceReport(commit="0" * 40, machine={"cores": 2, "python": "3.11"}, options=Options(), paces=(pace,))
    assert markdown(report).splitlines()[-1] == "| 5,000 | 2 | 50,000 | 9 | 40 | 90 | 72 |"


def test_the_figures_in_the_documentation_are_those_of_the_report() -> None:
    kept = msgspec.json.decode((DOCS / "reports" / "bench-pace.json").read_bytes(), type=PaceReport)
    assert markdown(kept) in (DOCS / "performance.md").read_text()
