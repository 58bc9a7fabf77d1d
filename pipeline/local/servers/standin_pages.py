"""The searches of the stand-in EHR that go by pages, as FHIR R4 has them: `_count`, `_lastUpdated=ge…`, a link to the next page.

What a search found is remembered when its first page is asked for; a resource is shown as it is when its page is. So what is
made meanwhile is not on any page, and what is gone is missing from its own.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from pipeline.formats.rfc3339 import millis_of

Body = dict[str, Any]
MAX_SEARCHES: Final = 32
"""Searches whose next page may still be asked for, the latest."""
DEFAULT_COUNT: Final = 100
MAX_COUNT: Final = 1_000


class Shelf(Protocol):
    """Resources by `type/id`, each with its version, and when each version was made."""

    resources: dict[str, tuple[int, Body]]
    shown: dict[str, list[tuple[int, int]]]


class Pages:
    """Searches under way."""

    def __init__(self, shelf: Callable[[], Shelf]) -> None:
        self._shelf = shelf
        self._found: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._numbers = itertools.count(1)

    def page(self, base: str, resource_type: str, query: Mapping[str, str]) -> Body:
        """A searchset; an empty one for a page of a search that is remembered no more."""
        count = min(MAX_COUNT, int(query.get("_count", DEFAULT_COUNT)))
        search, start = query.get("_search"), int(query.get("_from", 0))
        if search is None:
            search = str(next(self._numbers))
            self._found[search] = self._all(resource_type, query.get("_lastUpdated"))
            while len(self._found) > MAX_SEARCHES:
                self._found.popitem(last=False)
        found = self._found.get(search, ())
        keys = found[start : start + count]
        bundle: Body = {"resourceType": "Bundle", "type": "searchset", "total": len(found)}
        bundle["entry"] = [{"resource": body} for key in keys if (body := self._body(key)) is not None]
        if start + count < len(found):
            following = f"{base}/{resource_type}?_count={count}&_search={search}&_from={start + count}"
            bundle["link"] = [{"relation": "next", "url": following}]
        return bundle

    def count(self, resource_type: str) -> int:
        """How many there are of a type."""
        return len(self._all(resource_type, None))

    def every(self, resource_type: str) -> list[Body]:
        """All resources of a type as they are now."""
        return [body for key in self._all(resource_type, None) if (body := self._body(key)) is not None]

    def _all(self, resource_type: str, changed: str | None) -> tuple[str, ...]:
        shelf = self._shelf()
        since = millis_of(changed.removeprefix("ge")) if changed is not None else None
        start = f"{resource_type}/"
        found = [key for key in shelf.resources if key.startswith(start) and (since is None or self._at(key) >= since)]
        return tuple(sorted(found, key=self._at) if since is not None else found)

    def _body(self, key: str) -> Body | None:
        _, body = self._shelf().resources.get(key, (0, None))
        if body is None:
            return None
        at = datetime.fromtimestamp(self._at(key) / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {**body, "meta": {"lastUpdated": at, **body["meta"]}}

    def _at(self, key: str) -> int:
        versions = self._shelf().shown.get(key)
        return versions[-1][1] if versions else 0


def tokens_of(text: str) -> list[str]:
    """At commas that no backslash stands before; what is escaped stays so."""
    tokens, escaped = [""], False
    for character in text:
        if character == "," and not escaped:
            tokens.append("")
        else:
            tokens[-1] += character
        escaped = character == "\\" and not escaped
    return tokens


def parts_of(token: str) -> tuple[str, str]:
    """System and value; a backslash keeps the character after it."""
    parts, escaped = [""], False
    for character in token:
        if character == "|" and not escaped:
            parts.append("")
        elif escaped or character != "\\":
            parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts[0], parts[-1]
