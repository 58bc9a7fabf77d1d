"""One feed: what its server's notifications say becomes durable, then counts as heard; its keeper closes what is missing."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.subscriptions.life import State, Watch, decode_state, encode_state, first_state
from pipeline.formats.fhir.notification import Kind, Malformed, Notification, parse
from pipeline.formats.fhir.owned import Body
from pipeline.sources.fhir.keeper import Audit, Keeper, KeeperObserver, Plan
from pipeline.sources.fhir.landing import Answer, Landing, LandingObserver, Mapper, NotTaken, Refused, Taken, no_notification
from pipeline.sources.fhir.life import Life
from pipeline.sources.fhir.reading import Filled, Reading
from pipeline.sources.fhir.secret import HookSecret
from pipeline.sources.fhir.server import Failed, FhirServer
from pipeline.sources.protocol import Sink

TICK_S: Final = 1.0
"""How often the state is looked at, and kept where it changed. A crash loses no more of it, and costs repeats only."""
KEEP_TIMEOUT_S: Final = 10.0
RETRY_AFTER_S: Final = 2.0
"""What a server is asked to wait when something could not be read."""


class Ledger(Audit, Protocol):
    """Where a feed keeps how far it has heard, and writes down what it changed at its server."""

    async def keep(self, feed: str, subscription: str | None, state: bytes) -> bool:
        """Whether the state is durable now; one that isn't is offered again."""
        ...


class FeedObserver(KeeperObserver, LandingObserver, Protocol):
    """What metrics and logs are told; never patient data."""

    def state(self, feed: str, state: State, now: Millis) -> None:
        """How the feed stands, about every second."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What was kept of a feed: the id of its subscription, and its state."""

    subscription: str | None
    state: bytes


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """One feed. `tenant` and `server` are part of the identity of what it takes."""

    plan: Plan
    tenant: str
    server: str
    watch: Watch


class Feed:
    """One subscription at one server."""

    def __init__(
        self,
        config: FeedConfig,
        secret: HookSecret,
        server: FhirServer,
        mapper: Mapper,
        ledger: Ledger,
        known: Known | None,
        observer: FeedObserver,
        clock: Callable[[], Millis],
    ) -> None:
        name, now = config.plan.feed, clock()
        state = decode_state(known.state) if known is not None else None
        self.name = name
        self.takes_empty = config.plan.wanted.channel == "classic"
        self._landing = Landing(name, config.tenant, config.server, mapper, clock, observer)
        self._reading = Reading(server, mapper.needed, clock)
        self._life = Life(config.watch, state or first_state(now), known.subscription if known is not None else None)
        self._keeper = Keeper(config.plan, secret, server, self._life, self._reading, self._landing, ledger, clock, observer)
        self._ledger = ledger
        self._kept = b"" if state is None or known is None else known.state
        self._observer = observer
        self._clock = clock

    # -- notifications

    async def notified(self, sink: Sink, data: bytes, body: Body) -> Answer:
        """Take a notification: `data` as it came, `body` what it says. Taken once all that it makes is durable."""
        said = parse(body)
        if isinstance(said, Malformed):
            broken = no_notification(said.reason.value, said.path, said.rule, data)
            return await self._landing.notification(sink, data, (), {}, [broken])
        if said.kind not in (Kind.EVENT, Kind.QUERY_EVENT, Kind.CLASSIC):
            self._life.heard(said, (), (), self._clock())
            return Taken()
        answer: Answer | None = None
        try:
            answer = await self._changed(sink, data, said)
        finally:  # no answer: the caller's patience ended, or a fault of ours
            if answer is None or isinstance(answer, NotTaken):
                self._missed(said)
        return answer

    async def _changed(self, sink: Sink, data: bytes, said: Notification) -> Answer:
        """Something happened: land it, then count it as heard."""
        if not said.events:
            return await self._something_changed(said)
        filled = await self._reading.fill(said.events, said.others or {})
        if isinstance(filled, Failed):
            return NotTaken("SERVER_UNREADABLE", max(filled.retry_after_s, RETRY_AFTER_S))
        answer = await self._landed(sink, data, filled)
        if not isinstance(answer, Taken):
            return answer
        if filled.pointless:
            return await self._something_changed(said)
        if filled.stale:
            # What is durable is older than what was spoken of: it stays missing until it is fetched or read again.
            self._missed(said)
            return answer
        self._life.heard(said, said.numbers, said.made_at, self._clock())
        return answer

    def refused(self) -> None:
        """A notification without the secret was refused: it counts for nothing, but what changed is read before long.

        So a server that lost the secret, or that sends none, is not taken for a silent one.
        """
        self._life.refused(self._clock())

    async def deleted(self, reference: str) -> Answer:
        """A classic subscription says that a resource was deleted. That makes no event: what it was is over elsewhere already."""
        self._landing.gone("notified")
        return Taken()

    async def _landed(self, sink: Sink, data: bytes, filled: Filled) -> Answer:
        """The notification's own resources under its bytes, then what was read, each under its own."""
        for _ in range(filled.gone):
            self._landing.gone("notified")
        if filled.notified or filled.broken:
            answer = await self._landing.notification(sink, data, filled.notified, filled.known, filled.broken)
            if not isinstance(answer, Taken):
                return answer
        for resource in filled.read:
            answer = await self._landing.read(sink, [resource], filled.known, "read")
            if not isinstance(answer, Taken):
                return answer
        return Taken()

    async def _something_changed(self, said: Notification) -> Answer:
        """It doesn't say what changed: everything that changed lately is read before it counts as heard.

        The caller bounds the wait; the reading goes on after it, so that the repeat of the notification finds it done.
        """
        await self._keeper.read_anew()
        self._life.heard(said, said.numbers, said.made_at, self._clock())
        return Taken()

    def _missed(self, said: Notification) -> None:
        """It could not be taken, and the server may give up on it: its numbers are missing until they are."""
        top = max((said.events_since_start or 0, *said.numbers))
        if top:
            without = Notification(said.version, said.kind, said.subscription, said.topic, said.status, top)
            self._life.heard(without, (), (), self._clock())

    # -- the keeper

    async def keep(self, sink: Sink, stop: asyncio.Event) -> None:
        """Look after the subscription until `stop`. Raises what is a fault of ours."""
        self._life.start(self._clock())
        parts = [
            asyncio.create_task(self._ticking(stop), name=f"ticking-{self.name}"),
            asyncio.create_task(self._keeper.link(stop), name=f"link-{self.name}"),
            asyncio.create_task(self._keeper.read(sink, stop), name=f"reading-{self.name}"),
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
            for part in parts:
                if part.done():
                    part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _ticking(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK_S)
            now = self._clock()
            self._life.tick(now)
            self._observer.state(self.name, self._life.state, now)
            await self._keep()

    async def _keep(self) -> None:
        state = encode_state(self._life.state)
        if state == self._kept:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEP_TIMEOUT_S):
                if await self._ledger.keep(self.name, self._life.subscription, state):
                    self._kept = state

    def status(self) -> dict[str, Any]:
        """For people; no patient data."""
        return self._life.show(self._clock()) | {
            "secret_at_server": self._keeper.secret_at_server,
            "fetches": self._life.watch.fetches,
        }


__all__ = ["Answer", "Feed", "FeedConfig", "FeedObserver", "Known", "Ledger", "NotTaken", "Refused", "Taken"]
