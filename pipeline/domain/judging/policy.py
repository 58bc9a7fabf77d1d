"""Policy as data: who may say what, what is ignored, and which lane a change takes.

A policy is written in YAML (`pipeline/policies/`), put into force by a control record in every landing partition, and
kept beside the heads, so that a redelivered record is judged by the rules under which it was judged first.
"""

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Final, TypeVar

import msgspec

from pipeline.domain.event import PAYLOADS, EntityType, EventType
from pipeline.domain.records import Lane

Text = Annotated[str, msgspec.Meta(min_length=1)]
Version = Annotated[int, msgspec.Meta(ge=1, description="number that rises with each change")]
UNIT_KINDS: Final = ("icu", "ed", "pacu", "boarding")


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Systems whose name matches the pattern speak in a role."""

    system: Text
    role: Text


class FieldRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Roles that may state a field, the one whose word counts more first.

    Of two statements the newer wins; of two recorded at the same time, the one whose role stands further left.
    """

    roles: tuple[Text, ...]
    condition: Text


class Ignore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events that are acknowledged and not applied."""

    reason: Text
    entity: EntityType | None = None
    event_types: tuple[EventType, ...] = ()
    source_system: Text | None = None


class LaneRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A lane with its conditions; all of those that are written must hold, and the first rule that holds decides."""

    lane: Lane
    why: Text
    entity: EntityType | None = None
    event_types: tuple[EventType, ...] = ()
    changed: tuple[Text, ...] = ()
    only_changed: tuple[Text, ...] = ()
    units: tuple[Text, ...] = ()
    becomes: Mapping[Text, tuple[Text, ...]] = {}
    leaves: Mapping[Text, tuple[Text, ...]] = {}
    ready: bool | None = None
    promised_or_boarding: bool = False
    later: Text | None = None


Skew = Annotated[int, msgspec.Meta(ge=0, le=86_400, description="a record dated more than so many seconds ahead is refused")]
Units = Mapping[Text, Mapping[Text, tuple[Text, ...]]]


