"""Merges, moves and changes of number: MRG names who is retired, PID-3, PID-18 or PV1-19 who survives (chapter 3).

A merge is two events: the loser's says into whom, the survivor's whom it replaces. Pure.
"""

from dataclasses import dataclass, replace
from typing import Final

from pipeline.domain.event import Encounter, EventType, Patient, Reference
from pipeline.formats.draft import Draft
from pipeline.formats.hl7v2 import adt
from pipeline.formats.hl7v2.datatypes import MAX_TEXT_CHARS, identifiers_of
from pipeline.formats.hl7v2.er7 import Message, Segment
from pipeline.formats.hl7v2.header import Header
from pipeline.formats.hl7v2.patient import patient_of, patient_reference
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.triggers import Rule, Says
from pipeline.formats.hl7v2.verdict import Ignored, Reason, Rejected

MAX_GROUPS: Final = 50
"""Most MRG segments of one message, and most PID segments of one with an MRG."""

LOSER, PERSON, LOST_VISIT, VISIT = range(4)
"""Ordinals of the events of one MRG; those of the next follow."""

ROLES: Final = 4


@dataclass(frozen=True, slots=True)
class Merge:
    """What a trigger joins: patients (MRG-1 into PID-3), accounts (MRG-3 into PID-18), visits (MRG-5 into PV1-19); or moves."""

    trigger: str
    meaning: str
    event_type: EventType = EventType.MERGE
    patients: bool = False
    accounts: bool = False
    visits: bool = False
    moves: bool = False


MERGES: Final = {
    merge.trigger: merge
    for merge in (
        Merge("A18", "merge of patient information (withdrawn)", patients=True),
        Merge("A30", "merge of person information (withdrawn)", patients=True),
        Merge("A34", "merge of patients, identifier only (withdrawn)", patients=True),
        Merge("A35", "merge of accounts, number only (withdrawn)", accounts=True),
        Merge("A36", "merge of patients and accounts (withdrawn)", patients=True, accounts=True),
        Merge("A39", "merge of persons (withdrawn)", patients=True),
        Merge("A40", "merge of patients", patients=True),
        Merge("A41", "merge of accounts", accounts=True),
        Merge("A42", "merge of visits", visits=True),
        Merge("A43", "a record number moves to another person", EventType.DEMOGRAPHICS, moves=True),
        Merge("A44", "an account moves to another patient", EventType.DEMOGRAPHICS, accounts=True, moves=True),
        Merge("A45", "a visit moves to another patient", EventType.DEMOGRAPHICS, visits=True, moves=True),
        Merge("A47", "change of a patient's number", EventType.RENAME, patients=True),
        Merge("A49", "change of an account's number", EventType.RENAME, accounts=True),
        Merge("A50", "change of a visit's number", EventType.RENAME, visits=True),
    )
}

WHERE: Final = {
    "merged_into": "PID-3, PID-18 or PV1-19, for whom MRG-1, 3 or 5 names",
    "replaces": "MRG-1, MRG-3 or MRG-5",
}
"""Where the fields of a merge are read."""


def drafts(reading: Reading, header: Header, trigger: str) -> tuple[Draft, ...] | Rejected | Ignored:
    """Events of the message, those of each MRG with its PID and PV1 in their order."""
    rule, profile = MERGES[trigger], reading.profile
    if not rule.patients and (rule.accounts or rule.visits) and _field(rule) not in profile.visit_number_fields:
        return Ignored(f"ADT^{trigger} moves no capacity: the profile names no visit by {_field(rule)}")
    groups, count = _groups(reading.message), reading.message.count("MRG")
    if not count or count != len(groups):
        detail = f"more than {MAX_GROUPS} of them, or one without a PID before it" if count else "segment missing"
        return Rejected(Reason.SEGMENT_SEQUENCE, "MRG", detail, "send MRG after the PID of who survives")
    found: list[Draft] = []
    for number, group in enumerate(groups):
        part = Reading(group, profile)
        made = _group(part, header, rule)
        reading.take_over(part)
        if isinstance(made, Rejected):
            return made
        found += (replace(draft, ordinal=draft.ordinal + number * ROLES) for draft in made)
    return tuple(found)


def _groups(message: Message) -> list[Message]:
    """Each MRG with its PID and PV1, none of what is out of order; none at all where there are too many of either."""
    halves = message.each("PID", MAX_GROUPS) if message.count("MRG") <= MAX_GROUPS else None
    return [group for half in halves or () for group in half.each("MRG", MAX_GROUPS) or () if _is_in_order(half)]


def _is_in_order(half: Message) -> bool:
    """Whether who survives stands before who is retired: an MRG ahead of every PID belongs to nobody in particular."""
    names = half.names()
    return names.index("PID") < names.index("MRG")


