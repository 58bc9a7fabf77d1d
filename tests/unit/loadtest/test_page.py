"""The report's page and the documents' table: offline, whole without colours and without scripts, and as the reports say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from loadtest import matrix
from loadtest.charts import Band, Time, clock, lines, round_times, spans, table
from loadtest.director import Done
from loadtest.document import lag
from loadtest.judge import Check, LaneFigures, WayFigures
from loadtest.page import render
from loadtest.report import LoadReport, Sent, read, write
from loadtest.series import Series, Span
from loadtest.shapes import Phase

REPORT = LoadReport(
    commit="c0ffee",
    machine={"cores": 2},
    at="2026-01-01T00:00:00Z",
    shape="outage",
    says="the EHR is away & <b>back</b>",
    rate_scale=1.0,
    time_scale=0.1,
    seed=1,
    for_s=6.0,
    peak_per_s=20.0,
    phases=(Phase("before", 3.0, 20.0), Phase("EHR out", 3.0, 20.0)),
    deeds=(Done("EHR out", "", 3.0, 6.0, True), Done("kill -9", "gate", 4.0, 4.1, False)),
    sent=Sent(120, 119, 1, 3, 2, 4.0, {"202": 119, "422": 1}, 2),
    verdicts={"ACCEPTED": 118, "NO_OP": 1},
    ways=(WayFigures("HTTP", 80, 1, 5.0, 50.0, 60.0), WayFigures("MLLP", 40, 0, 5.0, 2_500.0, 2_600.0)),
    lanes=(
        LaneFigures("ehr", "critical", 10, 2, 50.0, 900.0, 1_000.0, 60.0, 910.0),
        LaneFigures("other", "critical", 10, 2, 50.0, 1_900.0, 2_000.0),
    ),
    lost=0,
    open=0,
    parked=0,
    positions=120,
    drained_s=0.4,
    writes={"ehr": {"confirmed": 100, "failed": 3}},
    checks=(Check("answered and lost", "at most 0", "0", True), Check("refused", "at most 0", "1", False)),
    passed=False,
    series=Series(
        from_s=-1.0,
        step_s=1.0,
        steps=8,
        lag_p99_ms={"critical": [None, 10.0, 20.0, None, 900.0, 50_000.0, None, None]},
        pending={"critical": [None, 0, 1, 5, 9, 9, 2, 0], "bulk": [None, 0, 0, 0, 0, 0, 0, 0]},
        ehr_per_s={"ehr": {"confirmed": [0.0, 5.0, 5.0, 0.0, 0.0, 0.0, 9.0, 0.0], "failed": [0.0] * 8}},
        concurrency={"ehr": [None, 8, 8, 8, 1, 1, 2, 8]},
        modes={"ehr": [Span("normal", -1.0, 3.2), Span("outage", 3.2, 6.0), Span("recovery", 6.0, 7.0)]},
    ),
)
PAGE = render(REPORT)


class Outline(HTMLParser):
    """What the page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def outline() -> Outline:
    parser = Outline()
    parser.feed(PAGE)
    return parser


def test_the_page_opens_offline_and_needs_no_script(outline: Outline) -> None:
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in outline.tags}
    assert not [
        value for _, attrs in outline.tags for name, value in attrs.items() if name in {"src", "href"} and value != "#main"
    ]
    assert "url(" not in PAGE
    assert "@import" not in PAGE
    assert "default-src 'none'" in PAGE


def test_the_page_follows_light_dark_and_width(outline: Outline) -> None:
    assert "prefers-color-scheme: dark" in PAGE
    assert "max-width: 60rem" in PAGE
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in outline.tags


def test_every_chart_says_what_it_is_and_has_a_table_beside_it() -> None:
    pairs = PAGE.split('<div class="pair">')[1:]
    assert len(pairs) == PAGE.count('role="img"') == 4
    assert all("<table>" in pair.partition("</section>")[0] for pair in pairs)


def test_everything_that_scrolls_is_reached_by_keyboard(outline: Outline) -> None:
    scrolling = [attrs for _, attrs in outline.tags if (attrs.get("class") or "") in {"plot", "scroll"}]
    assert scrolling
    assert all(attrs.get("tabindex") == "0" and attrs.get("role") == "region" and attrs.get("aria-label") for attrs in scrolling)
    assert any(tag == "a" and attrs.get("href") == "#main" for tag, attrs in outline.tags)


