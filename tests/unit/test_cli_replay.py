"""`surgeline replay`: a dry run by default, counts and no names, and an exit code that says whether all is done."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from pipeline import cli
from pipeline.cli import replay as commands
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Revision
from pipeline.domain.reconcile.replay import MAX_LIMIT, Entity, Group, LeftOut, Refusal, Selection, Tally, What
from pipeline.domain.records import Reason
from pipeline.roles.repairs import replay
from pipeline.roles.repairs.replay import Done, Plan
from tests.support.changes import key_of

KEY = key_of("SECRET")
DONE = ("--yes", "--reason", "mended")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(commands, "console", Console(width=160))
    writer = {"profile": "sekmet-owner", "role": "owner", "base_url": "http://127.0.0.1:1/fhir", "data_dir": "ehr"}
    file = tmp_path / "surgeline.yaml"
    file.write_text(yaml.safe_dump({"demo": True, "tenant_default": "acme", "writers": {"ehr": writer}}))
    return file


def run(settings: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["replay", *arguments, "-c", str(settings)])


def planned(monkeypatch: pytest.MonkeyPatch, what: str, count: int, **tally: Any) -> list[tuple[Any, ...]]:
    """The plan is given; what it was asked with."""
    asked: list[tuple[Any, ...]] = []

    def plan(topics: object, codec: object, *rest: Any) -> Plan:
        asked.append(rest)
        entities = tuple(Entity(KEY, Revision(number)) for number in range(1, count + 1))
        groups = Counter({Group("ehr", "bed", "REFUSED_INVALID"): count} if count else {})
        return Plan(What(what), rest[0], Tally(groups, **tally), entities)

    monkeypatch.setattr(replay, f"plan_{what}", plan)
    return asked


def carried(monkeypatch: pytest.MonkeyPatch, ordered: int) -> list[tuple[Any, ...]]:
    """Carrying out ends behind so many; the reason and rate that it was given."""
    given: list[tuple[Any, ...]] = []

    def carry_out(
        settings: object, codec: object, plan: Plan, actor: str, reason: str, now: object, rate: float, show: Any
    ) -> Done:
        given.append((reason, rate))
        show(ordered)
        return Done(ordered, plan.size)

    monkeypatch.setattr(replay, "carry_out", carry_out)
    return given


@pytest.mark.parametrize(
    "line",
    [
        "parked --yes",
        "parked --yes --reason=",
        "parked --since tomorrow",
        "parked --since 2h --from 2026-01-31T08:00:00Z",
        "parked --from 2026-01-31T08:00:00",
        "parked --from 2026-01-31T08:00:00Z --to 2026-01-31T08:00:00Z",
        "parked --entity ICU-12",
        "parked --destination elsewhere",
        "parked --cause TIRED",
        "parked --limit 0",
        f"parked --limit {MAX_LIMIT + 1}",
        "parked --rate 0",
        "quarantined --destination ehr",
        "range",
        "range --to 2026-01-31T08:00:00Z",
        "range --since 2h --begun yesterday",
    ],
)
def test_wrong_use_is_told_before_anything_is_asked(settings: Path, line: str) -> None:
    result = run(settings, *line.split())
    assert result.exit_code == 2
    assert result.output


def test_without_yes_it_counts_and_does_nothing(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, given = planned(monkeypatch, "parked", 3), carried(monkeypatch, 3)
    line = "parked --destination ehr --entity-type bed --cause REFUSED_INVALID --source s --feed f --limit 9"
    shown = run(settings, *line.split())
    assert (shown.exit_code, given) == (0, [])
    assert "Nothing was done." in shown.output
    assert "SECRET" not in shown.output
    selection, configured, _ = asked[0]
    assert (selection.entity_type, selection.cause, selection.destination) == (EntityType.BED, Reason.REFUSED_INVALID, "ehr")
    assert (selection.source_system, selection.feed, selection.limit, set(configured)) == ("s", "f", 9, {"ehr"})


def test_with_yes_it_is_done_with_its_reason_and_rate(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(monkeypatch, "parked", 3)
    given = carried(monkeypatch, 3)
    shown = run(settings, "parked", *DONE, "--rate", "7")
    assert (shown.exit_code, given) == (0, [("mended", 7.0)])
    assert "3 ordered." in shown.output
    assert json.loads(run(settings, "parked", *DONE, "--json").output)["ordered"] == 3


def test_nothing_to_do_is_done_and_orders_nothing(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(monkeypatch, "parked", 0, left_out=Counter({LeftOut.WAITS: 2}))
    given = carried(monkeypatch, 0)
    shown = run(settings, "parked", *DONE)
    assert (shown.exit_code, given) == (0, [])
    assert LeftOut.WAITS.value in shown.output


def test_what_is_refused_or_left_for_another_run_fails_the_command(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal("landing.bed", "UNDECODABLE", "register the schema")
    planned(monkeypatch, "quarantined", 1, refused=Counter({refusal: 2}))
    monkeypatch.setattr("pipeline.roles.ways_in.feeds.in_force", lambda topics, fallback: fallback)
    shown = run(settings, "quarantined")
    assert shown.exit_code == 1
    assert "register the schema" in shown.output
    planned(monkeypatch, "parked", 1, left_out=Counter({LeftOut.BEYOND_LIMIT: 1}))
    assert run(settings, "parked").exit_code == 1


def test_a_range_that_was_broken_off_says_how_to_go_on(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = planned(monkeypatch, "range", 3)
    carried(monkeypatch, 1)
    first, begun = "2026-01-31T08:00:00.000Z", "2026-01-31T10:00:00.000Z"
    shown = run(settings, "range", "--from", first, "--to", "2026-01-31T09:00:00Z", "--begun", begun, *DONE)
    assert shown.exit_code == 1
    told = " ".join(shown.output.split())
    assert f"Broken off: 1 of 3 are ordered. For the rest, run the same with --from {first}" in told
    assert f"--to 2026-01-31T09:00:00.000Z --begun {begun}" in told
    selection: Selection = asked[0][0]
    assert (selection.window.since, selection.window.until) == (1_769_846_400_000, 1_769_850_000_000)
    assert asked[0][3] == 1_769_853_600_000


def test_a_raw_key_that_is_gone_is_told_and_no_trace_is_shown(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError("/secrets/raw.key")

    monkeypatch.setattr("pipeline.roles.ways_in.feeds.in_force", lambda topics, fallback: fallback)
    monkeypatch.setattr(replay, "opener_of", gone)
    shown = run(settings, "quarantined")
    assert shown.exit_code == 78
    assert "raw_encryption" in shown.output
