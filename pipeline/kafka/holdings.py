"""What we hold of every entity and how far each writer has come with it, read from the changelogs of gate and writers.

They are a declared contract; no table of another process is opened. Writers' changelogs are read first: a head may then be
newer than what is told of it, which looks like a change under way, and never older.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from pipeline.domain.head import Head, UnknownHeadVersion, decode_head
from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.compare import Held, Told
from pipeline.domain.writing.pending import Pending, UnknownPendingVersion, decode_pending
from pipeline.kafka.client import Message
from pipeline.kafka.reader import LogTruncated
from pipeline.topology import GATE_CHANGELOG, writer_changelog

_OWN_KEY: Final = b"\x00"
"""First byte of a table's own keys: policies, aliases, positions."""
_FAUST_KEY: Final = b"__faust"


class Logs(Protocol):
    """Topics by their names without the prefix. Methods raise KafkaUnavailable."""

    def begin(self, topic: str) -> Mapping[int, int]:
        """Offset of the first record that is still there, per partition."""
        ...

    def end(self, topic: str) -> Mapping[int, int]:
        """Offset after the last record, per partition, at this moment."""
        ...

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        """Each record from `start` to before `end`, in order within each partition."""
        ...


class Holdings:
    """Some 600 bytes an entity and destination, whatever its state. Not safe from several threads at once."""

    def __init__(self, logs: Logs, destinations: Sequence[str], keeps_heads: bool = False) -> None:
        """`keeps_heads`: whole heads are kept as well, for a destination that carries no mark."""
        self._logs = logs
        self._keeps_heads = keeps_heads
        self._read_to: dict[str, dict[int, int]] = {}
        self.held: dict[bytes, Held] = {}
        self.order: list[bytes] = []
        """Keys of `held` in the order in which they were first read: what was added since is at the end."""
        self.told: dict[str, dict[bytes, Told]] = {name: {} for name in destinations}
        self.unreadable = 0
        """Records of a version that this build doesn't know: their entities may be missing."""

    def refresh(self) -> None:
        """Read what was added since the last time; everything at first. KafkaUnavailable."""
        for name, told in self.told.items():
            for message in self._added(writer_changelog(name)):
                self._on_pending(told, message)
        for message in self._added(GATE_CHANGELOG):
            self._on_head(message)

    def heads(self, wanted: Mapping[bytes, object]) -> Iterator[tuple[bytes, Head]]:
        """Whole heads of these entities, from the beginning of the changelog; of one entity the last is the newest, but for a
        zombie's. KafkaUnavailable."""
        end = self._logs.end(GATE_CHANGELOG)
        for message in self._logs.read(GATE_CHANGELOG, self._logs.begin(GATE_CHANGELOG), end):
            if message.key is not None and message.value and message.key in wanted:
                try:
                    yield message.key, decode_head(message.value)
                except UnknownHeadVersion:
                    self.unreadable += 1

    def _added(self, topic: str) -> Iterator[Message]:
        end = dict(self._logs.end(topic))
        start = self._read_to.get(topic) or dict(self._logs.begin(topic))
        try:
            yield from self._logs.read(topic, start, end)
        except LogTruncated:
            # Compaction keeps the newest of each, so the log from its begin on tells all that is true still.
            yield from self._logs.read(topic, dict(self._logs.begin(topic)), end)
        self._read_to[topic] = end

    def _on_head(self, message: Message) -> None:
        key = message.key
        if key is None or key.startswith((_OWN_KEY, _FAUST_KEY)) or not message.value:
            return
        try:
            head = decode_head(message.value)
        except UnknownHeadVersion:
            self.unreadable += 1
            return
        known = self.held.get(key)
        if not head.revision or (known is not None and known.at > head.at):
            return  # nothing was accepted yet, or a zombie's late record
        if known is None:
            self.order.append(key)
        # A no-op stores the head anew and moves nothing.
        same = known is not None and known.revision == head.revision
        moved_at = known.moved_at if known is not None and same else Millis(max(0, message.timestamp_ms))
        self.held[key] = Held(
            head.revision,
            head.state_hash,
            head.received_at,
            sys.intern(head.facility),
            head.at,
            message.value if self._keeps_heads else None,
            moved_at,
        )

    def _on_pending(self, told: dict[bytes, Told], message: Message) -> None:
        key = message.key
        if key is None or key.startswith((_OWN_KEY, _FAUST_KEY)) or not message.value:
            return
        try:
            pending = decode_pending(message.value)
        except UnknownPendingVersion:
            self.unreadable += 1
            return
        known, new = told.get(key), _told(pending)
        if known is not None and known.generation > new.generation:
            known.confirmed = max(known.confirmed, new.confirmed)
        else:
            told[key] = new


def _told(pending: Pending) -> Told:
    return Told(
        newest=pending.newest_revision,
        confirmed=pending.confirmed,
        parked=pending.parked,
        shadowed=pending.shadowed,
        deadline=pending.deadline,
        generation=pending.generation,
    )
