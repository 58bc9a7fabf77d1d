"""Where other converters say otherwise of the same message: each difference has a verdict, by a row of the guide that exists."""

from pathlib import Path

from tests.conftest import REPOSITORY
from tests.support.agreement import KINDS, compared
from tests.support.agreement_page import RIGHT, render, rows_of, verdicts

PAGE = REPOSITORY / "docs" / "mapping" / "agreement.md"
CENTRAL = ("Patient.identifier", "Encounter.class", "Encounter.status", "Encounter.period.start", "Encounter.location")


def test_each_difference_has_one_verdict_and_each_verdict_a_difference(shared_data: Path) -> None:
    found, judged = [cell for one in compared(shared_data) for cell in one.cells], verdicts()
    told = {cell: [verdict for verdict in judged if verdict.covers(cell)] for cell in found}
    assert [cell for cell, verdicts_on in told.items() if len(verdicts_on) != 1] == []
    for verdict in judged:
        left = verdict.messages - {cell.message for cell in found if verdict.covers(cell)}
        assert left == set(), (verdict.field, verdict.converter)


def test_a_verdict_is_by_a_row_of_the_guide(shared_data: Path) -> None:
    for verdict in verdicts():
        assert verdict.right in RIGHT
        assert verdict.kind in KINDS
        assert verdict.why.endswith(".")
        assert verdict.rows, verdict.field
        for file, row in verdict.rows:
            assert row in rows_of(shared_data, file), (file, row)


def test_every_message_with_a_bundle_is_compared(shared_data: Path) -> None:
    found = compared(shared_data)
    assert {one.converter for one in found} == {"Google", "Microsoft"}
    assert sum(one.becomes == "mapped" for one in found) == 36
    fields = {field for one in found for field in CENTRAL if one.fields}
    assert fields == set(CENTRAL)
    assert not any(verdict.right == "theirs" for verdict in verdicts() if verdict.field in CENTRAL)


def test_the_page_shows_the_comparison_as_it_is(shared_data: Path) -> None:
    assert PAGE.read_text(encoding="utf-8") == render(shared_data), (
        "python -m tests.support.agreement_page > docs/mapping/agreement.md"
    )
