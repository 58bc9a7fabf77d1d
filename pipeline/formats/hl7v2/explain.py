"""The mapping as a page for people, made from the same tables that the mapping runs on.

`python -m pipeline.formats.hl7v2.explain > docs/mapping/adt.md`; a test says when the page is out of date.
"""

import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from pipeline.domain.event import Described, ProcedureStatus
from pipeline.formats.hl7v2.leniency import HARMLESS, Leniency
from pipeline.formats.hl7v2.merge import MERGES, Merge
from pipeline.formats.hl7v2.messages import IGNORED
from pipeline.formats.hl7v2.mfn import ACTIONS
from pipeline.formats.hl7v2.origins import FIELDS, MASTER_FIELDS, PROCEDURE_FIELDS
from pipeline.formats.hl7v2.patient import TABLE_0001
from pipeline.formats.hl7v2.profile import BED_STATUS, BedStatement, Profile
from pipeline.formats.hl7v2.siu import BOOKS
from pipeline.formats.hl7v2.siu import TRIGGERS as SCHEDULE_TRIGGERS
from pipeline.formats.hl7v2.triggers import MOVING_UPDATE, RULES, Rule
from pipeline.formats.hl7v2.verdict import Reason
from pipeline.formats.hl7v2.visit import STATUS_BY_CLASS
from pipeline.formats.markdown import table

_INTRO: Final = """\
# HL7 v2

What a message makes, as canonical events. Made from the tables in `pipeline/formats/hl7v2`; do not edit.

One message makes up to four events, in this order and with these ordinals: the patient (0), the encounter (1), the bed left
(2), the bed taken (3). An A20 makes one event per NPU, from ordinal 2 on. The same message always makes the same ids.

- **Order**: `recorded_at` is EVN-2, else MSH-7, the first that is a time to the minute; `sequence` is MSH-13
  or ZBE-1 where the profile trusts it. `occurred_at` is EVN-6, else ZBE-2, and orders nothing: on a cancel it holds the time of
  what is cancelled.
- **Times** without an offset have MSH-7's, else the profile's zone. An hour that the zone has twice is taken as its first.
- **Who**: the patient is the repetition of PID-3 that the profile picks by type and authority, the visit is PV1-19 or PID-18
  as the profile says. None or several: the message is rejected, never guessed.
- **Bed**: `point_of_care/room/bed` of the PL, in the namespace of PL.4, else of the profile's facility. No bed component: no
  bed event. `%` and `/` inside a component are written `%25` and `%2F`.
- **Empty** says nothing; `""` clears the field. An optional value that can't be read is left unsaid and named in the result.
- **The trigger decides who is in the bed**, PV1-2 decides the status: a class P on an A01 makes a planned encounter and an
  occupied bed, because a bed that may hold a patient must not be given away.
- **MSH-9 decides the trigger**; EVN-1 is read only where MSH-9.2 is empty. MSH-10 is identity: MSH-3, 4, 7 and 10 name the
  message; without MSH-10 or MSH-7 the digest of its bytes does.
"""

_TRIGGER_NOTE: Final = """\
The second A08 is that of a profile with `a08_moves`. The first A08 needs no visit number; A28 and A31 speak of the person
alone; all others need one. A02, A12 and A17 need PV1-3.

An A17 is two moves in one message, each with its PID and PV1; the second patient's ordinals follow the first's. A bed that the
other one takes is not said to be vacant in between. On a trip (A09, A10) or on leave (A21, A22) the bed is kept.
"""

_MOVEMENT_NOTE: Final = """\
IHE PAM sends with each movement of a patient what it is about. Where the profile says `movements: IHE_PAM`:

- A **past** movement (ZBE-5 = Y), inserted, updated or cancelled, moves nobody now: of the stay it tells who it is of and when it
  began (PV1-44), of the person what PID says, and nothing else.
- **INSERT** of a movement that is not past is what its trigger says.
- **UPDATE** is what the first trigger of the movement says: Z99 names it in ZBE-6, any other trigger is its own. **CANCEL** goes
  with the triggers that cancel and with no other. Both need the movement's id (ZBE-1) and the flag (ZBE-5): without them it can't
  be told whether the patient is there now.
- Z99 of a trigger that the profile ignores is ignored. An update that corrects a bed has to name the wrong one in PV1-6: nobody
  else can say that it is free.
- ZBE-2 says when it happened, where EVN-6 does not; of a movement to come, when it is planned (an A16's discharge, after PV2-9
  and EVN-3). It never orders.
- ZBE-1 goes along as `audit_context`. It orders inserts where the profile says `sequence: ZBE-1`.
- The responsible ward (ZBE-7) is no place of a patient; `z_fields: {service: ZBE-7.1}` reads it as the service.
"""

