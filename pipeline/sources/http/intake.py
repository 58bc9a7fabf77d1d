"""From a request to a stored message: who asks, whether there is room, what the body says, and what is answered."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec
from starlette.requests import ClientDisconnect, Request

from pipeline.domain.event import Event
from pipeline.domain.identifiers import EventId, Millis
from pipeline.formats.json_density import is_too_dense
from pipeline.formats.json_events import IDEMPOTENCY_KEY_MAX_CHARS, Client, Invalid, parse_event
from pipeline.formats.json_members import Doubled, decode
from pipeline.formats.json_shapes import Rule
from pipeline.sources.errors import Oversize
from pipeline.sources.http.answers import batch_answer, event_answer, status_of_answer
from pipeline.sources.http.problems import (
    BAD_KEY,
    HEADERS_OF_401,
    INVALID,
    KEY_REUSED,
    TOO_LARGE,
    TOO_MANY,
    TOO_SLOW,
    UNAUTHORISED,
    UNAVAILABLE,
    UNSUPPORTED,
    Problem,
    Refusal,
    of_invalid,
    retry_later,
)
from pipeline.sources.http.tracker import Tracker
from pipeline.sources.protocol import OtherContent, RawMessage, Repeated, Sink, Stored, Unavailable
from pipeline.sources.shares import Denied, Shares

CHANNEL: Final = "http"
CONTENT_TYPE: Final = "application/json"
BODY_TIMEOUT_S: Final = 15.0
"""Longest time for a body to arrive."""
DISCARD_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of a refused body that are read and thrown away."""
DISCARD_S: Final = 2.0
"""Longest time for that."""
RETRY_AFTER_S: Final = 1.0
TOKEN_MAX_CHARS: Final = 1024

_KEY: Final = re.compile(rf"[\x20-\x7e]{{1,{IDEMPOTENCY_KEY_MAX_CHARS}}}")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """A client and the SHA-256 of its token."""

    client: Client
    token_digest: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the API; see `HttpSettings`."""

    max_body_bytes: int
    max_batch_items: int
    max_requests: int
    max_bytes_in_flight: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A body to send, ready encoded, with its status."""

    status: int
    body: bytes


