"""Fits the rhythm of the demo's surge (`pipeline/local/demo/rhythm.py`) to real bed moves, and prints its figures.

`python -m loadtest.fit_rhythm FOLDER`, where FOLDER holds TRANSFERS.csv and ADMISSIONS.csv of the MIMIC-III demo
(PhysioNet, ODbL): `capacity/mimic3-demo-1.4` of the shared data. Only rounded figures over all stays leave this script,
never a row.

A stay is a path through kinds of unit. ICU: any care unit but CSRU. PACU: CSRU, cardiac surgery recovery, the only
recovery unit there. Ward: a ward without a care unit. ED: from registration there until the first bed, where a stay
has such a time. Moves within a kind count as one stay in it.
"""

import csv
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final, NamedTuple

RECOVERY_UNITS: Final = frozenset({"CSRU"})
HOUR_S: Final = 3600
MIN_HOURS: Final = 0.25
"""Shorter stays are corrections of the record; they would widen the logarithmic spread."""
LEFT: Final = "LEFT"


class Stay(NamedTuple):
    """Time in one kind of unit, in hours, and the hour of the day at which it began."""

    kind: str
    hours: float
    began_hour: int


class Fitted(NamedTuple):
    """The figures, rounded. `stays` holds per kind: how many, mean and standard deviation of log hours, what follows."""

    hour_weights: list[float]
    entry: dict[str, float]
    stays: dict[str, tuple[int, float, float, dict[str, float]]]


def fit(folder: Path) -> Fitted:
    """Read the two files and fit."""
    registered = {row["HADM_ID"]: row["EDREGTIME"] for row in _rows(folder / "ADMISSIONS.csv") if row["EDREGTIME"]}
    paths = [_path(list(moves), registered.get(stay)) for stay, moves in _by_stay(folder / "TRANSFERS.csv")]
    hours = Counter(stay.began_hour for path in paths for stay in path)
    lengths: dict[str, list[float]] = defaultdict(list)
    leads_to: dict[str, Counter[str]] = defaultdict(Counter)
    for path in paths:
        for stay in path:
            lengths[stay.kind].append(math.log(max(stay.hours, MIN_HOURS)))
        for before, after in pairwise([*(stay.kind for stay in path), LEFT]):
            leads_to[before][after] += 1
    return Fitted(
        hour_weights=[round(hours[hour] * 24 / hours.total(), 1) for hour in range(24)],
        entry=_shares(Counter(path[0].kind for path in paths)),
        stays={
            kind: (len(logs), round(statistics.mean(logs), 1), round(statistics.stdev(logs), 1), _shares(leads_to[kind]))
            for kind, logs in sorted(lengths.items())
        },
    )


def show(fitted: Fitted) -> str:
    """The figures, one a line."""
    lines = [f"hour weights {fitted.hour_weights}", f"entry {fitted.entry}"]
    for kind, (n, mean, deviation, leads_to) in fitted.stays.items():
        lines.append(f"{kind} n={n} log_mean={mean} log_sd={deviation} leads_to={leads_to}")
    return "\n".join(lines) + "\n"


def _path(moves: list[dict[str, str]], ed_registered: str | None) -> list[Stay]:
    beds = [move for move in moves if move["EVENTTYPE"] != "discharge" and move["OUTTIME"]]
    path = []
    if ed_registered and beds:
        began, ended = _short_time(ed_registered, beds[0]["INTIME"]), datetime.fromisoformat(beds[0]["INTIME"])
        if began < ended:
            path.append(Stay("ED", (ended - began).total_seconds() / HOUR_S, began.hour))
    for kind, group in groupby(beds, key=_kind):
        spent = list(group)
        began, ended = datetime.fromisoformat(spent[0]["INTIME"]), datetime.fromisoformat(spent[-1]["OUTTIME"])
        path.append(Stay(kind, (ended - began).total_seconds() / HOUR_S, began.hour))
    return path


def _kind(move: dict[str, str]) -> str:
    unit = move["CURR_CAREUNIT"]
    return "WARD" if not unit else "PACU" if unit in RECOVERY_UNITS else "ICU"


def _short_time(text: str, near: str) -> datetime:
    """`month/day/yy hour:minute`, whose century is that of `near`."""
    moment, date, clock = datetime.fromisoformat(near), *text.split()
    month, day, year = (int(part) for part in date.split("/"))
    hour, minute = (int(part) for part in clock.split(":"))
    return moment.replace(year=moment.year - moment.year % 100 + year, month=month, day=day, hour=hour, minute=minute, second=0)


def _by_stay(file: Path) -> Iterator[tuple[str, Iterable[dict[str, str]]]]:
    rows = sorted(_rows(file), key=lambda row: (row["HADM_ID"], row["INTIME"]))
    return groupby(rows, key=lambda row: row["HADM_ID"])


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: round(count / counts.total(), 2) for name, count in sorted(counts.items())}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    sys.stdout.write(show(fit(Path(sys.argv[1]))))