_CODES_NOTE: Final = """\
The profile names the sender's own codes, for PV1-2, PV1-4, PV1-36, PID-8, SCH-25 and NPU-2, its facilities, units and assigning
authorities. A code is looked up as it is sent, then in the standard's table. PV1-4 goes along as the event's `priority`. A
Z-segment is kept with the message's bytes and read where `z_fields` names it.
"""

_MERGE_NOTE: Final = """\
Two events for each identity that is retired: its own says into whom it is merged, the survivor's whom it replaces. What refers
to the retired one means the survivor from then on; what comes late about it is redirected. `docs/adr/0019-merges.md` says how.

- A message may hold several MRG, each after its PID; the events of the second follow those of the first.
- An account is a visit only where the profile's `visit_number_fields` names PID-18, and a visit number one only where it names
  PV1-19: else the message is ignored by name, or, of A36, only the patients are merged.
- A39 is read by PID-3 and MRG-1: PID-2 and MRG-4 name nobody here. PV1 of a merge of patients is not read.
- An A47 whose MRG-1 holds no identifier by which patients are named is an update of the person.
- What survives an A42 is not moved to PV1-3: the visit and its bed have messages of their own. A number that changes (A49,
  A50) hands on what is known by the old one.
- A37 and whatever else takes a merge back is ignored by name: nobody can say which of the events since belong to whom.
"""

_A20_NOTE: Final = """\
A code states its own dimension and nothing else, because table 0116 is one list for what are independent fields here:

- `C` does not say whether a patient is still in it, nor that it is clean.
- `H` means that housekeeping has it; that the patient has left is for the discharge to say. It does not tell waiting from
  being cleaned, so it is read as DIRTY, the earlier of the two.
- `O` names no visit: it is a second opinion beside the encounters, whose disagreement is shown.
- `U` says that nobody is in it. It is not "ready": an EHR that sends `U` after a discharge knows nothing of cleaning. Where
  A20 is a sender's only word on beds, `U` is also what ends H, K, C and I, and its profile says so (`capacity.yaml`).
- `K` does not say that it is empty. `I` is isolation, whoever is in it.

A service status set by A20 has no end and no reason but the profile's.
"""


_SIU_NOTE: Final = """\
One event about one appointment, named by the filler's id, SCH-2. A trigger that ends an appointment is believed before an
SCH-25 left from earlier. A blocked slot is nobody's; an appointment of several patients is no one's in particular.
"""

_MASTER_NOTE: Final = """\
One event for each record that names a bed; rooms and units have no state of their own. A record that takes effect later is
refused: it is to be sent when it does. A characteristic that beds have no field for is left unsaid and named in the result.
"""


