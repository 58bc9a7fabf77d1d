"""The soak's page: every figure of its charts stands in a table, and what did not hold is said in words."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from tests.chaos import soak_page
from tests.chaos.report import Check
from tests.chaos.soak import SoakReport
from tests.chaos.soak_checks import Look, Minute


def look(at_s: float, gate: int) -> Look:
    return Look(at_s, {"gate": gate, "way in": 200_000_000}, {"gate": 40}, {"broker": 5_000_000})


REPORT = SoakReport(
    commit="c0ffee",
    machine={"cores": 2},
    minutes=2.0,
    rate=500.0,
    entities=5_000,
    sent=60_000,
    yes=60_000,
    retries=3,
    verdicts={"ACCEPTED": 59_000, "NO_OP": 1_000},
    cpu={"gate": 0.25, "writer": 0.55},
    checks=(Check("memory of the <gate> stands still", False, "from 100 to 150 MB"), Check("no event is lost", True, "60,000")),
    lags=(Minute(0, "critical", 10, 100.0, 234.0), Minute(1, "critical", 10, 100.0, 1_500.0), Minute(2, "critical", 1, 1.0, 9.0)),
    looks=(look(5.0, 100_000_000), look(55.0, 111_000_000), look(65.0, 150_000_000)),
    passed=False,
)


class Cells(HTMLParser):
    """The words of every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        self._is_cell = tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.cells.append(data)


def test_what_the_charts_show_stands_in_the_tables() -> None:
    cells = Cells()
    cells.feed(soak_page.render(REPORT))
    for shown in ("234 ms", "1.5 s", "111", "150", "200", "40", "5", "0.25", "0.55", "✘ not held", "✔ held"):
        assert shown in cells.cells, shown
    assert "100" not in cells.cells, "of a minute the last look counts"
    assert "memory of the <gate> stands still" in cells.cells


def test_the_verdict_is_said_in_words_and_nothing_is_fetched() -> None:
    page = soak_page.render(REPORT)
    assert "✘ 1 of 2 promises not held" in page
    assert not re.search(r"https?://|<script|src=", page)
    assert "✔ Everything stood still" in soak_page.render(msgspec.structs.replace(REPORT, passed=True))


def test_a_report_is_rendered_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, page = tmp_path / "soak.json", tmp_path / "soak.html"
    report.write_bytes(msgspec.json.encode(REPORT))
    monkeypatch.setattr("sys.argv", ["soak_page", str(report), str(page)])
    assert soak_page.main() == 0
    assert page.read_text() == soak_page.render(REPORT)


def test_a_run_that_ended_before_it_was_looked_at_has_a_page() -> None:
    assert "Memory" in soak_page.render(msgspec.structs.replace(REPORT, looks=(), lags=()))
