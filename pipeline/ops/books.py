"""The books of a running pipeline (`surgeline books`): take a closed cut, read the topics until they cover it, add up.

Reads landing's offsets only, never its records. Whoever runs it needs read access to the history and to the gate's group.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pipeline.domain.accounts.books import Books, Expects, Ledger, PartitionCut
from pipeline.domain.accounts.deliveries import Problem, Trouble, differ, fold
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey, Revision
from pipeline.domain.judging.merges import is_copy
from pipeline.domain.records import Accepted, Decision, Outcome, TopicEpoch
from pipeline.ops.log_catalogue import BOOKS_CLOSED
from pipeline.ops.logs import emit
from pipeline.ops.topics import Decoder, Topics, decoded
from pipeline.topology import ACCEPTED, DECISIONS, EPOCHS, GATE_APP, LANDING, OUTCOMES

POLL_FIRST_S: Final = 0.25
POLL_LONGEST_S: Final = 5.0
SHOWN_AT_ONCE: Final = 16
HISTORY: Final = (DECISIONS, ACCEPTED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long the books wait for the gate to judge the cut, and then for open revisions; 0 takes things as they are.

    `sleep` and `clock` are for tests.
    """

    gate_s: float = 30.0
    open_s: float = 0.0
    clock: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a destination shows of one entity; `state_hash` is None where it carries none."""

    revision: Revision
    state_hash: str | None


Show = Callable[[EntityKey, EntityType], Awaitable[Shown | None]]
"""Asks a destination for one entity; None where it has no such entity. Retries are the asker's."""


class Asked(msgspec.Struct, frozen=True):
    """What a look at a destination itself found."""

    destination: str
    entities: int
    same: int
    moved_on: int
    different: int
    unanswered: int
    problems: tuple[Problem, ...]


def take_cut(topics: Topics, decoder: Decoder, prefix: str = "") -> list[PartitionCut]:
    """The landing positions that exist now, with their epochs and the gate's committed offsets.

    KafkaUnavailable without the topics. A landing topic that no epoch is recorded for counts as epoch 1.
    """
    epochs = _epochs(topics, decoder, prefix)
    cut: list[PartitionCut] = []
    committed = topics.committed(GATE_APP)
    for topic in LANDING.values():
        begin, end = topics.begin(topic), topics.end(topic)
        for partition, stop in sorted(end.items()):
            at = committed.get((topic, partition), 0)
            cut.append(PartitionCut(topic, epochs.get(topic, 1), partition, begin.get(partition, 0), stop, at))
    return cut


