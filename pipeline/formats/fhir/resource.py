"""What the modules for one resource have in common: a map from a state to owned paths, and what a resource shows of them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from pipeline.domain.event import EntityType
from pipeline.formats.fhir.naming import Ident, Naming, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Owned, Path, elements, value_at
from pipeline.formats.fhir.times import same_moment
from pipeline.formats.rfc3339 import rfc3339_of


@dataclass(frozen=True, slots=True)
class ResourceMap:
    """One entity type's resource.

    `desired` gives every owned path that the state speaks of (a field left UNSET touches nothing, None clears); it looks
    at the current resource only to keep what already says the same. `shown` gives each field as a resource shows it, in
    a form in which equal means equal. `created` is what a new resource has to hold besides. A new resource gets the fields
    in `structural` whatever the profile lets out later: it could not do without. Fields that are `entangled` show in the same
    elements: writing one of them may change what another shows.
    """

    entity_type: EntityType
    resource_type: str
    desired: Callable[[Any, Ident, Naming, Body], tuple[Owned, ...]]
    shown: Callable[[Body, Ident, Naming], dict[str, Json]]
    created: Callable[[Any, Naming], Body]
    structural: frozenset[str] = frozenset({"identifier"})
    entangled: frozenset[str] = frozenset()


def identifier_of(field: str, ident: Ident) -> Owned:
    """Our identifier, among the resource's others."""
    return Owned(field, ("identifier", identifier_member(ident), "value"), ident.value)


def identifier_member(ident: Ident) -> Member:
    """The identifier that is exactly this one."""
    return Member((("system", ident.system), ("value", ident.value)))


def carries(body: Body, ident: Ident) -> bool:
    """Whether the resource carries the identifier."""
    return any(identifier_member(ident).matches(element) for element in elements(body, "identifier"))


def names_another(body: Body, ident: Ident) -> bool:
    """Whether the resource carries an identifier of the same system with another value: then it is another entity's."""
    return any(
        element.get("system") == ident.system and element.get("value") not in (None, ident.value)
        for element in elements(body, "identifier")
    )


def moment(field: str, path: Path, value: Json) -> tuple[Owned, ...]:
    """A dateTime or instant; nothing for UNSET, cleared by None."""
    return () if value is UNSET else (Owned(field, path, rfc3339_of(value) if value is not None else None),)


def reference(field: str, path: Path, entity_type: EntityType, value: Json, naming: Naming, current: Body) -> tuple[Owned, ...]:
    """A logical reference; one that points there already is kept as it is, with what the server or others added to it."""
    if value is UNSET:
        return ()
    if value is None:
        return (Owned(field, path, None),)
    wanted, kept = naming.reference(entity_type, value), value_at(current, path)
    return (Owned(field, path, kept if referenced(kept) == referenced(wanted) else wanted),)


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


def urn_of(ident: Ident) -> str:
    """Stable `urn:uuid` of what is named so, for use within one transaction (UUID of version 8: from a digest)."""
    digits = hashlib.blake2b(ident.token().encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"urn:uuid:{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


def text(value: str | None) -> str | None:
    """A string for FHIR, which knows no empty ones."""
    return value.strip() or None if value else None


def code(value: str | None) -> str | None:
    """A code for FHIR: no blanks at its ends, none doubled."""
    return " ".join(value.split()) or None if value else None


def _value(element: Body) -> Json:
    value = next((value for name, value in element.items() if name.startswith("value")), None)
    return referenced(value) if isinstance(value, dict) else same_moment(value)
