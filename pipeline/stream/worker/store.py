"""RocksDB stores that are written a batch at a time and recover to the latest record of a key, not the last one.

Nothing is written ahead to a log of RocksDB's own: the changelog is that log. A process that is killed finds the table as it
was when its memory was last written out, with the changelog offset of that moment, and recovers the rest, at most
`write_buffer_size` a partition. What is written to each store costs half of what it did (docs/performance.md).

A worker that was stopped past its session and resumed may still write old records to a changelog. So recovery joins
the records of a key by what they say (a head by its landing position, a pending by its generation), remembers the keys
for which an old record came late, and `regressed` lets the owner write those again.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import faust
import msgspec
from faust.stores.rocksdb import Store
from faust.types import TP
from rocksdict import Rdict, WriteBatch, WriteOptions

Join = Callable[[bytes, bytes], bytes]
"""Of two records of one key: the one to keep."""

RESERVED: Final = b"\x00"
"""First byte of the table's own keys; no entity key begins with it."""

POSITIONS_KEY: Final = b"\x00positions"
"""Next offset per topic that a partition of the table is ready for."""

STORE_OPTIONS: Final = {
    "driver": "rocksdict",
    "block_cache_size": 1 << 20,
    "write_buffer_size": 1 << 20,
    "max_open_files": 256,
}
"""Of each partition's database. The sizes are small so that a worker's memory stands still soon: with 16 and 8 MiB, 8
partitions grew by 50 MB over 330,000 writes of 1 KB, with these by 6 MB, at the same processor time. What is read again comes
from the system's page cache.
"""

_POSITIONS: Final = msgspec.msgpack.Decoder(dict[str, int])


def join_positions(one: bytes, other: bytes) -> bytes:
    """Highest offset per topic."""
    a, b = _POSITIONS.decode(one), _POSITIONS.decode(other)
    return msgspec.msgpack.encode({topic: max(a.get(topic, 0), b.get(topic, 0)) for topic in {**a, **b}})


class BatchStore(Store):
    """A Faust RocksDB store that joins what it recovers."""

    latest_of: Join

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.regressed: defaultdict[int, set[bytes]] = defaultdict(set)
        self.late: Counter[int] = Counter()
        """Per partition: records of entities that came after a later one and said nothing new, as a foreign writer's do."""

    def _open_for_partition(self, partition: int) -> Rdict:
        """As Faust's. Whatever writes to it, Faust's own offsets included, does so without a log: one order for all."""
        database: Rdict = super()._open_for_partition(partition)
        unlogged = WriteOptions()
        unlogged.disable_wal = True  # type: ignore[method-assign, assignment]  # a property that its stub calls a method
        database.set_write_options(unlogged)
        return database

    async def stop(self) -> None:
        """As Faust's; what is still in memory is written out, so that the next start need not recover it."""
        for database in self._dbs.values():
            database.flush()
        await super().stop()

    def handle(self, partition: int) -> Rdict:
        """The partition's database. Call on the loop's thread only, where no rebalance is under way."""
        database: Rdict = self._db_for_partition(partition)
        return database

    def is_open(self, partition: int) -> bool:
        """Whether the partition's database is open here."""
        return partition in self._dbs

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]) -> None:
        """Join changelog records into the store, with the offset, in one write per partition.

        Each event is what a poll returned of one partition: its message's value is the list of records, in their order.
        """
        by_partition: defaultdict[int, list[Any]] = defaultdict(list)
        for event in batch:
            by_partition[event.message.partition] += event.message.value
        for partition, records in by_partition.items():
            db = self._db_for_partition(partition)
            self.keep(partition, db, self._joined(partition, db, records), max(record.offset for record in records))

    def _joined(self, partition: int, db: Rdict, records: list[Any]) -> Mapping[bytes, bytes]:
        keys = list({record.key for record in records if record.value is not None})
        known = dict(zip(keys, db.get(keys) or (), strict=True)) if keys else {}
        for record in records:
            key, value = record.key, record.value
            if value is None:
                continue
            before = known.get(key)
            if before is None:
                known[key] = value
                self.regressed[partition].discard(key)
                continue
            known[key] = kept = self.latest_of(before, value)
            if kept != value:
                self.regressed[partition].add(key)
                self.late[partition] += kept == before and not key.startswith(RESERVED)
            else:
                self.regressed[partition].discard(key)
        return {key: value for key, value in known.items() if value is not None}

    def keep(self, partition: int, db: Rdict, puts: Mapping[bytes, bytes], changelog_offset: int | None) -> None:
        """Write a batch whose changelog records are durable, together with the last one's offset, at once. Any thread."""
        writes = WriteBatch(raw_mode=True)
        for key, value in puts.items():
            writes.put(key, value)
        if changelog_offset is not None:
            writes.put(self.offset_key, str(changelog_offset).encode())
        db.write(writes)


class BatchTable(faust.Table[bytes, bytes]):
    """A Faust table over a `BatchStore`; it is never assigned to by key."""

    latest_of: Join

    def _new_store_by_url(self, url: Any) -> BatchStore:
        store = BatchStore(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            value_type=self.value_type,
            loop=self.loop,
            options=dict(self.options or {}),
        )
        store.latest_of = self.latest_of
        return store

    @property
    def store(self) -> BatchStore:
        """The store, typed."""
        store = self.data
        assert isinstance(store, BatchStore)
        return store

    def recovered_offset(self, tp: TP) -> int | None:
        """Next offset of a source partition that the table is ready for; -1 if it holds nothing of that partition."""
        if not self.store.is_open(tp.partition):
            return None
        data = self.store.handle(tp.partition).get(POSITIONS_KEY)
        return _POSITIONS.decode(data).get(tp.topic, -1) if data is not None else -1
