"""How one receiver of HL7 v2 wants to be told: the file `profiles/hl7-out/*.yaml`, one per receiver. Pure."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from pipeline.domain.event import EntityType, PatientClass
from pipeline.formats.hl7v2.charsets import codec_of
from pipeline.formats.hl7v2.triggers import BY_TRIGGER

VERSIONS: Final = ("2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8", "2.8.1", "2.8.2", "2.9")

CONTROL_ID_CHARS: Final = 20
"""Length of MSH-10 up to 2.6; later versions allow 199."""

FORMS: Final[dict[EntityType, tuple[str, ...]]] = {
    EntityType.BED: ("A20",),
    EntityType.ENCOUNTER: (*(name for name in BY_TRIGGER if name not in ("A17", "A28", "A31")), "A42"),
    EntityType.PATIENT: ("A28", "A31", "A40"),
    EntityType.PROCEDURE: ("S12", "S13", "S14", "S15", "S16", "S17", "S23", "S26"),
}
"""Triggers that can be built about each entity type. A swap goes out as a move of each of the two."""

CAPACITYS_OWN: Final = frozenset({EntityType.BED})
"""What the owner of patients, stays and their schedule may be told: the operational status of beds is not its own."""

Role = Literal["owner", "replica"]


class OutProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One receiver's conventions. Raises msgspec.ValidationError where the file is wrong; nothing is guessed."""

    version: Annotated[str, Meta(description="version of this file", min_length=1)]
    role: Annotated[Role, Meta(description="owner (is told of beds only) or replica (is told all that is listed)")]
    sends: Annotated[
        dict[EntityType, tuple[str, ...]], Meta(description="triggers that go out about each entity type; others never do")
    ]
    instead: Annotated[dict[str, str], Meta(description="a trigger that the receiver lacks, and the one sent in its place")] = {}
    sending_application: Annotated[str, Meta(description="MSH-3", min_length=1)] = "SURGELINE"
    sending_facility: Annotated[str, Meta(description="MSH-4; the entity's own facility if empty")] = ""
    receiving_application: Annotated[str, Meta(description="MSH-5")] = ""
    receiving_facility: Annotated[str, Meta(description="MSH-6")] = ""
    processing_id: Annotated[Literal["P", "T", "D"], Meta(description="MSH-11")] = "P"
    version_id: Annotated[str, Meta(description="MSH-12")] = "2.5.1"
    charset: Annotated[str, Meta(description="MSH-18, table 0211; what it can't hold is not sent but parked")] = "UNICODE UTF-8"
    time_zone: Annotated[str, Meta(description="IANA zone in which times are written")] = "UTC"
    offsets: Annotated[
        bool, Meta(description="write +ZZZZ behind times; without it an hour that the zone has twice is ambiguous")
    ] = True
    patient_id_type: Annotated[str, Meta(description="PID-3.5 of the identifier that names the patient", min_length=1)] = "MR"
    unknown_class: Annotated[str, Meta(description="PV1-2 where the class isn't known; a stay must have one")] = "U"
    reservation: Annotated[
        Literal["held", "pending_move"],
        Meta(
            description="a promised bed that is empty: held, or sent as U because A14 and A15 tell this receiver of the promise"
        ),
    ] = "held"
    acknowledgement: Annotated[
        Literal["original", "enhanced", "application"],
        Meta(
            description="what decides. original: AA, AE, AR; enhanced: CA, CE, CR (MSH-15 AL, MSH-16 NE); application: the AA, "
            "AE or AR that follows a CA (both AL)"
        ),
    ] = "original"
    window: Annotated[int, Meta(description="messages sent and not yet acknowledged, never two of one entity", ge=1, le=256)] = 1
    connect_timeout_s: Annotated[float, Meta(description="time for a connection, TLS included", gt=0, le=120)] = 10.0
    ack_timeout_s: Annotated[
        float,
        Meta(description="time for an acknowledgement; then the connection is given up and the message sent again", gt=0, le=600),
    ] = 30.0
    max_attempts: Annotated[
        int, Meta(description="answers AE or CE after which a message is parked, while the receiver takes others", ge=1, le=1_000)
    ] = 20
    control_id_chars: Annotated[int, Meta(description="length of MSH-10", ge=16, le=52)] = CONTROL_ID_CHARS
    max_message_bytes: Annotated[int, Meta(description="longest message; a longer one is parked", ge=1_024, le=1 << 20)] = 65_536

    def __post_init__(self) -> None:
        """Refuse what the types can't; all problems at once."""
        problems = tuple(self._problems())
        if problems:
            raise ValueError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            yield "time_zone: not a zone of the IANA database"
        if self.charset and codec_of(self.charset) is None:
            yield "charset: not one of table 0211 that is known here"
        if self.version_id not in VERSIONS:
            yield f"version_id: one of {', '.join(VERSIONS)}"
        if self.control_id_chars > CONTROL_ID_CHARS and not self.is_at_least("2.7"):
            yield f"control_id_chars: MSH-10 has at most {CONTROL_ID_CHARS} characters before 2.7"
        if self.unknown_class and self.unknown_class not in set(PatientClass):
            yield "unknown_class: a code of table 0004"
        if not self.sends or not any(self.sends.values()):
            yield "sends: names no trigger"
        for entity_type, names in self.sends.items():
            known = FORMS.get(entity_type)
            if known is None:
                yield f"sends.{entity_type.value}: HL7 v2 has no message for it; {', '.join(FORMS)} can be sent"
            elif unknown := sorted(set(names) - set(known)):
                yield f"sends.{entity_type.value}: not built here: {', '.join(unknown)}; known: {', '.join(known)}"
        if self.role == "owner" and (owned := sorted(set(self.sends) - CAPACITYS_OWN)):
            yield f"sends: an owner is never told what it owns: {', '.join(owned)}"
        yield from self._replacements()
        told = set(self.sends.get(EntityType.ENCOUNTER, ()))
        if self.reservation == "pending_move" and not {"A14", "A15"} <= told:
            yield "reservation: pending_move needs A14 and A15 among what is sent of encounters"

    def _replacements(self) -> Iterator[str]:
        for name, other in self.instead.items():
            same = [names for entity_type, names in FORMS.items() if name in names and other in self.sends.get(entity_type, ())]
            if not same:
                yield f"instead.{name}: {other} is not sent about the same entity type"

    @property
    def codec(self) -> str:
        """Python's name of the character set; without one in MSH-18 it is ASCII, as the standard has it."""
        return (codec_of(self.charset) if self.charset else None) or "ascii"

    def is_at_least(self, version: str) -> bool:
        """Whether the receiver's version of the standard is this one or a later one."""
        return _number(self.version_id) >= _number(version)

    def trigger(self, entity_type: EntityType, wanted: str) -> str | None:
        """The trigger that goes out where `wanted` says it best; None where this receiver is told nothing of it."""
        sent = self.sends.get(entity_type, ())
        if wanted in sent:
            return wanted
        other = self.instead.get(wanted)
        return other if other in sent else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def out_profile_of(text: bytes | str) -> OutProfile:
    """The profile that a YAML file holds. Raises msgspec.ValidationError, with the place, where it is wrong."""
    return msgspec.yaml.decode(text, type=OutProfile)
