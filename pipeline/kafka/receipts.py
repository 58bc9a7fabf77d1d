"""Answers given before: the compacted topic `intake.receipts` in memory, so that a repeat gets the same bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Receipt

MAX_RECEIPTS: Final = 250_000
"""Most answers kept in memory; the oldest go first."""
MAX_RECEIPT_BYTES: Final = 128 * 1024 * 1024
"""Most bytes of answers kept in memory; the oldest go first."""
MAX_RECEIPT_AGE_MS: Final = 24 * 3600 * 1000
"""How long an answer is kept; a repeat after that is taken in again and judged by the gate."""
ENTRY_BYTES: Final = 400
"""What an entry costs beside its answer, about."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer with the digest of the body that it was given to."""

    body_digest: str
    answer: bytes
    at: Millis

    def __repr__(self) -> str:
        return "Answered(<redacted>)"


class Receipts:
    """The newest answers by identity, bounded by number, bytes and age. For any thread.

    The first answer to an identity stands: a later record for it changes nothing while the first is kept. What was
    evicted is simply not known any more; then the gate finds the duplicates.
    """

    def __init__(
        self,
        clock: Callable[[], Millis],
        *,
        max_entries: int = MAX_RECEIPTS,
        max_bytes: int = MAX_RECEIPT_BYTES,
        max_age_ms: int = MAX_RECEIPT_AGE_MS,
    ) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age_ms = max_age_ms
        self._kept: OrderedDict[str, Answered] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, identity: str) -> Answered | None:
        """The answer given to `identity`, unless it is forgotten."""
        with self._lock:
            kept = self._kept.get(identity)
        return None if kept is None or self._aged(kept) else kept

    def put(self, receipt: Receipt) -> None:
        """Keep an answer, be it our own or another instance's."""
        answered = Answered(receipt.body_digest, receipt.answer, Millis(receipt.at))
        if self._aged(answered):
            return
        with self._lock:
            first = self._kept.get(receipt.identity)
            if first is not None and not self._aged(first):
                return
            self._drop(receipt.identity)
            self._kept[receipt.identity] = answered
            self._bytes += _cost(answered)
            self._trim()

    def forget(self, identity: str) -> None:
        """The topic holds no receipt for `identity` any more."""
        with self._lock:
            self._drop(identity)

    def _drop(self, identity: str) -> None:
        kept = self._kept.pop(identity, None)
        if kept is not None:
            self._bytes -= _cost(kept)

    def _trim(self) -> None:
        while self._kept:
            oldest = next(iter(self._kept))
            full = len(self._kept) > self._max_entries or self._bytes > self._max_bytes
            if not full and not self._aged(self._kept[oldest]):
                return
            self._drop(oldest)

    def _aged(self, answered: Answered) -> bool:
        return answered.at < self._clock() - self._max_age_ms


def _cost(answered: Answered) -> int:
    return ENTRY_BYTES + len(answered.answer)
