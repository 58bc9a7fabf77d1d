"""A person from Patient."""

from typing import Final, TypeVar

from msgspec import UNSET, UnsetType

from pipeline.domain.event import EntityType, EventType, Identifier, Name, Patient, Reference
from pipeline.formats.draft import Draft
from pipeline.formats.fhir.inbound_reading import Reading, missing
from pipeline.formats.fhir.inbound_verdict import Refusal, RejectedBecause
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.terms import GENDER

_T = TypeVar("_T")

ORDINAL: Final = 0
MAX_IDENTIFIERS: Final = 16
"""How many identifiers of a person are taken over; the others are named as unread."""
_USES: Final = ("official", "usual", None)
"""Which of a person's names counts, in order of preference; an old, temporary or assumed one never does."""
_SEX_OF: Final = {code: sex for sex, code in GENDER.items()}


def drafts(reading: Reading) -> tuple[Draft, ...]:
    """The one event of a person; none where nothing is the EHR's word."""
    person = reading.names.identity(EntityType.PATIENT, reading.body, "Patient.identifier")
    body, counts = reading.body, reading.scope.counts
    patient = Patient(
        identifiers=_identifiers(reading) if counts("identifiers") else UNSET,
        name=_name(reading) if counts("name") else UNSET,
        birth_date=_or_gone(reading, "birth_date", reading.date(body, "birthDate", "Patient")) if counts("birth_date") else UNSET,
        sex=_or_gone(reading, "sex", reading.code(body, "gender", "Patient", _SEX_OF)) if counts("sex") else UNSET,
        deceased=_or_gone(reading, "deceased", _deceased(reading)) if counts("deceased") else UNSET,
        merged_into=_merged_into(reading) if counts("merged_into") else UNSET,
    )
    if patient == Patient():
        return ()
    return (Draft(ORDINAL, EventType.DEMOGRAPHICS, person.namespace, person.id, None, patient),)


def _or_gone(reading: Reading, field: str, value: _T | UnsetType) -> _T | UnsetType | None:
    return None if value is UNSET and field in reading.scope.changed else value


def _identifiers(reading: Reading) -> tuple[Identifier, ...] | UnsetType:
    reading.objects(reading.body, "identifier", "Patient")
    found = reading.names.identifiers(reading.body, "Patient.identifier")
    if len(found) > MAX_IDENTIFIERS:
        reading.not_read("Patient.identifier")
    return tuple(found[:MAX_IDENTIFIERS]) or UNSET


def _name(reading: Reading) -> Name | UnsetType | None:
    names = reading.objects(reading.body, "name", "Patient")
    for use in _USES:
        for path, element in names:
            if element.get("use") == use:
                return _human_name(reading, path, element)
    return None if "name" in reading.scope.changed else UNSET


def _human_name(reading: Reading, path: str, element: Body) -> Name | UnsetType:
    family = reading.text(element, "family", path)
    given = element.get("given", [])
    if not isinstance(given, list) or not all(part is None or isinstance(part, str) for part in given):
        raise Refusal(
            RejectedBecause.WRONG_TYPE,
            f"{path}.given",
            "given names are a list of strings",
            "send them as the standard writes them",
        )
    joined = reading.text({"given": " ".join(part.strip() for part in given if part)}, "given", path) if any(given) else UNSET
    if isinstance(family, UnsetType) and isinstance(joined, UnsetType):
        return reading.not_read(path)
    return Name(family if isinstance(family, str) else None, joined if isinstance(joined, str) else None)


def _deceased(reading: Reading) -> bool | UnsetType:
    """deceased[x]: one of two; a time of death says that it happened."""
    body = reading.body
    at = body.get("deceasedDateTime")
    if at is None:
        return reading.flag(body, "deceasedBoolean", "Patient")
    if body.get("deceasedBoolean") is not None:
        raise Refusal(
            RejectedBecause.CONTRADICTION, "Patient.deceased", "deceased is a time or a boolean, not both", "send one of the two"
        )
    reading.time(body, "deceasedDateTime", "Patient")
    return True


def _merged_into(reading: Reading) -> Reference | UnsetType | None:
    """The identity that replaces this one. The link from the other side (`replaces`) says nothing about this person's own."""
    found = []
    for path, link in reading.objects(reading.body, "link", "Patient"):
        if link.get("type") != "replaced-by":
            continue
        other = reading.object(link, "other", path)
        if other is None:
            raise missing(f"{path}.other", "the other patient")
        found.append(reading.names.reference(EntityType.PATIENT, "Patient", other, f"{path}.other"))
    if len(set(found)) > 1:
        raise Refusal(
            RejectedBecause.CONTRADICTION,
            "Patient.link",
            "a person is replaced by one other",
            "remove the other links replaced-by",
        )
    if found:
        return found[0]
    return None if "merged_into" in reading.scope.changed else UNSET
