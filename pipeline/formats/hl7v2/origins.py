"""Where in a message each field of its events was read, and by which rule: for the person who onboards a feed. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import UNSET

from pipeline.domain.event import Bed, Encounter, Event, Patient, Payload, Procedure
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2 import leniency, movement
from pipeline.formats.hl7v2.er7 import Message
from pipeline.formats.hl7v2.header import type_of
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.merge import MERGES, WHERE
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.siu import TRIGGERS
from pipeline.formats.hl7v2.triggers import Rule, rule_of
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Rejected
from pipeline.formats.json_events import event_to_json

FIELDS: Final[dict[type[msgspec.Struct], dict[str, str]]] = {
    Patient: {
        "identifiers": "PID-3",
        "name": "PID-5",
        "birth_date": "PID-7",
        "sex": "PID-8",
        "deceased": "PID-30",
    },
    Encounter: {
        "patient_class": "PV1-2",
        "location": "PV1-3",
        "prior_location": "PV1-6",
        "service": "PV1-10",
        "temporary_location": "PV1-11",
        "disposition": "PV1-36",
        "pending_location": "PV1-42",
        "admitted_at": "PV1-44",
        "discharged_at": "PV1-45",
        "episode": "PV1-54",
        "expected_discharge_at": "PV2-9",
    },
}
"""Where each field of an ADT is read; a test fills each position alone and looks where it ends up."""

PROCEDURE_FIELDS: Final = {
    "status": "the trigger, else SCH-25",
    "start": "AIS-4, else TQ1-7, else SCH-11.4",
    "end": "start and AIS-7 or SCH-9, else TQ1-8, else SCH-11.5",
    "place": "AIL-3",
    "patient": "PID-3",
    "encounter": "PV1-19 or PID-18",
    "service": "AIS-3.1",
    "reason": "SCH-6.1",
}
"""Where each field of an SIU is read."""

MASTER_FIELDS: Final = {
    "place": "LOC-1",
    "service": "MFE-1",
    "licensed": "LCH-5 of LIC",
    "staffed": "LCH-5 of STF",
    "surge": "LCH-5 of OVR",
    "level_of_care": "LCH-5 of LCR",
}
"""Where each field of an MFN^M05 is read."""

COMMON: Final = {
    "recorded_at": "EVN-2, else MSH-7",
    "occurred_at": "EVN-6, else ZBE-2",
    "sequence": "MSH-13 or ZBE-1, as the profile says",
    "priority": "PV1-4",
    "user": "EVN-5",
    "reason": "EVN-4",
    "audit_context": "ZBE-1",
}
"""Where what all events of a message have in common is read."""

_KIND: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_STATUS: Final = "NPU-2 by the profile's bed_status"


@dataclass(frozen=True, slots=True)
class Told:
    """One field of one event: its value as `surgeline map` prints it, and where it is from."""

    field: str
    value: Any
    origin: str

    def __repr__(self) -> str:
        return f"Told({self.field}, <redacted>, {self.origin})"


@dataclass(frozen=True, slots=True)
class Explained:
    """What became of one message: by which rule, the events with their fields, what of it could not be read."""

    message: str
    rule: str
    events: tuple[tuple[Event, tuple[Told, ...]], ...] = ()
    unread: tuple[str, ...] = ()
    rejected: Rejected | None = None
    common: tuple[Told, ...] = ()
    """What all its events have in common."""
    departures: tuple[str, ...] = ()
    """What a profile has to tolerate of it, by name."""


def explain(data: bytes, profile: Profile) -> Explained:
    """One message under a profile. The tenant is the profile's own affair: it changes ids and no field."""
    message, verdict = map_bytes(data, profile, "explained", Millis(0))
    kind, trigger = type_of(message) if message is not None else ("", "")
    name = _name_of(kind, trigger) if kind else "no message"
    match verdict:
        case Rejected():
            return Explained(name, verdict.reason.doc, rejected=verdict)
        case Ignored(detail):
            return Explained(name, detail)
        case Mapped(events, unread, over_long):
            rule = _ruled(message, trigger, profile) if message is not None and kind == "ADT" else None
            told = tuple((event, (*_told(event, kind, rule, profile), *_replaced(event))) for event in events)
            return Explained(
                name,
                _meaning(kind, trigger, rule),
                told,
                unread,
                common=_common(events[0]),
                departures=_departures(message, data, unread, over_long),
            )


