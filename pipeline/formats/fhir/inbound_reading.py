"""Reads the elements of one resource strictly: what is of another type, code or form than the standard's is refused. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec import UNSET, UnsetType

from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.forms import FORMS, Form
from pipeline.formats.fhir.inbound_names import Names, is_fit
from pipeline.formats.fhir.inbound_verdict import FhirVersion, Refusal, RejectedBecause
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.rfc3339 import date_exists, millis_of

_T = TypeVar("_T")

MAX_ELEMENTS: Final = 200
"""Most elements of one list that are read."""
MAX_UNREAD: Final = 50
"""How many elements of one resource are named as unread."""
SHOWN_CODES: Final = 12
"""How many codes a rule names."""

_DATE: Final = re.compile(r"(1[89]|20)\d\d(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which fields of a resource are the EHR's word: those that we never wrote into it, and those changed since we did.

    Without a mark of ours in it all of them are. `silent` are fields that we would have written, had we known them, and
    that show what every new resource of ours shows: nobody said them.
    """

    written: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    marked: bool = False

    def counts(self, *fields: str) -> bool:
        """Whether one of the fields is the EHR's word."""
        return any(field in self.changed or not (field in self.written or field in self.silent) for field in fields)


class Reading:
    """One resource under a profile, with the elements that were left unsaid."""

    __slots__ = ("body", "form", "kind", "names", "profile", "recorded_at", "scope", "unread")

    def __init__(self, body: Body, kind: str, names: Names, scope: Scope, version: FhirVersion, recorded_at: Millis) -> None:
        self.body = body
        self.kind = kind
        self.names = names
        self.profile: Profile = names.naming.profile
        self.scope = scope
        self.form: Form = FORMS[version]
        self.recorded_at = recorded_at
        self.unread: list[str] = []

    def __repr__(self) -> str:
        return f"Reading({self.kind}, <redacted>)"

    def not_read(self, path: str) -> UnsetType:
        """Note that the element at this path is left unsaid."""
        if len(self.unread) < MAX_UNREAD and path not in self.unread:
            self.unread.append(path)
        return UNSET

    def objects(self, node: Body, name: str, path: str) -> list[tuple[str, Body]]:
        """Each element of a list with its path."""
        value = node.get(name)
        if value is None:
            return []
        where = f"{path}.{name}"
        if not isinstance(value, list):
            raise wrong_type(where, "a list")
        if len(value) > MAX_ELEMENTS:
            raise Refusal(RejectedBecause.TOO_MANY, where, f"at most {MAX_ELEMENTS} elements are read", "send fewer elements")
        for index, element in enumerate(value):
            if not isinstance(element, dict):
                raise wrong_type(f"{where}[{index}]", "an object")
        return [(f"{where}[{index}]", element) for index, element in enumerate(value)]

    def object(self, node: Body, name: str, path: str) -> Body | None:
        """An element that is an object; None where it is absent."""
        value = node.get(name)
        if value is not None and not isinstance(value, dict):
            raise wrong_type(f"{path}.{name}", "an object")
        return value

    def code(self, node: Body, name: str, path: str, table: Mapping[str, _T]) -> _T | UnsetType:
        """A code of a value set that the standard binds."""
        value = node.get(name)
        if value is None:
            return UNSET
        if not isinstance(value, str):
            raise wrong_type(f"{path}.{name}", "a code")
        if value not in table:
            raise unknown_code(f"{path}.{name}", table)
        return table[value]

    def text(self, node: Body, name: str, path: str) -> str | UnsetType:
        """A text of the resource; one that an event can't take over is left unsaid."""
        value = node.get(name)
        if value is None:
            return UNSET
        if not isinstance(value, str):
            raise wrong_type(f"{path}.{name}", "a string")
        value = value.strip()
        return value if is_fit(value) else self.not_read(f"{path}.{name}")

    def flag(self, node: Body, name: str, path: str) -> bool | UnsetType:
        """True or false."""
        value = node.get(name)
        if value is None:
            return UNSET
        if not isinstance(value, bool):
            raise wrong_type(f"{path}.{name}", "true or false")
        return value

    def time(self, node: Body, name: str, path: str) -> Millis | UnsetType:
        """A dateTime or instant. A bare date is no moment: it is left unsaid."""
        value = node.get(name)
        if value is None:
            return UNSET
        if not isinstance(value, str):
            raise wrong_type(f"{path}.{name}", "a dateTime")
        moment = millis_of(value)
        if moment is not None:
            return moment
        if is_date(value):
            return self.not_read(f"{path}.{name}")
        raise Refusal(
            RejectedBecause.BAD_VALUE,
            f"{path}.{name}",
            "a dateTime with a time has its offset, and exists",
            "write it as 2026-01-31T08:00:00+01:00",
        )

    def date(self, node: Body, name: str, path: str) -> str | UnsetType:
        """A calendar date, or its year or month."""
        value = node.get(name)
        if value is None:
            return UNSET
        if not isinstance(value, str):
            raise wrong_type(f"{path}.{name}", "a date")
        if not is_date(value):
            raise Refusal(
                RejectedBecause.BAD_VALUE,
                f"{path}.{name}",
                "a date is YYYY, YYYY-MM or YYYY-MM-DD, from 1800 on, and exists",
                "write it as 1950-12-31",
            )
        return value

    def coding(self, node: Body, name: str, path: str, system: str) -> str | UnsetType:
        """The code of one system in a CodeableConcept; unsaid where it has none of that system."""
        concept = self.object(node, name, path)
        return UNSET if concept is None else self.concept(concept, f"{path}.{name}", system)

    def concept(self, concept: Body, path: str, system: str) -> str | UnsetType:
        """The code of one system in this CodeableConcept."""
        codings = self.objects(concept, "coding", path)
        for where, coding in codings:
            if coding.get("system") == system:
                return self.text(coding, "code", where)
        return self.not_read(path)


def is_date(text: str) -> bool:
    """Whether this is a FHIR date that exists."""
    return _DATE.fullmatch(text) is not None and date_exists(text)


def wrong_type(path: str, expected: str) -> Refusal:
    """Refusal of an element of another JSON type."""
    return Refusal(RejectedBecause.WRONG_TYPE, path, f"the element is {expected}", "send the resource as the standard writes it")


def unknown_code(path: str, table: Mapping[str, object]) -> Refusal:
    """Refusal of a code that no value set has."""
    names = ", ".join(list(table)[:SHOWN_CODES])
    return Refusal(
        RejectedBecause.UNKNOWN_CODE, path, f"the code is one of {names}", "correct the code at the EHR, or map it in the profile"
    )


def missing(path: str, what: str) -> Refusal:
    """Refusal of a resource without an element that decides."""
    return Refusal(RejectedBecause.MISSING_ELEMENT, path, f"{what} is required", "send the element")
