"""Which fault strikes which request of the fault proxy: a pure, seeded choice."""

import enum
import random
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

MAX_FAULTS: Final = 32


class FaultKind(enum.StrEnum):
    """What goes wrong."""

    LATENCY = "latency"
    """`amount` seconds pass before the request is forwarded; a client that gives up meanwhile is written for, late."""
    SLOW_FACTOR = "slow_factor"
    """The answer takes `amount` times as long as the target took."""
    TOO_MANY_REQUESTS = "too_many_requests"
    """429, not forwarded; with Retry-After where `retry_after_s` is set, in the form that `retry_after_as` says."""
    UNAVAILABLE = "unavailable"
    """503, not forwarded; with Retry-After as for 429."""
    RESET_BEFORE = "reset_before"
    """Connection reset, not forwarded."""
    RESET_AFTER_COMMIT = "reset_after_commit"
    """Forwarded and done by the target, then connection reset without an answer."""
    TRUNCATED = "truncated"
    """Forwarded; the answer breaks off in the middle of its body."""
    ERROR_IN_200 = "error_in_200"
    """200 with an OperationOutcome of severity error as its body, not forwarded."""
    SLOW_FIRST_BYTE = "slow_first_byte"
    """Forwarded at once; the first byte of the answer comes `amount` seconds after the target's."""
    STALE_READ = "stale_read"
    """A read or a search shows each resource as it was `amount` versions ago, one at least, with that version's ETag: a
    server that reads from a copy which lags behind. What did not exist then isn't shown. Writes pass."""


DELAYS: Final = frozenset({FaultKind.LATENCY, FaultKind.SLOW_FACTOR})
"""They add to whatever else strikes; of the others one strikes at most."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault and when it strikes."""

    kind: FaultKind
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    times: Annotated[int, Meta(ge=1)] | None = None
    """How often it strikes at most; None for no end."""
    methods: tuple[str, ...] = ()
    """HTTP methods that it strikes; empty for all."""
    amount: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds, a factor or versions, as the kind says."""
    retry_after_s: Annotated[int, Meta(ge=0)] | None = None
    retry_after_as: Literal["seconds", "date"] = "seconds"


class FaultReport(msgspec.Struct, frozen=True, kw_only=True):
    """A fault and how often it has struck."""

    fault: Fault
    struck: int


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens to one request."""

    delay_s: float = 0.0
    slow_factor: float = 1.0
    fault: Fault | None = None


class Faults:
    """The faults in force. Replaced as a whole; counters start anew then. Not thread-safe."""

    def __init__(self, seed: int = 0) -> None:
        """With the same seed, faults and order of requests the same requests are struck."""
        self._chance = random.Random(seed)
        self._faults: tuple[Fault, ...] = ()
        self._struck: list[int] = []

    def set(self, *faults: Fault) -> None:
        """Replace all faults; the first that applies strikes. ValueError above MAX_FAULTS."""
        if len(faults) > MAX_FAULTS:
            raise ValueError(f"{len(faults)} faults, {MAX_FAULTS} are allowed")
        self._faults, self._struck = faults, [0] * len(faults)

    def clear(self) -> None:
        """From now on every request passes."""
        self.set()

    def struck(self, kind: FaultKind) -> int:
        """How often faults of this kind have struck since `set`."""
        return sum(count for fault, count in zip(self._faults, self._struck, strict=True) if fault.kind == kind)

    def report(self) -> list[FaultReport]:
        """Every fault with its count, in order."""
        return [FaultReport(fault=f, struck=n) for f, n in zip(self._faults, self._struck, strict=True)]

    def strike(self, method: str) -> Strike:
        """Choose for the next request, and count."""
        delay_s, factor, chosen = 0.0, 1.0, None
        for index, fault in enumerate(self._faults):
            if (chosen is not None and fault.kind not in DELAYS) or not self._applies(index, method):
                continue
            self._struck[index] += 1
            if fault.kind == FaultKind.LATENCY:
                delay_s += fault.amount
            elif fault.kind == FaultKind.SLOW_FACTOR:
                factor *= fault.amount
            else:
                chosen = fault
        return Strike(delay_s, factor, chosen)

    def _applies(self, index: int, method: str) -> bool:
        fault = self._faults[index]
        if fault.methods and method not in fault.methods:
            return False
        if fault.times is not None and self._struck[index] >= fault.times:
            return False
        return fault.probability >= 1 or self._chance.random() < fault.probability
