"""What a writer says in its log of attempts that failed, and of a destination that is away."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.modes import Mode
from pipeline.domain.records import Lane, OutcomeKind, Reason
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.roles import reports
from pipeline.roles.reports import Reports

ACCEPTED: Any = SimpleNamespace(
    tenant="t", entity_type=EntityType.PATIENT, namespace="n", entity_id="RECORD-4711", lane=Lane.URGENT, revision=5
)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    kept: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(reports, "emit", lambda line, **fields: kept.append((line.name, fields)))
    return kept


def new_reports() -> Reports:
    process: Any = SimpleNamespace(settings=SimpleNamespace(digest_key=lambda: b"k" * 32))
    ledger: Any = None
    return Reports(process, "ehr", "0", ledger, lambda: 0)


def test_a_failed_and_a_parked_attempt_are_logged_with_a_digest_and_a_confirmed_one_is_not(
    said: list[tuple[str, dict[str, Any]]],
) -> None:
    watched = new_reports()
    watched.attempted(ACCEPTED, OutcomeKind.FAILED, Reason.TIMEOUT)
    watched.attempted(ACCEPTED, OutcomeKind.PARKED, Reason.REFUSED_GONE)
    watched.attempted(ACCEPTED, OutcomeKind.CONFIRMED, Reason.NONE)
    assert [(name, fields["reason"]) for name, fields in said] == [("write.failed", "TIMEOUT"), ("write.parked", "REFUSED_GONE")]
    assert all(set(fields) <= getattr(lines, name.upper().replace(".", "_")).fields for name, fields in said)
    assert "4711" not in str(said)


def test_one_mode_is_shown_at_a_time_and_the_first_from_the_start() -> None:
    def shown() -> set[str]:
        known = {mode: {"destination": "ehr", "mode": mode.value} for mode in Mode}
        return {
            mode.value for mode, labels in known.items() if metrics.REGISTRY.get_sample_value("surgeline_writer_mode", labels)
        }

    watched = new_reports()
    assert shown() == {"normal"}
    watched._show_mode(Mode.OUTAGE)
    watched._show_mode(Mode.RECOVERY)
    assert shown() == {"recovery"}


def test_an_open_breaker_is_logged_once_and_its_closing_with_how_long_it_was_open(
    said: list[tuple[str, dict[str, Any]]],
) -> None:
    watched = new_reports()
    for is_open, at in ((False, 0), (True, 1_000), (True, 1_500), (False, 4_000), (False, 4_500)):
        watched._tell_breaker(is_open, Millis(at))
    assert said == [
        ("breaker.opened", {"destination": "ehr"}),
        ("breaker.closed", {"destination": "ehr", "duration_ms": 3_000.0}),
    ]
