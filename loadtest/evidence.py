"""What the topics say of a run when it is over, read from outside as an auditor would: the figures of the report.

Everything is computed from Kafka anew, so that it does not matter how many workers sent, and what a live reader missed.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtest.tracker import Closed, Tracker
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Decision, LagReport, ModeChange, Outcome
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.process import codec_of
from pipeline.roles.writers.profiles import entity_types_of
from pipeline.settings.model import Settings
from pipeline.topology import ACCEPTED, DECISIONS, LAG, MODES, OUTCOMES

BOOKS_TIMEOUT_S: Final = 300.0
BEFORE_MS: Final = 2_000
"""Read a little from before the first message on: brokers' clocks are not ours."""


@dataclass(slots=True)
class Found:
    """One run in the topics."""

    tracker: Tracker
    verdicts: set[str] = field(default_factory=set)
    """Event ids that the gate has judged."""
    kinds: Counter[str] = field(default_factory=Counter)
    closed: list[Closed] = field(default_factory=list)
    outcomes: list[tuple[Millis, str, str]] = field(default_factory=list)
    """When, where, kind."""
    reports: list[LagReport] = field(default_factory=list)
    modes: list[ModeChange] = field(default_factory=list)


def read(settings: Settings, since: Millis) -> Found:
    """Everything from `since` on. KafkaUnavailable."""
    topics, codec = KafkaTopics(settings.kafka), codec_of(settings)
    found = Found(Tracker({name: entity_types_of(name, section) for name, section in settings.writers.items()}))
    for topic in (ACCEPTED, DECISIONS, OUTCOMES, LAG, MODES):
        start = topics.since(topic, since - BEFORE_MS)
        for message in topics.read(topic, start, topics.end(topic)):
            _take(found, decoded(codec, message))
    found.modes.sort(key=lambda change: change.at)
    return found


def _take(found: Found, record: object) -> None:
    match record:
        case Accepted():
            found.verdicts.add(record.event_id)
            found.kinds["ACCEPTED"] += 1
            found.closed += found.tracker.take_accepted(record)
        case Decision():
            if record.event_id is not None:
                found.verdicts.add(record.event_id)
            found.kinds[record.kind.value] += 1
        case Outcome():
            found.outcomes.append((record.at, record.destination, record.kind.value))
            found.closed += found.tracker.take_outcome(record)
        case LagReport():
            found.reports.append(record)
        case ModeChange():
            found.modes.append(record)
        case _:
            pass


def lost(promised: Iterable[str], found: Found) -> int:
    """Events that were answered "yes" and that the gate never judged."""
    return len(set(promised) - found.verdicts)


@dataclass(frozen=True, slots=True)
class BooksSaid:
    """What `surgeline books` said; `code` is its exit code, None where it could not be run."""

    code: int | None
    positions: int = 0
    open: int = 0
    parked: int = 0
    repeats: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether they balance and each destination shows what was confirmed."""
        return self.code == 0


def close_books(settings_file: Path, wait_s: float, *, ask: bool) -> BooksSaid:
    """The books of everything that ever landed, by the command itself; `ask` the destinations what they show too."""
    command = [str(Path(sys.executable).with_name("surgeline")), "books", "--json", "--wait-s", f"{wait_s:g}"]
    command += ["--config", str(settings_file), "--ask" if ask else "--no-ask"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=BOOKS_TIMEOUT_S + wait_s, check=False)  # noqa: S603 - our own
        said: dict[str, Any] = json.loads(done.stdout)["books"]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return BooksSaid(None)
    destinations = said["destinations"]
    return BooksSaid(
        done.returncode,
        sum(topic["positions"] for topic in said["topics"]),
        sum(each["open"] for each in destinations),
        sum(each["parked"] for each in destinations),
        sum(each["repeats"] for each in destinations),
        said["problem_counts"],
    )