class Admission:
    """Room for requests and for the bytes of their bodies; each is shared among the clients that ask for it."""

    def __init__(self, limits: Limits, pressure: Callable[[], float]) -> None:
        self._requests: Shares[Client] = Shares(limits.max_requests)
        self._bytes: Shares[Client] = Shares(limits.max_bytes_in_flight)
        self._pressure = pressure
        self._reading: set[asyncio.Timeout] = set()
        self.draining = False
        """Whether no more is taken."""

    def drain(self) -> None:
        """Take no more. What has not arrived whole is refused at once: its sender is to send it elsewhere."""
        self.draining = True
        for bound in self._reading:
            bound.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Within it a body is read; `Refusal` where that takes too long or the drain begins."""
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S) as bound:
                self._reading.add(bound)
                try:
                    yield
                finally:
                    self._reading.discard(bound)
        except TimeoutError:
            raise _stopping() if self.draining else _too_slow() from None

    @property
    def requests(self) -> int:
        """Requests under way."""
        return self._requests.held

    @property
    def held_bytes(self) -> int:
        """Bytes of their bodies, as announced until they have arrived."""
        return self._bytes.held

    @contextmanager
    def room(self, client: Client, expected_bytes: int) -> "Iterator[Place]":
        """Holds room for one request; `Refusal` with 429 or 503 where there is none."""
        if self.draining:
            raise _stopping()
        pressure = self._pressure()
        denied = self._requests.denied(client, 1, pressure) or self._bytes.denied(client, expected_bytes, pressure)
        if denied is Denied.FULL:
            raise Refusal(retry_later(UNAVAILABLE, RETRY_AFTER_S, "too many requests are under way"))
        if denied is Denied.SHARE:
            raise Refusal(retry_later(TOO_MANY, RETRY_AFTER_S, "this client has too many requests or bytes under way"))
        place = Place(self._requests, self._bytes, client, expected_bytes)
        try:
            yield place
        finally:
            place.leave()


class Place:
    """The room of one request."""

    def __init__(self, requests: Shares[Client], held_bytes: Shares[Client], client: Client, expected_bytes: int) -> None:
        self._requests, self._bytes, self._client, self._held = requests, held_bytes, client, expected_bytes
        requests.take(client, 1)
        held_bytes.take(client, expected_bytes)

    def arrived(self, size: int) -> None:
        """The body has arrived and is so large: what was kept for more is free again."""
        self._bytes.give(self._client, self._held - size)
        self._held = size

    def leave(self) -> None:
        """The request is over."""
        self._bytes.give(self._client, self._held)
        self._requests.give(self._client, 1)


class Intake:
    """Takes events in. Every failure is a `Refusal`; an `Answer` means that all it accepts is durable."""

    def __init__(
        self,
        sink: Sink,
        credentials: Sequence[Credential],
        limits: Limits,
        tracker: Tracker,
        clock: Callable[[], Millis],
    ) -> None:
        self._sink = sink
        self._credentials = tuple(credentials)
        self._limits = limits
        self._tracker = tracker
        self._clock = clock
        self.admission = Admission(limits, sink.pressure)

    def client_of(self, request: Request) -> Client:
        """Client whose token the request bears. Compares with every client's digest, in constant time each."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip()[:TOKEN_MAX_CHARS].encode("latin-1", "replace")).digest()
        found: Client | None = None
        for credential in self._credentials:
            if hmac.compare_digest(digest, credential.token_digest):
                found = credential.client
        if found is None or scheme.lower() != "bearer":
            raise Refusal(Problem(UNAUTHORISED, "send Authorization: Bearer with the client's token", headers=HEADERS_OF_401))
        return found

    def pressure(self) -> float:
        """How full the way to the broker is."""
        return self._sink.pressure()

    async def take_event(self, request: Request) -> Answer:
        """One event."""
        client = self.client_of(request)
        with self.admission.room(client, _expected_bytes(request, self._limits)) as place:
            body, key, received_at = await self._body(request, place)
            event = parse_event(_decoded(body), client=client, idempotency_key=key, item=0, received_at=received_at)
            if isinstance(event, Invalid):
                raise Refusal(of_invalid(event))
            events = _traced([event], request)
            return await self._store(
                client, key, body, events, msgspec.json.encode(event_answer(event.event_id)), received_at, ""
            )

    async def take_batch(self, request: Request) -> Answer:
        """Several events, each judged by itself; what is well-formed is taken in together."""
        client = self.client_of(request)
        with self.admission.room(client, _expected_bytes(request, self._limits)) as place:
            body, key, received_at = await self._body(request, place)
            events, status, encoded = self._judged(body, client, key, received_at)
            if not events:
                return Answer(status, encoded)
            return await self._store(client, key, body, _traced(events, request), encoded, received_at, "/events")

    def _judged(self, body: bytes, client: Client, key: str, received_at: Millis) -> tuple[list[Event], int, bytes]:
        """Events of a batch, and status and body of its answer. What the body decodes to, many times its size, ends here."""
        items = self._items(_decoded(body))
        parsed = [
            parse_event(item, client=client, idempotency_key=key, item=place, received_at=received_at)
            for place, item in enumerate(items)
        ]
        results = _results(parsed, items)
        answer = batch_answer([each if isinstance(each, Problem) else each.event_id for each in results])
        return [each for each in results if isinstance(each, Event)], answer.status, msgspec.json.encode(answer)

    def _items(self, document: object) -> list[object]:
        if type(document) is Doubled and document.name == "events":
            raise Refusal(_invalid("/events", Rule.COUNT, "give this member once, with all events in its array"))
        if type(document) is not dict or set(document) != {"events"} or type(document["events"]) is not list:
            raise Refusal(_invalid("", Rule.WRONG_TYPE, 'give an object with one member, "events", an array'))
        items: list[object] = document["events"]
        if not 1 <= len(items) <= self._limits.max_batch_items:
            raise Refusal(_invalid("/events", Rule.COUNT, f"give 1 to {self._limits.max_batch_items} events"))
        return items

    async def _body(self, request: Request, place: Place) -> tuple[bytes, str, Millis]:
        _check_media_type(request.headers)
        key = _idempotency_key(request)
        if self._sink.pressure() >= 1.0:
            raise Refusal(retry_later(UNAVAILABLE, RETRY_AFTER_S, "the way to the broker is full"))
        received_at = self._clock()
        async with self.admission.reading():
            body = await _read(request, self._limits.max_body_bytes)
        place.arrived(len(body))
        return body, key, received_at

    async def _store(
        self, client: Client, key: str, body: bytes, events: Sequence[Event], answer: bytes, received_at: Millis, within: str
    ) -> Answer:
        raw = RawMessage(CHANNEL, identity_of(client, key), body, CONTENT_TYPE, received_at)
        try:
            receipted = await self._sink.accept(raw, events, answer)
        except Oversize as oversize:
            place = None if oversize.item is None else f"{within}/{oversize.item}" if within else ""
            raise Refusal(
                Problem(TOO_LARGE, f"send less than {oversize.limit_bytes} bytes", field=place, rule="oversize")
            ) from None
        match receipted:
            case Stored():
                for event in events:
                    self._tracker.note_received(client.tenant, event.event_id, received_at)
                return Answer(status_of_answer(receipted.answer), receipted.answer)
            case Repeated():
                return Answer(status_of_answer(receipted.answer), receipted.answer)
            case OtherContent():
                raise Refusal(Problem(KEY_REUSED, "send a new key with a new body, and the same body with the same key"))
            case Unavailable():
                raise Refusal(retry_later(UNAVAILABLE, receipted.retry_after_s, "the broker did not take it"))
            case unknown:
                assert_never(unknown)


