"""Durations and ages in words."""

from typing import Final

_STEPS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def duration_of(milliseconds: float) -> str:
    """`420 ms`, `3.2 s`, `12 min 5 s`, `2 h 10 min`, `4 d 3 h`: two units at most, never a bare number."""
    if milliseconds < 1_000:
        return f"{max(0, round(milliseconds))} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1_000:.1f} s"
    whole = int(milliseconds)
    for index, (size_ms, unit) in enumerate(_STEPS[:-1]):
        if whole >= size_ms:
            smaller_ms, smaller = _STEPS[index + 1]
            rest = whole % size_ms // smaller_ms
            return f"{whole // size_ms} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError("a minute or more has a unit")


def age_of(now_ms: int, then_ms: int | None) -> str:
    """`3.2 s ago`, or `never`."""
    return "never" if then_ms is None else f"{duration_of(now_ms - then_ms)} ago"
