"""Where an event's time goes between its source and the EHR's confirmation, told from outside: topics and stand-in say when.

Nothing is measured inside the roles, so that what is judged does not pay for being looked at. All times are of one machine's
clock: the source's and the way in's own, the broker's of the records (LogAppendTime), and the stand-in's of each version.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind
from pipeline.domain.writing.pending import decode_pending
from pipeline.local.servers.standin import Witness
from pipeline.ops.topics import Decoder, Topics, decoded
from pipeline.topology import LANE_TOPICS, OUTCOMES, writer_changelog

STAGES: Final = ("received", "landed", "judged", "pending", "at the EHR", "confirmed", "told")
"""In their order. An event is *received* by the way in, *landed* once the broker has it, *judged* once it lies in its lane,
*pending* once the writer's changelog has it, *at the EHR* once the stand-in has stored it, or what replaced it, *confirmed* once
its answer is taken for it, and *told* once the outcome is on the log (which is after the lag has ended)."""

OF_TABLE: Final = b"\x00"
"""First byte of a table's own keys."""

EVERY: Final = "all"


class StageLag(msgspec.Struct, frozen=True):
    """Milliseconds that events of a lane (or of all) took from the stage before to this one."""

    lane: str
    stage: str
    p50_ms: float
    p99_ms: float


class Course(NamedTuple):
    """When an event reached what is told by its own record, ms."""

    key: bytes
    revision: int
    lane: Lane
    times: tuple[int, int, int, int]
    """Recorded by the source, received, landed, judged."""


Rising = list[tuple[int, int]]
"""Revisions, rising, each with its time."""


@dataclass(slots=True)
class Courses:
    """What topics and stand-in say; each mapping is by entity."""

    events: list[Course] = field(default_factory=list)
    pending: dict[bytes, Rising] = field(default_factory=dict)
    shown: dict[bytes, Rising] = field(default_factory=dict)
    confirmed: dict[bytes, Rising] = field(default_factory=dict)
    told: dict[bytes, Rising] = field(default_factory=dict)

    def of(self, event: Course) -> tuple[int, ...] | None:
        """Times of all stages, from the source on; None where it isn't told to its end."""
        end = _first(self.confirmed, event.key, event.revision)
        pending = _first(self.pending, event.key, event.revision)
        if end is None or pending is None:
            return None
        later = [_first(known, event.key, end[0]) for known in (self.shown, self.told)]
        if later[0] is None or later[1] is None:
            return None
        return (*event.times, pending[1], later[0][1], end[1], later[1][1])


def read_courses(topics: Topics, decoder: Decoder, destination: str, witness: Witness) -> Courses:
    """All of it, as it is now."""
    courses = Courses()
    for topic in LANE_TOPICS.values():
        for message in topics.read(topic, topics.begin(topic), topics.end(topic)):
            if isinstance(record := decoded(decoder, message), Accepted):
                times = (record.recorded_at, record.received_at, record.accepted_at, message.timestamp_ms)
                courses.events.append(Course(record.key.encode(), record.revision, record.lane, times))
    topic = writer_changelog(destination)
    for message in topics.read(topic, topics.begin(topic), topics.end(topic)):
        if message.key is not None and message.value and not message.key.startswith(OF_TABLE):
            _rise(courses.pending, message.key, decode_pending(message.value).newest_revision, message.timestamp_ms)
    remote: dict[str, bytes] = {}
    for message in topics.read(OUTCOMES, topics.begin(OUTCOMES), topics.end(OUTCOMES)):
        outcome = decoded(decoder, message)
        if isinstance(outcome, Outcome) and outcome.kind is OutcomeKind.CONFIRMED and outcome.remote_id is not None:
            key = outcome.key.encode()
            remote[outcome.remote_id] = key
            _rise(courses.confirmed, key, outcome.revision, outcome.at)
            _rise(courses.told, key, outcome.revision, message.timestamp_ms)
    for name, versions in witness.shown.items():
        known = remote.get(name.rpartition("/")[2])
        for revision, at in versions if known is not None else ():
            _rise(courses.shown, known, revision, at)
    return courses


def stages_of(courses: Courses, begin: Millis, end: Millis) -> tuple[StageLag, ...]:
    """Of the events that their source recorded between `begin` and `end`: of the critical lane, then of all."""
    inside = [(each.lane, times) for each in courses.events if begin <= each.times[0] < end and (times := courses.of(each))]
    return (*_table(Lane.CRITICAL.value, inside, lambda lane: lane is Lane.CRITICAL), *_table(EVERY, inside, lambda lane: True))


def _table(name: str, inside: list[tuple[Lane, tuple[int, ...]]], wanted: Callable[[Lane], bool]) -> Iterator[StageLag]:
    chosen = [times for lane, times in inside if wanted(lane)]
    for number, stage in enumerate(STAGES):
        # Two processes' clocks are one, but what one rounds down the other has not reached yet.
        took = sorted(max(0, times[number + 1] - times[number]) for times in chosen)
        if took:
            yield StageLag(name, stage, float(took[len(took) // 2]), float(took[min(len(took) - 1, len(took) * 99 // 100)]))


def _first(known: Mapping[bytes, Rising], key: bytes, revision: int) -> tuple[int, int] | None:
    """The first that is not older than a revision."""
    rising = known.get(key, [])
    place = bisect_left(rising, (revision, 0))
    return rising[place] if place < len(rising) else None


def _rise(known: dict[bytes, Rising], key: bytes | None, revision: int, at: int) -> None:
    if key is None:
        return
    rising = known.setdefault(key, [])
    if not rising or rising[-1][0] < revision:
        rising.append((revision, at))