def identity_of(client: Client, key: str) -> str:
    """What names a request: digest of tenant, client and key, each prefixed by its length."""
    digest = hashlib.sha256()
    for part in (CHANNEL, client.tenant, client.name, key):
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()


def _results(parsed: Sequence[Event | Invalid], items: Sequence[object]) -> list[Event | Problem]:
    """Each item's event or problem; of items with one id, only the first counts."""
    seen: set[EventId] = set()
    results: list[Event | Problem] = []
    for place, each in enumerate(parsed):
        if isinstance(each, Invalid):
            results.append(of_invalid(each, f"/events/{place}"))
        elif each.event_id in seen:
            results.append(
                _invalid(f"/events/{place}/idempotency_key", Rule.REPEATED_KEY, "give it another key, or leave it out")
            )
        else:
            seen.add(each.event_id)
            results.append(each)
    return results


def _invalid(field: str, rule: Rule, remedy: str) -> Problem:
    return Problem(INVALID, remedy, rule.doc, field, rule.value)


def _check_media_type(headers: Mapping[str, str]) -> None:
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower()
    plain = headers.get("content-encoding", "identity").strip().lower() == "identity"
    if media_type.strip().lower() != CONTENT_TYPE or charset not in ("", "charset=utf-8", 'charset="utf-8"') or not plain:
        raise Refusal(Problem(UNSUPPORTED, "send Content-Type: application/json, in UTF-8 and not compressed"))


def _idempotency_key(request: Request) -> str:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) != 1 or _KEY.fullmatch(keys[0].strip()) is None:
        raise Refusal(Problem(BAD_KEY, "add one Idempotency-Key that no other body was or will be sent with", field=None))
    return keys[0].strip()


def _expected_bytes(request: Request, limits: Limits) -> int:
    length = request.headers.get("content-length")
    if length is None:
        return limits.max_body_bytes
    if not length.isdecimal() or int(length[:20]) > limits.max_body_bytes:
        raise Refusal(_too_large(limits.max_body_bytes))
    return int(length)


async def _read(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise Refusal(_too_large(limit))
            chunks.append(chunk)
    except ClientDisconnect:
        raise _too_slow() from None
    return b"".join(chunks)


async def discard(request: Request) -> None:
    """Read on over what is left of a refused body, within two bounds.

    A connection that is closed while the sender still writes is reset, and the sender never sees why it was refused.
    """
    left = DISCARD_BYTES
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it was read to its end
        async with asyncio.timeout(DISCARD_S):
            async for chunk in request.stream():
                left -= len(chunk)
                if left < 0:
                    return


def _stopping() -> Refusal:
    return Refusal(retry_later(UNAVAILABLE, RETRY_AFTER_S, "this instance is stopping", ends_connection=True))


def _too_slow() -> Refusal:
    return Refusal(Problem(TOO_SLOW, "send the whole body at once"))


def _too_large(limit: int) -> Problem:
    return Problem(TOO_LARGE, f"send at most {limit} bytes")


def _decoded(body: bytes) -> object:
    if is_too_dense(body):
        raise Refusal(_invalid("", Rule.COUNT, "send fewer members in one body"))
    try:
        return decode(body)
    except (ValueError, RecursionError):
        raise Refusal(_invalid("", Rule.NOT_JSON, "send one JSON value in UTF-8, without a byte order mark")) from None


def _traced(events: list[Event], request: Request) -> list[Event]:
    """The events with the request's W3C trace id, where they have none of their own."""
    match = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    if match is None:
        return events
    return [each if each.trace_id else msgspec.structs.replace(each, trace_id=match[1]) for each in events]
