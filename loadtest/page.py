"""`report.html`: what a load showed. Pure."""

from collections.abc import Iterable, Sequence

from loadtest.charts import Band, Time, clock, lines, spans, table
from loadtest.document import NOTHING, beside, document, figure, heading, held, lag, section
from loadtest.judge import LaneFigures
from loadtest.report import LoadReport
from loadtest.series import Series


def render(report: LoadReport) -> str:
    """The page."""
    series = report.series
    time = Time(series.from_s, series.step_s, series.steps)
    bands = [Band("warm-up", series.from_s, 0.0), *sorted(_deeds(report), key=lambda band: band.from_s)]
    sections = (
        section("Thresholds", _checks(report)),
        section("Lag by lane", _figures(report)),
        section("Lag over time", _lag(series, time, bands)),
        section("What waits", _pending(series, time, bands)),
        section("Modes", _modes(series, time, bands)),
        *(section(f"What {name} answers", _ehr(series, time, bands, name)) for name in series.ehr_per_s),
        section("The senders", _senders(report)),
        section("What was done", _done(report)),
    )
    return document(f"Load: {report.shape}", _head(report), sections)


def _head(report: LoadReport) -> str:
    failed = sum(not check.held for check in report.checks)
    verdict = "✔ Every threshold held" if report.passed else f"✘ {failed} of {len(report.checks)} thresholds not held"
    scale = f"rate × {report.rate_scale:g}, time × {report.time_scale:g}"
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    facts = (
        ("Load", f"{report.sent.messages} messages in {clock(report.for_s)}, {report.peak_per_s:g} a second at the height"),
        ("Scale", f"{scale}, seed {report.seed}, {report.sent.workers} load process{'es' * (report.sent.workers > 1)}"),
        ("At", report.at),
        ("Commit", report.commit),
        ("Machine", machine),
    )
    return heading(report.shape, report.says, verdict, report.passed, facts)


def _checks(report: LoadReport) -> str:
    rows = [(check.name, held(check.held), check.limit, check.seen) for check in report.checks]
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
    return beside(chart, shown, "Chart of lag over time")


def _pending(series: Series, time: Time, bands: list[Band]) -> str:
    chart = lines("Entities that wait, by lane", time, series.pending, figure, bands, log=False)
    columns = [(name, [NOTHING if value is None else str(value) for value in its]) for name, its in series.pending.items()]
    return beside(chart, _over_time("Entities that wait", series, columns), "Chart of what waits over time")


def _modes(series: Series, time: Time, bands: list[Band]) -> str:
    rows = {name: [(span.mode, span.from_s, span.to_s) for span in its] for name, its in series.modes.items()}
    chart = spans("Mode of each destination", time, rows, bands)
    told = [(name, word, clock(from_s), clock(to_s)) for name, its in rows.items() for word, from_s, to_s in its]
    return beside(chart, table("Modes", ("destination", "mode", "from", "to"), told, text_columns=4), "Chart of modes over time")


def _ehr(series: Series, time: Time, bands: list[Band], name: str) -> str:
    rates = series.ehr_per_s[name]
    chart = lines(f"Writes that {name} answered, a second", time, rates, figure, bands, log=False)
    columns = [(f"{kind} /s", [f"{value:.1f}" for value in its]) for kind, its in rates.items()]
    at_once = series.concurrency.get(name, [])
    columns.append(("allowed at once", [NOTHING if value is None else str(value) for value in at_once]))
    return beside(chart, _over_time(f"Writes at {name}", series, columns), f"Chart of what {name} answers over time")


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
