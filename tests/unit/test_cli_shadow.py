"""`surgeline shadow`: a flags file is checked before it gets into force, and a report names fields and no values."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from pipeline import cli
from pipeline.cli import rules
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import OutcomeKind, Reason, Would
from pipeline.ops.shadow import render_shadows
from tests.support.changes import change, outcome
from tests.unit.domain.test_shadow_report import compared, report

FLAGS = {
    "flags": {
        "rollout.ehr": {
            "state": "ENABLED",
            "variants": {"shadow": {"mode": "shadow"}, "north": {"mode": "limited", "facilities": ["NORTH"]}},
            "defaultVariant": "shadow",
            "targeting": {"if": [{"==": [{"var": "tenant"}, "acme"]}, "north"]},
        }
    }
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    writer = {"profile": "sekmet-owner", "role": "owner", "base_url": "http://127.0.0.1:1/fhir", "data_dir": "ehr"}
    file = tmp_path / "surgeline.yaml"
    file.write_text(yaml.safe_dump({"demo": True, "tenant_default": "acme", "writers": {"ehr": writer}}))
    return file


def check(settings: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["shadow", "check", "-c", str(settings), *map(str, arguments)])


def test_a_good_file_is_shown_by_destination_and_type(settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "console", Console(width=160))
    flags = tmp_path / "flags.json"
    flags.write_text(json.dumps(FLAGS))
    shown = check(settings, flags)
    assert shown.exit_code == 0
    assert "limited facilities=NORTH" in shown.output
    assert "limited" not in check(settings, flags, "--tenant", "other").output
    assert "full" in check(settings).output, "without a file everything is written"


def test_a_bad_file_is_refused_with_everything_that_is_wrong(settings: Path, tmp_path: Path) -> None:
    flags = tmp_path / "flags.json"
    flags.write_text(json.dumps(FLAGS).replace("rollout.ehr", "rollout.her"))
    refused = check(settings, flags)
    assert refused.exit_code == 1
    assert "rollout.her: names no destination of the settings (ehr)" in refused.output
    missing = check(settings, tmp_path / "nothing.yaml")
    assert missing.exit_code == 1
    assert "there is no readable file" in missing.output


def test_a_report_for_people_names_ways_reasons_and_fields() -> None:
    console = Console(file=io.StringIO(), width=200)
    found = report(
        compared(1, "A", Would.CREATE, "environment", "staffed"),
        compared(2, "B", Would.HOLD, reason=Reason.RESERVATION_UNTELLABLE),
        outcome(change(3, "C"), OutcomeKind.CONFIRMED),
    )
    console.print(render_shadows(found, Millis(6_000)))
    console.print(render_shadows(report(), Millis(6_000)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for told in ("2 entities were only compared", "RESERVATION_UNTELLABLE 1", "environment", "staffed", "every write goes out"):
        assert told in text
