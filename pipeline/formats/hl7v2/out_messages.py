"""From an accepted record to the message that tells it: a pure function, so that a repeat is the same byte for byte.

The control id is derived from the destination and the record's own position, so that a repeat carries the same one; nothing
of a patient goes into it. MSH-7 and EVN-2 are the time at which the record was accepted, which never falls within an entity:
a receiver that orders by recorded time keeps our order. EVN-6 says when it happened.
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from pipeline.domain.event import Bed, Encounter, Patient, Procedure
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.hl7v2.er7 import FieldContent, build
from pipeline.formats.hl7v2.out_others import (
    BED_TRIGGER,
    bed_is_told,
    bed_lines,
    person_lines,
    person_trigger,
    procedure_lines,
    procedure_trigger,
)
from pipeline.formats.hl7v2.out_profile import OutProfile
from pipeline.formats.hl7v2.out_values import Held, Line, Untellable, one, segment, time
from pipeline.formats.hl7v2.out_visit import trigger_of, visit

STRUCTURES: Final[dict[str, str]] = {
    **dict.fromkeys(("A01", "A04", "A08", "A13"), "ADT_A01"),
    **dict.fromkeys(("A05", "A14", "A28", "A31"), "ADT_A05"),
    **dict.fromkeys(("A06", "A07"), "ADT_A06"),
    **dict.fromkeys(("A09", "A10", "A11"), "ADT_A09"),
    **dict.fromkeys(("A21", "A22", "A23", "A25", "A26", "A27", "A32", "A33"), "ADT_A21"),
    **dict.fromkeys(("A52", "A53"), "ADT_A52"),
    **{name: f"ADT_{name}" for name in ("A02", "A03", "A12", "A15", "A16", "A20", "A38")},
    **dict.fromkeys(("A40", "A42"), "ADT_A39"),
}
"""MSH-9.3 of each ADT (chapter 3); every SIU has that of S12."""

REFUSALS: Final = {
    **dict.fromkeys(("100", "101", "102", "103", "104", "200", "201", "202", "203"), Reason.REFUSED_INVALID),
    "204": Reason.REFUSED_MISSING,
}
"""What an ERR-3 (table 0357) of an AR or CR amounts to; any other is REFUSED_OTHER."""


_ASKED_FOR: Final[dict[str, dict[int, FieldContent]]] = {
    "original": {},
    "enhanced": {15: "AL", 16: "NE"},
    "application": {15: "AL", 16: "AL"},
}
"""MSH-15 and MSH-16 (table 0155) by the profile's `acknowledgement`."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message, ready to be sent. `name` is MSH-9, as ADT^A20."""

    control_id: str
    name: str
    data: bytes

    def __repr__(self) -> str:
        return f"Letter({self.name}, {len(self.data)} bytes)"


def name_of(accepted: Accepted, profile: OutProfile) -> str | None:
    """MSH-9 of the message that tells a record, as ADT^A20; None where this receiver is told nothing of it."""
    match accepted.state:
        case Bed() as bed:
            wanted, kind = BED_TRIGGER if bed_is_told(bed) else None, "ADT"
        case Encounter() as stay:
            wanted, kind = trigger_of(accepted, stay), "ADT"
        case Patient() as someone:
            wanted, kind = person_trigger(accepted, someone), "ADT"
        case Procedure() as procedure:
            wanted, kind = procedure_trigger(accepted, procedure), "SIU"
        case _:
            return None
    trigger = profile.trigger(accepted.entity_type, wanted) if wanted is not None else None
    return f"{kind}^{trigger}" if trigger is not None else None


def letter_of(accepted: Accepted, profile: OutProfile, destination: str) -> Letter | Held | None:
    """The message that tells a record; None where this receiver is told nothing of it."""
    name = name_of(accepted, profile)
    if name is None:
        return None
    control_id = control_id_of(destination, accepted, profile.control_id_chars)
    try:
        lines = _body(accepted, name, profile)
        if isinstance(lines, Held):
            return lines
        whole = build([_msh(accepted, name, control_id, profile), *lines])
    except Untellable as error:
        return Held(Reason.UNTELLABLE, error.field)
    try:
        data = whole.decode().encode(profile.codec)
    except UnicodeEncodeError:
        return Held(Reason.NOT_IN_CHARSET, "MSH-18")
    if len(data) > profile.max_message_bytes:
        return Held(Reason.OVERSIZE, "MSH")
    return Letter(control_id, name, data)


def control_id_of(destination: str, accepted: Accepted, chars: int) -> str:
    """MSH-10: capital letters and digits, the same for the same destination and record wherever and whenever it is built."""
    place = (destination, accepted.entity_type.value, str(accepted.partition), str(accepted.revision), accepted.event_id)
    digest = hashlib.sha256("\0".join(place).encode()).digest()
    return base64.b32encode(digest).decode()[:chars]


def _body(accepted: Accepted, name: str, profile: OutProfile) -> list[Line] | Held:
    trigger = name[4:]
    event = _evn(accepted, trigger, profile)
    match accepted.state:
        case Bed() as bed:
            lines = bed_lines(accepted, bed, profile)
            return lines if isinstance(lines, Held) else [event, *lines]
        case Encounter() as stay:
            return [event, *visit(accepted, stay, trigger, profile)]
        case Patient() as someone:
            return [event, *person_lines(accepted, someone, trigger, profile)]
        case Procedure() as procedure:
            return procedure_lines(accepted, procedure, profile)
        case _:
            raise Untellable("MSH-9")


def _msh(accepted: Accepted, name: str, control_id: str, profile: OutProfile) -> Line:
    kind, trigger = name.split("^")
    structure = ("SIU_S12" if kind == "SIU" else STRUCTURES[trigger],) if profile.is_at_least("2.3.1") else ()
    fields: dict[int, FieldContent] = {
        3: profile.sending_application,
        4: profile.sending_facility or accepted.facility,
        5: profile.receiving_application,
        6: profile.receiving_facility,
        7: time(accepted.accepted_at, profile, "MSH-7"),
        9: one(kind, trigger, *structure),
        10: control_id,
        11: profile.processing_id,
        12: profile.version_id,
        **_ASKED_FOR[profile.acknowledgement],
        18: profile.charset,
    }
    return segment("MSH", fields)


def _evn(accepted: Accepted, trigger: str, profile: OutProfile) -> Line:
    """EVN. Of an A14 the time of the decision to admit, where it is known, is when it happened."""
    state, happened = accepted.state, accepted.occurred_at
    if trigger == "A14" and isinstance(state, Encounter) and isinstance(state.admit_decision_at, int):
        happened = state.admit_decision_at
    fields: dict[int, FieldContent] = {
        1: trigger,
        2: time(accepted.accepted_at, profile, "EVN-2"),
        6: time(UNSET if happened is None else happened, profile, "EVN-6"),
    }
    return segment("EVN", fields)
