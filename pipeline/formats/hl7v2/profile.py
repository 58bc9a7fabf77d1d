"""What one sender's HL7 v2 means here: the file `profiles/hl7/*.yaml`, one per feed."""

import codecs
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from pipeline.domain.event import Environment, Occupancy, PatientClass, ServiceStatus
from pipeline.formats.hl7v2.charsets import DEFAULT_FALLBACK

VISIT_FIELDS: Final = ("PV1-19", "PID-18")
PLACE_PARTS: Final = ("point_of_care", "room", "bed")
TABLE_0116: Final = frozenset("CHOUKI")


Acknowledgement = Literal["by_message", "original"]


class BedStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one code of table 0116 states about a bed; what is left out is not stated."""

    occupancy: Annotated[Occupancy | None, Meta(description="is a patient in it, without saying who")] = None
    environment: Annotated[Environment | None, Meta(description="housekeeping state")] = None
    service: Annotated[ServiceStatus | None, Meta(description="is it in service")] = None
    isolation: Annotated[bool | None, Meta(description="is it under isolation")] = None


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
    patient_classes: Annotated[dict[str, PatientClass], Meta(description="the sender's own codes for table 0004")] = {}
    trusts_sequence: Annotated[bool, Meta(description="MSH-13 orders this feed")] = False
    a08_moves: Annotated[bool, Meta(description="an A08 may move a patient")] = False
    bed_status: Annotated[dict[str, BedStatement], Meta(description="table 0116: what each code states")] = msgspec.field(
        default_factory=BED_STATUS.copy
    )
    bed_reason: Annotated[str | None, Meta(description="reason code of a service status that A20 states")] = None
    charset_fallback: Annotated[tuple[str, ...], Meta(description="where MSH-18 is empty or wrong")] = DEFAULT_FALLBACK
    max_message_bytes: Annotated[int, Meta(description="largest message", ge=1024, le=64 << 20)] = 1 << 20
    processing_ids: Annotated[tuple[str, ...], Meta(description="MSH-11.1 that count; an empty MSH-11 is P")] = ("P",)
    acknowledgement: Annotated[
        Acknowledgement, Meta(description="by_message: as MSH-15 and 16 ask; original: AA, AE or AR whatever they say")
    ] = "by_message"
    ignored: Annotated[tuple[str, ...], Meta(description="message types (ORU) or triggers (ADT^A60) that move no capacity")] = ()

    def __post_init__(self) -> None:
        """Refuse what the types can't."""
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("time_zone: not a zone of the IANA database") from error
        if not self.visit_number_fields or not set(self.visit_number_fields) <= set(VISIT_FIELDS):
            raise ValueError(f"visit_number_fields: one or both of {', '.join(VISIT_FIELDS)}")
        if not set(self.bed_status) <= TABLE_0116:
            raise ValueError("bed_status: codes of table 0116 are C, H, O, U, K, I")
        for codec in self.charset_fallback:
            try:
                codecs.lookup(codec)
            except LookupError as error:
                raise ValueError("charset_fallback: not a codec") from error

    @property
    def namespace_of_visits(self) -> str:
        """Namespace of PV1-19 without an authority."""
        return self.visit_authority or self.facility

    @property
    def namespace_of_accounts(self) -> str:
        """Namespace of PID-18 without an authority; apart from visits, whose numbers may be the same."""
        return self.account_authority or f"{self.facility}:AN"


def profile_of(text: bytes | str) -> Profile:
    """The profile that a YAML file holds. Raises msgspec.ValidationError, with the place, where it is wrong."""
    return msgspec.yaml.decode(text, type=Profile)
