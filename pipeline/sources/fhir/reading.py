"""What a notification leaves out, and what changed since a time: read at the server, each answer a value.

What a server can't give in one piece is asked for in smaller ones, and what it can't show at all is left out by name: one
resource holds back nothing but itself and what refers to it.
"""

import asyncio
import enum
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.notification import NotifiedEvent
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.references import own_name
from pipeline.sources.fhir.landing import failing, too_large_to_read, unreadable
from pipeline.sources.fhir.patience import BUSY, OWN_FAULTS, Patience, type_of
from pipeline.sources.fhir.server import PAGE_COUNT, Failed, FhirServer, Gone, Page, last_updated
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


_IDENTIFYING: Final[tuple[str, ...]] = ("resourceType", "id", "identifier")
"""What references need of a resource."""


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


@dataclass(frozen=True, slots=True)
class Alone:
    """The server fails to show this resource and shows others of its type: what needs it waits, and nothing else does."""

    failed: Failed


Found = Body | Gone | Failed | Alone | Broken
"""What came of reading a resource by name; Broken for one that failed alone for so long that it is given up."""


@dataclass(frozen=True, slots=True)
class Referred:
    """`ready`: those of the resources for which nothing that they refer to has to be waited for; `alone` is what the others
    wait for. `broken`: what is referred to and was given up."""

    ready: tuple[Body, ...]
    broken: tuple[Broken, ...]
    alone: Failed | None


class Took(enum.IntEnum):
    """How much of what was found is durable, the least first."""

    STOPPED = 0
    """The server or the broker is away, or says no: there is no use in going on now."""
    SOME = 1
    """All but resources that the server fails to show alone, and what refers to them: the others can be read on."""
    ALL = 2