class Live(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one feed of a source system that is applied; what its other feeds say is judged as ignored, and can be compared."""

    source_system: Text
    feed: Text
    facility: Text | None = None


class OwnershipFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ownership.yaml`: who may say what."""

    version: Version
    systems: tuple[System, ...]
    fields: Mapping[EntityType, Mapping[Text, FieldRule]]
    ignore: tuple[Ignore, ...] = ()
    live: tuple[Live, ...] = ()
    future_skew_s: Skew = 300


class LanesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`lanes.yaml`: what goes first."""

    version: Version
    rules: tuple[LaneRule, ...]
    units: Units


File = TypeVar("File", OwnershipFile, LanesFile)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The rules in force."""

    version: Text
    systems: tuple[System, ...]
    fields: Mapping[EntityType, Mapping[Text, FieldRule]]
    lanes: tuple[LaneRule, ...]
    units: Units
    ignore: tuple[Ignore, ...] = ()
    live: tuple[Live, ...] = ()
    future_skew_s: Skew = 300

    def role_of(self, source_system: str) -> str | None:
        """Role in which a system speaks; None for a system that nobody named."""
        roles: dict[str, str | None] = self.__dict__.setdefault("_roles", {})
        if source_system not in roles:
            if len(roles) >= ROLE_CACHE_BOUND:
                roles.clear()
            roles[source_system] = next((s.role for s in self.systems if fnmatch.fnmatchcase(source_system, s.system)), None)
        return roles[source_system]

    def live_feed(self, source_system: str, facility: str) -> str | None:
        """The feed of a source that is applied at a facility; None where all of them are."""
        if not self.live:
            return None
        named = {each.facility: each.feed for each in self.live if each.source_system == source_system}
        return named.get(facility, named.get(None))

    def rank(self, entity_type: EntityType, field: str, role: str) -> int | None:
        """0 for the role whose word counts most; None for a role that may not state the field."""
        ranks: dict[tuple[str, str, str], int] | None = self.__dict__.get("_ranks")
        if ranks is None:
            ranks = self.__dict__["_ranks"] = _ranks(self)
        return ranks.get((entity_type, field, role))

    def lanes_for(self, entity_type: str) -> tuple[LaneRule, ...]:
        """The lane rules that can hold for an entity type, in their order."""
        rules: dict[str, tuple[LaneRule, ...]] = self.__dict__.setdefault("_lanes", {})
        if entity_type not in rules:
            rules[entity_type] = tuple(rule for rule in self.lanes if rule.entity is None or rule.entity == entity_type)
        return rules[entity_type]

    def unit_kinds(self, facility: str, unit: str | None) -> frozenset[str]:
        """Kinds (`icu`, `ed`, `pacu`, `boarding`) of a unit; `*` names the units of every facility."""
        if unit is None:
            return frozenset()
        return frozenset(kind for site in ("*", facility) for kind, units in self.units.get(site, {}).items() if unit in units)


ROLE_CACHE_BOUND: Final = 10_000


def _ranks(policy: Policy) -> dict[tuple[str, str, str], int]:
    return {
        (entity_type, field, role): rank
        for entity_type, rules in policy.fields.items()
        for field, rule in rules.items()
        for rank, role in enumerate(rule.roles)
    }


class BadPolicy(ValueError):
    """A policy that can't be put into force; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def policy_from(ownership: Mapping[str, object], lanes: Mapping[str, object]) -> Policy:
    """Policy from the two parsed files; BadPolicy lists all problems.

    The version names both files' versions and, by digest, their content: two policies of one version are equal.
    """
    who, first = _read("ownership", ownership, OwnershipFile), _read("lanes", lanes, LanesFile)
    if isinstance(who, str) or isinstance(first, str):
        raise BadPolicy([problem for problem in (who, first) if isinstance(problem, str)])
    policy = _versioned(
        f"{who.version}.{first.version}",
        Policy(
            version="0",
            systems=who.systems,
            fields=who.fields,
            lanes=first.rules,
            units=first.units,
            ignore=who.ignore,
            live=who.live,
            future_skew_s=who.future_skew_s,
        ),
    )
    problems = list(_problems(policy))
    if problems:
        raise BadPolicy(problems)
    return policy


def _versioned(version: str, policy: Policy) -> Policy:
    digest = hashlib.sha256(encode_policy(msgspec.structs.replace(policy, version="0")).encode()).hexdigest()[:12]
    return msgspec.structs.replace(policy, version=f"{version}-{digest}")


def with_live(policy: Policy, live: Live) -> Policy:
    """The policy with another feed of a source live, at one facility or, without one, wherever no facility has its own."""
    others = tuple(each for each in policy.live if (each.source_system, each.facility) != (live.source_system, live.facility))
    return _versioned(policy.version.rpartition("-")[0], msgspec.structs.replace(policy, live=(*others, live)))


def _read(name: str, document: Mapping[str, object], shape: type[File]) -> File | str:
    """The file's content; in words what is wrong with it, where it hasn't its shape."""
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        return f"{name}.yaml: {error}"


def _problems(policy: Policy) -> Sequence[str]:
    problems = []
    roles = {system.role for system in policy.systems}
    for entity_type, payload in PAYLOADS.items():
        known, ruled = set(payload.__struct_fields__), set(policy.fields.get(entity_type, {}))
        problems += [f"fields.{entity_type}.{field}: there is no such field" for field in sorted(ruled - known)]
        problems += [f"fields.{entity_type}: nobody may state {field}" for field in sorted(known - ruled)]
    for entity_type, rules in policy.fields.items():
        for field, rule in rules.items():
            problems += [
                f"fields.{entity_type}.{field}: no system has the role {role}" for role in rule.roles if role not in roles
            ]
    problems += [
        f"units.{site}: {kind} is none of {', '.join(UNIT_KINDS)}"
        for site, kinds in policy.units.items()
        for kind in kinds
        if kind not in UNIT_KINDS
    ]
    for number, lane_rule in enumerate(policy.lanes, start=1):
        problems += [f"lanes.{number} ({lane_rule.why}): {problem}" for problem in _lane_problems(lane_rule)]
    return problems


def _lane_problems(rule: LaneRule) -> Sequence[str]:
    """What would keep a rule from ever holding, in silence."""
    payloads = [PAYLOADS[rule.entity]] if rule.entity is not None else list(PAYLOADS.values())
    known = {field for payload in payloads for field in payload.__struct_fields__}
    named = [*rule.changed, *rule.only_changed, *rule.becomes, *rule.leaves, *((rule.later,) if rule.later else ())]
    fields = sorted({path.partition(".")[0] for path in named} - known)
    return [
        *(f"there is no field {field}" for field in fields),
        *(f"{kind} is none of {', '.join(UNIT_KINDS)}" for kind in rule.units if kind not in UNIT_KINDS),
    ]


def encode_policy(policy: Policy) -> str:
    """JSON of a policy, as its control record carries it."""
    return msgspec.json.encode(policy, order="deterministic").decode()


@lru_cache(maxsize=32)
def decode_policy(text: str) -> Policy:
    """Inverse of `encode_policy`; BadPolicy for anything else."""
    try:
        return msgspec.json.decode(text, type=Policy)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadPolicy([f"policy: {error}"]) from error
