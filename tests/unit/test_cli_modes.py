"""`surgeline mode`: what can't be meant is refused before anything is ordered, and an order says who, why and until when."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipeline import cli
from pipeline.domain.records import ModeOrder
from pipeline.domain.writing.modes import Mode
from pipeline.formats.avro import Codec
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.producer import OutRecord
from pipeline.roles.writers import mode_orders

CODEC = Codec.shipped()


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    writer = {"profile": "sekmet-owner", "role": "owner", "base_url": "http://127.0.0.1:1/fhir", "data_dir": "ehr"}
    file = tmp_path / "surgeline.yaml"
    file.write_text(yaml.safe_dump({"demo": True, "writers": {"ehr": writer}}))
    return file


class FakeChain:
    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self.entries = entries

    def append(self, **entry: Any) -> OutRecord:
        self.entries.append(entry)
        return OutRecord("audit", b"", b"")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], list[OutRecord]]:
    """Audit entries and records that a command publishes."""
    entries: list[dict[str, Any]] = []
    records: list[OutRecord] = []
    monkeypatch.setattr(mode_orders, "operator_chain", lambda *_: FakeChain(entries))
    monkeypatch.setattr(mode_orders, "publish_at_once", lambda _, sent: records.extend(sent))
    return entries, records


def mode(settings: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["mode", *arguments, "--config", str(settings)])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("force", "nobody", "severe", "--reason", "r"), "no such destination; known: ehr"),
        (("force", "ehr", "recovery", "--reason", "r"), "can't be forced"),
        (("force", "ehr", "severe", "--reason", "  "), "--reason"),
        (("force", "ehr", "severe", "--reason", "r", "--for", "soon"), "--for"),
        (("force", "ehr", "severe", "--reason", "r", "--for", "25h"), "at most 24h"),
        (("force", "ehr", "outage", "--reason", "r"), "--yes"),
        (("force", "ehr", "severe"), "--reason"),
        (("force", "ehr", "panic", "--reason", "r"), "panic"),
        (("release", "nobody", "--reason", "r"), "no such destination"),
        (("release", "ehr"), "--reason"),
        (("show", "nobody"), "no such destination"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_ordered(
    settings: Path, said: tuple[list[Any], list[Any]], arguments: tuple[str, ...], word: str
) -> None:
    ended = mode(settings, *arguments)
    assert ended.exit_code == 2
    assert word in ended.output
    assert said == ([], [])


def test_an_order_is_audited_with_reason_and_person_and_ends_by_itself(
    settings: Path, said: tuple[list[dict[str, Any]], list[OutRecord]]
) -> None:
    assert mode(settings, "force", "ehr", "severe", "--for", "30m", "--reason", "ticket 4711").exit_code == 0
    (entry,), (_, record) = said
    order = CODEC.decode(record.value)
    assert isinstance(order, ModeOrder)
    assert (entry["action"], entry["subject"], entry["reason"]) == ("mode.force", "ehr", "ticket 4711")
    assert entry["detail"] == {"mode": "severe", "for_s": "1800"}
    assert (record.topic, record.key, order.mode, order.reason) == ("modes", b"ehr", Mode.SEVERE.value, "ticket 4711")
    assert order.until - order.at == 1_800_000
    assert order.actor == entry["actor"]
    assert order.actor.startswith("operator:")


def test_a_release_is_audited_and_names_no_mode(settings: Path, said: tuple[list[dict[str, Any]], list[OutRecord]]) -> None:
    assert mode(settings, "release", "ehr", "--reason", "calm").exit_code == 0
    (entry,), (_, record) = said
    order = CODEC.decode(record.value)
    assert isinstance(order, ModeOrder)
    assert (entry["action"], entry["reason"], order.mode) == ("mode.release", "calm", None)


def test_a_policy_is_checked_before_a_writer_is_started_with_it(tmp_path: Path) -> None:
    bad = tmp_path / "modes.yaml"
    bad.write_text("version: 1\nslow: {}\n")
    good, refused = (CliRunner().invoke(cli.app, ["mode", "check", *files]) for files in ([], [str(bad)]))
    assert (good.exit_code, refused.exit_code) == (0, 1)
    assert "severe freezes bulk, every type but encounter" in good.output
    assert "enter_after_s" in refused.output


def test_a_broker_that_is_away_is_a_reason_to_try_again(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise KafkaUnavailable("no broker")

    monkeypatch.setattr(mode_orders, "operator_chain", away)
    assert mode(settings, "force", "ehr", "severe", "--reason", "r").exit_code == 75
