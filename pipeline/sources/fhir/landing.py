"""Resources of a FHIR server to durable events: mapped, named, and given to the sink with the bytes that they came in."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.fhir.codec import MAX_BODY_BYTES, canonical, encode
from pipeline.formats.fhir.inbound_verdict import Ignored, Mapped, Rejected, Verdict
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.references import own_name
from pipeline.sources.errors import Oversize
from pipeline.sources.fhir.resource import MEDIA_TYPE
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Sink, Stored, Unavailable

MAX_RECENT: Final = 20_000
"""Versions of resources remembered as landed, so that what is read again is not published again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """All is durable."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Nothing was promised; again after `after_s`. `problem` is one of a bounded set of names."""

    problem: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """It will never be taken."""

    problem: str


Answer = Taken | NotTaken | Refused


class Mapper(Protocol):
    """Resources to events (`pipeline.formats.fhir.inbound`)."""

    def needed(self, resource: Body, known: Mapping[str, Body]) -> Sequence[str]:
        """`Type/id` of what it refers to and what has to be read before it can be mapped."""
        ...

    def events(self, resource: Body, known: Mapping[str, Body], received_at: Millis) -> Verdict:
        """`known`: resources that references may lead to, by `Type/id`."""
        ...


class LandingObserver(Protocol):
    """What metrics are told of resources; never patient data."""

    def resource(self, feed: str, way: str, result: str) -> None:
        """One resource came by `way` and was mapped, ignored, rejected or gone."""
        ...


