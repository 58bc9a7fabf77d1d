"""What destinations showed last, kept to save the read before a write."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Final

import msgspec

from pipeline.destinations.protocol import Current

MAX_BODIES: Final = 10_000
"""Most bodies kept; the version in a write's condition discards one that is out of date."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of them, encoded: a resource with a photograph in it is a thousand times one without."""


class Bodies:
    """The bodies of the last confirmed writes, the least recent forgotten first. Only those that have a version."""

    def __init__(self, max_bodies: int = MAX_BODIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_bodies = max_bodies
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, tuple[int, int, Current]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Current | None:
        """Body of an entity, if it is still kept."""
        kept = self._kept.get(key)
        return kept[2] if kept is not None else None

    def keep(self, key: bytes, partition: int, current: Current) -> None:
        """Keep a body in the place of the one before. Without a version nothing would discard it once somebody else wrote."""
        self.forget(key)
        if current.etag is None:
            return
        size = len(msgspec.json.encode(current.body))
        self._kept[key] = partition, size, current
        self._bytes += size
        while self._kept and (len(self._kept) > self._max_bodies or self._bytes > self._max_bytes):
            self.forget(next(iter(self._kept)))

    def forget(self, key: bytes) -> None:
        """An entity's body is out of date."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept[1]

    def clear(self) -> None:
        """None is to be trusted."""
        self._kept.clear()
        self._bytes = 0

    def forget_all(self, partitions: Collection[int]) -> None:
        """Partitions went: others may write now what is in them."""
        for key in [key for key, (partition, _, _) in self._kept.items() if partition in partitions]:
            self.forget(key)
