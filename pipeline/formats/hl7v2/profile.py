"""What one sender's HL7 v2 means here: the file `profiles/hl7/*.yaml`, one per feed. `profile_file.py` reads it."""

import codecs
import re
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from pipeline.domain.event import Environment, Occupancy, PatientClass, ProcedureStatus, ServiceStatus, Sex
from pipeline.formats.hl7v2.charsets import DEFAULT_FALLBACK
from pipeline.formats.hl7v2.leniency import HARMLESS, Leniency

VISIT_FIELDS: Final = ("PV1-19", "PID-18")
TABLE_0116: Final = frozenset("CHOUKI")
TABLE_0007: Final = frozenset("AELRNUC")

TEXT_FIELDS: Final = ("service", "disposition")
TIME_FIELDS: Final = ("admitted_at", "admit_decision_at", "expected_discharge_at", "discharge_ordered_at")
PLACE_FIELDS: Final = ("temporary_location", "pending_location")
Z_FIELDS: Final = (*TEXT_FIELDS, *TIME_FIELDS, *PLACE_FIELDS)
"""Fields of an encounter that a Z-segment may be named as the source of. Who it is, its status and its bed are not among
them: those are the trigger's and PV1's to say."""

_MESSAGE_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}(\^[A-Z][A-Z0-9]{2})?")
_Z_POSITION: Final = re.compile(r"(Z[A-Z0-9]{2})-([1-9]\d{0,2})(?:\.([1-9]\d?))?")

Acknowledgement = Literal["by_message", "original"]
Sequence = Literal["none", "MSH-13", "ZBE-1"]
SiteField = Literal["none", "MSH-4", "EVN-7"]
Movements = Literal["IHE_PAM", "ignored"]


class BedStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one code of table 0116 states about a bed; what is left out is not stated."""

    occupancy: Annotated[Occupancy | None, Meta(description="is a patient in it, without saying who")] = None
    environment: Annotated[Environment | None, Meta(description="housekeeping state")] = None
    service: Annotated[ServiceStatus | None, Meta(description="is it in service")] = None
    isolation: Annotated[bool | None, Meta(description="is it under isolation")] = None


class Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a unit that the sender names in PL.1 is called here, and where it lies; what is left out stays as it was sent."""

    point_of_care: Annotated[str | None, Meta(description="our code of the unit")] = None
    facility: Annotated[str | None, Meta(description="the site that it belongs to")] = None
    building: Annotated[str | None, Meta(description="building")] = None
    floor: Annotated[str | None, Meta(description="floor")] = None