def test_verdicts_are_words(outline: Outline) -> None:
    text = " ".join(outline.text)
    for words in ("1 of 2 thresholds not held", "✔ held", "✘ not held", "outage", "could not be done", "answered yes and lost"):
        assert words in text


def test_what_comes_from_a_report_is_escaped() -> None:
    assert "<b>back</b>" not in PAGE
    assert "&lt;b&gt;back&lt;/b&gt;" in PAGE


def test_every_figure_of_a_chart_stands_in_its_table(outline: Outline) -> None:
    text = " ".join(outline.text)
    for value in ("900 ms", "50 s", "1.9 s", "910 ms", "−1 s"):
        assert value in text


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write(REPORT, tmp_path / "load-outage.json")
    assert render(read(tmp_path / "load-outage.json")) == PAGE


def test_a_line_has_a_gap_where_nothing_was_measured() -> None:
    chart = lines("t", Time(0, 1, 5), {"a": [1.0, 2.0, None, 3.0, 4.0]}, str, [], log=False)
    assert chart.count("<polyline") == 2


@pytest.mark.parametrize("values", [[], [None, None], [0.0, 0.0], [1e9, 0.5], [0.001]])
@pytest.mark.parametrize("log", [True, False])
def test_a_chart_is_drawn_of_any_values(values: list[float | None], log: bool) -> None:
    chart = lines("t", Time(0, 1, max(1, len(values))), {"a": values}, str, [Band("b", 0, 0)], log=log)
    heights = [float(y) for points in re.findall(r'points="([^"]+)"', chart) for y in re.findall(r",([\d.-]+)", points)]
    assert all(0 <= height <= 250 for height in heights)


def test_a_span_too_narrow_for_its_word_has_it_as_a_title_and_in_the_table() -> None:
    chart = spans("t", Time(0, 1, 100), {"ehr": [("outage", 0, 1), ("normal", 1, 100)]}, [])
    assert "<title>outage</title>" in chart
    assert ">outage</text>" not in chart
    assert ">normal</text>" in chart


@pytest.mark.parametrize("to_s", [1, 30, 100, 900, 5_000])
def test_times_on_the_axis_are_round_and_few(to_s: float) -> None:
    assert 1 <= len(round_times(-2.3, to_s)) <= 12


@pytest.mark.parametrize(("at_s", "told"), [(-1.2, "−1 s"), (0, "0 s"), (119, "119 s"), (120, "2:00"), (605, "10:05")])
def test_moments_are_told_in_seconds_then_in_minutes(at_s: float, told: str) -> None:
    assert clock(at_s) == told


@pytest.mark.parametrize(
    ("value", "told"), [(None, "–"), (0.0, "0 ms"), (999.0, "999 ms"), (1_500.0, "1.5 s"), (2_000.0, "2 s"), (180_000.0, "3 min")]
)
def test_a_lag_is_told_in_its_own_unit(value: float | None, told: str) -> None:
    assert lag(value) == told


def test_cells_of_a_table_are_escaped() -> None:
    assert "<i>" not in table("<i>", ("<i>",), [("<i>",)])


# -- the documents' table


def test_the_table_of_shapes_is_what_the_committed_reports_say() -> None:
    page = matrix.PAGE.read_text(encoding="utf-8")
    assert matrix.put_in(page, matrix.render(matrix.reports())) == page, "run: python -m loadtest.matrix"


def test_a_row_tells_the_worst_destination_and_what_did_not_hold(tmp_path: Path) -> None:
    write(REPORT, tmp_path / "load-outage.json")
    row = matrix.render([tmp_path / "load-outage.json"]).splitlines()[2]
    for cell in ("[outage](../reports/load-outage.json)", "| 1.9 s |", "not held: refused", "50 ms / 2.5 s", "rate × 1, 6 s"):
        assert cell in row


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        matrix.put_in("# Load\n", "")


@pytest.mark.parametrize("file", matrix.reports(), ids=lambda file: file.name)
def test_a_committed_report_is_of_the_shape_that_it_is_named_after_and_lost_nothing(file: Path) -> None:
    report = read(file)
    assert file.name == f"load-{report.shape}.json"
    assert report.lost == 0
    assert re.fullmatch("[0-9a-f]{40}", report.commit), "a report is committed of a commit, not of a tree with changes"
    assert msgspec.json.decode(file.read_bytes())["machine"]["cores"]
