"""A page that is one file: it opens offline, without scripts, light and dark, narrow and wide. Pure.

What a chart shows stands in a table beside it; what held is said in words.
"""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import Final

STYLE: Final = files("loadtest").joinpath("page.css").read_text(encoding="utf-8")
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
NOTHING: Final = "–"


def document(title: str, head: str, sections: Iterable[str]) -> str:
    """A page that opens offline, without scripts."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style></head><body>'
        f'<a class="skip" href="#main">To the figures</a>{head}<main id="main" tabindex="-1">{"".join(sections)}</main>'
        f"</body></html>\n"
    )


def heading(title: str, says: str, verdict: str, is_good: bool, facts: Iterable[tuple[str, str]]) -> str:
    """What the page is about, and what came of it."""
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<header><h1>{escape(title)}</h1><p class="says">{escape(says)}</p>'
        f'<p class="verdict {"good" if is_good else "bad"}" role="status">{escape(verdict)}</p><dl>{listed}</dl></header>'
    )


def section(title: str, body: str) -> str:
    """A part of the page, with its heading."""
    name = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{escape(name)}"><h2 id="{escape(name)}">{escape(title)}</h2>{body}</section>'


def beside(chart: str, shown: str, label: str) -> str:
    """A chart, and what says the same in figures."""
    return (
        f'<div class="pair"><div class="plot" tabindex="0" role="region" aria-label="{escape(label)}">{chart}</div>{shown}</div>'
    )


def held(is_held: bool) -> str:
    """Whether a promise was kept, in words."""
    return "✔ held" if is_held else "✘ not held"


def figure(value: float) -> str:
    """A number without more digits than it needs."""
    return f"{value:,.0f}" if value == int(value) else f"{value:.1f}"


def lag(value_ms: float | None) -> str:
    """Milliseconds below a second, then seconds and minutes."""
    if value_ms is None:
        return NOTHING
    if value_ms < 1_000:
        return f"{value_ms:.0f} ms"
    amount, unit = (value_ms / 1_000, "s") if value_ms < 120_000 else (value_ms / 60_000, "min")
    return f"{amount:.1f} {unit}".replace(".0 ", " ")
