"""The table of shapes in `docs/operating/load-testing.md`, made from the committed reports.

`python -m loadtest.matrix` writes it. `docs/reports/load-NAME.json` is a run of the shape NAME.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from loadtest.charts import clock
from loadtest.document import lag
from loadtest.report import LoadReport, read
from pipeline.formats.markdown import table
from pipeline.local.provenance import REPOSITORY

PAGE: Final = REPOSITORY / "docs/operating/load-testing.md"
REPORTS: Final = REPOSITORY / "docs/reports"
BEGIN, END = "<!-- made from docs/reports by python -m loadtest.matrix -->\n", "<!-- end -->"
_PLACE: Final = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
HEAD: Final = (
    "shape",
    "scale",
    "messages, at the height",
    "critical p99",
    "urgent p99",
    "routine p99",
    "answered p99, HTTP / MLLP",
    "superseded",
    "drained after",
    "lost",
    "verdict",
)


def reports() -> list[Path]:
    """The committed ones."""
    return sorted(REPORTS.glob("load-*.json"))


def render(files: Iterable[Path]) -> str:
    """The table; a row for each report."""
    return table(HEAD, [_row(read(file), file) for file in files])


def put_in(page: str, rendered: str) -> str:
    """The page with the table in its place. ValueError where it has none."""
    made, count = _PLACE.subn(lambda _: f"{BEGIN}{rendered}{END}", page)
    if count != 1:
        raise ValueError("the page has no place for the table")
    return made


def _row(report: LoadReport, file: Path) -> tuple[str, ...]:
    answered = " / ".join(lag(way.p99_ms) for way in report.ways)
    failed = [check.name for check in report.checks if not check.held]
    return (
        f"[{report.shape}](../reports/{file.name})",
        f"rate × {report.rate_scale:g}, {clock(report.for_s)}",
        f"{report.sent.messages:,}, {report.peak_per_s:.0f} /s",
        *(_worst(report, lane) for lane in ("critical", "urgent", "routine")),
        answered,
        f"{sum(figures.superseded for figures in report.lanes):,}",
        "not drained" if report.drained_s is None else f"{report.drained_s:.1f} s",
        str(report.lost),
        "held" if report.passed else f"not held: {'; '.join(failed)}",
    )


def _worst(report: LoadReport, lane: str) -> str:
    """Of all destinations."""
    return lag(max((figures.p99_ms for figures in report.lanes if figures.lane == lane), default=None))


def main() -> int:
    """Write the page."""
    PAGE.write_text(put_in(PAGE.read_text(encoding="utf-8"), render(reports())), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