def _departures(message: Message | None, data: bytes, unread: tuple[str, ...], over_long: tuple[str, ...]) -> tuple[str, ...]:
    found = {departure for departure, _, _ in leniency.departures(message, data)} if message is not None else set()
    found |= {leniency.Leniency.OVER_LONG_FIELD} if over_long else set()
    found |= {leniency.Leniency.UNREADABLE_FIELD} if set(unread) - set(over_long) else set()
    return tuple(sorted(departure.value for departure in found))


def _name_of(kind: str, trigger: str) -> str:
    """Type and trigger, as far as they have the form of one: what stands there else may be anybody's data."""
    if not _KIND.fullmatch(kind):
        return "no known message type"
    return f"{kind}^{trigger if _KIND.fullmatch(trigger) else '?'}"


def _ruled(message: Message, trigger: str, profile: Profile) -> Rule | None:
    """The rule that was applied; of a swap, whose halves have a movement each, that of its trigger."""
    by_trigger = rule_of(trigger, profile.a08_moves)
    if trigger == "A20" or trigger in MERGES:
        return None
    bent = movement.ruled(Reading(message, profile), by_trigger)
    return by_trigger if isinstance(bent, Rejected) else bent


def _meaning(kind: str, trigger: str, rule: Rule | None) -> str:
    if rule is not None:
        return rule.meaning
    if kind == "ADT" and trigger in MERGES:
        return MERGES[trigger].meaning
    return {"SIU": TRIGGERS.get(trigger, ("", None))[0], "MFN": "location master"}.get(kind, "bed status")


def _told(event: Event, kind: str, rule: Rule | None, profile: Profile) -> tuple[Told, ...]:
    origins, shown = _origins(event.payload, kind, rule, profile), event_to_json(event)["payload"]
    stated = (name for name in event.payload.__struct_fields__ if getattr(event.payload, name) is not UNSET)
    return tuple(Told(name, shown.get(name), origins[name]) for name in stated)


def _common(event: Event) -> tuple[Told, ...]:
    shown = event_to_json(event)
    return tuple(Told(name, shown[name], origin) for name, origin in COMMON.items() if shown.get(name) is not None)


def _replaced(event: Event) -> tuple[Told, ...]:
    return (Told("replaces", msgspec.to_builtins(event.replaces), WHERE["replaces"]),) if event.replaces is not None else ()


def _origins(payload: Payload, kind: str, rule: Rule | None, profile: Profile) -> Mapping[str, str]:
    match payload:
        case Procedure():
            return PROCEDURE_FIELDS
        case Bed() if kind == "MFN":
            return MASTER_FIELDS
        case Bed() if rule is None:
            return dict.fromkeys(Bed.__struct_fields__, _STATUS)
        case Bed():
            return {"occupancy": "the trigger, for the bed of PV1-3 or PV1-6 and the visit"}
        case Patient():
            return {**FIELDS[Patient], "merged_into": WHERE["merged_into"]}
        case Encounter() if rule is None:
            return {**FIELDS[Encounter], "patient": "PID-3", "merged_into": WHERE["merged_into"]}
        case _:
            return _with_z_fields(FIELDS[Encounter] | _by_trigger(rule), profile)


def _with_z_fields(origins: Mapping[str, str], profile: Profile) -> Mapping[str, str]:
    named = {name: f"{at} by the profile, else {origins.get(name, 'nothing')}" for name, at in profile.z_fields.items()}
    return {**origins, **named}


def _by_trigger(rule: Rule | None) -> dict[str, str]:
    if rule is None:
        return {}
    return (
        {
            "patient": "PID-3",
            "status": f"the trigger: {rule.status.value}",
            "discharged_at": rule.discharge,
            "expected_discharge_at": rule.expected.value,
            "admit_decision_at": "EVN-6, else EVN-2",
        }
        | ({"pending_location": "PV1-42, else PV1-3 of class P"} if rule.decides else {})
        | dict.fromkeys(rule.clears, "the trigger clears it")
    )
