"""Ids of the places around beds, as transactions told them, so that a room is asked for once and not with each of its beds."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from pipeline.destinations.protocol import Request
from pipeline.formats.fhir.naming import Ident
from pipeline.formats.fhir.owned import Body, dotted_value, elements

MAX_PLACES: Final = 4096


class PlaceCache:
    """At most `limit` places, the least recently learnt forgotten first. Lives as long as its process.

    An id may be wrong by now: whoever was refused with one forgets them and asks again.
    """

    def __init__(self, limit: int = MAX_PLACES) -> None:
        self._limit = limit
        self._ids: OrderedDict[Ident, str] = OrderedDict()

    @property
    def known(self) -> Mapping[Ident, str]:
        """Ids by identifier."""
        return self._ids

    def learn(self, ident: Ident, remote_id: str) -> None:
        """Remember a place's id."""
        self._ids[ident] = remote_id
        self._ids.move_to_end(ident)
        while len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def forget_if_used(self, request: Request) -> bool:
        """Forget everything if the request refers to a place that is known here; whether it did.

        Everything, because what surrounds a place that is gone may be gone too, and finding out costs a write each.
        """
        used = any(ident in self._ids for ident in _places_of(request.body))
        if used:
            self._ids.clear()
        return used


def _places_of(body: Body) -> Iterator[Ident]:
    resources = [body, *(entry.get("resource") for entry in elements(body, "entry"))]
    for resource in resources:
        if (ident := ident_in(resource, "partOf.identifier")) is not None:
            yield ident


def ident_in(resource: object, dotted: str) -> Ident | None:
    """The identifier at a place of a resource; None where there is no whole one."""
    system, value = dotted_value(resource, f"{dotted}.system"), dotted_value(resource, f"{dotted}.value")
    return Ident(system, value) if isinstance(system, str) and isinstance(value, str) else None
