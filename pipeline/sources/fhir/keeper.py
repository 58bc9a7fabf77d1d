"""Looks after one subscription: makes or adopts it, asks how it stands, restores it, and reads again what was missed."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, assert_never
from urllib.parse import urlencode

from pipeline.domain.identifiers import Millis
from pipeline.domain.subscriptions.life import CheckStatus, Create, Fetch, ReRead, Restore, SubscriptionStatus
from pipeline.formats.fhir.notification import Notification, status_of
from pipeline.formats.fhir.owned import Body
from pipeline.sources.fhir.landing import Answer, Landing, Taken
from pipeline.sources.fhir.life import Life
from pipeline.sources.fhir.reading import Filled, Reading, Took
from pipeline.sources.fhir.resource import Wanted, agrees, asked_for, endpoint_of, oldest_first, subscription_body
from pipeline.sources.fhir.secret import HookSecret
from pipeline.sources.fhir.server import Failed, FhirServer, Gone
from pipeline.sources.protocol import Broken, Sink

LAND_TRIES: Final = 5
LAND_PAUSE_S: Final = 2.0
"""How often, and how far apart, what was read is offered to a sink that can't take it."""
IDLE_S: Final = 1.0
"""Longest time that a keeper waits without looking."""


class KeeperObserver(Protocol):
    """What metrics and logs are told; never patient data."""

    def asked(self, feed: str, what: str, result: str) -> None:
        """Something was asked of the server: check, create, restore, fetch, reread; done, failed, absent or unsupported."""
        ...


class Audit(Protocol):
    """Where it is written down what was changed at a server."""

    async def note(self, feed: str, action: str, subscription: str) -> None:
        """Durable on return. `action` is subscription.created, subscription.put or subscription.off."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a feed asks of its server."""

    feed: str
    wanted: Wanted
    searches: tuple[str, ...]