def _epochs(topics: Topics, decoder: Decoder, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for message in topics.read(EPOCHS, topics.begin(EPOCHS), topics.end(EPOCHS)):
        record = decoded(decoder, message) if message.value is not None else None
        if isinstance(record, TopicEpoch):
            topic = record.topic.removeprefix(prefix)
            found[topic] = max(record.epoch, found.get(topic, 0))
    return found


class BooksReader:
    """Reads one cut into a ledger. Repeating a read adds nothing; a second look starts where the first one ended."""

    def __init__(
        self,
        topics: Topics,
        decoder: Decoder,
        expects: Mapping[str, Expects],
        subject: Callable[[bytes], str],
        prefix: str = "",
        told_of_each: Collection[str] = (),
    ) -> None:
        """`told_of_each`: destinations that are told of every change, so that none is superseded there."""
        self._topics = topics
        self._decoder = decoder
        self._prefix = prefix
        self._read_to: dict[str, dict[int, int]] = {}
        self._cut = take_cut(topics, decoder, prefix)
        self._expects = expects
        self._subject = subject
        self._told_of_each = told_of_each
        self.ledger = self._ledger()

    def run(self, waiting: Waiting | None = None) -> Books:
        """Wait as allowed, read, add up. What isn't judged or confirmed by then is shown as waiting or open."""
        waiting = waiting or Waiting()
        began = waiting.clock()
        self._await_gate(waiting)
        for topic in HISTORY:
            self._feed(topic)
        books, deadline, pause = self._with_outcomes(), waiting.clock() + waiting.open_s, POLL_FIRST_S
        while books.open and waiting.clock() < deadline:
            waiting.sleep(pause)
            books, pause = self._with_outcomes(), min(pause * 2, POLL_LONGEST_S)
        status = 0 if books.complete else 1
        count = sum(topic.positions for topic in books.topics)
        emit(BOOKS_CLOSED, count=count, status=status, duration_ms=(waiting.clock() - began) * 1000)
        return books

    def _ledger(self) -> Ledger:
        return Ledger(self._cut, self._expects, self._subject, told_of_each=self._told_of_each)

    def _await_gate(self, waiting: Waiting) -> None:
        """Until the gate has committed the cut, so that what is missing then is lost. The cut keeps its ends."""
        deadline, pause = waiting.clock() + waiting.gate_s, POLL_FIRST_S
        while any((part.committed or 0) < part.end for part in self._cut) and waiting.clock() < deadline:
            waiting.sleep(pause)
            pause = min(pause * 2, POLL_LONGEST_S)
            committed = self._topics.committed(GATE_APP)
            self._cut = [
                msgspec.structs.replace(part, committed=committed.get((part.topic, part.partition), 0)) for part in self._cut
            ]
        self.ledger = self._ledger()

    def _with_outcomes(self) -> Books:
        self._feed(OUTCOMES)
        return self.ledger.close()

    def _feed(self, topic: str) -> None:
        begin, end = self._topics.begin(topic), self._topics.end(topic)
        start = self._read_to.get(topic)
        if start is None:
            start = dict(begin)
            for partition, first in begin.items():
                if first > 0:
                    self.ledger.history_trimmed(topic, partition, first)
        for message in self._topics.read(topic, start, end):
            match decoded(self._decoder, message):
                case Accepted() as accepted:
                    self.ledger.accepted(accepted)
                case Decision() as decision:
                    self.ledger.decision(decision)
                case Outcome() as outcome if is_copy(outcome, message.key):
                    continue
                case Outcome() as outcome:
                    self.ledger.outcome(outcome)
                case _:
                    self.ledger.unreadable(topic, message.partition, message.offset)
        self._read_to[topic] = dict(end)


async def ask_destination(ledger: Ledger, destination: str, show: Show, at_once: int = SHOWN_AT_ONCE) -> Asked:
    """Compare what `destination` shows of each entity with what was last confirmed there.

    A newer revision there than the last confirmed that was read has moved on, which is no fault. `show` that raises
    counts as unanswered.
    """
    asking = _Asking(ledger, destination, show, asyncio.Semaphore(at_once))
    async with asyncio.TaskGroup() as group:
        for key, entity_type, revision, state in ledger.last_confirmed(destination):
            await asking.free.acquire()
            group.create_task(asking.one(key, entity_type, revision, state))
    return asking.asked()


@dataclass(slots=True)
class _Asking:
    ledger: Ledger
    destination: str
    show: Show
    free: asyncio.Semaphore
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("same", "moved_on", "different", "unanswered"), 0))
    problems: list[Problem] = field(default_factory=list)

    async def one(self, key: bytes, entity_type: EntityType, revision: int, state: int) -> None:
        try:
            shown = await self.show(EntityKey.decode(key), entity_type)
        except Exception:  # noqa: BLE001 - the destination's client is somebody's plug-in: no answer is an answer to count
            self.counts["unanswered"] += 1
            return
        finally:
            self.free.release()
        found, detail = _compare(shown, revision, state)
        self.counts[found] += 1
        if found == "different" and len(self.problems) < 200:
            self.problems.append(self.ledger.named(Trouble.DIFFERENT, key, revision, self.destination, detail))

    def asked(self) -> Asked:
        return Asked(self.destination, sum(self.counts.values()), **self.counts, problems=tuple(self.problems))


def _compare(shown: Shown | None, revision: int, state: int) -> tuple[str, str]:
    if shown is None:
        return "different", "it isn't there"
    if shown.revision > revision:
        return "moved_on", ""
    if shown.revision != revision:
        return "different", "it shows an older revision" if shown.revision else "it carries no revision"
    if shown.state_hash is not None and differ(fold(shown.state_hash), state):
        return "different", "it shows another state"
    return "same", ""


def exit_code(books: Books, asked: Iterable[Asked] = ()) -> int:
    """0: balanced and nothing different; 1: not balanced; what is open or waits is no fault."""
    return 0 if books.balanced and not any(look.different for look in asked) else 1
