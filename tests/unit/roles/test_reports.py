"""What a writer says in its log of attempts that failed."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey
from pipeline.domain.records import Lane, OutcomeKind, Reason
from pipeline.ops import log_catalogue as lines
from pipeline.roles.writers import reports
from pipeline.roles.writers.reports import Reports

ACCEPTED: Any = SimpleNamespace(
    key=EntityKey("t", "patient", "n", "RECORD-4711"), entity_type=EntityType.PATIENT, lane=Lane.URGENT, revision=5
)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    kept: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(reports, "emit", lambda line, **fields: kept.append((line.name, fields)))
    return kept


def new_reports() -> Reports:
    process: Any = SimpleNamespace(settings=SimpleNamespace(digest_key=lambda: b"k" * 32))
    keeper: Any = SimpleNamespace(attempted=lambda kind, reason: None)
    return Reports(process, "ehr", "0", keeper, lambda: 0)


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
