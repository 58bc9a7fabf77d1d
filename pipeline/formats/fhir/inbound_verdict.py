"""What becomes of a resource that a server sent us: mapped, ignored by name, or rejected with a reason, a rule and a remedy."""

from dataclasses import dataclass
from typing import Literal

from pipeline.domain.event import Described, Event

FhirVersion = Literal["R4", "R4B", "R5"]


class RejectedBecause(Described):
    """Why a resource is rejected; bounded, because it is a metric label."""

    NOT_A_RESOURCE = "NOT_A_RESOURCE", "the body is no resource with a type"
    MISSING_ELEMENT = "MISSING_ELEMENT", "an element that decides is missing"
    WRONG_TYPE = "WRONG_TYPE", "an element has another JSON type than the standard gives it"
    BAD_VALUE = "BAD_VALUE", "a value is not of its data type"
    UNKNOWN_CODE = "UNKNOWN_CODE", "a code is not in its value set"
    TOO_LONG = "TOO_LONG", "a value is longer than an event takes over"
    TOO_MANY = "TOO_MANY", "more elements than an event takes over"
    WRONG_TARGET = "WRONG_TARGET", "a reference leads to another type of resource than the standard allows there"
    UNRESOLVED = "UNRESOLVED", "a reference whose target is not known by an identifier that the profile names"
    AMBIGUOUS_IDENTITY = "AMBIGUOUS_IDENTITY", "none or several of its identifiers name it under the profile"
    CONTRADICTION = "CONTRADICTION", "two elements can't both be true"


class IgnoredBecause(Described):
    """Why a resource makes no event."""

    ECHO = "ECHO", "it shows what we wrote, and nothing else"
    NOT_MAPPED = "NOT_MAPPED", "resources of this type say nothing about capacity here"
    NOT_A_BED = "NOT_A_BED", "a Location that is no single bed"
    NOT_A_PERSON = "NOT_A_PERSON", "it is about a group, a device or a place"
    NOTHING_STATED = "NOTHING_STATED", "no element that is mapped is stated"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a resource comes from.

    `server` is the EHR's name: the source system of its events, as the ownership policy knows it, and the first part of
    their identity. `facility` stands in where a place doesn't say which.
    """

    tenant: str
    facility: str
    server: str
    feed: str
    version: FhirVersion = "R4"


@dataclass(frozen=True, slots=True)
class Mapped:
    """The events that the resource makes, in the order in which they are to be published: a bed is vacated before another
    is taken.

    `unread` names elements that are left unsaid, because what they hold is not known here.
    """

    events: tuple[Event, ...]
    unread: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Mapped({len(self.events)} events)"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A resource that makes no event; `detail` is its type at most."""

    reason: IgnoredBecause
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A resource that can't be mapped. No part holds a value of it: `field` is a path such as `Encounter.subject`."""

    reason: RejectedBecause
    field: str
    rule: str
    remedy: str


Verdict = Mapped | Ignored | Rejected


class Refusal(Exception):
    """A resource, or an element of it, breaks a rule; `events_of` makes a verdict of it."""

    def __init__(self, reason: RejectedBecause, path: str, rule: str, remedy: str) -> None:
        super().__init__(reason.value)
        self.rejected = Rejected(reason, path, rule, remedy)


class Ignorable(Exception):
    """A resource that makes no event, found out while it is read."""

    def __init__(self, reason: IgnoredBecause) -> None:
        super().__init__(reason.value)
        self.reason = reason
