"""What a notification leaves out, and what changed since a time: read at the server, each answer a value."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.notification import NotifiedEvent
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.references import own_name
from pipeline.sources.fhir.landing import unreadable
from pipeline.sources.fhir.server import Failed, FhirServer, Gone, Page, last_updated
from pipeline.sources.protocol import Broken

MAX_READS: Final = 8
"""Resources read at once for one feed."""
MAX_REFERENCES: Final = 50
"""References of one resource that are followed."""
KNOWN_MS: Final = 300_000
"""How long a resource that is referred to is known without being read again: identifiers hardly change."""
MAX_KNOWN: Final = 5_000
"""Resources that are referred to and kept."""
STALE_MS: Final = 5_000
"""A resource that is so much older than the event that speaks of it was read at a place that lags behind."""
MAX_PAGES: Final = 10_000
"""Pages of one search; more than a hospital changes in any time that may have been missed."""
PAGE_TRIES: Final = 4
"""How often one page is asked for."""
PAGE_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 30.0
"""Between two tries of a page: what the server asks for, within these."""


@dataclass(slots=True)
class Filled:
    """A notification's events with what was read. `pointless` is set where an event doesn't say what it is about.

    `stale`: what was read is older than the event that spoke of it, so it has to be read again.
    """

    notified: list[Body] = field(default_factory=list)
    read: list[Body] = field(default_factory=list)
    known: dict[str, Body] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    gone: int = 0
    pointless: bool = False
    stale: bool = False


class Reading:
    """Reads at one server for one feed."""

    def __init__(
        self,
        server: FhirServer,
        needed: Callable[[Body, Mapping[str, Body]], Sequence[str]],
        clock: Callable[[], Millis],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`needed` gives `Type/id` of what a resource refers to and what is not among the known ones."""
        self._server = server
        self._needed = needed
        self._clock = clock
        self._pause = pause
        self._slots = asyncio.Semaphore(MAX_READS)
        self._known: OrderedDict[str, tuple[Millis, Body]] = OrderedDict()

    async def fill(self, events: Sequence[NotifiedEvent], others: Mapping[str, Body]) -> Filled | Failed:
        """Read each focus that came without its resource, once, and what all of them refer to. Failed: try all again later."""
        filled = Filled(known=dict(others))
        filled.notified = [event.resource for event in events if event.resource is not None]
        filled.gone = sum(event.deleted for event in events)
        filled.pointless = any(event.focus is None and event.resource is None for event in events)
        wanted = {event.focus: event for event in events if event.focus and event.resource is None and not event.deleted}
        answers = await asyncio.gather(*(self._read(reference) for reference in wanted))
        for (reference, event), answer in zip(wanted.items(), answers, strict=True):
            if isinstance(answer, Failed):
                if answer.passing:
                    return answer
                filled.broken.append(unreadable(reference))
            elif isinstance(answer, Gone):
                filled.gone += 1
            else:
                filled.read.append(answer)
                filled.stale = filled.stale or _is_older(answer, event.at)
        failed = await self.refer([*filled.notified, *filled.read], filled.known)
        return filled if failed is None else failed

    async def refer(self, resources: Sequence[Body], known: dict[str, Body]) -> Failed | None:
        """Add to `known` what the resources refer to, as far as the server shows it; Failed where it may do so later."""
        known |= {name: each for each in resources if (name := own_name(each)) is not None}
        missing = {name for each in resources for name in self._needed(each, known)[:MAX_REFERENCES]}
        fresh = self._clock() - KNOWN_MS
        asked = []
        for name in missing:
            at, body = self._known.get(name, (Millis(0), {}))
            if at <= fresh:
                asked.append(name)
            else:
                known[name] = body
        answers = await asyncio.gather(*(self._read(name) for name in asked))
        for name, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Failed):
                if answer.passing:
                    return answer
            elif not isinstance(answer, Gone):
                known[name] = answer
                self._keep(name, answer)
        return None

    async def changed(self, search: str, since: Millis, take: Callable[[Sequence[Body]], Awaitable[bool]]) -> bool:
        """Hand everything to `take` that the search finds and that changed at `since` or later; False where it ended early.

        Oldest change first, and a page begins at the last time of the page before, not at a count: a resource that is
        changed meanwhile moves to the end, and a count would pass over the one that takes its place. Where a server doesn't
        sort, or more than a page has one time, its own links are followed.
        """
        page = await self._tried(lambda: self._server.first_page(search, since))
        for _ in range(MAX_PAGES):
            if page is None:
                return False
            if page.resources and not await take(page.resources):
                return False
            target = page.next_target
            if target is None:
                return True
            newest = _newest_if_sorted(page.resources)
            if newest is not None and newest > since:
                since = newest
                page = await self._tried(lambda start=since: self._server.first_page(search, start))  # type: ignore[misc]
            else:
                page = await self._tried(lambda link=target: self._server.page(link))  # type: ignore[misc]
        return False

    async def _tried(self, ask: Callable[[], Awaitable[Page | Failed]]) -> Page | None:
        for tried in range(PAGE_TRIES):
            answer = await ask()
            if isinstance(answer, Page):
                return answer
            if not answer.passing or tried == PAGE_TRIES - 1:
                return None
            await self._pause(min(max(answer.retry_after_s, PAGE_PAUSE_S), MAX_PAUSE_S))
        return None

    async def _read(self, reference: str) -> Body | Gone | Failed:
        async with self._slots:
            return await self._server.read(reference)

    def _keep(self, name: str, body: Body) -> None:
        self._known[name] = self._clock(), body
        self._known.move_to_end(name)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def _newest_if_sorted(resources: Sequence[Body]) -> Millis | None:
    """The last time of a page whose times never fall; None where they do, or one is missing."""
    times = [last_updated(each) for each in resources]
    known = [at for at in times if at is not None]
    return known[-1] if known and len(known) == len(times) and known == sorted(known) else None


def _is_older(resource: Body, event_at: Millis | None) -> bool:
    at = last_updated(resource)
    return event_at is not None and at is not None and at < event_at - STALE_MS
