"""What a load looks like: its rate over time, how badly it is sent, and what happens meanwhile. Pure.

Every shape can be run faster and shorter than its full length, by the scale; reports name the scale that they ran at.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from pipeline.local.demo.rhythm import HOUR_WEIGHTS

SURGE_FACTOR: Final = 50.0
SLOW_FACTOR: Final = 10.0
WARM_UP_PER_S: Final = 50.0
"""Beds are shown at this rate before a shape begins, so that what is measured is changes and not the first filling."""

USUAL_COPIES, USUAL_DISORDER = 0.02, 0.01


class Deed(enum.StrEnum):
    """What is done to the pipeline's surroundings, or to itself."""

    SLOW = "slow EHR"
    OUT = "EHR out"
    KILL = "kill -9"


@dataclass(frozen=True, slots=True)
class Phase:
    """A span of one rate, messages a second without copies."""

    name: str
    for_s: float
    rate_per_s: float


@dataclass(frozen=True, slots=True)
class Act:
    """A deed `at_s` after the shape's begin. One with a length ends again; a kill names the role's kind, e.g. `writer`."""

    deed: Deed
    at_s: float
    for_s: float = 0.0
    role: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """One load. Shares are of the distinct messages; `late_s` is how late a copy or a disordered message is at most."""

    name: str
    says: str
    phases: tuple[Phase, ...]
    acts: tuple[Act, ...] = ()
    copies: float = USUAL_COPIES
    disorder: float = USUAL_DISORDER
    late_s: float = 3.0

    @property
    def for_s(self) -> float:
        """From the first message to the last that is due."""
        return sum(phase.for_s for phase in self.phases)

    @property
    def messages(self) -> int:
        """Distinct messages."""
        return len(due_times(self.phases))

    def scaled(self, rate: float, time: float) -> "Shape":
        """`rate` times as many messages a second, `time` times as long. ValueError where one is not above zero."""
        if rate <= 0 or time <= 0:
            raise ValueError("a scale is above zero")
        phases = tuple(Phase(p.name, p.for_s * time, p.rate_per_s * rate) for p in self.phases)
        acts = tuple(replace(act, at_s=act.at_s * time, for_s=act.for_s * time) for act in self.acts)
        return replace(self, phases=phases, acts=acts, late_s=min(self.late_s, self.late_s * time * 4))


def due_times(phases: tuple[Phase, ...]) -> list[float]:
    """Seconds after the begin at which each message is due: evenly within a phase, and the phases' fractions add up."""
    times: list[float] = []
    began_s, owed = 0.0, 0.0
    for phase in phases:
        share = 0.0
        while phase.rate_per_s and (at_s := (1 - owed + share) / phase.rate_per_s) <= phase.for_s:
            times.append(began_s + at_s)
            share += 1
        owed = (owed + phase.for_s * phase.rate_per_s) % 1 if phase.rate_per_s else owed
        began_s += phase.for_s
    return times


def _day(mean_per_s: float, for_s: float) -> tuple[Phase, ...]:
    return tuple(Phase(f"{hour:02d} h", for_s / 24, mean_per_s * weight) for hour, weight in enumerate(HOUR_WEIGHTS))


def _casualty(usual_per_s: float) -> tuple[Phase, ...]:
    return (
        Phase("before", 60, usual_per_s),
        Phase("mass casualty", 120, usual_per_s * SURGE_FACTOR),
        Phase("after", 60, usual_per_s),
    )


_ALL: Final = (
    Shape("steady-day", "a day of the rhythm of real bed moves, in ten minutes", _day(20, 600)),
    Shape("mass-casualty", "fifty times the usual for two minutes", _casualty(2)),
    Shape(
        "retry-storm",
        "senders repeat and overtake themselves: 30 % copies, 15 % out of order",
        (Phase("before", 60, 20), Phase("storm", 180, 60), Phase("after", 60, 20)),
        copies=0.30,
        disorder=0.15,
        late_s=8.0,
    ),
    Shape(
        "slow-ehr",
        "the EHR takes ten times as long",
        (Phase("before", 60, 40), Phase("slow EHR", 180, 40), Phase("after", 60, 40)),
        (Act(Deed.SLOW, 60, 180),),
    ),
    Shape(
        "outage",
        "the EHR is away for ten minutes, and what comes after",
        (Phase("before", 60, 20), Phase("EHR out", 600, 20), Phase("after", 120, 20)),
        (Act(Deed.OUT, 60, 600),),
    ),
    Shape(
        "worst-day",
        "a slow EHR, a mass casualty and kill -9 of every kind of role together",
        _casualty(2),
        (
            Act(Deed.SLOW, 50, 150),
            Act(Deed.KILL, 80, role="gate"),
            Act(Deed.KILL, 100, role="writer"),
            Act(Deed.KILL, 125, role="http"),
            Act(Deed.KILL, 150, role="mllp"),
        ),
    ),
)
SHAPES: Final[Mapping[str, Shape]] = MappingProxyType({shape.name: shape for shape in _ALL})
"""By name, as `make load PROFILE=…` takes it."""
