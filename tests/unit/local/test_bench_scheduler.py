"""What a backlog costs, measured small, and told in the documentation as measured."""

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.local.bench import scheduler as bench
from pipeline.local.bench.scheduler import SchedulerFigures, table_of

DOCS = Path(__file__).parents[3] / "docs"


def test_the_bench_tells_time_memory_and_table_of_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ENTITIES", 2_000)
    monkeypatch.setattr(bench, "DECISIONS", 1_000)
    assert CliRunner().invoke(app, ["bench", "scheduler", "--json", str(tmp_path / "figures.json")]).exit_code == 0
    figures = msgspec.convert(json.loads((tmp_path / "figures.json").read_text()), SchedulerFigures)
    assert 0 < figures.us_per_decision < 1_000
    assert figures.key_bytes < figures.scheduler_bytes_per_entity < figures.writer_bytes_per_entity < 4_000
    assert figures.table_value_bytes > 100
    assert figures.entities == 2_000


def test_a_missed_goal_is_told_by_the_exit_code_only_where_it_is_asserted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ENTITIES", 1_000)
    monkeypatch.setattr(bench, "DECISIONS", 100)
    monkeypatch.setattr(bench, "GOAL_BYTES", 1.0)
    assert CliRunner().invoke(app, ["bench", "scheduler"]).exit_code == 0
    assert CliRunner().invoke(app, ["bench", "scheduler", "--assert"]).exit_code == 1


def test_the_figures_in_the_documentation_are_those_of_the_report() -> None:
    report = msgspec.json.decode((DOCS / "reports" / "bench-scheduler.json").read_bytes())
    figures = msgspec.convert(report["figures"], SchedulerFigures)
    assert table_of(figures) in (DOCS / "operating" / "ehr-limits.md").read_text()
    assert figures.reached
