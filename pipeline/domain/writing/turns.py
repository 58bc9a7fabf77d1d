"""What has to be written before what: a stay waits until its bed is vacated at the destination. Pure."""

import enum
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from pipeline.domain.writing.occupants import FREE, Bed, Before, Occupants, bed_of

GRACE_MS: Final = 2_000
"""A bed that two stays claim may be a departure that hasn't reached us yet: the newer stay waits this long for it."""

WAIT_MS: Final = 30_000
"""A stay waits this long for a departure that is on its way, and from then on shows as stuck behind it."""

STEP_MS: Final = 250
"""Time between two looks at what a stay waits for, where it isn't told sooner."""


class Turn(enum.Enum):
    """Whether a write may go: now, later (ask again), or stuck behind what hasn't come for too long."""

    NOW = enum.auto()
    LATER = enum.auto()
    STUCK = enum.auto()


Freed = Callable[[Collection[bytes]], None]
"""Told of entities that need not wait any longer for what they waited for last."""


class Order(Protocol):
    """Port: what has to be written before what."""

    def turn(self, key: bytes, accepted: Accepted, now: Millis) -> Turn: ...
    def ahead(self, key: bytes) -> Collection[bytes]: ...
    def forget(self, keys: Iterable[bytes]) -> None: ...
    def watch(self, freed: Freed) -> None: ...


class AnyOrder:
    """For a destination that is told nothing whose order across entities matters."""

    def turn(self, key: bytes, accepted: Accepted, now: Millis) -> Turn:
        """Now."""
        return Turn.NOW

    def ahead(self, key: bytes) -> Collection[bytes]:
        """Nobody."""
        return ()

    def forget(self, keys: Iterable[bytes]) -> None:
        """Nothing is known."""

    def watch(self, freed: Freed) -> None:
        """Nothing waits."""


class VacateFirst:
    """A stay waits until its bed is free at the destination, with a bound; then it shows as stuck, and goes on waiting.

    On one thread, but for what `occupants` is told on another: that reaches `freed` by way of `soon`.
    """

    def __init__(
        self,
        occupants: Occupants,
        is_ready: Callable[[], bool],
        soon: Callable[[Callable[[], None]], object] = lambda do: do(),
    ) -> None:
        """`is_ready`: whether the history has been read to its end, so that `occupants` can be asked.

        `soon`: has something done on the thread of whoever asks for turns.
        """
        self._occupants = occupants
        self._is_ready = is_ready
        self._soon = soon
        self._since: dict[bytes, tuple[Bed | None, Millis]] = {}
        self._ahead: dict[bytes, Before] = {}
        self._behind: dict[bytes, set[bytes]] = {}

    def turn(self, key: bytes, accepted: Accepted, now: Millis) -> Turn:
        """Who is to leave the bed goes first; who claims it as well is waited for only for as long as news may take."""
        if accepted.entity_type is not EntityType.ENCOUNTER:
            return Turn.NOW
        if not self._is_ready():
            return Turn.LATER
        before = self._occupants.before(key, accepted)
        turn = self._turn(key, accepted, before, now)
        self._wait_for(key, FREE if turn is Turn.NOW else before)
        return turn

    def _turn(self, key: bytes, accepted: Accepted, before: Before, now: Millis) -> Turn:
        if not before.leaving and not before.claiming:
            self._since.pop(key, None)
            return Turn.NOW
        bed = bed_of(accepted)
        if self._since.get(key, (None, now))[0] != bed:
            self._since[key] = bed, now  # what it waited for elsewhere says nothing of this bed
        waited = now - self._since[key][1]
        if not before.leaving:
            return Turn.NOW if waited >= GRACE_MS else Turn.LATER
        return Turn.STUCK if waited >= WAIT_MS else Turn.LATER

    def _wait_for(self, key: bytes, before: Before) -> None:
        known = self._ahead.pop(key, FREE)
        for other in known.leaving | known.claiming:
            behind = self._behind.get(other, set())
            behind.discard(key)
            if not behind:
                self._behind.pop(other, None)
        if before is FREE:
            return
        self._ahead[key] = before
        for other in before.leaving | before.claiming:
            self._behind.setdefault(other, set()).add(key)

    def ahead(self, key: bytes) -> Collection[bytes]:
        """Stays that are to leave the bed for which this one waited when it was last asked after."""
        return self._ahead.get(key, FREE).leaving

    def forget(self, keys: Iterable[bytes]) -> None:
        """They went to another worker."""
        for key in keys:
            self._since.pop(key, None)
            self._wait_for(key, FREE)

    def watch(self, freed: Freed) -> None:
        """Tell `freed` who waited for a stay as soon as the destination shows another revision of it.

        What is told between a look and the note of who waits is missed; so is a ring that comes about, and a flag that is
        flipped: who waits looks again every STEP_MS all the same.
        """

        def told(key: bytes) -> None:
            if key in self._behind:
                self._soon(lambda: freed(tuple(self._behind.get(key, ()))))

        self._occupants.told = told