class Taker(Protocol):
    """Makes durable what a search finds."""

    def is_durable(self, resource: Body) -> bool:
        """Whether this version is durable already; its id and meta are enough to tell."""
        ...

    async def take(self, resources: Sequence[Body]) -> Took:
        """Resources as the server shows them."""
        ...

    async def leave_out(self, resource: Body, broken: Broken) -> Took:
        """A resource that the server doesn't show, known by id and meta."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a search is read: from a time on, or by the link of a page from there; `count` resources at once."""

    since: Millis
    count: int = PAGE_COUNT
    names_only: bool = False
    link: str | None = None

    def after(self, page: Page) -> "_Place":
        """Where to go on: at the last time of the page, else by its own link."""
        newest = _newest_if_sorted(page.resources)
        if newest is not None and newest > self.since:
            return _Place(newest, self.count)
        return replace(self, link=page.next_target)


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
        self._patience = Patience()
        self._has_elements = True
        """Whether the server tells names alone, as far as is known."""

    # -- by name

    async def fill(self, events: Sequence[NotifiedEvent], others: Mapping[str, Body]) -> Filled | Failed:
        """Read each focus that came without its resource, once, and what all of them refer to. Failed: try all again later."""
        filled = Filled(known=dict(others))
        filled.notified = [event.resource for event in events if event.resource is not None]
        filled.gone = sum(event.deleted for event in events)
        filled.pointless = any(event.focus is None and event.resource is None for event in events)
        wanted = {event.focus: event for event in events if event.focus and event.resource is None and not event.deleted}
        answers = await self._each(wanted)
        for reference, event in wanted.items():
            match answers[reference]:
                case Alone(failed):
                    return failed
                case Failed() as failed if failed.passing:
                    return failed
                case Failed() as failed:
                    filled.broken.append(_left_out(reference, failed))
                case Broken() as broken:
                    filled.broken.append(broken)
                case Gone():
                    filled.gone += 1
                case body:
                    filled.read.append(body)
                    filled.stale = filled.stale or _is_older(body, event.at)
        referred = await self.refer([*filled.notified, *filled.read], filled.known)
        if isinstance(referred, Failed):
            return referred
        filled.broken += referred.broken
        return filled if referred.alone is None else referred.alone

    async def refer(self, resources: Sequence[Body], known: dict[str, Body]) -> Referred | Failed:
        """Add to `known` what the resources refer to, as far as the server shows it; Failed where it may do so later."""
        known |= {name: each for each in resources if (name := own_name(each)) is not None}
        needs = [(each, frozenset(self._needed(each, known)[:MAX_REFERENCES])) for each in resources]
        answers = await self._each(self._unknown({name for _, names in needs for name in names}, known))
        broken: list[Broken] = []
        waits: dict[str, Failed] = {}
        for name, answer in answers.items():
            if isinstance(answer, Failed) and answer.too_large:
                answer = await self._identified(name)
            match answer:
                case Failed() if answer.passing:
                    return answer
                case Alone(failed):
                    waits[name] = failed
                case Broken():
                    broken.append(answer)
                case Failed() | Gone():
                    pass  # what refers to it is mapped without it, or refused by its own rule
                case _:
                    known[name] = answer
                    self._keep(name, answer)
        ready = tuple(each for each, names in needs if names.isdisjoint(waits))
        return Referred(ready, tuple(broken), next(iter(waits.values()), None))

    def _unknown(self, names: Iterable[str], known: dict[str, Body]) -> list[str]:
        """Those that have to be read; the others are added to `known`."""
        fresh = self._clock() - KNOWN_MS
        unknown = []
        for name in names:
            at, body = self._known.get(name, (Millis(0), {}))
            if at <= fresh:
                unknown.append(name)
            else:
                known[name] = body
        return unknown

    async def _identified(self, name: str) -> Body | Gone | Failed | Broken:
        """A resource that is too large, as far as references need it. The server was there a moment ago: a fault is its own."""
        answer = await self._server.identified(name)
        return too_large_to_read(name) if _is_own_fault(answer) or _is_final(answer) else answer

    async def _each(self, names: Iterable[str]) -> dict[str, Found]:
        """Read each. Failed, passing: the server, or all of the type; not passing: it says no, or the answer is too large."""
        asked = list(names)
        answers = await self._shown(asked)
        served = await self._served(answers)
        return {name: self._judged(name, answer, type_of(name) in served) for name, answer in answers.items()}

    def _judged(self, name: str, answer: Body | Gone | Failed, is_served: bool) -> Found:
        if not isinstance(answer, Failed) or not _is_doubtful(answer) or not is_served:
            return answer
        over = _is_own_fault(answer) and self._patience.is_over(name, self._clock())
        return failing(name) if over else Alone(answer)

    async def _served(self, answers: Mapping[str, Body | Gone | Failed]) -> set[str]:
        """Types of which the server shows resources in this moment. Of one of which some failed and none was shown, one more
        is asked for that it showed before."""
        served = {type_of(name) for name, answer in answers.items() if isinstance(answer, dict)}
        doubtful = {type_of(name) for name, answer in answers.items() if _is_doubtful(answer)} - served
        witnesses = [name for kind in doubtful if (name := self._patience.witness(kind, answers)) is not None]
        shown = await self._shown(witnesses)
        return served | {type_of(name) for name, answer in shown.items() if isinstance(answer, dict)}

    async def _shown(self, names: Sequence[str]) -> dict[str, Body | Gone | Failed]:
        answers = dict(zip(names, await asyncio.gather(*map(self._read, names)), strict=True))
        for name, answer in answers.items():
            if isinstance(answer, dict):
                self._patience.shown(name)
            elif isinstance(answer, Gone) or _is_final(answer):
                self._patience.absent(name)
        return answers

    async def _read(self, reference: str) -> Body | Gone | Failed:
        async with self._slots:
            return await self._server.read(reference)

    def _keep(self, name: str, body: Body) -> None:
        identifying = {part: body[part] for part in _IDENTIFYING if part in body}  # not its picture, 5,000 times
        self._known[name] = self._clock(), identifying
        self._known.move_to_end(name)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    # -- by time

    async def changed(self, search: str, since: Millis, taker: Taker) -> Took:
        """Hand everything to `taker` that the search finds and that changed at `since` or later.

        Oldest change first, and a page begins at the last time of the page before, not at a count: a resource that is
        changed meanwhile moves to the end, and a count would pass over the one that takes its place. Where a server doesn't
        sort, or more than a page has one time, its own links are followed. A page that can't be had is asked for otherwise.
        """
        place, took = _Place(since), Took.ALL
        for _ in range(MAX_PAGES):
            page = await self._tried(search, place)
            if isinstance(page, Failed):
                otherwise = self._otherwise(place, page)
                if otherwise is None:
                    return Took.STOPPED
                place = otherwise
                continue
            took = min(took, await self._taken(page, place, taker))
            if took is Took.STOPPED or page.next_target is None:
                return took
            place = place.after(page)
        return Took.STOPPED

    async def _tried(self, search: str, place: _Place) -> Page | Failed:
        answer = await self._page(search, place)
        for _ in range(PAGE_TRIES - 1):
            if isinstance(answer, Page) or not answer.passing:
                break
            await self._pause(min(max(answer.retry_after_s, PAGE_PAUSE_S), MAX_PAUSE_S))
            answer = await self._page(search, place)
        return answer

    async def _page(self, search: str, place: _Place) -> Page | Failed:
        if place.link is not None:
            return await self._server.page(place.link)
        return await self._server.first_page(search, place.since, place.count, place.names_only)

    def _otherwise(self, place: _Place, failed: Failed) -> _Place | None:
        """How else to ask for a page that can't be had: by names, and each resource by itself; where the server tells no names,
        for fewer at once. It begins anew at the page's time: what is durable by then is passed over. None: not now.
        """
        if place.names_only:
            if failed.passing or (failed.is_refusal and place.link is not None):
                return None
            self._has_elements = False
        elif self._has_elements and (failed.too_large or _is_own_fault(failed)):
            return _Place(place.since, place.count, names_only=True)
        elif not failed.too_large:
            return None
        return _Place(place.since, place.count // 2) if place.count > 1 else None

    async def _taken(self, page: Page, place: _Place, taker: Taker) -> Took:
        for name in map(own_name, page.resources[-2:]):
            if name is not None:
                self._patience.spoken_of(name)
        if not place.names_only:
            return await taker.take(page.resources) if page.resources else Took.ALL
        took, fresh = Took.ALL, [each for each in page.resources if not taker.is_durable(each)]
        for start in range(0, len(fresh), MAX_READS):  # more at once would be more than a page may be
            took = min(took, await self._taken_by_name(fresh[start : start + MAX_READS], taker))
            if took is Took.STOPPED:
                break
        return took

    async def _taken_by_name(self, listed: Sequence[Body], taker: Taker) -> Took:
        """Read each of these by its name, and take them; one that the server can't show is left out."""
        named = {own_name(each): each for each in listed}
        took = Took.ALL
        whole: list[Body] = []
        for name, answer in (await self._each(name for name in named if name is not None)).items():
            match answer:
                case Failed() if answer.passing:
                    return Took.STOPPED
                case Failed():
                    took = min(took, await taker.leave_out(named[name], _left_out(name, answer)))
                case Broken():
                    took = min(took, await taker.leave_out(named[name], answer))
                case Alone():
                    took = min(took, Took.SOME)
                case Gone():
                    pass  # since it was listed
                case body if _is_behind(body, named[name]):
                    took = min(took, Took.SOME)
                case body:
                    whole.append(body)
        took = Took.STOPPED if None in named else took  # nobody can say what that would be
        return min(took, await taker.take(whole)) if whole else took


def _is_final(answer: Body | Gone | Failed) -> bool:
    """Whether asking again would not help."""
    return isinstance(answer, Failed) and not answer.passing


def _is_own_fault(answer: Body | Gone | Failed) -> bool:
    """Whether a failure may be about what was asked for, and for good."""
    return isinstance(answer, Failed) and answer.passing and answer.status in OWN_FAULTS


def _is_doubtful(answer: Body | Gone | Failed) -> bool:
    """Whether a failure may be about the resource that was asked for alone, and not about the server."""
    return isinstance(answer, Failed) and answer.passing and answer.status in OWN_FAULTS | BUSY


def _left_out(reference: str, failed: Failed) -> Broken:
    return too_large_to_read(reference) if failed.too_large else unreadable(reference)


def _newest_if_sorted(resources: Sequence[Body]) -> Millis | None:
    """The last time of a page whose times never fall; None where they do, or one is missing."""
    times = [last_updated(each) for each in resources]
    known = [at for at in times if at is not None]
    return known[-1] if known and len(known) == len(times) and known == sorted(known) else None


def _is_older(resource: Body, event_at: Millis | None) -> bool:
    at = last_updated(resource)
    return event_at is not None and at is not None and at < event_at - STALE_MS


def _is_behind(resource: Body, listed: Body) -> bool:
    """Whether it was read at a place that lags behind the one that listed it."""
    at, listed_at = last_updated(resource), last_updated(listed)
    return at is not None and listed_at is not None and at < listed_at
