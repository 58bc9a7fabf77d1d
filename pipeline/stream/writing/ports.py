"""What a delivery needs of the worker around it."""

from typing import Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.pending import Pending


class Ledger(Protocol):
    """Where outcomes become durable, each with its entry in the audit chain."""

    async def record(self, outcome: Outcome, key: bytes) -> None:
        """Return once both are acknowledged; ends the process if they can't be."""
        ...


class Pendings(Protocol):
    """The pending table, read on the loop's thread."""

    def get(self, partition: int, key: bytes) -> Pending | None: ...
    def is_assigned(self, partition: int) -> bool: ...


class Observer(Protocol):
    """Told of each attempt and confirmation; feeds metrics and lag windows."""

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None: ...
    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None: ...
    def failed_inside(self, error: BaseException) -> None: ...