class Keeper:
    """Carries out the actions of one feed's life. Whatever fails is told again by the life, later and later."""

    def __init__(
        self,
        plan: Plan,
        secret: HookSecret,
        server: FhirServer,
        life: Life,
        reading: Reading,
        landing: Landing,
        audit: Audit,
        clock: Callable[[], Millis],
        observer: KeeperObserver,
    ) -> None:
        self._plan = plan
        self._secret = secret
        self._server = server
        self._life = life
        self._reading = reading
        self._landing = landing
        self._audit = audit
        self._clock = clock
        self._observer = observer
        self._shown_after_put: tuple[object, ...] | None = None
        self._given: str | None = None
        """Secret that the server has, as far as this process knows."""
        self._tells_status = plan.wanted.channel == "backport"
        self._rereads_begun = self._last_whole_reread = 0
        """Counted, since a clock that is set back would make an old one look like one of now."""
        self._reread_ended = asyncio.Condition()

    @property
    def secret_at_server(self) -> bool:
        """Whether the server has the secret that is given out now."""
        return self._given == self._secret.current()

    async def link(self, stop: asyncio.Event) -> None:
        """Look after the subscription itself until `stop`."""
        while not stop.is_set():
            if self._given is not None and not self.secret_at_server:
                self._life.check()
            action = self._life.take_link()
            match action:
                case None:
                    await self._idle(stop, self._life.link_wake)
                case CheckStatus():
                    await self._check()
                case Restore() | Create():
                    await self._establish("restore" if isinstance(action, Restore) else "create")
                case _:
                    assert_never(action)

    async def read(self, sink: Sink, stop: asyncio.Event) -> None:
        """Fetch and read again until `stop`; one thing at a time."""
        while not stop.is_set():
            fetch = self._life.take_fetch()
            if fetch is not None:
                await self._fetch(sink, fetch)
            elif (reread := self._life.take_reread()) is not None:
                await self._reread(sink, reread)
            else:
                await self._idle(stop, self._life.read_wake)

    async def read_anew(self) -> None:
        """Return once everything has been read again, by a reading that had not begun at the call. The caller bounds it."""
        wanted = self._rereads_begun + 1
        async with self._reread_ended:
            while self._last_whole_reread < wanted:
                self._life.read_again()
                await self._reread_ended.wait()

    async def _idle(self, stop: asyncio.Event, wake: asyncio.Event) -> None:
        waits = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(wake.wait())}
        _, pending = await asyncio.wait(waits, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED)
        for each in pending:
            each.cancel()
        wake.clear()

    # -- the subscription

    async def _check(self) -> None:
        asked_at, own = self._clock(), self._life.subscription
        if own is None:
            self._life.status(SubscriptionStatus.ABSENT, None, asked_at, asked_at)
            return
        found = await self._server.subscription(own)
        if isinstance(found, Failed):
            self._said("check", "failed")
        elif isinstance(found, Gone) or endpoint_of(found) != self._plan.wanted.endpoint:
            self._said("check", "absent")
            self._life.status(SubscriptionStatus.ABSENT, None, asked_at, self._clock())
        elif not self._is_as_wanted(found):
            await self._put(own, "restore")
        else:
            status = status_of(found.get("status"))
            count = await self._count(own) if status is SubscriptionStatus.ACTIVE else None
            self._said("check", "done")
            self._life.status(status, count, asked_at, self._clock())

    async def _count(self, own: str) -> int | None:
        """Events since the start as `$status` tells them; None at a server without it, which is asked once."""
        if not self._tells_status:
            return None
        told = await self._server.status(own)
        if isinstance(told, Notification):
            return told.events_since_start
        self._tells_status = isinstance(told, Failed) and told.passing
        self._said("status", "failed" if self._tells_status else "unsupported")
        return None

    def _is_as_wanted(self, found: Body) -> bool:
        """Whether it asks for what we want. A server that hides the secret, or leaves out what it can't do, is known by what it
        showed after we had put it."""
        if agrees(found, self._plan.wanted, self._secret.current()):
            self._given = self._secret.current()
            return True
        if not self.secret_at_server:
            return False
        if self._shown_after_put is None:
            self._shown_after_put = asked_for(found)
        return self._shown_after_put == asked_for(found)

    async def _establish(self, what: str) -> None:
        """Adopt the subscription to our endpoint, or make one, and end all others to it. See `oldest_first`."""
        found = await self._server.subscriptions_to(self._plan.wanted.endpoint)
        if isinstance(found, Failed):
            if not found.is_refusal:
                self._said(what, "failed")
                return
            found = ()  # a server that doesn't let us search may still let us create
        ours = oldest_first(found, self._plan.wanted.endpoint)
        if not ours:
            await self._create()
            return
        first, *others = ours
        await self._end(others)
        if status_of(first.get("status")) is SubscriptionStatus.ACTIVE and self._is_as_wanted(first):
            self._said(what, "done")
            self._life.created(first["id"], SubscriptionStatus.ACTIVE, self._clock(), adopted=True)
        else:
            await self._put(first["id"], what)

    async def _create(self) -> None:
        secret, endpoint = self._secret.current(), self._plan.wanted.endpoint
        made = await self._server.create(subscription_body(self._plan.wanted, secret), urlencode({"url": endpoint}))
        if isinstance(made, Failed):
            self._said("create", "failed" if made.passing else "unsupported")
            return
        await self._audit.note(self._plan.feed, "subscription.created", made)
        self._given, self._shown_after_put = secret, None
        # Another instance may have made one in the same moment: both keep the same one.
        found = await self._server.subscriptions_to(endpoint)
        ours = [] if isinstance(found, Failed) else oldest_first(found, endpoint)
        kept = ours[0]["id"] if ours else made
        await self._end(ours[1:])
        self._said("create", "done")
        self._life.created(kept, SubscriptionStatus.REQUESTED, self._clock(), adopted=kept != made)

    async def _put(self, own: str, what: str) -> None:
        """Ask for what is wanted, and for activation."""
        secret = self._secret.current()
        done = await self._server.put(own, subscription_body(self._plan.wanted, secret))
        if done is None:
            await self._audit.note(self._plan.feed, "subscription.put", own)
            self._given, self._shown_after_put = secret, None
            self._life.created(own, SubscriptionStatus.REQUESTED, self._clock(), adopted=True)
        elif isinstance(done, Gone):
            self._life.status(SubscriptionStatus.ABSENT, None, self._clock(), self._clock())
        self._said(what, "done" if done is None else "failed")

    async def _end(self, others: Sequence[Body]) -> None:
        """Switch off what also sends to our endpoint: everything would come twice. Nothing is deleted."""
        for each in others:
            if each.get("status") != SubscriptionStatus.OFF.value:
                done = await self._server.put(each["id"], {**each, "status": SubscriptionStatus.OFF.value})
                if done is None:
                    await self._audit.note(self._plan.feed, "subscription.off", each["id"])

    # -- what was missed

    async def _fetch(self, sink: Sink, action: Fetch) -> None:
        own = self._life.subscription
        content = "full-resource" if self._plan.wanted.content == "full-resource" else "id-only"
        told = await self._server.events(own, action.first, action.last, content) if own is not None else Gone()
        if not isinstance(told, Notification):
            if isinstance(told, Gone):
                # The subscription is gone, or the operation was never there: who looks at the one sees, and the gap, asked
                # for in vain, is read again.
                self._said("fetch", "absent")
                self._life.check()
            elif told.is_refusal:
                self._life.watch = dataclasses.replace(self._life.watch, fetches=False)
                self._said("fetch", "unsupported")
                self._life.tick(self._clock())
            else:
                self._said("fetch", "failed")
            return
        filled = await self._reading.fill(told.events, told.others or {})
        whole = isinstance(filled, Filled) and not filled.pointless and not filled.stale
        if isinstance(filled, Failed) or not whole or not await self._landed(sink, filled):
            self._said("fetch", "failed")
            return
        self._said("fetch", "done")
        self._life.fetched(action, told.numbers, told.made_at, self._clock())

    async def _landed(self, sink: Sink, filled: Filled) -> bool:
        for _ in range(filled.gone):
            self._landing.gone("fetched")
        answer = await self._landing.read(sink, [*filled.notified, *filled.read], filled.known, "fetched")
        return isinstance(answer, Taken) and not filled.broken

    async def _reread(self, sink: Sink, action: ReRead) -> None:
        self._rereads_begun += 1
        started_at, took = self._clock(), Took.ALL
        taker = _Rereader(sink, self._reading, self._landing)
        for search in self._plan.searches:
            took = min(took, await self._reading.changed(search, action.since, taker))
            if took is Took.STOPPED:
                break
        if took is not Took.ALL:
            self._said("reread", "failed")
            return
        self._said("reread", "done")
        self._life.reread(action, started_at, self._clock())
        async with self._reread_ended:
            self._last_whole_reread = self._rereads_begun
            self._reread_ended.notify_all()

    def _said(self, what: str, result: str) -> None:
        self._observer.asked(self._plan.feed, what, result)


