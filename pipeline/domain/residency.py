"""Whether data of a tenant may leave for a place: its region is one of the tenant's, its purpose one that was agreed to. Pure."""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.domain.records import Reason


class Rule(enum.StrEnum):
    """The rule by which data stays. The value is what people read."""

    NO_RULES = "nothing says where the tenant's data may go"
    NOT_MEANT = "the place is not meant for this tenant"
    REGION = "the place's region is none of the tenant's"
    PURPOSE = "the tenant does not agree to the place's purpose"

    @property
    def reason(self) -> Reason:
        """What is told of a write that is refused by it."""
        return Reason.NO_CONSENT if self is Rule.PURPOSE else Reason.RESIDENCY


@dataclass(frozen=True, slots=True)
class Agreed:
    """Where the data of one tenant may be, and what for."""

    regions: frozenset[str]
    purposes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where data would go: a destination, or a partner that files are sent to. `tenants` empty: all that have rules are meant."""

    region: str | None
    purpose: str | None
    tenants: Collection[str] = ()


class Borders:
    """Rules of all tenants. Without any nothing is held back; once there are rules, a tenant without goes nowhere."""

    def __init__(self, agreed: Mapping[str, Agreed]) -> None:
        self._agreed = dict(agreed)

    @property
    def are_drawn(self) -> bool:
        """Whether there are rules at all."""
        return bool(self._agreed)

    def refuses(self, tenant: str, place: Place) -> Rule | None:
        """The rule by which the tenant's data may not go there; None where it may."""
        if not self._agreed:
            return None
        rules = self._agreed.get(tenant)
        if rules is None:
            return Rule.NO_RULES
        if place.tenants and tenant not in place.tenants:
            return Rule.NOT_MEANT
        if place.region is None or place.region not in rules.regions:
            return Rule.REGION
        return None if place.purpose is not None and place.purpose in rules.purposes else Rule.PURPOSE

    def meant(self, place: Place) -> tuple[str, ...]:
        """Tenants whose data a place is to get."""
        return tuple(place.tenants or sorted(self._agreed))
