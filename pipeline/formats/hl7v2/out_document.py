"""HL7 v2 out as a page for people, made from the same tables that the messages are built by.

`python -m pipeline.formats.hl7v2.out_document > docs/mapping/hl7-out.md`; a test says when the page is out of date.
"""

import sys
from typing import Final

import msgspec

from pipeline.domain.bed import LOSSES, BedStatusCode
from pipeline.domain.records import Reason
from pipeline.formats.hl7v2.out_messages import REFUSALS, STRUCTURES
from pipeline.formats.hl7v2.out_others import BY_STATUS as PROCEDURE_BY_STATUS
from pipeline.formats.hl7v2.out_others import SEX
from pipeline.formats.hl7v2.out_profile import FORMS, OutProfile
from pipeline.formats.hl7v2.out_visit import BY_EVENT, BY_STATUS
from pipeline.formats.hl7v2.triggers import BY_TRIGGER
from pipeline.formats.markdown import table

_INTRO: Final = """\
# HL7 v2 out

Which message tells an accepted change, and where each field goes. Made from the tables in `pipeline/formats/hl7v2/out_*.py`;
do not edit. What comes in by HL7 v2 is on [another page](adt.md).

One accepted change makes at most one message, and always the same, byte for byte: a repeat after a crash, a lost answer or
an AE is the message that went before, under the control id that it had.

- **MSH-10** is derived from the destination and the record's own position; nothing of a patient goes into it. It is the
  outcome's `remote_id`, so that a line of the receiver's log leads to the change.
- **MSH-7 and EVN-2** are the time at which the change was accepted, which never falls within an entity: a receiver that
  orders by recorded time keeps our order. **EVN-6** says when it happened.
- **Empty** is what was never said; `""` is what was cleared. Every value is escaped; controls travel as `\\X..\\`.
- **Times** stand in the profile's zone with its offset, to the second, to the millisecond where there are any.
- **The trigger says no more than the state**: a discharge of which the end of the stay did not survive the gate is an A08.
"""

_VISIT_NOTE: Final = """\
The first trigger that agrees with the state is sent: by the kind of event, then by what changed. A trigger agrees if a
receiver that reads it by [our own table](adt.md) learns nothing but the state: its status is the state's, it has a place if it
moves, and what it clears is not there. Where none agrees it is an A08, which moves nobody. A reassert is an A08 as well.

A stay that was merged into another is an A42: the one that survives in PV1-19, the one that is no more in MRG-5, and the patient
in PID-3 and MRG-1.

`CLASS_CHANGE` is A06 where the class is I or B, else A07; `TRACKING` is A09 with a temporary place, else A10; `CANCEL_PENDING` is
A27, A38, A25 or A26 by what it changed. By what changed: a status as below, IN_PROGRESS as A13 where the end of the stay was
cleared, else A01 or A04; a place A02; a temporary place A09 or A10; an expected place A14, A15 or A26; an expected discharge A16
or A25.
"""

_VISIT_FIELDS: Final = (
    ("PID-3", "patient, with the profile's type; nothing more of the person, since empty changes nothing at the receiver"),
    ("PV1-2", "class (table 0004), the profile's unknown_class where it isn't known"),
    ("PV1-3, 6, 11, 42", "location, prior, temporary and pending location (PL: unit, room, bed, facility, building, floor)"),
    ("PV1-10", "service"),
    ("PV1-19", "the stay's own number and authority, type VN"),
    ("PV1-36", "disposition"),
    ("PV1-44, 45", "admitted, discharged"),
    ("PV1-54", "episode, from version 2.8 on"),
    ("PV2-9", "expected discharge"),
    ("EVN-6", "when it happened; of an A14 the time of the decision to admit"),
)

_BED_NOTE: Final = """\
NPU-1 is the bed's place by its name `unit/room/bed`, in the facility that is its namespace; another kind of name stands in PL.3
alone, or at the place that the location master knows. NPU-2 is the code of table 0116, derived from the bed's independent
fields: out of service, a patient, contamination, housekeeping, isolation, vacancy, the first that holds. A bed of which no code
may be claimed is parked as `UNTELLABLE`: what the receiver was told before stays there, and that is shown.

A bed that is empty and promised is `U` only where the profile says `reservation: pending_move` and the promise is to a stay,
whose A14 or A15 tells of it; else it is held (`RESERVATION_UNTELLABLE`): a receiver that sees `U` alone sees a bed to give away.
"""

