"""From identifiers and references of a server to the names that entities have here: `Naming` read backwards. Pure.

Nothing is guessed: an identifier counts only if its system is one that the profile names, and its value only if writing
the name again would give it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import EntityType, Identifier, Place, Reference
from pipeline.formats.fhir.inbound_verdict import Refusal, RejectedBecause
from pipeline.formats.fhir.naming import Naming, query_quoted
from pipeline.formats.fhir.owned import Body, Json, elements
from pipeline.formats.fhir.references import reference_of
from pipeline.formats.fhir.terms import IDENTIFIER_TYPE, LEVEL_TYPE

MAX_ID_CHARS: Final = 250
"""Longest identifier that an event takes over."""

_LEVEL_OF: Final = {code: level for level, (code, _) in LEVEL_TYPE.items() if level != "bed"}
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_PERCENT: Final = re.compile(r"%([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Names:
    """What a resource's identifiers and references mean under the profile.

    `known` has resources by `Type/id`, or by the `urn:` that stands for one within a bundle.
    """

    naming: Naming
    known: Mapping[str, Body]
    contained: Mapping[str, Body]

    def __repr__(self) -> str:
        return "Names(<redacted>)"

    def identity(self, entity_type: EntityType, resource: Body, path: str) -> Reference:
        """The one name that the resource's identifiers give it; refused where that is none or several."""
        found = self._named(entity_type, elements(resource, "identifier"), path)
        if len(found) == 1:
            return found.pop()
        detail = "none of its identifiers is" if not found else "several of its identifiers are"
        raise Refusal(
            RejectedBecause.AMBIGUOUS_IDENTITY,
            path,
            f"{detail} of a system that the profile names for {entity_type.value}",
            f"give it one identifier under the profile's system, or name the EHR's own under {entity_type.value} in the profile",
        )

    def reference(self, entity_type: EntityType, target: str, reference: Body, path: str) -> Reference:
        """The entity that a reference names: by its own identifier, else by those of the resource that it leads to."""
        self._check_target(reference, (target,), path)
        found = self._named(entity_type, elements({"identifier": [reference.get("identifier")]}, "identifier"), path)
        if found:
            return found.pop()
        resource = self._resource(reference, target)
        if resource is None:
            raise unresolved(path, target)
        return self.identity(entity_type, resource, f"{path}.resolve().identifier")

    def reference_if_known(self, entity_type: EntityType, target: str, reference: Body, path: str) -> Reference | None:
        """As `reference`; None where its target is not known by an identifier of ours."""
        try:
            return self.reference(entity_type, target, reference, path)
        except Refusal as refusal:
            if refusal.rejected.reason in (RejectedBecause.UNRESOLVED, RejectedBecause.AMBIGUOUS_IDENTITY):
                return None
            raise

    def episode(self, reference: Body, path: str) -> Reference | None:
        """The episode of care; None for one that no system of the profile's names."""
        self._check_target(reference, ("EpisodeOfCare",), path)
        named = self.naming.profile.episodes
        if named is None:
            return None
        held = elements({"identifier": [reference.get("identifier")]}, "identifier")
        resource = self._resource(reference, "EpisodeOfCare")
        held = held or (elements(resource, "identifier") if resource else [])
        found = _read(self._system(named.system), named.authorities, held, path)
        return found.pop() if len(found) == 1 else None

    def place(self, reference: Body, path: str) -> Place:
        """The place that a reference to a Location names: a bed, or one of the levels around it."""
        self._check_target(reference, ("Location",), path)
        held = elements({"identifier": [reference.get("identifier")]}, "identifier")
        found = self.place_of(held, path)
        if found is None and (resource := self._resource(reference, "Location")) is not None:
            found = self.place_of(elements(resource, "identifier"), f"{path}.resolve().identifier")
        if found is None:
            raise unresolved(path, "Location")
        return found

    def place_if_known(self, reference: Body, path: str) -> Place | None:
        """As `place`; None where its target is not known by an identifier of ours, or is another place than one of ours."""
        try:
            return self.place(reference, path)
        except Refusal as refusal:
            if refusal.rejected.reason is RejectedBecause.UNRESOLVED:
                return None
            raise

    def are_beds(self, identifiers: list[Body]) -> bool:
        """Whether one of the identifiers is under a system of beds."""
        return any(
            isinstance(system := element.get("system"), str) and self.naming.names(EntityType.BED, system)
            for element in identifiers
        )

    def place_of(self, identifiers: list[Body], path: str) -> Place | None:
        """The place that these identifiers name; None where they name none of ours."""
        beds = self._named(EntityType.BED, identifiers, path)
        if len(beds) > 1:
            raise _ambiguous_place(path)
        if beds:
            return self.bed_place(beds.pop(), path)
        system = self._system(self.naming.profile.places.system)
        paths = {value for element in identifiers if (value := _value(element, system)) is not None}
        if len(paths) > 1:
            raise _ambiguous_place(path)
        return self._level_place(paths.pop(), path) if paths else None

    def bed_place(self, bed: Reference, path: str) -> Place:
        """Where a bed stands by its own name: the parts of `places.bed_id`, and its namespace."""
        places = self.naming.profile.places
        texts = [part.replace("%2F", "/").replace("%25", "%") or None for part in bed.id.split("/")]
        if len(texts) != len(places.bed_id) or not dict(zip(places.bed_id, texts, strict=True))["bed"]:
            raise Refusal(
                RejectedBecause.BAD_VALUE,
                path,
                "a bed's identifier is " + "/".join(places.bed_id),
                "write it so at the EHR, or say in places.bed_id what it is made of",
            )
        return Place(**{str(places.bed_namespace): bed.namespace, **dict(zip(map(str, places.bed_id), texts, strict=True))})

    def bed_of(self, place: Place) -> Reference | None:
        """The bed at a place, as every way in names it; None where no bed is named."""
        if not place.bed:
            return None
        places = self.naming.profile.places
        parts = [getattr(place, str(part)) or "" for part in places.bed_id]
        namespace = getattr(place, places.bed_namespace) or self.naming.facility
        return Reference(namespace, "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts))

    def identifiers(self, resource: Body, path: str) -> list[Identifier]:
        """A person's identifiers under systems that the profile names, in their order."""
        profile = self.naming.profile
        named = profile.resources.get(EntityType.PATIENT) or profile.references.get(EntityType.PATIENT)
        own = {system: authority for authority, system in (named.authorities if named else {}).items()}
        systems = profile.patient_identifiers
        own |= {system: authority for authority, system in (systems.authorities if systems else {}).items()}
        found: dict[tuple[str, str], Identifier] = {}
        for element in elements(resource, "identifier"):
            system, value = element.get("system"), element.get("value")
            if not isinstance(system, str) or not isinstance(value, str) or not value:
                continue
            authority = own.get(system) or self._authority_of(system)
            if authority is not None:
                kind = next((c.get("code") for c in _type_codings(element) if c.get("system") == IDENTIFIER_TYPE), None)
                known = isinstance(kind, str) and is_fit(kind)
                found[authority, value] = Identifier(authority, fit(value, path), kind if known else None)
        return list(found.values())

    def _authority_of(self, system: str) -> str | None:
        systems = self.naming.profile.patient_identifiers
        if systems is None:
            return None
        before, _, after = self._system(systems.system).partition("{authority}")
        if not system.startswith(before) or not system.endswith(after) or len(system) <= len(before) + len(after):
            return None
        return _unquoted(system[len(before) : len(system) - len(after)])

    def _level_place(self, value: str, path: str) -> Place:
        parts: dict[str, str] = {}
        for part in value.split("/"):
            code, _, quoted = part.partition(":")
            level, name = _LEVEL_OF.get(code), _unquoted(quoted)
            if level is None or not name or level in parts:
                raise Refusal(
                    RejectedBecause.BAD_VALUE,
                    path,
                    "a place's identifier is its path from the outside, such as si:MAIN/wa:ICU/ro:12",
                    "leave places that the pipeline made as they are",
                )
            parts[level] = fit(name, path)
        return Place(**parts)

    def _named(self, entity_type: EntityType, identifiers: Iterable[Body], path: str) -> set[Reference]:
        profile = self.naming.profile
        named = profile.resources.get(entity_type) or profile.references.get(entity_type)
        if named is None:
            return _read(self._system(f"urn:surgeline:{{tenant}}:{entity_type}"), {}, identifiers, path)
        return _read(self._system(named.system), named.authorities, identifiers, path)

    def _system(self, template: str) -> str:
        return template.replace("{tenant}", query_quoted(self.naming.tenant))

    def _resource(self, reference: Body, target: str) -> Body | None:
        text = reference.get("reference")
        if isinstance(text, str) and text.startswith("#"):
            found = self.contained.get(text[1:])
        else:
            found = self.known.get(reference_of(text) or str(text))
        return found if found is not None and found.get("resourceType") == target else None

    def _check_target(self, reference: Body, targets: tuple[str, ...], path: str) -> None:
        named = reference_of(reference.get("reference"))
        kinds = [named.partition("/")[0] if named else None, reference.get("type")]
        if any(isinstance(kind, str) and kind not in targets for kind in kinds):
            raise Refusal(
                RejectedBecause.WRONG_TARGET,
                path,
                "the reference leads to " + " or ".join(targets),
                "correct the reference at the EHR",
            )


def is_fit(text: str) -> bool:
    """Whether an event can take this text over: not empty, not too long, without control characters."""
    return bool(text.strip()) and len(text) <= MAX_ID_CHARS and not _UNFIT.search(text)


def fit(text: str, path: str) -> str:
    """A text that may name something: neither empty nor too long, without control characters."""
    if not text.strip() or _UNFIT.search(text):
        raise Refusal(
            RejectedBecause.BAD_VALUE, path, "a name has characters, and no control characters", "correct it at the EHR"
        )
    if len(text) > MAX_ID_CHARS:
        raise Refusal(
            RejectedBecause.TOO_LONG, path, f"a name has at most {MAX_ID_CHARS} characters", "give it a shorter identifier"
        )
    return text


def _read(own: str, authorities: Mapping[str, str], identifiers: Iterable[Body], path: str) -> set[Reference]:
    """The entities that identifiers name; one whose value isn't as we would write it is refused."""
    by_system = {system: authority for authority, system in authorities.items()}
    found = set()
    for element in identifiers:
        system, value = element.get("system"), element.get("value")
        if not isinstance(system, str) or not isinstance(value, str):
            continue
        if system in by_system:
            found.add(Reference(by_system[system], fit(value, path)))
        elif system == own:
            quoted, slash, rest = value.partition("/")
            namespace = _unquoted(quoted)
            if not slash or not namespace:
                raise Refusal(
                    RejectedBecause.BAD_VALUE, path, "an identifier of the pipeline's is namespace/id", "leave it as it was made"
                )
            found.add(Reference(fit(namespace, path), fit(rest, path)))
    return found


def _value(element: Body, system: str) -> str | None:
    value = element.get("value")
    return value if element.get("system") == system and isinstance(value, str) else None


def _type_codings(element: Body) -> list[Body]:
    kind = element.get("type")
    return elements(kind, "coding") if isinstance(kind, dict) else []


def _unquoted(text: str) -> str | None:
    """Percent-encoding undone; None where encoding it again would not give the same."""
    raw = _PERCENT.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        plain = raw.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None
    return plain if query_quoted(plain) == text else None


def unresolved(path: str, target: str) -> Refusal:
    """Refusal of a reference whose target nobody here knows."""
    return Refusal(
        RejectedBecause.UNRESOLVED,
        path,
        f"the {target} that it refers to is named by an identifier that the profile knows",
        f"give the {target} such an identifier, or name its system in the profile; then replay",
    )


def _ambiguous_place(path: str) -> Refusal:
    return Refusal(
        RejectedBecause.AMBIGUOUS_IDENTITY,
        path,
        "a place has one identifier of the profile's systems",
        "remove the other identifier",
    )


def literal_of(reference: Json) -> str | None:
    """`Type/id` of a literal reference to another resource of the server; None for a contained or a logical one."""
    return reference_of(reference.get("reference")) if isinstance(reference, dict) else None
