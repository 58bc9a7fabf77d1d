"""Files that go out: the capacity extract as CSV and the audit log as NDJSON. Neither holds patient data. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pipeline.domain.bed import is_promised, is_ready
from pipeline.domain.event import Bed, Service
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Audit
from pipeline.domain.ward.capacity import is_inactive, is_occupied, is_unoccupied
from pipeline.domain.ward.lines import UnitBoard
from pipeline.formats.boards.csv import written
from pipeline.formats.rfc3339 import rfc3339_of

CAPACITY_SCHEMA: Final = "capacity-extract/1"
AUDIT_SCHEMA: Final = "audit-export/1"
SAFR_SCHEMA: Final = "safr-bed-capacity/1"

CAPACITY_HEADER: Final = (
    "Facility",
    "Unit",
    "Room",
    "Bed",
    "State",
    "Occupied",
    "Unoccupied",
    "Inactive",
    "Ready",
    "Promised",
    "Service",
    "Blocked until",
    "Staffed",
    "Surge",
    "Isolation",
    "Level of care",
    "Age group",
    "Negative pressure",
    "Telemetry",
    "As of",
)


def capacity_csv(boards: Iterable[UnitBoard], as_of: Millis) -> tuple[bytes, int]:
    """Every bed of some units, and how many there are. Of a patient it says no more than that there is one."""
    rows = [
        _row(board, place, as_of)
        for board in sorted(boards, key=lambda board: (board.facility, board.unit))
        for place in range(len(board.beds))
    ]
    return written(CAPACITY_HEADER, rows), len(rows)


def _row(board: UnitBoard, place: int, as_of: Millis) -> Sequence[str]:
    line = board.beds[place]
    bed = line.state
    service = bed.service if isinstance(bed.service, Service) else None
    return (
        board.facility,
        board.unit,
        line.room,
        line.bed,
        line.word.name,
        *map(_flag, (is_occupied(line), is_unoccupied(line), is_inactive(line), is_ready(bed), is_promised(bed))),
        service.status.value if service is not None else "",
        rfc3339_of(service.until) if service is not None and service.until is not None else "",
        *_attributes(bed),
        rfc3339_of(as_of),
    )


def _attributes(bed: Bed) -> Sequence[str]:
    words = (bed.level_of_care or "", bed.age_group or "")
    return (*map(_flag, (bed.staffed, bed.surge, bed.isolation)), *words, *map(_flag, (bed.negative_pressure, bed.telemetry)))


def _flag(value: object) -> str:
    """`Y`, `N`, or empty where it isn't known."""
    return {True: "Y", False: "N"}.get(value, "") if isinstance(value, bool) else ""


def audit_lines(entries: Iterable[tuple[int, int, Audit]]) -> tuple[bytes, int]:
    """Audit entries, one JSON object a line, each with its partition and offset, and how many there are.

    Their chain can be verified from them alone; they hold keyed digests, never a patient.
    """
    encode = msgspec.json.Encoder(order="deterministic").encode
    found = [
        encode({"partition": partition, "offset": offset, "entry": msgspec.to_builtins(entry)})
        for partition, offset, entry in entries
    ]
    return b"".join(line + b"\n" for line in found), len(found)