_PERSON_NOTE: Final = """\
A person not known before is an A28, later an A31; an identity that was merged into another is an A40, with the one that
survives in PID-3 and the one that is no more in MRG-1. PID-3 begins with the identifier that names the person here, PID-5 is the
legal name (L) with the further given names in its third component, then PID-7, PID-8 and PID-30. PV1-2 is N: no stay is meant.
"""

_PROCEDURE_NOTE: Final = """\
A first word is S12, another time S13, all else S14; without a known status S14, since a receiver takes S12 and S13 without SCH-25
for booked. SCH-2 is the appointment, SCH-6 the reason, SCH-11 and (from 2.5 on) TQ1-7 and TQ1-8 start and end, SCH-25 the status
(table 0278); PID-3 and PV1-19 patient and stay, AIS-3 and AIS-4 service and start, AIL-3 the place.
"""

_NEVER: Final = f"""\
HL7 v2 has no message for staffing, diversion and the transfer queue. A change whose trigger the profile does not list is not
sent, and not expected in the books. No value is replaced by another: a character that the set lacks parks the message
({Reason.NOT_IN_CHARSET.value}), and so does a value without a form ({Reason.UNTELLABLE.value}).
"""

_ANSWERS: Final = """\
An answer belongs to the message that its MSA-2 names; what names none that waits is counted and dropped. AA and CA confirm. AE
and CE have it sent again with growing pauses while others go on; `max_attempts` such answers to one message, while the receiver
takes others, park it (`ASKED_AGAIN`). AR and CR park it at once, by ERR-3:
"""

_END: Final = """\
No answer in `ack_timeout_s`, a connection that ends, an answer that can't be read: the message goes again over a new connection,
under the same control id. While the receiver is away nothing is parked and nothing more is read; what waits goes in order.
"""


def render() -> str:
    """The page, in Markdown."""
    parts = (
        _INTRO,
        "## Stays\n",
        _VISIT_NOTE,
        table(("Event", "Trigger", "Meaning"), ((kind.value, name, BY_TRIGGER[name].meaning) for kind, name in BY_EVENT.items())),
        table(("Status that changed", "Trigger"), ((status.value, name) for status, name in BY_STATUS.items())),
        table(("Field", "Filled from"), _VISIT_FIELDS),
        "## Beds\n",
        _BED_NOTE,
        table(("NPU-2", "Meaning"), ((code.value, code.doc) for code in BedStatusCode)),
        "What table 0116 loses:\n",
        table(("Of the state", "What becomes of it"), LOSSES),
        "## Persons\n",
        _PERSON_NOTE,
        table(("Sex", "PID-8"), ((sex.value, code) for sex, code in SEX.items())),
        "## Procedures\n",
        _PROCEDURE_NOTE,
        table(("Status", "Trigger"), ((status.value, name) for status, name in PROCEDURE_BY_STATUS.items())),
        "## Never sent\n",
        _NEVER,
        "## Answers\n",
        _ANSWERS,
        table(("ERR-3", "Reason"), [*((code, reason.value) for code, reason in REFUSALS.items()), ("other", "REFUSED_OTHER")]),
        _END,
        "## Structures\n",
        table(("MSH-9", "MSH-9.3"), ((f"ADT^{name}", structure) for name, structure in sorted(STRUCTURES.items()))),
        "Every SIU is SIU_S12. Before 2.3.1 there is no third component.\n",
        "## Profile\n",
        table(("What can be sent about", "Triggers"), ((kind.value, ", ".join(names)) for kind, names in FORMS.items())),
        table(("Setting", "Meaning"), _docs().items()),
    )
    return "\n".join(parts)


def _docs() -> dict[str, str]:
    """Description of each setting, as its annotation has it."""
    _, components = msgspec.json.schema_components([OutProfile])
    return {name: found.get("description", "") for name, found in components["OutProfile"]["properties"].items()}


if __name__ == "__main__":
    sys.stdout.write(render())
