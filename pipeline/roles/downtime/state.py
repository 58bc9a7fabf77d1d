"""What is known of all beds and stays, read from the gate's table, and up to when that is all there is to know."""

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline import topology
from pipeline.domain.event import Bed
from pipeline.domain.head import UnknownHeadVersion, decode_head
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.ward.census import Census, Unit
from pipeline.domain.ward.lines import UnitBoard
from pipeline.kafka.client import KafkaUnavailable, Message
from pipeline.kafka.reader import Follower
from pipeline.ops.topics import KafkaTopics, Topics
from pipeline.roles.process import now_ms
from pipeline.settings.sections.kafka import KafkaSettings

LOOK_S: Final = 5.0
"""How often it is looked whether everything that was landed is known here."""
TOPICS: Final = (topology.GATE_CHANGELOG,)
_OWN_KEY: Final = b"\x00"
"""First byte of a table's own keys."""

Places = Mapping[tuple[str, int], int]


@dataclass(slots=True)
class Cut:
    """A moment, and how far the landing topics were then; `table`: how far the gate's table was once it had judged all that."""

    asked_at: Millis
    landing: Places
    table: Mapping[int, int] | None = None


class Standing:
    """The census with its age. It outlives the broker: while that is away the last state stays, and grows old.

    `as_of` is a moment up to which everything that was landed is in the census: the gate had judged it, and its table was
    read as far. A gate that stands still makes it old as well as a broker that is away; silence never looks new.
    """

    def __init__(self, kafka: KafkaSettings, topics: Topics | None = None) -> None:
        self._kafka = kafka
        self._topics = topics or KafkaTopics(kafka)
        self._census = Census()
        self._lock = threading.Lock()
        self._read: dict[int, int] = {}
        self._cut: Cut | None = None
        self._follower: Follower | None = None
        self.as_of: Millis | None = None
        self.is_whole = False
        """Whether the table was read to its end once."""
        self.unreadable = 0
        """Heads that can't be read, as a later version writes them; while there are any, `as_of` stands still."""

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the table until `stop`, however often the broker goes away."""
        while not stop.is_set():
            await asyncio.to_thread(self.look)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Follow no more. Blocks until the thread has ended; what is known stays."""
        if self._follower is not None:
            self._follower.stop()

    def boards(self, units: Iterable[Unit], now: Millis) -> dict[Unit, UnitBoard]:
        """Boards of these units."""
        with self._lock:
            return self._census.boards(units, now)

    def units(self) -> frozenset[Unit]:
        """Units that are known."""
        with self._lock:
            return self._census.units()

    def unplaced(self) -> int:
        """Beds that are on no board, because nobody knows their unit."""
        with self._lock:
            return self._census.unplaced()

    def beds(self) -> "list[tuple[Unit, str, str, Bed]]":
        """Each bed with its unit, room and name."""
        with self._lock:
            return [(spot.unit, spot.room, spot.bed, bed) for spot, bed in self._census.beds()]

    def look(self) -> None:
        """Follow again where following ended, and learn whether everything is known. Blocks, for seconds at most."""
        if self._follower is None or self._follower.ended.is_set():
            self._begin()
        assert self._follower is not None
        if not self._follower.caught_up.is_set():
            return
        self.is_whole = True
        with contextlib.suppress(KafkaUnavailable):
            self._measure()

    def _begin(self) -> None:
        with self._lock:
            self._read.clear()
            self.unreadable = 0
        self._follower = Follower(self._kafka, TOPICS, self.apply).start()

    def _measure(self) -> None:
        """One step further with the present cut; the next one when it is reached."""
        if self._cut is None:
            self._cut = Cut(now_ms(), _ends(self._topics, topology.LANDING.values()))
        if self._cut.table is None:
            committed = self._topics.committed(topology.GATE_APP)
            if any(committed.get(where, 0) < end for where, end in self._cut.landing.items()):
                return
            self._cut.table = {where: end for (_, where), end in _ends(self._topics, TOPICS).items()}
        with self._lock:
            if self.unreadable == 0 and all(self._read.get(where, 0) >= end for where, end in self._cut.table.items()):
                self.as_of, self._cut = self._cut.asked_at, None

    def apply(self, message: Message) -> None:
        """A record of the table."""
        with self._lock:
            self._take(message)
            self._read[message.partition] = message.offset + 1

    def _take(self, message: Message) -> None:
        if message.key is None or message.key.startswith(_OWN_KEY):
            return
        try:
            key = EntityKey.decode(message.key)
            if message.value is None:
                self._census.forget(key)
            else:
                self._census.on_head(key, decode_head(message.value))
        except (UnknownHeadVersion, msgspec.DecodeError):
            self.unreadable += 1
        except ValueError:
            return  # no key of an entity; nobody knows what it would be about


def _ends(topics: Topics, names: Iterable[str]) -> Places:
    """How far each partition is that holds anything; one that retention has emptied has nothing to wait for."""
    found: dict[tuple[str, int], int] = {}
    for name in names:
        begin = topics.begin(name)
        found |= {(name, where): end for where, end in topics.end(name).items() if begin.get(where, 0) < end}
    return found
