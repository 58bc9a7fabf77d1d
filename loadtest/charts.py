"""Charts as inline SVG, drawn by nobody but us, and the tables that say the same in figures. Pure.

Lines differ by dash and by a mark at their end as well as by colour, spans by their words. Colours are classes of the page's
style, so that light and dark are the page's business.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH, HEIGHT = 620, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 30
TICKS: Final = 8
MARKS: Final = ("●", "■", "▲", "◆", "○", "□")
ROW_H: Final = 46
NUMBER_W: Final = 14
LABEL_W: Final = 20
"""From the right end: a time's words would be cut there, were they centred below it."""
CHARACTER_W: Final = 7.0
"""Of the labels within spans: one that does not fit is left to the table."""

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Time:
    """The axis of time that a page's charts share, in seconds."""

    from_s: float
    step_s: float
    steps: int

    @property
    def to_s(self) -> float:
        """Its end."""
        return self.from_s + self.step_s * self.steps

    def x(self, at_s: float) -> float:
        """Place of a moment."""
        share = (at_s - self.from_s) / max(self.to_s - self.from_s, 1e-9)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def middle(self, step: int) -> float:
        """Moment in the middle of a step."""
        return self.from_s + (step + 0.5) * self.step_s


@dataclass(frozen=True, slots=True)
class Band:
    """What went on from one moment to another, e.g. an outage; without length it is a line."""

    label: str
    from_s: float
    to_s: float


def lines(
    title: str, time: Time, series: Mapping[str, Values], say: Callable[[float], str], bands: Iterable[Band], log: bool
) -> str:
    """A chart of lines over time; `say` words a value. On a logarithmic scale what is below 1 lies at its foot."""
    shown = [value for values in series.values() for value in values if value is not None]
    top = max([1.0, *shown])
    scale = _Log(top) if log else _Linear(top)
    drawn = "".join(_line(time, scale, number, values) for number, values in enumerate(series.values()))
    body = _bands(time, bands) + _grid(time, scale, say) + drawn
    names = ", ".join(series) or "nothing"
    return (
        _legend(series)
        + _svg(title, f"Lines over time of {names}. The table beside it has the figures.", HEIGHT, body)
        + _told(bands)
    )


def spans(title: str, time: Time, rows: Mapping[str, Sequence[tuple[str, float, float]]], bands: Sequence[Band]) -> str:
    """A row per name, with spans that carry their words."""
    height = TOP + BOTTOM + ROW_H * max(1, len(rows))
    parts = [_bands(time, bands, height), _times(time, height)]
    for number, (name, its) in enumerate(rows.items()):
        top = TOP + number * ROW_H
        parts.append(f'<text class="label" x="{LEFT}" y="{top + 12}">{escape(name)}</text>')
        for word, from_s, to_s in its:
            left, right = time.x(from_s), time.x(to_s)
            parts.append(
                f'<rect class="span mode-{escape(word)}" x="{left:.1f}" y="{top + 17}" '
                f'width="{max(1.0, right - left):.1f}" height="20"><title>{escape(word)}</title></rect>'
            )
            if right - left > CHARACTER_W * len(word):
                parts.append(f'<text class="inside" x="{left + 4:.1f}" y="{top + 31}">{escape(word)}</text>')
    says = "Modes over time, a row for each destination. The table beside it has the figures."
    return _svg(title, says, height, "".join(parts)) + _told(bands)


class _Linear:
    def __init__(self, top: float) -> None:
        step = math.pow(10, math.floor(math.log10(top)))
        step = next(step * part for part in (0.2, 0.5, 1, 2, 5) if top / (step * part) <= 6)
        self.ticks = [number * step for number in range(math.ceil(top / step - 1e-9) + 1)]

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.ticks[-1] * (HEIGHT - TOP - BOTTOM)


class _Log:
    def __init__(self, top: float) -> None:
        self.ticks = [math.pow(10, power) for power in range(max(1, math.ceil(math.log10(top) - 1e-9)) + 1)]

    def y(self, value: float) -> float:
        share = math.log10(max(1.0, value)) / math.log10(self.ticks[-1])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


Scale = _Linear | _Log


