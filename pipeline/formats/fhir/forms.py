"""What one version of FHIR writes otherwise than another: names and paths of elements, and the words of a stay's status.

R4B has R4's form in all that is mapped here. Whatever isn't listed is the same in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import EncounterStatus
from pipeline.formats.fhir.owned import Member, Path
from pipeline.formats.fhir.terms import ENCOUNTER_STATUS, HOSPITAL_SERVICE, PROCEDURE_SERVICE, SUBJECT_STATUS

_S: Final = EncounterStatus


@dataclass(frozen=True, slots=True)
class StatusWords:
    """How a stay's status is said: Encounter.status, and the subject's own status.

    `subject` are the codes of Encounter.subjectStatus that go with it, None for no such code. The first is written, unless
    one of the others is there.
    """

    status: str
    subject: tuple[str | None, ...] = (None,)


@dataclass(frozen=True, slots=True)
class Form:
    """Where one version keeps what the other keeps elsewhere.

    `encounter_read` says which status of ours an Encounter.status claims by itself, `subject_read` what it claims with a
    subjectStatus beside it. `encounter_elements` are elements that stand in place of an extension of ours, by field.
    `planned_start` is the element for the begin of a stay that has not begun; None where that is its period's too.
    """

    name: str
    encounter_status: Mapping[EncounterStatus, StatusWords]
    encounter_read: Mapping[str, EncounterStatus]
    subject_read: Mapping[tuple[str, str], EncounterStatus]
    encounter_period: str
    encounter_stay: str
    encounter_service: Path
    lists_classes: bool
    encounter_elements: Mapping[str, str]
    planned_start: str | None
    location_kind: str
    appointment_service: Path
    cancel_reason: str
    names_subject: bool
    task_reason: tuple[str, ...]

    @property
    def encounter_codes(self) -> tuple[str, ...]:
        """Encounter.status that we write, each once."""
        return tuple(dict.fromkeys(words.status for words in self.encounter_status.values()))


R5_ENCOUNTER_STATUS: Final[dict[EncounterStatus, StatusWords]] = {
    _S.PLANNED: StatusWords("planned"),
    _S.ARRIVED: StatusWords("in-progress", ("arrived",)),
    _S.TRIAGED: StatusWords("in-progress", ("triaged",)),
    _S.IN_PROGRESS: StatusWords("in-progress", (None, "receiving-care", "departed")),
    _S.ONLEAVE: StatusWords("on-hold", ("on-leave",)),
    _S.FINISHED: StatusWords("completed", (None, "departed")),
    _S.CANCELLED: StatusWords("cancelled", (None, "departed")),
    _S.ENTERED_IN_ERROR: StatusWords("entered-in-error", (None, "departed")),
    _S.UNKNOWN: StatusWords("unknown"),
}
"""R5 says apart how the stay goes on and what its subject does: `arrived`, `triaged` and `onleave` are the subject's there.

What an EHR says of the subject and what doesn't contradict the stay is left to it.
"""

R5_ENCOUNTER_READ: Final[dict[str, EncounterStatus]] = {
    "planned": _S.PLANNED,
    "in-progress": _S.IN_PROGRESS,
    "on-hold": _S.ONLEAVE,
    "discharged": _S.FINISHED,
    "completed": _S.FINISHED,
    "cancelled": _S.CANCELLED,
    "discontinued": _S.FINISHED,
    "entered-in-error": _S.ENTERED_IN_ERROR,
    "unknown": _S.UNKNOWN,
}
"""R5's Encounter.status. `discharged` is over for us: the patient left, what remains is paper. `discontinued` had begun."""

R5_SUBJECT_READ: Final[dict[tuple[str, str], EncounterStatus]] = {
    ("in-progress", "arrived"): _S.ARRIVED,
    ("in-progress", "triaged"): _S.TRIAGED,
    ("in-progress", "on-leave"): _S.ONLEAVE,
}
"""What R5's Encounter.status and subjectStatus claim together, where that is more than the status alone."""

R4: Final = Form(
    name="R4",
    encounter_status={status: StatusWords(code) for status, code in ENCOUNTER_STATUS.items()},
    encounter_read={code: status for status, code in ENCOUNTER_STATUS.items()},
    subject_read={},
    encounter_period="period",
    encounter_stay="hospitalization",
    encounter_service=("serviceType", "coding", Member((("system", HOSPITAL_SERVICE),)), "code"),
    lists_classes=False,
    encounter_elements={},
    planned_start=None,
    location_kind="physicalType",
    appointment_service=(
        "serviceType",
        Member((("coding[].system", PROCEDURE_SERVICE),)),
        "coding",
        Member((("system", PROCEDURE_SERVICE),)),
        "code",
    ),
    cancel_reason="cancelationReason",
    names_subject=False,
    task_reason=("statusReason",),
)

R5: Final = Form(
    name="R5",
    encounter_status=R5_ENCOUNTER_STATUS,
    encounter_read=R5_ENCOUNTER_READ,
    subject_read=R5_SUBJECT_READ,
    encounter_period="actualPeriod",
    encounter_stay="admission",
    encounter_service=(
        "serviceType",
        Member((("concept.coding[].system", HOSPITAL_SERVICE),)),
        "concept",
        "coding",
        Member((("system", HOSPITAL_SERVICE),)),
        "code",
    ),
    lists_classes=True,
    encounter_elements={"expected_discharge_at": "plannedEndDate"},
    planned_start="plannedStartDate",
    location_kind="form",
    appointment_service=(
        "serviceType",
        Member((("concept.coding[].system", PROCEDURE_SERVICE),)),
        "concept",
        "coding",
        Member((("system", PROCEDURE_SERVICE),)),
        "code",
    ),
    cancel_reason="cancellationReason",
    names_subject=True,
    task_reason=("statusReason", "concept"),
)

FORMS: Final[dict[str, Form]] = {"R4": R4, "R4B": R4, "R5": R5}
"""By version of FHIR."""

SUBJECT_STATUS_PATH: Final[Path] = ("subjectStatus", "coding", Member((("system", SUBJECT_STATUS),)), "code")
