"""What the modules for one resource have in common: a map from a state to owned paths, and what a resource shows of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from pipeline.domain.event import EntityType
from pipeline.formats.fhir.naming import Ident, Naming, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Owned, elements
from pipeline.formats.fhir.times import same_moment


@dataclass(frozen=True, slots=True)
class ResourceMap:
    """One entity type's resource.

    `desired` gives every owned path that the state speaks of (a field left UNSET touches nothing, None clears); it looks
    at the current resource only to keep what already says the same. `shown` gives each field as a resource shows it, in
    a form in which equal means equal. `created` is what a new resource has to hold besides.
    """

    entity_type: EntityType
    resource_type: str
    desired: Callable[[Any, Ident, Naming, Body], tuple[Owned, ...]]
    shown: Callable[[Body, Ident, Naming], dict[str, Json]]
    created: Callable[[Any], Body]


def identifier_of(field: str, ident: Ident) -> Owned:
    """Our identifier, among the resource's others."""
    return Owned(field, ("identifier", identifier_member(ident), "value"), ident.value)


def identifier_member(ident: Ident) -> Member:
    """The identifier that is exactly this one."""
    return Member((("system", ident.system), ("value", ident.value)))


def carries(body: Body, ident: Ident) -> bool:
    """Whether the resource carries the identifier."""
    return any(identifier_member(ident).matches(element) for element in elements(body, "identifier"))


def extension(field: str, url: str, kind: str, value: Json) -> tuple[Owned, ...]:
    """A simple extension `url` with `value[kind]`; nothing for UNSET, cleared by None."""
    if value is UNSET:
        return ()
    body = None if value is None or value == "" else {"url": url, "value" + kind: value}
    return (Owned(field, ("extension", Member((("url", url),))), body),)


def composite(field: str, url: str, parts: Mapping[str, tuple[str, Json]] | None) -> tuple[Owned, ...]:
    """An extension of several parts, replaced as a whole; None clears it."""
    if parts is None:
        return (Owned(field, ("extension", Member((("url", url),))), None),)
    inner = [{"url": name, "value" + kind: value} for name, (kind, value) in parts.items() if value is not None and value != ""]
    return (Owned(field, ("extension", Member((("url", url),))), {"url": url, "extension": inner}),)


def shown_extension(body: Body, url: str) -> Json:
    """An extension's value, or its parts by name, comparable."""
    found = next((element for element in elements(body, "extension") if element.get("url") == url), None)
    if found is None:
        return None
    inner = elements(found, "extension")
    return {str(part.get("url")): _value(part) for part in inner} if inner else _value(found)


def text(value: str | None) -> str | None:
    """A string for FHIR, which knows no empty ones."""
    return value.strip() or None if value else None


def code(value: str | None) -> str | None:
    """A code for FHIR: no blanks at its ends, none doubled."""
    return " ".join(value.split()) or None if value else None


def _value(element: Body) -> Json:
    value = next((value for name, value in element.items() if name.startswith("value")), None)
    return referenced(value) if isinstance(value, dict) else same_moment(value)
