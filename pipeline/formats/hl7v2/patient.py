"""PID: whom the message is about, and what it says of the person."""

from dataclasses import replace
from typing import Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import Identifier, Name, Patient, Reference, Sex
from pipeline.formats.hl7v2.datatypes import MAX_TEXT_CHARS, UNREADABLE, Cx, date, identifiers_of, name_of
from pipeline.formats.hl7v2.er7 import NULL, Segment
from pipeline.formats.hl7v2.leniency import Leniency
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Reason, Rejected

MAX_IDENTIFIERS: Final = 16
"""How many identifiers of a person are taken over; the others are named as unread."""

TABLE_0001: Final = {
    "M": Sex.MALE,
    "F": Sex.FEMALE,
    "O": Sex.OTHER,
    "A": Sex.OTHER,
    "N": Sex.OTHER,
    "U": Sex.UNKNOWN,
}
"""Administrative sex, by the v2-to-FHIR guide's concept map."""

TABLE_0136: Final = {"Y": True, "N": False}


def patient_reference(segment: Segment, profile: Profile, n: int = 3) -> Reference | Rejected:
    """The one identifier of PID-3, or of MRG-1, that the profile's rule picks; rejected where that is none or several."""
    identifiers, at = _typed(identifiers_of(segment, n, profile.authorities), profile), f"{segment.name}-{n}"
    if not identifiers:
        return Rejected(Reason.MISSING_FIELD, at, "no patient identifier", f"send a patient identifier in {at}.1")
    chosen = _chosen(identifiers, profile)
    if isinstance(chosen, Rejected):
        return chosen if n == 3 else replace(chosen, field=at, remedy=chosen.remedy.replace("PID-3", at))
    if len(chosen.value) > MAX_TEXT_CHARS or len(chosen.authority or "") > MAX_TEXT_CHARS:
        return Rejected(Reason.TOO_LONG, at, f"longer than {MAX_TEXT_CHARS} characters", "send a shorter identifier")
    return Reference(chosen.authority or profile.patient_authority or profile.facility, chosen.value)


def _typed(identifiers: list[Cx], profile: Profile) -> list[Cx]:
    """The identifiers; a type sent as authority where it belongs, if the profile tolerates that and none has its type."""
    if Leniency.TYPE_IN_AUTHORITY not in profile.tolerates or any(i.type in profile.patient_id_types for i in identifiers):
        return identifiers
    misplaced = [i.type is None and i.authority in profile.patient_id_types for i in identifiers]
    return [Cx(i.value, None, i.authority) if wrong else i for i, wrong in zip(identifiers, misplaced, strict=True)]


def _chosen(identifiers: list[Cx], profile: Profile) -> Cx | Rejected:
    authorities = profile.patient_id_authorities or (None,)
    for wanted in profile.patient_id_types:
        for authority in authorities:
            found = _distinct([i for i in identifiers if i.type == wanted and authority in (None, i.authority)])
            if len(found) == 1:
                return found[0]
            if found:
                return _ambiguous(f"several identifiers of type {wanted}")
    untyped = [i for i in identifiers if i.type is None]
    for authority in profile.patient_id_authorities:
        found = _distinct([i for i in untyped if i.authority == authority])
        if found:
            return found[0] if len(found) == 1 else _ambiguous("several identifiers without a type of one authority")
    if (
        profile.patient_id_sole_untyped
        and not profile.patient_id_authorities
        and len(_distinct(identifiers)) == len(untyped) == 1
    ):
        return untyped[0]
    return _ambiguous("no identifier has a type and authority that the profile names")


def _distinct(identifiers: list[Cx]) -> list[Cx]:
    return list({(i.value, i.authority): i for i in identifiers}.values())


def _ambiguous(detail: str) -> Rejected:
    return Rejected(
        Reason.AMBIGUOUS_IDENTITY,
        "PID-3",
        detail,
        "send one identifier with its type in PID-3.5, or name type and authority in the profile's patient_id_*",
    )


def patient_of(reading: Reading, segment: Segment) -> Patient:
    """What PID says of the person."""
    return Patient(
        identifiers=_identifiers(reading, segment),
        name=_name(reading, segment),
        birth_date=_birth_date(reading, segment),
        sex=reading.code(segment, 8, reading.profile.sexes, TABLE_0001),
        deceased=_deceased(reading, segment),
    )


def _identifiers(reading: Reading, segment: Segment) -> tuple[Identifier, ...]:
    default = reading.profile.patient_authority or reading.profile.facility
    known = [
        Identifier(i.authority or default, i.value, i.type)
        for i in _typed(identifiers_of(segment, 3, reading.profile.authorities), reading.profile)
        if max(len(i.value), len(i.authority or ""), len(i.type or "")) <= MAX_TEXT_CHARS
    ]
    if len(known) > MAX_IDENTIFIERS:
        reading.too_long("PID-3")
    return tuple(known[:MAX_IDENTIFIERS])


def _name(reading: Reading, segment: Segment) -> Name | UnsetType | None:
    if segment.raw(5) == NULL:
        return None
    name = name_of(segment, 5)
    if name is None:
        return UNSET
    if max(len(name.family or ""), len(name.given or "")) > MAX_TEXT_CHARS:
        return reading.too_long("PID-5")
    return name


def _deceased(reading: Reading, segment: Segment) -> bool | UnsetType | None:
    """PID-30; where it is empty, a time of death (PID-29) says so too."""
    said = reading.code(segment, 30, {}, TABLE_0136)
    return True if said is UNSET and isinstance(reading.time(segment, 29), int) else said


def _birth_date(reading: Reading, segment: Segment) -> str | UnsetType | None:
    value = reading.text(segment, 7)
    if not isinstance(value, str):
        return value
    day = date(value)
    return reading.not_read("PID-7") if day is UNREADABLE else day