BED_STATUS: Final[dict[str, BedStatement]] = {
    "C": BedStatement(service=ServiceStatus.CLOSED),
    "H": BedStatement(environment=Environment.DIRTY),
    "O": BedStatement(occupancy=Occupancy.OCCUPIED),
    "U": BedStatement(occupancy=Occupancy.VACANT),
    "K": BedStatement(environment=Environment.CONTAMINATED),
    "I": BedStatement(isolation=True),
}
"""Each code's own dimension and nothing else. A feed whose only word on beds is A20 says more with U: see its profile."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sender's conventions. Raises msgspec.ValidationError where the file is wrong; nothing is guessed."""

    version: Annotated[str, Meta(description="version of this file", min_length=1)]
    source_system: Annotated[str, Meta(description="who speaks, as the ownership policy names it", min_length=1)]
    feed: Annotated[str, Meta(description="connection, sequences are compared within it", min_length=1)]
    facility: Annotated[str, Meta(description="site, where the message names none (PL.4)", min_length=1)]
    time_zone: Annotated[str, Meta(description="IANA zone of times without an offset, where MSH-7 has none either")]
    patient_id_types: Annotated[tuple[str, ...], Meta(description="PID-3.5 in order of preference")] = ("MR",)
    patient_id_authorities: Annotated[tuple[str, ...], Meta(description="PID-3.4 that count; empty for any")] = ()
    patient_id_sole_untyped: Annotated[bool, Meta(description="take the one identifier of PID-3 if none has a type")] = False
    patient_authority: Annotated[str | None, Meta(description="namespace where PID-3.4 is empty; default: facility")] = None
    visit_number_fields: Annotated[tuple[str, ...], Meta(description="PV1-19, PID-18 in order of preference")] = ("PV1-19",)
    visit_authority: Annotated[str | None, Meta(description="namespace where PV1-19.4 is empty; default: facility")] = None
    account_authority: Annotated[str | None, Meta(description="namespace where PID-18.4 is empty; default: facility:AN")] = None
    authorities: Annotated[dict[str, str], Meta(description="what an assigning authority, as sent, is called here")] = {}
    site_field: Annotated[SiteField, Meta(description="where a message names its site, by a code of `facilities`")] = "none"
    facilities: Annotated[dict[str, str], Meta(description="what a facility of PL.4 or site_field is called here")] = {}
    units: Annotated[dict[str, Unit], Meta(description="what PL.1, or facility/PL.1, is called here")] = {}
    patient_classes: Annotated[dict[str, PatientClass], Meta(description="the sender's own codes for table 0004")] = {}
    admission_types: Annotated[dict[str, str], Meta(description="the sender's own codes of PV1-4 for table 0007")] = {}
    sexes: Annotated[dict[str, Sex], Meta(description="the sender's own codes of PID-8")] = {}
    dispositions: Annotated[dict[str, str], Meta(description="what a code of PV1-36 is called here")] = {}
    appointment_statuses: Annotated[
        dict[str, ProcedureStatus], Meta(description="the sender's own codes of SCH-25 for table 0278")
    ] = {}
    sequence: Annotated[
        Sequence, Meta(description="a number that counts up through the whole feed and may be believed; ZBE-1 of inserts only")
    ] = "none"
    movements: Annotated[
        Movements, Meta(description="IHE_PAM: ZBE says which movement is inserted, updated or cancelled, and if it is past")
    ] = "IHE_PAM"
    z_fields: Annotated[
        dict[str, str], Meta(description="fields of an encounter read from a Z-segment, as ZPV-3 or ZBE-7.1")
    ] = {}
    a08_moves: Annotated[bool, Meta(description="an A08 may move a patient")] = False
    bed_status: Annotated[dict[str, BedStatement], Meta(description="table 0116: what each code states")] = msgspec.field(
        default_factory=BED_STATUS.copy
    )
    own_bed_status: Annotated[
        dict[str, BedStatement], Meta(description="the sender's own codes of NPU-2, looked up before table 0116")
    ] = {}
    bed_reason: Annotated[str | None, Meta(description="reason code of a service status that A20 states")] = None
    charset_fallback: Annotated[tuple[str, ...], Meta(description="where MSH-18 is empty or wrong")] = DEFAULT_FALLBACK
    max_message_bytes: Annotated[int, Meta(description="largest message", ge=1024, le=64 << 20)] = 1 << 20
    processing_ids: Annotated[tuple[str, ...], Meta(description="MSH-11.1 that count; an empty MSH-11 is P")] = ("P",)
    acknowledgement: Annotated[
        Acknowledgement, Meta(description="by_message: as MSH-15 and 16 ask; original: AA, AE or AR whatever they say")
    ] = "by_message"
    tolerates: Annotated[tuple[Leniency, ...], Meta(description="departures from the standard that are let through")] = HARMLESS
    ignored: Annotated[tuple[str, ...], Meta(description="message types (ORU) or triggers (ADT^A60) that move no capacity")] = ()

    def __post_init__(self) -> None:
        """Refuse what the types can't."""
        for problem in (
            _wrong_times(self),
            _wrong_identity(self),
            _wrong_codes(self),
            _wrong_places(self),
            _wrong_z_fields(self),
        ):
            if problem:
                raise ValueError(problem)

    def z_position(self, field: str) -> tuple[str, int, int] | None:
        """Segment, field and component (0: the first) that the profile names as source of an encounter's field."""
        position = self.z_fields.get(field)
        found = _Z_POSITION.fullmatch(position) if position else None
        return (found[1], int(found[2]), int(found[3] or 0)) if found else None

    @property
    def namespace_of_visits(self) -> str:
        """Namespace of PV1-19 without an authority."""
        return self.visit_authority or self.facility

    @property
    def namespace_of_accounts(self) -> str:
        """Namespace of PID-18 without an authority; apart from visits, whose numbers may be the same."""
        return self.account_authority or f"{self.facility}:AN"


def _wrong_times(profile: Profile) -> str | None:
    try:
        ZoneInfo(profile.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        return "time_zone: not a zone of the IANA database; write it as Europe/Berlin"
    return None


def _wrong_identity(profile: Profile) -> str | None:
    if not profile.patient_id_types and not profile.patient_id_authorities and not profile.patient_id_sole_untyped:
        return "patient_id_types: by these settings nobody could be told; list a type, as MR"
    if not profile.visit_number_fields or not set(profile.visit_number_fields) <= set(VISIT_FIELDS):
        return f"visit_number_fields: name one or both of {', '.join(VISIT_FIELDS)}"
    return None


def _wrong_codes(profile: Profile) -> str | None:
    if not set(profile.bed_status) <= TABLE_0116:
        return "bed_status: codes of table 0116 are C, H, O, U, K, I; name the sender's own in own_bed_status"
    if not set(profile.admission_types.values()) <= TABLE_0007:
        return "admission_types: codes of table 0007 are A, C, E, L, N, R, U"
    if not all(map(_MESSAGE_NAME.fullmatch, profile.ignored)):
        return "ignored: write a message type as ORU, or a trigger as ADT^A60; anything else never matches"
    for codec in profile.charset_fallback:
        try:
            codecs.lookup(codec)
        except LookupError:
            return "charset_fallback: not a codec; write it as utf-8 or iso-8859-1"
    return None


def _wrong_places(profile: Profile) -> str | None:
    if profile.site_field != "none" and not profile.facilities:
        return "site_field: list in `facilities` what each of its codes is called here"
    if any("" in msgspec.structs.astuple(unit) for unit in profile.units.values()):
        return "units: leave out what stays as it was sent; an empty name names nothing"
    return None


def _wrong_z_fields(profile: Profile) -> str | None:
    if not set(profile.z_fields) <= set(Z_FIELDS):
        return f"z_fields: fields that a Z-segment may be the source of are {', '.join(Z_FIELDS)}"
    if not all(map(_Z_POSITION.fullmatch, profile.z_fields.values())):
        return "z_fields: write the position as ZPV-3, or ZBE-7.1 for a component"
    return None
