"""The messages of one run: which, when, and which of several load workers sends each. Pure, and the same everywhere.

Every worker makes the whole plan and sends its own share, so that several senders tell of one house and nothing of it is
told twice. One subject's messages stay at one worker, and so keep their order.
"""

import random
import zlib
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from loadtest.shapes import WARM_UP_PER_S, Shape, due_times
from pipeline.domain.identifiers import Millis
from pipeline.local.demo.drive import subject_of
from pipeline.local.demo.surge import BoardFact
from pipeline.local.demo.trace import BED_SHARE, MIN_ENTITIES, Badly, Step, simulated, told

MAX_ENTITIES: Final = 8_000
FACTS_AN_ENTITY: Final = 4.5
"""What the simulated house says of an entity in its ten days, or a little more."""
MAX_MESSAGES: Final = int(MAX_ENTITIES * FACTS_AN_ENTITY)


class Order(msgspec.Struct, frozen=True):
    """What all load workers must agree on. Times are of the wall clock; `begins_at` is when the shape begins."""

    shape: str
    rate: float
    time: float
    seed: int
    begins_at: Millis
    workers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order of sending; those before 0 s are the warm-up. `distinct` counts no copies and no warm-up."""

    steps: tuple[Step, ...]
    distinct: int
    warm_up_s: float
    for_s: float

    def share_of(self, worker: int, workers: int) -> tuple[Step, ...]:
        """What one of several workers sends."""
        if workers <= 1:
            return self.steps
        return tuple(step for step in self.steps if zlib.crc32(_subject(step).encode()) % workers == worker)


class TooLong(ValueError):
    """More messages than one run may have."""


def entities_for(messages: int) -> int:
    """How large a house has so much to tell. TooLong beyond MAX_MESSAGES."""
    if messages > MAX_MESSAGES:
        raise TooLong(f"{messages} messages are more than the {MAX_MESSAGES} of one run: lower the rate or the time")
    return max(MIN_ENTITIES, int(messages / FACTS_AN_ENTITY))


def warm_up_s(shape: Shape) -> float:
    """How long the warm-up of a shape is, or a little less."""
    return entities_for(shape.messages) * BED_SHARE / WARM_UP_PER_S


def make_plan(shape: Shape, seed: int, begins_at: Millis) -> Plan:
    """Everything that is sent. Recorded times rise in true order, and a step's is when it is due, unless it is late."""
    chance = random.Random(f"load {seed}")
    times = due_times(shape.phases)
    facts = [fact for _, fact in simulated(chance, entities_for(len(times)))]
    boards = [fact for fact in facts if isinstance(fact, BoardFact)]
    changes = [fact for fact in facts if not isinstance(fact, BoardFact)][: len(times)]
    early_s = len(boards) / WARM_UP_PER_S
    base = Millis(begins_at - int(early_s * 1000))
    due_s = [number / WARM_UP_PER_S for number in range(len(boards))]
    due_s += [early_s + at_s for at_s in times]
    steps = told([*boards, *changes], due_s, seed, base, chance, Badly(shape.copies, shape.disorder, shape.late_s))
    moved = (replace(step, at_s=step.at_s - early_s) for step in steps)
    return Plan(tuple(moved), len(changes), early_s, shape.for_s)


def _subject(step: Step) -> str:
    if step.kind == "hl7":
        return subject_of(step)
    event = msgspec.json.decode(step.body, type=_Named)
    return f"{event.entity_type} {event.entity_id}"


class _Named(msgspec.Struct):
    entity_type: str
    entity_id: str
