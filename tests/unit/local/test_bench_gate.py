"""The bench of the gate's worker: what it sends, what it makes of its runs, and that the documentation says the same."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.local.bench.e2e import bench as bench_e2e
from pipeline.local.bench.gate import report as report_of
from pipeline.local.bench.gate.load import Landing, by_cycle, one_by_one
from pipeline.local.bench.gate.report import OURS, Alone, GateReport, Kill, Options, Run, joined
from pipeline.local.bench.gate.worker import PEERS
from pipeline.local.bench.scale import bench as bench_scale
from pipeline.roles.policies import load_policy

DOCS = Path(__file__).parents[3] / "docs"
NOW = Millis(1_800_000_000_000)
CODEC = Codec.shipped()


def report(ours: float, peer: float, *, kills: tuple[Kill, ...] = (), commit: str = "c") -> GateReport:
    def run(worker: str, us: float) -> Run:
        return Run(worker=worker, records=1_000, us=us, wall_s=0.5, memory=100_000_000)

    runs = (run(OURS, ours), run("quix", peer), run(OURS, ours + 2), run("quix", peer + 2), run(OURS, 900.0))
    alone = (Alone(one_by_one_us=40.0, by_cycle_us=30.0, head_bytes=1_000.0),)
    return GateReport(
        commit=commit, machine={"cores": 2, "python": "3"}, options=Options(), peer="quix", runs=runs, alone=alone, kills=kills
    )


def test_the_same_seed_makes_the_same_records_each_where_it_says_that_it_lies() -> None:
    one, other = Landing(50, CODEC), Landing(50, CODEC)
    made = [*one.first(NOW), *one.more(500, NOW)]
    assert made == [*other.first(NOW), *other.more(500, NOW)]
    assert one.ends == Counter((r.topic, r.partition) for r in made)
    assert all(r.offset < one.ends[r.topic, r.partition] for r in made)


def test_one_event_of_ten_is_published_twice() -> None:
    events = [CODEC.decode(record.value) for record in Landing(50, CODEC).more(2_200, NOW)]
    ids = Counter(event.event_id for event in events if isinstance(event, Event))
    assert len(ids) == 2_000
    assert sum(count == 2 for count in ids.values()) == 200


def test_the_decision_alone_keeps_the_same_heads_one_by_one_and_by_cycle() -> None:
    landing = Landing(50, CODEC)
    before, records = landing.first(NOW), landing.more(500, NOW)
    single, cycles = (one_by_one(before, records, CODEC, load_policy()), by_cycle(before, records, 100, CODEC, load_policy()))
    assert single.us > 0 < cycles.us
    assert single.head_bytes == cycles.head_bytes > 100


def test_the_median_run_counts_and_each_framework_is_what_its_own_decision_leaves() -> None:
    judged = report(50.0, 120.0)
    assert judged.us(OURS) == 52.0  # not the run that something else disturbed
    assert judged.framework_us(OURS) == 22.0
    assert judged.framework_us("quix") == 81.0
    assert judged.total_ratio == pytest.approx(121 / 52)
    assert judged.framework_ratio == pytest.approx(81 / 22)
    assert judged.reached


@pytest.mark.parametrize(("ours", "peer"), [(90.0, 120.0), (60.0, 100.0)])
def test_a_missed_goal_is_missed(ours: float, peer: float) -> None:
    assert not report(ours, peer).reached


@pytest.mark.parametrize(("lost", "different"), [(1, 0), (0, 1)])
def test_no_speed_makes_up_for_a_loss_or_for_two_verdicts_on_one_position(lost: int, different: int) -> None:
    ours = Kill(worker=OURS, records=10, lost=lost, repeated=5, different=different)
    assert not report(50.0, 120.0, kills=(ours,)).reached
    assert report(50.0, 120.0, kills=(msgspec.structs.replace(ours, worker="quix"),)).reached


def test_runs_of_one_commit_are_added_and_those_of_another_replaced() -> None:
    one, other = report(50.0, 120.0), report(60.0, 130.0)
    assert joined(one, other).runs == one.runs + other.runs
    assert joined(report(50.0, 120.0, commit="before"), other) == other
    assert joined(None, one) == one


def test_an_unknown_peer_is_refused_by_its_name() -> None:
    answer = CliRunner().invoke(app, ["bench", "gate", "--peer", "zippy"])
    assert answer.exit_code == 2
    assert "zippy" in answer.output


def test_each_peer_has_a_lock_file_with_digests_that_names_no_registry() -> None:
    for peer in (folder for folder in PEERS.iterdir() if (folder / "gate.py").exists()):
        lock = (peer / "requirements.lock").read_text()
        assert "--hash=sha256:" in lock
        assert "://" not in lock


@pytest.mark.parametrize(
    ("file", "kind", "markdown"),
    [
        ("bench-gate.json", GateReport, report_of.markdown),
        ("bench-gate-streams.json", GateReport, report_of.markdown),
        ("bench-e2e.json", bench_e2e.E2eReport, bench_e2e.markdown),
        ("bench-scale.json", bench_scale.ScaleReport, bench_scale.markdown),
    ],
)
def test_the_figures_in_the_documentation_are_those_of_the_report(
    file: str, kind: type[Any], markdown: Callable[[Any], str]
) -> None:
    kept = msgspec.json.decode((DOCS / "reports" / file).read_bytes(), type=kind)
    assert markdown(kept) in (DOCS / "performance.md").read_text()


def test_the_gate_s_report_is_of_a_whole_comparison_and_after_a_kill_nothing_was_lost() -> None:
    kept = msgspec.json.decode((DOCS / "reports" / "bench-gate.json").read_bytes(), type=GateReport)
    assert {run.worker for run in kept.runs} == {kill.worker for kill in kept.kills} == {OURS, kept.peer}
    assert all(kill.lost == kill.different == 0 for kill in kept.kills)