@dataclass(slots=True)
class _Batch:
    """What some resources make, in their order."""

    events: list[Event] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class Landing:
    """Lands resources of one feed."""

    def __init__(
        self,
        feed: str,
        tenant: str,
        server: str,
        mapper: Mapper,
        clock: Callable[[], Millis],
        observer: LandingObserver,
        max_recent: int = MAX_RECENT,
    ) -> None:
        self._feed = feed
        self._names = (tenant, "fhir", server)
        self._mapper = mapper
        self._clock = clock
        self._observer = observer
        self._max_recent = max_recent
        self._recent: OrderedDict[str, None] = OrderedDict()

    def is_recent(self, resource: Body) -> bool:
        """Whether this very version is durable already. A resource without a version never is."""
        name = version_of(resource)
        return name is not None and name in self._recent

    async def notification(
        self, sink: Sink, data: bytes, resources: Sequence[Body], known: Mapping[str, Body], broken: Sequence[Broken]
    ) -> Answer:
        """Land what a notification holds, under its own bytes. One that holds nothing is kept all the same."""
        now = self._clock()
        batch = self._batch(resources, known, "notified", now)
        self._reject(batch, broken, "notified")
        return await self._accept(sink, data, batch, resources, now)

    async def read(
        self, sink: Sink, resources: Sequence[Body], known: Mapping[str, Body], way: str, broken: Sequence[Broken] = ()
    ) -> Answer:
        """Land what was read at the server, without what is durable already, in this order. `way`: read, fetched, reread.

        What makes neither an event nor a fault (our own echo, a type that says nothing here) is not kept. `broken`: what of
        them could not be read.
        """
        fresh = [resource for resource in resources if not self.is_recent(resource)]
        now = self._clock()
        batch = self._batch(fresh, known, way, now)
        self._reject(batch, broken, way)
        if not batch.events and not batch.broken:
            self._remember(fresh)
            return Taken()
        body = (
            fresh[0]
            if len(fresh) == 1
            else {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": each} for each in fresh]}
        )
        try:
            return await self._accept(sink, encode(body), batch, fresh, now)
        except Oversize:
            return await self._smaller(sink, fresh, known, way, broken)

    async def left_out(self, sink: Sink, resource: Body, broken: Broken) -> Answer:
        """Keep in quarantine that a resource, of which id and meta are known, could not be read.

        One that is too large counts as durable until it changes; another one may be readable the next time it is met.
        """
        self._observer.resource(self._feed, "reread", "rejected")
        answer = await self._by_name(sink, resource, [broken])
        if isinstance(answer, Taken) and broken.reason is Reason.OVERSIZE:
            self._remember([resource])
        return answer

    def gone(self, way: str) -> None:
        """A resource that was spoken of is not there any more: it makes no event."""
        self._observer.resource(self._feed, way, "gone")

    def _batch(self, resources: Iterable[Body], known: Mapping[str, Body], way: str, now: Millis) -> _Batch:
        batch = _Batch()
        seen: set[tuple[str, str]] = set()
        for resource in resources:
            name = version_of(resource) or hashlib.sha256(canonical(resource)).hexdigest()
            batch.names.append(name)
            verdict = self._mapper.events(resource, known, now)
            match verdict:
                case Mapped(events):
                    fresh = [event for event in events if (event.event_id, event.content_hash) not in seen]
                    seen |= {(event.event_id, event.content_hash) for event in fresh}
                    batch.events += fresh
                    # Part of the message's identity: once a mapping was corrected, the same version is taken again.
                    batch.names += [event.event_id for event in fresh]
                    self._observer.resource(self._feed, way, "mapped")
                case Ignored():
                    self._observer.resource(self._feed, way, "ignored")
                case Rejected(reason, place, rule, remedy):
                    batch.names.append(reason.value)
                    batch.broken.append(Broken(Reason.BAD_RESOURCE, place, f"{reason.value}: {rule}", remedy, encode(resource)))
                    self._observer.resource(self._feed, way, "rejected")
                case unknown:
                    assert_never(unknown)
        return batch

    def _reject(self, batch: _Batch, broken: Iterable[Broken], way: str) -> None:
        """Add what could not even be mapped."""
        for each in broken:
            batch.broken.append(each)
            self._observer.resource(self._feed, way, "rejected")

    async def _accept(self, sink: Sink, data: bytes, batch: _Batch, resources: Sequence[Body], now: Millis) -> Answer:
        batch.names += [part.reason.value for part in batch.broken]
        identity = _digest(*self._names, *(batch.names or [hashlib.sha256(data).hexdigest()]))
        receipted = await self._offer(sink, identity, data, batch, now)
        if isinstance(receipted, OtherContent):
            # A server sends the same again in another envelope. Whether what is in it is the same, the gate will tell: a
            # repeat it finds by its id, and other content under a known id it shows as a conflict.
            again = _digest(identity, hashlib.sha256(data).hexdigest())
            receipted = await self._offer(sink, again, data, batch, now)
        match receipted:
            case Stored() | Repeated():
                self._remember(resources)
                return Taken()
            case OtherContent():
                return Refused("OTHER_CONTENT")
            case Unavailable(after_s):
                return NotTaken("UNAVAILABLE", after_s)
            case unknown:
                assert_never(unknown)

    async def _offer(self, sink: Sink, identity: str, data: bytes, batch: _Batch, now: Millis) -> Receipted:
        """Give it to the sink; an event that is too large is quarantined in place of being landed."""
        raw = RawMessage("fhir", identity, data, MEDIA_TYPE, now)
        for _ in range(len(batch.events) + 1):
            try:
                if batch.broken:
                    return await sink.accept(raw, batch.events, b"", batch.broken)
                return await sink.accept(raw, batch.events, b"")
            except Oversize as large:
                if large.item is None:
                    raise
                del batch.events[large.item]
                batch.broken.append(_too_large(b""))
        raise AssertionError("each turn takes one event away")

    async def _smaller(
        self, sink: Sink, resources: Sequence[Body], known: Mapping[str, Body], way: str, broken: Sequence[Broken]
    ) -> Answer:
        """What is too large in one piece goes in halves; one resource that is too large by itself goes to quarantine by name."""
        if len(resources) > 1:
            middle = len(resources) // 2
            first = await self.read(sink, resources[:middle], known, way, broken)
            return first if not isinstance(first, Taken) else await self.read(sink, resources[middle:], known, way)
        answer = await self._by_name(sink, resources[0], [_too_large(_name_of(resources[0])), *broken])
        if isinstance(answer, Taken):
            self._remember(resources)
        return answer

    async def _by_name(self, sink: Sink, resource: Body, broken: list[Broken]) -> Answer:
        """What is broken about a resource, with its name in place of its bytes."""
        name = _name_of(resource)
        return await self._accept(sink, name, _Batch(broken=broken, names=[hashlib.sha256(name).hexdigest()]), (), self._clock())

    def _remember(self, resources: Iterable[Body]) -> None:
        for resource in resources:
            if (name := version_of(resource)) is not None:
                self._recent[name] = None
                self._recent.move_to_end(name)
        while len(self._recent) > self._max_recent:
            self._recent.popitem(last=False)


def version_of(resource: Body) -> str | None:
    """`Type/id/version`, and its time: a server set back to a backup counts versions anew. None where it tells no version."""
    name, meta = own_name(resource), resource.get("meta")
    version = meta.get("versionId") if isinstance(meta, dict) else None
    if name is None or not isinstance(meta, dict) or not isinstance(version, str) or not version:
        return None
    return f"{name}/{version}@{meta.get('lastUpdated')}"


def unreadable(reference: str) -> Broken:
    """The server spoke of a resource and does not let us read it."""
    return Broken(
        Reason.BAD_RESOURCE,
        reference.partition("/")[0],
        "UNREADABLE: what a notification speaks of can be read",
        "let our client read this type at the server; then the next change of the resource is taken",
        reference.encode(),
    )


def failing(reference: str) -> Broken:
    """The server spoke of a resource, fails to show it again and again, and shows others."""
    return Broken(
        Reason.BAD_RESOURCE,
        reference.partition("/")[0],
        "FAILING: what the server speaks of it can show, as it shows other resources of the type",
        "find out at the server why it fails for this resource; then the next change of it is taken",
        reference.encode(),
    )


def too_large_to_read(reference: str) -> Broken:
    """The server spoke of a resource that is larger than an answer may be."""
    return Broken(
        Reason.OVERSIZE,
        reference.partition("/")[0],
        f"TOO_LARGE: an answer of the server has at most {MAX_BODY_BYTES // 2**20} MiB",
        "make the resource smaller at the server, e.g. without its picture; then its next change is taken",
        reference.encode(),
    )


def _name_of(resource: Body) -> bytes:
    return (version_of(resource) or own_name(resource) or "").encode()


def no_notification(reason: str, place: str, rule: str, data: bytes) -> Broken:
    """A body that is JSON and no notification."""
    return Broken(
        Reason.BAD_RESOURCE,
        place or None,
        f"{reason}: {rule}",
        "compare the server's version and channel with the feed's settings",
        data,
    )


def _too_large(part: bytes) -> Broken:
    return Broken(Reason.OVERSIZE, None, "a resource fits a record", "make the resource smaller at the server", part)


def _digest(*parts: str) -> str:
    """Each part with its length before it, so that no two lists look alike."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