@dataclass(frozen=True, slots=True)
class _Rereader:
    """Lands what was read again (`reading.Taker`)."""

    sink: Sink
    reading: Reading
    landing: Landing

    def is_durable(self, resource: Body) -> bool:
        """See `Taker`."""
        return self.landing.is_recent(resource)

    async def take(self, resources: Sequence[Body]) -> Took:
        """Land one page; what is durable already costs no more questions."""
        fresh = [each for each in resources if not self.is_durable(each)]
        known: dict[str, Body] = {}
        referred = await self.reading.refer(fresh, known)
        if isinstance(referred, Failed):
            return Took.STOPPED
        ready, broken = referred.ready, referred.broken
        took = Took.ALL if referred.alone is None else Took.SOME
        if not ready:
            return took
        return min(took, await self._tried(lambda: self.landing.read(self.sink, ready, known, "reread", broken)))

    async def leave_out(self, resource: Body, broken: Broken) -> Took:
        """See `Taker`."""
        return await self._tried(lambda: self.landing.left_out(self.sink, resource, broken))

    async def _tried(self, land: Callable[[], Awaitable[Answer]]) -> Took:
        for _ in range(LAND_TRIES):
            if isinstance(await land(), Taken):
                return Took.ALL
            await asyncio.sleep(LAND_PAUSE_S)
        return Took.STOPPED
