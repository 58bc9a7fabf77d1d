"""Beds counted as US SAFR and NHSN count them, from the projection alone. Pure.

*Occupied*: a patient is in the bed, whatever else is said of it. *Unoccupied*: nobody is in it and it could be used: staffed
and neither blocked nor closed (US SAFR 1.0.0: "unoccupied" means staffed and unblocked). A bed of which it isn't known whether
somebody is in it counts as neither; how many these are is told beside the counts, so that no sum hides them.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import Bed, BedOccupancy, Occupancy, Service, ServiceStatus
from pipeline.domain.judging.policy import Policy
from pipeline.domain.ward.lines import BedLine, UnitBoard

ADULT: Final = frozenset({"adult", "a"})
"""Words of the location master for beds of adults; a bed that names no age group counts as one of these."""


@dataclass(frozen=True, slots=True)
class CapacityCounts:
    """Counts of one site. `unknown`: beds of which nobody says whether somebody is in them."""

    all_occupied: int
    all_unoccupied: int
    adult_icu_occupied: int
    adult_icu_unoccupied: int
    ed_patients: int
    ed_admitted: int
    surge_occupied: int
    surge_unoccupied: int
    surge_inactive: int
    unknown: int


def capacity_of(boards: Iterable[UnitBoard], policy: Policy) -> CapacityCounts:
    """Counts over all units of a site; the policy says which of them are ICU and ED.

    Places in an emergency department are no inpatient beds: who is there counts as a patient there, and as admitted where
    a decision to admit is known (a boarder).
    """
    found = list(boards)
    kinds = {board.unit: policy.unit_kinds(board.facility, board.unit) for board in found}
    inpatient = [line for board in found if "ed" not in kinds[board.unit] for line in board.beds]
    icu = [line for board in found if "icu" in kinds[board.unit] for line in board.beds if is_adult(line.state)]
    in_ed = [board for board in found if "ed" in kinds[board.unit]]
    stays = [stay for board in in_ed for line in board.beds for stay in line.stays]
    stays += [stay for board in in_ed for stay in board.elsewhere]
    surge = [line for line in inpatient if line.state.surge is True]
    return CapacityCounts(
        all_occupied=_count(inpatient, is_occupied),
        all_unoccupied=_count(inpatient, is_unoccupied),
        adult_icu_occupied=_count(icu, is_occupied),
        adult_icu_unoccupied=_count(icu, is_unoccupied),
        ed_patients=len(stays),
        ed_admitted=sum(stay.boarding_since is not None for stay in stays),
        surge_occupied=_count(surge, is_occupied),
        surge_unoccupied=_count(surge, is_unoccupied),
        surge_inactive=_count(surge, is_inactive),
        unknown=_count(inpatient, lambda line: not (is_occupied(line) or is_unoccupied(line) or is_inactive(line))),
    )


def is_occupied(line: BedLine) -> bool:
    """Whether a patient is in it, by a stay's word or the bed's."""
    return bool(line.stays) or _occupancy(line.state) is Occupancy.OCCUPIED


def is_unoccupied(line: BedLine) -> bool:
    """Whether it is empty, staffed and unblocked; staff count as there unless somebody says otherwise."""
    return not line.stays and _occupancy(line.state) is Occupancy.VACANT and not is_inactive(line)


def is_inactive(line: BedLine) -> bool:
    """Whether it can't be used: empty, and unstaffed, blocked or closed."""
    bed = line.state
    out = isinstance(bed.service, Service) and bed.service.status is not ServiceStatus.OPEN
    return not is_occupied(line) and (out or bed.staffed is False)


def is_adult(bed: Bed) -> bool:
    """Whether it is for adults."""
    return not bed.age_group or bed.age_group.casefold() in ADULT


def _occupancy(bed: Bed) -> Occupancy:
    return bed.occupancy.status if isinstance(bed.occupancy, BedOccupancy) else Occupancy.UNKNOWN


def _count(lines: Collection[BedLine], holds: Callable[[BedLine], bool]) -> int:
    return sum(map(holds, lines))
