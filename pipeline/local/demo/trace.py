"""The trace of a surge: what two source systems send, and when. Pure, and the same for the same arguments.

`surge.py` says what happens in the hospital, `telling.py` words it; here it is compressed into a minute, kept under a
rate, and sent as badly as real feeds are: some messages twice, some late.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Literal

from pipeline.domain.identifiers import Millis
from pipeline.local.demo.surge import (
    ROLES,
    SHIFTS,
    SPAN_H,
    UNITS,
    Adt,
    BedCode,
    BedFact,
    BoardFact,
    Fact,
    StaffFact,
    Surge,
    beds_of,
)
from pipeline.local.demo.telling import Teller

MIN_ENTITIES: Final = 120
BED_SHARE: Final = 7 / 30
"""Of all entities; the rest are staffing, diversion, and two for each patient: person and visit."""
FILL: Final = 0.8
"""Share of the highest rate that the whole trace uses at most, so that late messages still find room."""
LATE_SHARE: Final = 0.06
"""Longest lateness of a copy or a disordered message, and the quiet end of the trace, as shares of its duration."""


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """One message to send `at_s` seconds after the start.

    `body` is an ER7 message for MLLP (kind `hl7`; without frame, segments end in CR), or one event's JSON for
    `POST /v1/events` (kind `http`). `identity` is its MSH-10 or its idempotency key. A `repeat` is a copy, to the byte,
    of a message sent before. A `late` one is sent after a message that was recorded after it.
    """

    at_s: float
    kind: Literal["hl7", "http"]
    identity: str
    body: str
    recorded_at: Millis
    repeat: bool = False
    late: bool = False

    def __repr__(self) -> str:
        return f"Step({self.at_s:.3f}, {self.kind}, {self.identity}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Badly:
    """How badly a feed sends: shares of copies and of late messages, and how late both are at most."""

    duplicate_share: float
    disorder_share: float
    late_s: float


def surge_trace(
    seed: int,
    base_ms: Millis,
    duration_s: float = 60.0,
    max_rate: int = 100,
    max_entities: int = 600,
    duplicate_share: float = 0.10,
    disorder_share: float = 0.05,
) -> list[Step]:
    """Steps in the order of sending, all within `duration_s`, at most `max_rate` in any second.

    Recorded times start at `base_ms` and rise strictly in the true order of events. Shares are of the distinct
    messages. At most `max_entities` beds, visits, persons, staffings and diversions occur. ValueError below
    MIN_ENTITIES, or where a second or one message a second is not given.
    """
    if max_entities < MIN_ENTITIES or duration_s < 1 or max_rate < 1:
        raise ValueError(f"a surge needs {MIN_ENTITIES} entities, a second, and a message a second")
    chance = random.Random(seed)
    budget = max(1, int(FILL * max_rate * duration_s / (1 + duplicate_share)))
    facts = simulated(chance, max_entities)[:budget]
    end_s = duration_s * (1 - LATE_SHARE)
    span_h = facts[-1][0] if len(facts) == budget else SPAN_H
    wanted = [hour * end_s / max(span_h, 1e-9) for hour, _ in facts]
    true_s = paced(wanted, max(1, int(max_rate * 0.9 / (1 + duplicate_share))), end_s)
    late_s = duration_s * LATE_SHARE
    sent = told([fact for _, fact in facts], true_s, seed, base_ms, chance, Badly(duplicate_share, disorder_share, late_s))
    times_s = paced([step.at_s for step in sent], max_rate, duration_s)
    return [replace(step, at_s=at_s) for step, at_s in zip(sent, times_s, strict=True)]


def paced(times_s: Sequence[float], max_rate: int, end_s: float) -> list[float]:
    """`times_s` (rising) moved as little as needed so that no second holds more than `max_rate`, and none is after `end_s`.

    Later first; what would run over the end is moved earlier. Order is kept.
    """
    moved = list(times_s)
    for index in range(max_rate, len(moved)):
        moved[index] = max(moved[index], moved[index - max_rate] + 1)
    for index in reversed(range(len(moved))):
        later = moved[index + max_rate] - 1 if index + max_rate < len(moved) else end_s
        moved[index] = min(moved[index], later)
    return moved


def simulated(chance: random.Random, max_entities: int) -> list[tuple[float, Fact]]:
    """Hour of the span and fact, in true order, of a house of at most `max_entities`; its beds come first, each once."""
    beds = beds_of(int(max_entities * BED_SHARE))
    others = len(UNITS) * len(SHIFTS) * len(ROLES) + 1
    return Surge(chance, beds, (max_entities - len(beds) - others) // 2).run()


def told(
    facts: Sequence[Fact], true_s: Sequence[float], seed: int, base_ms: Millis, chance: random.Random, badly: Badly
) -> list[Step]:
    """The messages of `facts` that are recorded `true_s` after `base_ms` (rising), in the order of sending."""
    steps = _worded(facts, true_s, seed, base_ms)
    sent = _disorder(chance, steps, [_subject(fact) for fact in facts], round(badly.disorder_share * len(steps)), badly.late_s)
    sent += _copies(chance, sent, round(badly.duplicate_share * len(steps)), badly.late_s)
    return sorted(sent, key=lambda step: (step.at_s, step.recorded_at))


def _worded(facts: Sequence[Fact], true_s: Sequence[float], seed: int, base_ms: Millis) -> list[Step]:
    teller, steps, recorded_ms = Teller(seed, base_ms), [], base_ms - 1
    for serial, fact, at_s in zip(count(1), facts, true_s, strict=False):
        recorded_ms = max(recorded_ms + 1, base_ms + int(at_s * 1000))
        told = teller.tell(fact, serial, recorded_ms)
        steps.append(Step(at_s, told.kind, told.identity, told.body, Millis(recorded_ms)))
    return steps


def _disorder(chance: random.Random, steps: list[Step], subjects: list[str], wanted: int, late_s: float) -> list[Step]:
    """Delay `wanted` steps past a later one; first of all those that a later message about the same thing follows soon,
    because there it matters."""
    next_of = _followers(subjects)
    matters = [i for i, after in enumerate(next_of) if after is not None and 0 < steps[after].at_s - steps[i].at_s < late_s / 2]
    chosen = chance.sample(matters, min(wanted, len(matters)))
    others = sorted(set(range(len(steps) - 1)) - set(matters))
    chosen += chance.sample(others, min(wanted - len(chosen), len(others)))
    result = list(steps)
    for index in chosen:
        after = next_of[index] if index in set(matters) else None
        overtaken = steps[after if after is not None else index + 1]
        at_s = overtaken.at_s + chance.uniform(0.01, 0.5) * late_s
        result[index] = replace(steps[index], at_s=at_s, late=True)
    return result


def _followers(subjects: list[str]) -> list[int | None]:
    """For each position the next one with the same subject."""
    following: list[int | None] = [None] * len(subjects)
    seen: dict[str, int] = {}
    for index in reversed(range(len(subjects))):
        following[index] = seen.get(subjects[index])
        seen[subjects[index]] = index
    return following


def _copies(chance: random.Random, steps: list[Step], wanted: int, late_s: float) -> list[Step]:
    chosen = chance.sample(steps, min(wanted, len(steps)))
    return [replace(step, at_s=step.at_s + chance.uniform(0.02, 0.5) * late_s, repeat=True, late=False) for step in chosen]


def _subject(fact: Fact) -> str:
    """What a fact is about, for finding two that compete."""
    match fact:
        case Adt():
            return f"visit {fact.number}"
        case BedCode() | BoardFact():
            return f"bed {fact.bed.id} environment"
        case BedFact():
            return f"bed {fact.bed.id} {fact.field}"
        case StaffFact():
            return f"staffing {fact.unit} {fact.shift} {fact.role}"
        case _:
            return "diversion"