def _line(time: Time, scale: Scale, number: int, values: Values) -> str:
    parts = []
    for run in _runs(values):
        points = " ".join(f"{time.x(time.middle(step)):.1f},{scale.y(value):.1f}" for step, value in run)
        parts.append(f'<polyline class="line s{number}" points="{points}"/>')
        step, value = run[-1]
        x, y = time.x(time.middle(step)), scale.y(value) + 4
        parts.append(f'<text class="mark s{number}" x="{x:.1f}" y="{y:.1f}">{MARKS[number % len(MARKS)]}</text>')
    return "".join(parts)


def _runs(values: Values) -> Iterator[list[tuple[int, float]]]:
    """Stretches without a gap."""
    run: list[tuple[int, float]] = []
    for step, value in enumerate(values):
        if value is not None:
            run.append((step, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _grid(time: Time, scale: Scale, say: Callable[[float], str]) -> str:
    parts = [_times(time, HEIGHT)]
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{escape(say(tick))}</text>')
    return "".join(parts)


def _times(time: Time, height: int) -> str:
    parts = []
    for at_s in round_times(time.from_s, time.to_s):
        x = time.x(at_s)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        anchor = "middle" if x < WIDTH - LABEL_W else "end"
        parts.append(f'<text class="tick" text-anchor="{anchor}" x="{x:.1f}" y="{height - 12}">{clock(at_s)}</text>')
    return "".join(parts)


def round_times(from_s: float, to_s: float) -> list[float]:
    """Round moments, TICKS at most."""
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if (to_s - from_s) / s < TICKS), 1_800)
    return [float(at_s) for at_s in range(math.ceil(from_s / step) * step, int(to_s) + 1, step)]


def clock(at_s: float) -> str:
    """Seconds up to two minutes, then minutes and seconds."""
    sign, whole = ("−" if at_s < 0 else ""), abs(round(at_s))
    return f"{sign}{whole} s" if whole < 120 else f"{sign}{whole // 60}:{whole % 60:02d}"


def _bands(time: Time, bands: Iterable[Band], height: int = HEIGHT) -> str:
    """Each with its number above it; what begins close to the one before has it a line higher."""
    parts, last_x, higher = [], -1e9, False
    for number, band in enumerate(bands, 1):
        left, right = time.x(band.from_s), time.x(band.to_s)
        higher = not higher and left - last_x < NUMBER_W
        last_x = left
        parts.append(
            f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{max(2.0, right - left):.1f}" height="{height - TOP - BOTTOM}"/>'
            f'<text class="band-label" x="{left:.1f}" y="{TOP - 15 if higher else TOP - 4}">{number}</text>'
        )
    return "".join(parts)


def _told(bands: Iterable[Band]) -> str:
    """What the numbers above the bands stand for."""
    items = "".join(f"<li>{escape(band.label)}, {_when(band)}</li>" for band in bands)
    return f'<ol class="bands">{items}</ol>' if items else ""


def _when(band: Band) -> str:
    begin, end = clock(band.from_s), clock(band.to_s)
    return f"at {begin}" if begin == end else f"{begin} to {end}"


def _legend(series: Mapping[str, Values]) -> str:
    items = "".join(
        f'<li><svg width="34" height="12" aria-hidden="true"><line class="line s{number}" x1="0" x2="24" y1="6" y2="6"/>'
        f'<text class="mark s{number}" x="28" y="10">{MARKS[number % len(MARKS)]}</text></svg> {escape(name)}</li>'
        for number, name in enumerate(series)
    )
    return f'<ul class="legend">{items}</ul>'


def _svg(title: str, description: str, height: int, body: str) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height}" aria-label="{escape(title)}. {escape(description)}">'
        f"{body}</svg>"
    )


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table that can be scrolled by keyboard; the first columns are words, the others figures."""
    heads = "".join(f'<th scope="col"{"" if n < text_columns else _FIGURE}>{escape(name)}</th>' for n, name in enumerate(head))
    body = "".join(f"<tr>{''.join(_cell(n, cell, text_columns) for n, cell in enumerate(row))}</tr>" for row in rows)
    named = escape(caption)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{named}"><table><caption>{named}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


_FIGURE: Final = ' class="figure"'


def _cell(number: int, text: str, text_columns: int) -> str:
    if number == 0:
        return f'<th scope="row">{escape(text)}</th>'
    return f"<td{'' if number < text_columns else _FIGURE}>{escape(text)}</td>"
