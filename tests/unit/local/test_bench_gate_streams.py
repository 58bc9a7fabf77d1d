"""The twin on Kafka Streams: what it is given, and that a difference between it and the decision is seen and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline import topology
from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Reason
from pipeline.formats.avro import Codec
from pipeline.local.bench.gate import report as report_of
from pipeline.local.bench.gate.load import Landing
from pipeline.local.bench.gate.report import OURS, Alone, GateReport, Options, Run, Twin
from pipeline.local.bench.gate.streams import JARS, STREAMS, WARM_UP, Place, Said, compared, expected
from pipeline.local.bench.gate.worker import PEERS
from pipeline.roles.policies import load_policy

KEPT = Path(__file__).parents[3] / "docs" / "reports" / "bench-gate-streams.json"
NOW = Millis(1_800_000_000_000)
CODEC = Codec.shipped()
EPOCHS = {topology.LANDING[kind]: 1 for kind in topology.LANDING}


@pytest.fixture(scope="module")
def ours() -> dict[Place, Said]:
    """Verdicts over a small load."""
    landing = Landing(50, CODEC)
    return expected([*landing.first(NOW), *landing.more(300, NOW)], EPOCHS, CODEC, load_policy())


def test_every_landing_position_has_one_verdict_and_the_accepted_have_a_lane(ours: dict[Place, Said]) -> None:
    assert len(ours) == 350
    accepted = [said for said in ours.values() if said.lane is not None]
    assert 300 < len(accepted) < 350
    assert all(isinstance(CODEC.decode(said.value), Accepted) for said in accepted)


def test_what_says_the_same_has_no_difference(ours: dict[Place, Said]) -> None:
    twin = compared(STREAMS, ours, dict(ours), CODEC)
    assert (twin.positions, twin.differences) == (350, 0)


def _accepted(said: Said, **fields: Any) -> Said:
    record = CODEC.decode(said.value)
    assert isinstance(record, Accepted)
    return Said(CODEC.encode(msgspec.structs.replace(record, **fields)), said.lane)


def _as_decision(said: Said) -> Said:
    record = CODEC.decode(said.value)
    assert isinstance(record, Accepted)
    decision = Decision(
        topic=topology.LANDING[record.entity_type],
        epoch=1,
        partition=record.partition,
        offset=record.offset,
        kind=DecisionKind.STALE,
        reason=Reason.OLDER_TIME,
        revision=record.revision,
        decided_at=NOW,
        policy_version="1",
    )
    return Said(CODEC.encode(decision), None)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("verdict", _as_decision),
        ("revision", lambda said: _accepted(said, previous_revision=Revision(7))),
        ("changed", lambda said: _accepted(said, changed=("surge",))),
        ("lane", lambda said: _accepted(said, lane=Lane.URGENT)),
        ("lane", lambda said: Said(said.value, "critical")),
        ("other", lambda said: _accepted(said, state_hash="0" * 16)),
    ],
)
def test_a_difference_is_seen_and_named(ours: dict[Place, Said], what: str, change: Callable[[Said], Said]) -> None:
    place, said = next((place, said) for place, said in ours.items() if said.lane == Lane.BULK)
    twin = compared(STREAMS, ours, {**ours, place: change(said)}, CODEC)
    assert twin.differences == getattr(twin, what) == 1


def test_a_position_without_a_verdict_and_a_verdict_without_a_position_are_seen(ours: dict[Place, Said]) -> None:
    place = next(iter(ours))
    less = {other: said for other, said in ours.items() if other != place}
    assert compared(STREAMS, ours, less, CODEC).missing == compared(STREAMS, less, ours, CODEC).missing == 1


def test_a_twin_that_says_something_else_fails_the_bench_and_its_speed_is_no_goal() -> None:
    def run(worker: str, us: float) -> Run:
        return Run(worker=worker, records=1_000, us=us, wall_s=0.5, memory=100_000_000)

    same = Twin(worker=STREAMS, positions=9, missing=0, verdict=0, revision=0, changed=0, lane=0, other=0)
    alone = Alone(one_by_one_us=40.0, by_cycle_us=30.0, head_bytes=1_000.0, twin_us=5.0)
    judged = GateReport(
        commit="c",
        machine={"cores": 2, "python": "3"},
        options=Options(),
        peer=STREAMS,
        runs=(run(OURS, 50.0), run(STREAMS, 25.0)),
        alone=(alone,),
        twins=(same,),
    )
    assert judged.reached
    assert judged.decision_us(STREAMS) == 5.0
    assert judged.framework_us(STREAMS) == 20.0
    assert "0.50 times" in report_of.verdict(judged)
    assert not msgspec.structs.replace(judged, twins=(msgspec.structs.replace(same, lane=1),)).reached


def test_the_kept_report_is_of_both_warmed_and_its_twin_said_what_ours_says() -> None:
    kept = msgspec.json.decode(KEPT.read_bytes(), type=GateReport)
    assert kept.options.warm_up == WARM_UP
    assert {run.worker for run in kept.runs} == {kill.worker for kill in kept.kills} == {OURS, STREAMS}
    assert all(kill.lost == kill.different == 0 for kill in kept.kills if kill.worker == OURS)
    assert sum(twin.positions for twin in kept.twins) > WARM_UP
    assert not any(twin.differences for twin in kept.twins)


def test_the_twin_s_jars_are_pinned_and_its_programs_are_there() -> None:
    assert len(JARS.sha256) == 64
    assert all((PEERS / STREAMS / f"{program}.java").exists() for program in ("Gate", "Alone"))
