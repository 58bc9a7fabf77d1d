"""How far the pipeline may write: nothing (shadow), for some (limited), or everything (full).

A rule holds for one tenant, destination and entity type. Limited is full for what is on all of its lists and shadow for
the rest, so that a feed can be let in unit by unit. Pure: where rules come from is the shell's business.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from pipeline.domain.bed import BedStatusCode, status_code
from pipeline.domain.event import (
    Bed,
    Diversion,
    DiversionState,
    DiversionStatus,
    Encounter,
    EncounterStatus,
    EntityType,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Staffing,
    StageState,
    Transfer,
    TransferStage,
)
from pipeline.domain.records import Accepted

UNIT_SEPARATOR: Final = "/"
"""A unit is named FACILITY/UNIT: "ICU" exists at two sites."""

STATUSES: Final[Mapping[EntityType, frozenset[str]]] = {
    EntityType.BED: frozenset(code.value for code in BedStatusCode),
    EntityType.ENCOUNTER: frozenset(status.value for status in EncounterStatus),
    EntityType.TRANSFER: frozenset(stage.value for stage in TransferStage),
    EntityType.DIVERSION: frozenset(status.value for status in DiversionStatus),
    EntityType.PROCEDURE: frozenset(status.value for status in ProcedureStatus),
}
"""What a rule may list as status: of a bed its code of HL7 table 0116, of a transfer its stage, else the status itself."""


class Reach(enum.StrEnum):
    """How far writes go."""

    SHADOW = "shadow"
    LIMITED = "limited"
    FULL = "full"


class BadRule(ValueError):
    """A rule that can't be meant; the text says what is wrong and repeats no more than names of settings."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be written. Each list that is there must hold the entity's own value; LIMITED has at least one."""

    mode: Reach
    facilities: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()

    def allows(self, accepted: Accepted) -> bool:
        """Whether this state is written; an entity that says nothing of what a list is about is not on it."""
        if self.mode is not Reach.LIMITED:
            return self.mode is Reach.FULL
        return self.holds_for(facts_of(accepted))

    def holds_for(self, facts: "Facts") -> bool:
        """As `allows`, of what is known of an entity whose state is not at hand."""
        if self.mode is not Reach.LIMITED:
            return self.mode is Reach.FULL
        unit = f"{facts.facility}{UNIT_SEPARATOR}{facts.unit}" if facts.unit is not None else None
        return (
            (not self.facilities or facts.facility in self.facilities)
            and (not self.units or unit in self.units)
            and (not self.statuses or facts.status in self.statuses)
        )

    @property
    def shown(self) -> str:
        """In one line, the same for equal rules."""
        lists = (("facilities", self.facilities), ("units", self.units), ("statuses", self.statuses))
        return " ".join((self.mode.value, *(f"{name}={','.join(sorted(values))}" for name, values in lists if values)))


SHADOW: Final = Rule(Reach.SHADOW)
"""For whatever the flags leave unsaid: what is not written by mistake can be written later."""

FULL: Final = Rule(Reach.FULL)
"""Where no flags are configured."""


def rule_from(value: Any, entity_type: EntityType | None) -> Rule:
    """A flag's value as a rule for an entity type, None for all types. BadRule with what is wrong."""
    try:
        rule = msgspec.convert(value, Rule)
    except msgspec.ValidationError as error:
        raise BadRule(_where_of(str(error))) from None
    lists = (rule.facilities, rule.units, rule.statuses)
    if rule.mode is Reach.LIMITED and not any(lists):
        raise BadRule("limited without facilities, units or statuses would be full; name at least one list that is not empty")
    if rule.mode is not Reach.LIMITED and any(lists):
        raise BadRule(f"{rule.mode.value} takes no lists; write mode: limited")
    if any(not before or not after for before, _, after in (unit.partition(UNIT_SEPARATOR) for unit in rule.units)):
        raise BadRule("units: write each as FACILITY/UNIT")
    types = [entity_type] if entity_type is not None else list(STATUSES)
    known = frozenset[str]().union(*(STATUSES.get(each, frozenset()) for each in types))
    if not rule.statuses <= known:
        raise BadRule(f"statuses: known here are {', '.join(sorted(known)) or 'none'}")
    return rule


