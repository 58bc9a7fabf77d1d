"""What has ended and what is acknowledged of it: the table first, then each poll of a partition, in order."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from faust.types import EventT

from pipeline.domain.identifiers import Millis
from pipeline.stream.every.backlog import Item, Portion
from pipeline.stream.every.ports import Room
from pipeline.stream.every.told import NOTHING, SINCE_KEY, Told, encode_told
from pipeline.topology import OUTCOMES

MARK_EVERY_MS: Final = 60_000
MARK_MARGIN_MS: Final = 60_000
"""The table's mark is so much older than its writing: clocks of this machine and the brokers may differ by that."""

NO_GENERATION: Final = -1


class Kept:
    """Of the partitions that are ours. Nothing of it survives a crash: it is all on the log, or read again."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._portions: dict[int, list[Portion]] = {}
        self._tenures: dict[int, int] = {}
        self._unkept: dict[int, dict[bytes, Told]] = {}
        self._marked_at: dict[int, Millis] = {}
        self._writing = asyncio.Lock()
        self.parked: dict[bytes, tuple[int, Told]] = {}
        """Entities whose last change was given up, with their partition."""

    def begun(self, event: EventT[Any], changes: int) -> Portion:
        """A poll of one partition with so many changes to tell."""
        partition = event.message.partition
        portion = Portion(partition, self._tenures.get(partition, 0), event, changes)
        self._portions.setdefault(partition, []).append(portion)
        return portion

    def is_current(self, portion: Portion) -> bool:
        """Whether its partition has been ours since it was read."""
        return self._tenures.get(portion.partition, 0) == portion.tenure

    def known(self, item: Item) -> Told:
        """What its entity was told last."""
        partition = item.portion.partition
        return self._unkept.get(partition, {}).get(item.key) or self._room.told(partition, item.key) or NOTHING

    def ended(self, item: Item, told: Told) -> None:
        """It has come to its end, and this is what its entity was told last by now."""
        partition = item.portion.partition
        if told.revision > self.known(item).revision:
            self._unkept.setdefault(partition, {})[item.key] = told
            self.parked.pop(item.key, None)
            if told.is_parked:
                self.parked[item.key] = partition, told
        item.portion.left -= 1

    def assigned(self, partition: int, parked: Mapping[bytes, Told], ended: Mapping[bytes, Told]) -> None:
        """A partition came: with what was given up in it, and what came to its end and is not in the table yet."""
        self.parked |= {key: (partition, told) for key, told in ({**parked, **ended}).items() if told.is_parked}
        self._unkept[partition] = dict(ended)

    def revoked(self, partitions: Collection[int]) -> None:
        """Partitions went: their polls are given back."""
        for partition in partitions:
            self._tenures[partition] = self._tenures.get(partition, 0) + 1
            for portion in self._portions.pop(partition, ()):
                give_back(portion.event)
            self._unkept.pop(partition, None)
            self._marked_at.pop(partition, None)
        for key in [key for key, (partition, _) in self.parked.items() if partition in partitions]:
            del self.parked[key]

    async def keep(self, now: Millis) -> None:
        """Write what came to its end into the table, then acknowledge each poll that ended, up to the first that has not."""
        async with self._writing:
            ready = {partition: _ended_first(portions) for partition, portions in self._portions.items()}
            written = {
                partition: dict(self._unkept.get(partition, {}))
                for partition in {*self._unkept, *self._portions}
                if self._unkept.get(partition) or now - self._marked_at.get(partition, Millis(0)) >= MARK_EVERY_MS
            }
            if written:
                mark = encode_mark(Millis(now - MARK_MARGIN_MS))
                await self._room.keep(
                    {
                        partition: {key: encode_told(told) for key, told in ended.items()} | {SINCE_KEY: mark}
                        for partition, ended in written.items()
                    }
                )
            for partition, ended in written.items():
                self._forget(partition, ended, now)
            for partition, portions in ready.items():
                self._acknowledge(partition, portions)

    def _forget(self, partition: int, written: Mapping[bytes, Told], now: Millis) -> None:
        self._marked_at[partition] = now
        unkept = self._unkept.get(partition, {})
        for key, told in written.items():
            if unkept.get(key) is told:
                del unkept[key]

    def _acknowledge(self, partition: int, portions: list[Portion]) -> None:
        held = self._portions.get(partition, [])
        for portion in portions:
            if held and held[0] is portion:
                held.pop(0)
                portion.event.ack()


def give_back(event: EventT[Any]) -> None:
    """Let a poll go unacknowledged: it belongs to no generation any more, so that this moves no offset."""
    event.message.generation_id = NO_GENERATION
    event.ack()


def _ended_first(portions: list[Portion]) -> list[Portion]:
    count = next((index for index, portion in enumerate(portions) if portion.left), len(portions))
    return portions[:count]


def encode_mark(at: Millis) -> bytes:
    """Value of the table's mark: what `outcomes` holds from then on may not be in the table yet."""
    return msgspec.msgpack.encode({OUTCOMES: at})


def decode_mark(data: bytes) -> Millis:
    """Inverse of `encode_mark`."""
    return Millis(msgspec.msgpack.decode(data, type=dict[str, int]).get(OUTCOMES, 0))