def _field(rule: Merge) -> str:
    return "PID-18" if rule.accounts else "PV1-19"


def _group(reading: Reading, header: Header, rule: Merge) -> tuple[Draft, ...] | Rejected:
    pid, mrg = reading.message.segment("PID"), reading.message.segment("MRG")
    assert pid is not None, "each group begins with them"
    assert mrg is not None, "each group begins with them"
    patient = patient_reference(pid, reading.profile)
    if isinstance(patient, Rejected):
        return patient
    people = _people(reading, pid, mrg, patient, rule)
    visits = _visits(reading, header, pid, mrg, patient, rule) if rule.visits or rule.accounts else ()
    if isinstance(people, Rejected):
        return people
    return visits if isinstance(visits, Rejected) else (*people, *visits)


def _people(reading: Reading, pid: Segment, mrg: Segment, patient: Reference, rule: Merge) -> tuple[Draft, ...] | Rejected:
    """The patient of MRG-1, if it is merged, and that of PID."""
    person = Draft(PERSON, EventType.DEMOGRAPHICS, patient.namespace, patient.id, None, patient_of(reading, pid))
    if not rule.patients:
        return (person,)
    loser = patient_reference(mrg, reading.profile, 1)
    if isinstance(loser, Rejected):
        return (person,) if rule.event_type is EventType.RENAME and _is_another_kind(mrg, reading.profile) else loser
    if loser == patient:
        return (person,) if rule.event_type is EventType.RENAME else _itself("MRG-1")
    lost = Draft(LOSER, rule.event_type, loser.namespace, loser.id, None, Patient(merged_into=patient))
    return lost, replace(person, event_type=rule.event_type, replaces=loser)


def _is_another_kind(mrg: Segment, profile: Profile) -> bool:
    """Whether what changes is none of the identifiers that name a patient here."""
    types = {each.type for each in identifiers_of(mrg, 1, profile.authorities)}
    return bool(types) and None not in types and types.isdisjoint(profile.patient_id_types)


def _itself(field: str) -> Rejected:
    remedy = "send who is retired in MRG, and who survives in PID or PV1"
    return Rejected(Reason.AMBIGUOUS_IDENTITY, field, "merged into itself", remedy)


def _visits(
    reading: Reading, header: Header, pid: Segment, mrg: Segment, patient: Reference, rule: Merge
) -> tuple[Draft, ...] | Rejected:
    """The visit of MRG, if it is merged, and the one that survives, or moves to the patient."""
    profile, pv1 = reading.profile, reading.message.segment("PV1")
    if _field(rule) not in profile.visit_number_fields:
        return ()
    segment, n, prior = (pid, 18, 3) if rule.accounts else (pv1, 19, 5)
    namespace = profile.namespace_of_accounts if rule.accounts else profile.namespace_of_visits
    visit = _number(segment, n, _field(rule), namespace, profile)
    if isinstance(visit, Rejected):
        return visit
    is_empty = rule.moves and not identifiers_of(mrg, prior, profile.authorities)
    loser = visit if is_empty else _number(mrg, prior, f"MRG-{prior}", namespace, profile)
    if isinstance(loser, Rejected):
        return loser
    if rule.moves:
        if loser != visit:
            detail = "a visit that moves to another patient keeps its number"
            return Rejected(Reason.AMBIGUOUS_IDENTITY, f"MRG-{prior}", detail, "send the change of number by itself")
        return (Draft(VISIT, rule.event_type, visit.namespace, visit.id, None, Encounter(patient=patient)),)
    if loser == visit:
        return _itself(f"MRG-{prior}")
    as_update = Rule(rule.trigger, rule.meaning, rule.event_type, Says.NOTHING)
    stay = adt.encounter_of(reading, header, as_update, pv1, patient) if pv1 is not None else Encounter(patient=patient)
    lost = Draft(LOST_VISIT, rule.event_type, loser.namespace, loser.id, None, Encounter(merged_into=visit))
    return lost, Draft(VISIT, rule.event_type, visit.namespace, visit.id, None, stay, loser)


def _number(segment: Segment | None, n: int, field: str, namespace: str, profile: Profile) -> Reference | Rejected:
    found = {(each.value, each.authority) for each in identifiers_of(segment, n, profile.authorities)} if segment else set()
    if len(found) != 1:
        reason = Reason.AMBIGUOUS_IDENTITY if found else Reason.MISSING_FIELD
        return Rejected(reason, field, "several numbers" if found else "no number", f"send one number in {field}")
    ((value, authority),) = found
    if max(len(value), len(authority or "")) > MAX_TEXT_CHARS:
        return Rejected(Reason.TOO_LONG, field, f"longer than {MAX_TEXT_CHARS} characters", "send a shorter number")
    return Reference(authority or namespace, value)