def _where_of(error: str) -> str:
    """Of msgspec's text, only where it was: the text itself repeats what the file holds."""
    _, found, path = error.partition("`$.")
    place = path.rstrip("`") if found else "value"
    return f"{place}: write mode (shadow, limited, full) and lists of texts (in quotes) as facilities, units, statuses"


class Stated(Protocol):
    """What says where an entity is and how it stands: an accepted record, or a head."""

    @property
    def facility(self) -> str: ...
    @property
    def state(self) -> Payload: ...


def where_of(stated: Stated) -> tuple[str, str | None]:
    """Facility and unit of an entity: those of its place, else the event's facility and no unit."""
    match stated.state:
        case Bed(place=Place() as place) | Encounter(location=Place() as place) | Procedure(place=Place() as place):
            return place.facility or stated.facility, place.point_of_care
        case Transfer(destination=Place() as place):
            return place.facility or stated.facility, place.point_of_care
        case Staffing(unit=str() as unit):
            return stated.facility, unit
        case _:
            return stated.facility, None


def status_of(stated: Stated) -> str | None:
    """What `STATUSES` says of an entity's type; None where it isn't known."""
    match stated.state:
        case Bed() as bed:
            code = status_code(bed)
            return code.value if code is not None else None
        case Transfer(stage=StageState(stage=stage)):
            return stage.value
        case Diversion(state=DiversionState(status=diversion)):
            return diversion.value
        case Encounter(status=EncounterStatus() as encounter):
            return encounter.value
        case Procedure(status=ProcedureStatus() as procedure):
            return procedure.value
        case _:
            return None


class Facts(NamedTuple):
    """All that rules ask of an entity."""

    tenant: str
    entity_type: EntityType
    facility: str
    unit: str | None
    status: str | None


def facts_of(accepted: Accepted) -> Facts:
    """Of an accepted state."""
    return Facts(accepted.tenant, accepted.entity_type, *where_of(accepted), status_of(accepted))


class Scope(NamedTuple):
    """What a rule is about, at one destination."""

    tenant: str
    entity_type: EntityType


class Flip(NamedTuple):
    """A rule that was replaced by another."""

    scope: Scope
    before: Rule
    after: Rule


def flips(before: Mapping[Scope, Rule], after: Mapping[Scope, Rule]) -> Iterator[Flip]:
    """Each scope, in order, whose rule differs; one that only one side knows was left to SHADOW on the other."""
    for scope in sorted({*before, *after}):
        old, new = before.get(scope, SHADOW), after.get(scope, SHADOW)
        if old != new:
            yield Flip(scope, old, new)


# -- flags by name

PREFIX: Final = "rollout."
CONTEXT: Final = frozenset({"tenant", "destination", "resource"})
"""What targeting may ask for: a rule holds for all entities of a type, the lists tell them apart."""


def flag_names(destination: str, entity_type: EntityType) -> tuple[str, str]:
    """Names of the flags that are asked, the closer one first."""
    return f"{PREFIX}{destination}.{entity_type.value}", f"{PREFIX}{destination}"


def about(flag: str, destinations: Iterable[str]) -> tuple[str, EntityType | None] | None:
    """Destination and entity type that a flag names, None for all types. None where it names none of `destinations`."""
    types = {entity_type.value: entity_type for entity_type in EntityType}
    for destination in destinations:
        if flag == f"{PREFIX}{destination}":
            return destination, None
        head, _, tail = flag.rpartition(".")
        if head == f"{PREFIX}{destination}" and tail in types:
            return destination, types[tail]
    return None


def asked_in(targeting: Any) -> frozenset[str]:
    """Everything that a JsonLogic expression asks for by `var`; `*` for a name that is itself computed."""
    if isinstance(targeting, list):
        return frozenset[str]().union(*map(asked_in, targeting))
    if not isinstance(targeting, dict):
        return frozenset()
    found: set[str] = set()
    for operator, operand in targeting.items():
        if operator in ("var", "missing", "missing_some"):
            first = operand[0] if isinstance(operand, list) and operand else operand
            found.add(first if operator == "var" and isinstance(first, str) else "*")
        else:
            found |= asked_in(operand)
    return frozenset(found)
