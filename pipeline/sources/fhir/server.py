"""What a feed asks of its FHIR server, each answer a value. Nothing is tried twice here; who asks decides when to ask again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote, urlencode

from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.codec import encode
from pipeline.formats.fhir.links import below
from pipeline.formats.fhir.notification import Kind, Malformed, Notification, parse
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.fhir.times import same_moment
from pipeline.formats.rfc3339 import in_calendar, rfc3339_of

PAGE_COUNT: Final = 100
"""Resources asked for in one page of a search."""
MAX_SUBSCRIPTION_PAGES: Final = 20
"""Pages looked at for our own subscription, where a server ignores the search parameter."""
NAME_ELEMENTS: Final = "id,meta"
"""Of a resource that is only to be named, with its version and the time of its change."""
IDENTIFYING_ELEMENTS: Final = "identifier"
"""Of a resource that is only referred to."""

_JSON: Final = {"Accept": "application/fhir+json", "Cache-Control": "no-cache"}
_JSON_BODY: Final = {**_JSON, "Content-Type": "application/fhir+json"}
_UNSEARCHABLE: Final = frozenset({400, 412, 422, 501})
_GONE: Final = frozenset({404, 410})
_PASSING: Final = frozenset({0, 401, 408, 425, 429, 500, 502, 503, 504})
"""Answers that say nothing against the question; 0 is none at all. A 401 may be a token that is just being renewed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's whole answer; status 0 where none came in time. `body` is None for an empty one and for one that is no JSON.

    `too_large`: there was more of it than is read, so that nothing but the status is known.
    """

    status: int
    body: Body | None = None
    location: str | None = None
    retry_after_s: float = 0.0
    too_large: bool = False

    def __repr__(self) -> str:
        return f"Reply({self.status}, <redacted>)"


class Exchange(Protocol):
    """One request to the server, authorised, within a bound of its own. Never raises for what a server or a network can do."""

    async def __call__(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """`target` is relative to the FHIR base."""
        ...


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such thing at the server, or not any more (404, 410)."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No use could be made of the answer. `passing`: asking again later may help; not before `retry_after_s`.

    `too_large`: asking for less may help.
    """

    status: int
    passing: bool
    retry_after_s: float = 0.0
    too_large: bool = False

    @property
    def is_refusal(self) -> bool:
        """Whether the server says no to the question."""
        return not self.passing and not self.too_large


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what a search found, and the target of the next page."""

    resources: tuple[Body, ...]
    next_target: str | None

    def __repr__(self) -> str:
        return f"Page({len(self.resources)} resources)"


class FhirServer:
    """One FHIR server. `base_url` is where it is reached, without a slash at its end."""

    def __init__(self, base_url: str, exchange: Exchange) -> None:
        self.base_url: Final = base_url.rstrip("/")
        self._exchange = exchange

    async def read(self, reference: str) -> Body | Gone | Failed:
        """The resource at `Type/id` as it is now."""
        reply = await self._exchange("GET", _quoted(reference), _JSON, None)
        return _resource(reply, reference.partition("/")[0])

    async def identified(self, reference: str) -> Body | Gone | Failed:
        """The identifiers of the resource at `Type/id`, and little else; a server without `_elements` sends the whole."""
        reply = await self._exchange("GET", f"{_quoted(reference)}?_elements={IDENTIFYING_ELEMENTS}", _JSON, None)
        return _resource(reply, reference.partition("/")[0])

    async def first_page(self, search: str, since: Millis, count: int = PAGE_COUNT, names_only: bool = False) -> Page | Failed:
        """Oldest change first: what `search` (`Type` or `Type?a=b`) finds that was changed at `since` or later.

        `names_only`: of each resource its id and meta; a server without `_elements` refuses that, or sends the whole.
        """
        joint = "&" if "?" in search else "?"
        terms: dict[str, str | int] = {"_lastUpdated": f"ge{rfc3339_of(max(since, 0))}", "_sort": "_lastUpdated", "_count": count}
        if names_only:
            terms["_elements"] = NAME_ELEMENTS
        return await self.page(f"{search}{joint}{urlencode(terms, safe=':,')}")

    async def page(self, target: str) -> Page | Failed:
        """One page of a search; the target of the next is taken from its link, and its address never."""
        reply = await self._exchange("GET", target, _JSON, None)
        if reply.status != 200 or reply.body is None or reply.body.get("resourceType") != "Bundle":
            return _failed(reply)
        found = tuple(
            resource
            for entry in elements(reply.body, "entry")
            if _is_match(entry) and isinstance(resource := entry.get("resource"), dict)
        )
        links = [link for link in elements(reply.body, "link") if link.get("relation") == "next"]
        url = links[0].get("url") if links else None
        if url is None:
            return Page(found, None)
        following = self.target_of(url) if isinstance(url, str) else None
        return Page(found, following) if following is not None else Failed(reply.status, passing=False)

    def target_of(self, url: str) -> str | None:
        """See `below`."""
        return below(self.base_url, url)

    async def subscriptions_to(self, endpoint: str) -> Sequence[Body] | Failed:
        """Every subscription that a search for our endpoint finds; all that there are, where a server ignores or refuses it."""
        found = await self._all("Subscription?" + urlencode({"url": endpoint, "_count": PAGE_COUNT}, safe=":/"))
        if isinstance(found, Failed) and found.is_refusal:
            found = await self._all("Subscription?" + urlencode({"_count": PAGE_COUNT}))
        return found

    async def _all(self, first: str) -> Sequence[Body] | Failed:
        target: str | None = first
        found: list[Body] = []
        for _ in range(MAX_SUBSCRIPTION_PAGES):
            assert target is not None
            page = await self.page(target)
            if isinstance(page, Failed):
                return page
            found += page.resources
            if (target := page.next_target) is None:
                break
        return found

    async def create(self, body: Body, unless: str) -> str | Failed:
        """Id of a new subscription, or of the one that the search `unless` finds, where the server knows If-None-Exist.

        One that refuses such a search is asked without it: its callers look for doubles afterwards anyhow.
        """
        reply = await self._exchange("POST", "Subscription", {**_JSON_BODY, "If-None-Exist": unless}, encode(body))
        if reply.status in _UNSEARCHABLE:
            reply = await self._exchange("POST", "Subscription", _JSON_BODY, encode(body))
        if reply.status not in (200, 201):
            return _failed(reply)
        found = reply.body.get("id") if reply.body is not None else None
        if isinstance(found, str):
            return found
        parts = (reply.location or "").split("/")
        named = parts[parts.index("Subscription") + 1 :] if "Subscription" in parts else []
        return named[0] if named and named[0] else Failed(reply.status, passing=False)

    async def put(self, subscription_id: str, body: Body) -> Gone | Failed | None:
        """Put a subscription in the place of the one with this id; None once that is done."""
        target = f"Subscription/{_quoted(subscription_id)}"
        reply = await self._exchange("PUT", target, _JSON_BODY, encode({**body, "id": subscription_id}))
        if reply.status in (200, 201):
            return None
        return Gone() if reply.status in _GONE else _failed(reply)

    async def subscription(self, subscription_id: str) -> Body | Gone | Failed:
        """The Subscription as it is now."""
        reply = await self._exchange("GET", f"Subscription/{_quoted(subscription_id)}", _JSON, None)
        return _resource(reply, "Subscription")

    async def status(self, subscription_id: str) -> Notification | Gone | Failed:
        """`$status` of one subscription; not every server has it."""
        return await self._asked(f"Subscription/{_quoted(subscription_id)}/$status")

    async def events(self, subscription_id: str, first: int, last: int, content: str) -> Notification | Gone | Failed:
        """`$events` of one subscription, both numbers included; not every server has it, and it may send fewer than asked for."""
        terms = urlencode({"eventsSinceNumber": first, "eventsUntilNumber": last, "content": content})
        return await self._asked(f"Subscription/{_quoted(subscription_id)}/$events?{terms}")

    async def _asked(self, target: str) -> Notification | Gone | Failed:
        reply = await self._exchange("GET", target, _JSON, None)
        if reply.status in _GONE:
            return Gone()
        if reply.status != 200 or reply.body is None:
            return _failed(reply)
        parsed = parse(reply.body)
        if isinstance(parsed, Malformed) or parsed.kind is Kind.CLASSIC:  # a bare resource, e.g. an OperationOutcome
            return Failed(reply.status, passing=False)
        return parsed


def _resource(reply: Reply, resource_type: str) -> Body | Gone | Failed:
    if reply.status in _GONE:
        return Gone()
    if reply.status == 200 and reply.body is not None and reply.body.get("resourceType") == resource_type:
        return reply.body
    return _failed(reply)


def _failed(reply: Reply) -> Failed:
    """A 200 that is not what was asked for may come from something on the way; asking again may help."""
    passing = not reply.too_large and (reply.status in _PASSING or reply.status == 200)
    return Failed(reply.status, passing, reply.retry_after_s, reply.too_large)


def _is_match(entry: Body) -> bool:
    search = entry.get("search")
    return not isinstance(search, dict) or search.get("mode", "match") == "match"


def _quoted(reference: str) -> str:
    return quote(reference, safe="/")


def last_updated(resource: Body) -> Millis | None:
    """When the server last changed it; None where it doesn't say, or says a time outside of the years 1 to 9999 of UTC."""
    meta = resource.get("meta")
    moment = same_moment(meta.get("lastUpdated")) if isinstance(meta, dict) else None
    return in_calendar(moment) if isinstance(moment, int) else None