def render() -> str:
    """The page, in Markdown."""
    parts = (
        _INTRO,
        "## Triggers\n",
        table(
            _RULE_COLUMNS,
            (_rule(rule) for rule in (*RULES, MOVING_UPDATE)),
        ),
        _TRIGGER_NOTE,
        "## ZBE, movements (IHE PAM)\n",
        _MOVEMENT_NOTE,
        "## Fields\n",
        table(("Event", "Field", "Read from", "Meaning"), _fields()),
        "Status by PV1-2: "
        + ", ".join(f"{known.value} is {status.value}" for known, status in STATUS_BY_CLASS.items())
        + ", all else is IN_PROGRESS.\nSex by PID-8: "
        + ", ".join(f"{code} is {sex.value}" for code, sex in TABLE_0001.items())
        + ".\nWhere PID-30 is empty, a time of death in PID-29 says that the person has died.\n",
        "## Merges, moves and changes of number (MRG)\n",
        _MERGE_NOTE,
        table(("Trigger", "Meaning", "Retired", "Survives", "Event type"), (_merge(rule) for rule in MERGES.values())),
        "## A20, bed status (NPU-2, table 0116)\n",
        table(("Code", "States"), ((code, _stated(said)) for code, said in BED_STATUS.items())),
        _A20_NOTE,
        "## SIU, procedure schedule\n",
        _SIU_NOTE,
        table(("Trigger", "Meaning", "Status that it states"), (_appointment(*item) for item in SCHEDULE_TRIGGERS.items())),
        table(("Field", "Read from"), PROCEDURE_FIELDS.items()),
        "## MFN^M05, location master\n",
        _MASTER_NOTE,
        table(("MFE-1", "Service"), ((action, said.value if said else "not stated") for action, said in ACTIONS.items())),
        table(("Field", "Read from"), MASTER_FIELDS.items()),
        "## Ignored by their meaning\n",
        table(("Message", "Meaning"), IGNORED.items()),
        "Ignored by name besides is what the profile's `ignored` lists. Whatever is neither mapped nor listed is refused.\n",
        "## Reasons\n",
        table(("Reason", "ERR-3", "Meaning"), ((r.value, str(r.code), r.doc) for r in Reason)),
        "## Profile\n",
        _CODES_NOTE,
        table(("Setting", "Meaning"), _docs(Profile).items()),
        "What a profile may tolerate; what it does not name is refused:\n",
        table(
            ("`tolerates`", "Meaning", "Where the profile says nothing"),
            ((name.value, name.doc, "tolerated" if name in HARMLESS else "refused") for name in Leniency),
        ),
    )
    return "\n".join(parts)


def _merge(rule: Merge) -> tuple[str, ...]:
    joined = [
        pair
        for holds, pair in (
            (rule.patients, ("patient of MRG-1", "patient of PID-3")),
            (rule.accounts, ("visit of MRG-3", "visit of PID-18")),
            (rule.visits, ("visit of MRG-5", "visit of PV1-19")),
        )
        if holds
    ]
    if rule.moves:
        visit = joined[0][1] if joined else "PID is an update of the person"
        moved = f"{visit}, whose patient is that of PID-3 from now on" if joined else visit
        return rule.trigger, rule.meaning, "nobody", moved, rule.event_type.value
    retired, survives = (" and ".join(names) for names in zip(*joined, strict=True))
    return rule.trigger, rule.meaning, retired, survives, rule.event_type.value


_RULE_COLUMNS: Final = (
    "Trigger",
    "Meaning",
    "Event type",
    "Status",
    "Bed of PV1-3",
    "Bed of PV1-6",
    "Places stated",
    "Discharge",
    "Expected discharge",
    "Cleared",
)


def _rule(rule: Rule) -> tuple[str, ...]:
    return (
        rule.trigger,
        rule.meaning,
        rule.event_type.value,
        rule.status.value,
        rule.bed.value,
        "vacant of this visit" if rule.prior_bed else "nothing",
        rule.places.value,
        rule.discharge,
        rule.expected.value,
        ", ".join(rule.clears) or "nothing",
    )


def _appointment(trigger: str, said: tuple[str, ProcedureStatus | None]) -> tuple[str, str, str]:
    meaning, status = said
    by_default = ", else BOOKED" if trigger in BOOKS else ""
    return trigger, meaning, status.value if status else f"SCH-25 (table 0278){by_default}"


def _fields() -> Iterator[tuple[str, ...]]:
    for payload, positions in FIELDS.items():
        documented = _docs(payload)
        yield from ((payload.__name__, name, at, documented[name]) for name, at in positions.items())


def _stated(said: BedStatement) -> str:
    values = ((name, getattr(said, name)) for name in said.__struct_fields__)
    return ", ".join(
        f"{name} {value.value if isinstance(value, Described) else str(value).lower()}"
        for name, value in values
        if value is not None
    )


def _docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Description of each field, as its annotation has it."""
    _, components = msgspec.json.schema_components([struct])
    properties = components[struct.__name__]["properties"]
    return {name: found.get("description", "") for name, found in properties.items()}


if __name__ == "__main__":
    sys.stdout.write(render())
