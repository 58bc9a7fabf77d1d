"""A person as Patient, for replicas only: an EHR of record is never told who its patients are."""

from typing import Final

from msgspec import UNSET

from pipeline.domain.event import EntityType, Identifier, Name, Patient
from pipeline.formats.fhir.naming import Ident, Naming, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Owned, elements, value_at
from pipeline.formats.fhir.resource import ResourceMap, carries, code, identifier_member, identifier_of, text
from pipeline.formats.fhir.terms import GENDER, IDENTIFIER_TYPE

_OFFICIAL: Final = Member((("use", "official"),))
_REPLACED_BY: Final = Member((("type", "replaced-by"),))


def _desired(patient: Patient, ident: Ident, naming: Naming, current: Body) -> tuple[Owned, ...]:
    return (
        identifier_of("identifier", ident),
        *_identifiers(patient, ident, naming, current),
        *_name(patient, current),
        *_birth_date(patient),
        *_sex(patient),
        *_deceased(patient, current),
        *_merged_into(patient, naming, current),
    )


def _identifiers(patient: Patient, ident: Ident, naming: Naming, current: Body) -> tuple[Owned, ...]:
    """Each identifier of the state by system and value. One that the state no longer names goes only where its system is
    of our own making: under a real authority's system somebody else may have put it there."""
    if patient.identifiers is UNSET or naming.profile.patient_identifiers is None:
        return ()
    wanted = [item for item in patient.identifiers or () if text(item.value) and text(item.system)]
    named = {(naming.authority(item.system), item.value) for item in wanted} | {(ident.system, ident.value)}
    stale = tuple(
        Owned("identifiers", ("identifier", Member((("system", system), ("value", value)))), None)
        for system, value in _present(current)
        if naming.is_made_by_us(system) and (system, value) not in named
    )
    return stale + tuple(owned for item in wanted for owned in _identifier(item, naming))


def _identifier(item: Identifier, naming: Naming) -> tuple[Owned, ...]:
    other = Ident(naming.authority(item.system), item.value)
    path = ("identifier", identifier_member(other))
    kind = code(item.type)
    owned = (Owned("identifiers", (*path, "value"), other.value),)
    if kind is None:
        return owned
    typed = (*path, "type", "coding", Member((("system", IDENTIFIER_TYPE),)), "code")
    return (*owned, Owned("identifiers", typed, kind))


def _present(current: Body) -> list[tuple[str, str]]:
    found = []
    for element in elements(current, "identifier"):
        system, value = element.get("system"), element.get("value")
        if isinstance(system, str) and isinstance(value, str):
            found.append((system, value))
    return found


def _name(patient: Patient, current: Body) -> tuple[Owned, ...]:
    if patient.name is UNSET:
        return ()
    if patient.name is None:
        return (Owned("name", ("name", _OFFICIAL), None),)
    family, given = text(patient.name.family), _given(patient.name)
    path = ("name", _OFFICIAL)
    owned: tuple[Owned, ...] = (
        Owned("name", (*path, "family"), family),
        Owned("name", (*path, "given"), given),
        Owned("name", (*path, "text"), " ".join([*(given or ()), *([family] if family else [])]) or None),
    )
    if value_at(current, (*path, "given")) != given:
        owned += (Owned("name", (*path, "_given"), None),)  # it belongs to other given names, by position
    return owned


def _given(name: Name) -> list[str] | None:
    return (name.given or "").split() or None


def _birth_date(patient: Patient) -> tuple[Owned, ...]:
    return () if patient.birth_date is UNSET else (Owned("birth_date", ("birthDate",), text(patient.birth_date)),)


def _sex(patient: Patient) -> tuple[Owned, ...]:
    return () if patient.sex is UNSET else (Owned("sex", ("gender",), GENDER[patient.sex] if patient.sex else None),)


def _deceased(patient: Patient, current: Body) -> tuple[Owned, ...]:
    """`deceased[x]` is one element: a time of death that is there says more than our `true`, and contradicts `false`."""
    if patient.deceased is UNSET or (patient.deceased and "deceasedDateTime" in current):
        return ()
    return Owned("deceased", ("deceasedDateTime",), None), Owned("deceased", ("deceasedBoolean",), patient.deceased)


def _merged_into(patient: Patient, naming: Naming, current: Body) -> tuple[Owned, ...]:
    if patient.merged_into is UNSET:
        return ()
    path = ("link", _REPLACED_BY)
    if patient.merged_into is None:
        return (Owned("merged_into", path, None), Owned("merged_into", ("active",), True)) if value_at(current, path) else ()
    survivor = naming.reference(EntityType.PATIENT, patient.merged_into)
    kept = value_at(current, (*path, "other"))
    other = kept if kept is not None and referenced(kept) == referenced(survivor) else survivor
    return Owned("merged_into", (*path, "other"), other), Owned("merged_into", ("active",), False)


def _shown(body: Body, ident: Ident, naming: Naming) -> dict[str, Json]:
    name = value_at(body, ("name", _OFFICIAL)) or {}
    return {
        "identifier": carries(body, ident),
        "identifiers": sorted(
            [system, value, _type(body, system, value)] for system, value in _present(body) if naming.knows(system)
        ),
        "name": [name.get("family"), name.get("given")],
        "birth_date": body.get("birthDate"),
        "sex": body.get("gender"),
        "deceased": True if "deceasedDateTime" in body else body.get("deceasedBoolean"),
        "merged_into": referenced(value_at(body, ("link", _REPLACED_BY, "other"))),
    }


def _type(body: Body, system: str, value: str) -> str:
    path = (
        "identifier",
        Member((("system", system), ("value", value))),
        "type",
        "coding",
        Member((("system", IDENTIFIER_TYPE),)),
        "code",
    )
    return str(value_at(body, path) or "")


def _created(patient: Patient, naming: Naming) -> Body:
    return {"resourceType": "Patient"}


PATIENT: Final = ResourceMap(EntityType.PATIENT, "Patient", _desired, _shown, _created)
