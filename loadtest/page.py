"""`report.html`: one file that opens offline, without scripts, light and dark, narrow and wide. Pure.

What a chart shows stands in a table beside it; what held is said in words.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from loadtest.charts import Band, Time, clock, lines, spans, table
from loadtest.judge import LaneFigures
from loadtest.report import LoadReport
from loadtest.series import Series

STYLE: Final = files("loadtest").joinpath("page.css").read_text(encoding="utf-8")
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
NOTHING: Final = "–"


def render(report: LoadReport) -> str:
    """The page."""
    series = report.series
    time = Time(series.from_s, series.step_s, series.steps)
    bands = [Band("warm-up", series.from_s, 0.0), *sorted(_deeds(report), key=lambda band: band.from_s)]
    sections = (
        _section("Thresholds", _checks(report)),
        _section("Lag by lane", _figures(report)),
        _section("Lag over time", _lag(series, time, bands)),
        _section("What waits", _pending(series, time, bands)),
        _section("Modes", _modes(series, time, bands)),
        *(_section(f"What {name} answers", _ehr(series, time, bands, name)) for name in series.ehr_per_s),
        _section("The senders", _senders(report)),
        _section("What was done", _done(report)),
    )
    title = f"Load: {report.shape}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style></head><body>'
        f'<a class="skip" href="#main">To the figures</a>{_head(report)}<main id="main" tabindex="-1">{"".join(sections)}</main>'
        f"</body></html>\n"
    )


def _head(report: LoadReport) -> str:
    failed = sum(not check.held for check in report.checks)
    verdict = "✔ Every threshold held" if report.passed else f"✘ {failed} of {len(report.checks)} thresholds not held"
    css = "good" if report.passed else "bad"
    scale = f"rate × {report.rate_scale:g}, time × {report.time_scale:g}"
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    facts = (
        ("Load", f"{report.sent.messages} messages in {clock(report.for_s)}, {report.peak_per_s:g} a second at the height"),
        ("Scale", f"{scale}, seed {report.seed}, {report.sent.workers} load process{'es' * (report.sent.workers > 1)}"),
        ("At", report.at),
        ("Commit", report.commit),
        ("Machine", machine),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<header><h1>{escape(report.shape)}</h1><p class="says">{escape(report.says)}</p>'
        f'<p class="verdict {css}" role="status">{verdict}</p><dl>{listed}</dl></header>'
    )


def _section(title: str, body: str) -> str:
    name = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{escape(name)}"><h2 id="{escape(name)}">{escape(title)}</h2>{body}</section>'


def _beside(chart: str, shown: str, label: str) -> str:
    return (
        f'<div class="pair"><div class="plot" tabindex="0" role="region" aria-label="{escape(label)}">{chart}</div>{shown}</div>'
    )


def _checks(report: LoadReport) -> str:
    rows = [(check.name, "✔ held" if check.held else "✘ not held", check.limit, check.seen) for check in report.checks]
    return table("Each threshold", ("threshold", "verdict", "limit", "seen"), rows, text_columns=4)


def _figures(report: LoadReport) -> str:
    head = ("destination", "lane", "changes", "superseded", "p50", "p99", "longest", "seen p50", "seen p99")
    note = (
        "From receipt to confirmation, after the warm-up. A superseded change ends when the state that replaced it is "
        "confirmed. Seen: by a reader of Kafka, while it happened."
    )
    shown = table("Lag of changes", head, [_lane(figures) for figures in report.lanes], text_columns=2)
    return f"<p>{note}</p>{shown}"


def _lane(figures: LaneFigures) -> tuple[str, ...]:
    times = (figures.p50_ms, figures.p99_ms, figures.max_ms, figures.seen_p50_ms, figures.seen_p99_ms)
    return (figures.destination, figures.lane, str(figures.changes), str(figures.superseded), *map(lag, times))


def _lag(series: Series, time: Time, bands: list[Band]) -> str:
    chart = lines("Lag, p99 of each step", time, series.lag_p99_ms, lag, bands, log=True)
    shown = _over_time("Lag, p99", series, [(name, [lag(value) for value in its]) for name, its in series.lag_p99_ms.items()])
    return _beside(chart, shown, "Chart of lag over time")


def _pending(series: Series, time: Time, bands: list[Band]) -> str:
    chart = lines("Entities that wait, by lane", time, series.pending, _count, bands, log=False)
    columns = [(name, [NOTHING if value is None else str(value) for value in its]) for name, its in series.pending.items()]
    return _beside(chart, _over_time("Entities that wait", series, columns), "Chart of what waits over time")


def _modes(series: Series, time: Time, bands: list[Band]) -> str:
    rows = {name: [(span.mode, span.from_s, span.to_s) for span in its] for name, its in series.modes.items()}
    chart = spans("Mode of each destination", time, rows, bands)
    told = [(name, word, clock(from_s), clock(to_s)) for name, its in rows.items() for word, from_s, to_s in its]
    return _beside(chart, table("Modes", ("destination", "mode", "from", "to"), told, text_columns=4), "Chart of modes over time")


def _ehr(series: Series, time: Time, bands: list[Band], name: str) -> str:
    rates = series.ehr_per_s[name]
    chart = lines(f"Writes that {name} answered, a second", time, rates, _count, bands, log=False)
    columns = [(f"{kind} /s", [f"{value:.1f}" for value in its]) for kind, its in rates.items()]
    at_once = series.concurrency.get(name, [])
    columns.append(("allowed at once", [NOTHING if value is None else str(value) for value in at_once]))
    return _beside(chart, _over_time(f"Writes at {name}", series, columns), f"Chart of what {name} answers over time")


def _over_time(caption: str, series: Series, columns: Sequence[tuple[str, Sequence[str]]]) -> str:
    rows = [
        (clock(series.from_s + step * series.step_s), *(its[step] if step < len(its) else NOTHING for _, its in columns))
        for step in range(series.steps)
    ]
    return table(f"{caption}, every {series.step_s:g} s", ("from", *(name for name, _ in columns)), rows)


def _senders(report: LoadReport) -> str:
    sent = report.sent
    ways = [(way.way, str(way.answered), str(way.errors), *map(lag, (way.p50_ms, way.p99_ms, way.max_ms))) for way in report.ways]
    shown = table("From due to answered", ("way in", "answered yes", "errors", "p50", "p99", "longest"), ways)
    counts = [
        ("answered yes", str(sent.answered)),
        ("answered yes and lost", str(report.lost)),
        ("refused for good", str(sent.refused)),
        ("asked to wait (429, 503, AE, CE), then sent again", str(sent.slowed)),
        ("attempts without an answer, sent again", str(sent.unanswered)),
        ("sent late by the load itself, p99", lag(sent.slip_p99_ms)),
        *((f"the gate: {kind.lower().replace('_', ' ')}", str(count)) for kind, count in report.verdicts.items()),
    ]
    return shown + table("Counts", ("what", "count"), counts)


def _done(report: LoadReport) -> str:
    phases, at_s = [], 0.0
    for phase in report.phases:
        phases.append((phase.name, clock(at_s), clock(at_s + phase.for_s), f"{phase.rate_per_s:.1f} /s"))
        at_s += phase.for_s
    shown = table("The load", ("phase", "from", "to", "messages"), phases)
    if not report.deeds:
        return shown
    deeds = [
        (
            f"{done.deed} {done.role}".strip(),
            "✔ done" if done.held else "✘ could not be done",
            clock(done.from_s),
            clock(done.to_s),
        )
        for done in report.deeds
    ]
    return shown + table("The trouble", ("deed", "verdict", "from", "to"), deeds, text_columns=2)


def _deeds(report: LoadReport) -> Iterable[Band]:
    for done in report.deeds:
        yield Band(f"{done.deed} {done.role}".strip(), done.from_s, done.to_s)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.1f}"


def lag(value_ms: float | None) -> str:
    """Milliseconds below a second, then seconds and minutes."""
    if value_ms is None:
        return NOTHING
    if value_ms < 1_000:
        return f"{value_ms:.0f} ms"
    amount, unit = (value_ms / 1_000, "s") if value_ms < 120_000 else (value_ms / 60_000, "min")
    return f"{amount:.1f} {unit}".replace(".0 ", " ")
