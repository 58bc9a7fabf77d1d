"""What a bed's independent fields amount to: *ready*, and the one code of HL7 table 0116 that a receiver can be told."""

from typing import Final, assert_never

from msgspec import UNSET

from pipeline.domain.event import Allocation, AllocationStatus, Bed, Described, Environment, Occupancy, Service, ServiceStatus


class BedStatusCode(Described):
    """HL7 table 0116, bed status."""

    CLOSED = "C", "closed"
    HOUSEKEEPING = "H", "housekeeping"
    OCCUPIED = "O", "occupied"
    UNOCCUPIED = "U", "unoccupied"
    CONTAMINATED = "K", "contaminated"
    ISOLATED = "I", "isolated"


class Untellable(Described):
    """Why a bed's code may not go out."""

    RESERVATION = "RESERVATION", "`U` alone would offer a promised bed to the receiver's own people"


LOSSES: Final[tuple[tuple[str, str], ...]] = (
    ("a blocked bed and a closed one", "both are C; the reason and the end of a block are lost"),
    ("who is in the bed", "O names nobody; an occupied bed that is also dirty, contaminated or isolated shows O alone"),
    ("whether an empty, dirty bed is waiting or being cleaned", "both are H"),
    ("isolation of a bed that is dirty or occupied", "I shows only where the bed is empty and nothing stronger holds"),
    (
        "a promise (reserved, assigned)",
        "there is no code for it; it is never O. U goes out only if the promise reaches the receiver too",
    ),
    ("no staff, no licence, a surge bed", "there is no code for these; an unstaffed bed shows U"),
    ("whether an empty bed is known to be clean", "U says that nobody is in it, and no more"),
)
"""What table 0116 cannot say, and what becomes of it. Raw fields go beside the code wherever the receiver takes extensions."""

CODE_FIELDS: Final = ("occupancy", "environment", "service", "isolation")
"""Fields from which the code is derived; while all are unset there is nothing to claim and nothing to withdraw."""


def is_ready(bed: Bed) -> bool | None:
    """Whether a patient could be put into the bed now; None where that isn't known.

    Ready is in service, vacant, clean and staffed. One of these known to be otherwise makes it not ready. Occupancy and
    environment have to be known; service and staffing count as given unless somebody says otherwise, because most sources
    speak of them only when they fail. A promise doesn't matter: a reserved bed gets ready too, and its patient waits for it.
    """
    occupancy, environment = _occupancy(bed), _environment(bed)
    if _service(bed) in (ServiceStatus.BLOCKED, ServiceStatus.CLOSED) or bed.staffed is False:
        return False
    if occupancy is Occupancy.OCCUPIED or environment in (Environment.DIRTY, Environment.CLEANING, Environment.CONTAMINATED):
        return False
    return True if occupancy is Occupancy.VACANT and environment is Environment.CLEAN else None


def status_code(bed: Bed) -> BedStatusCode | None:
    """The bed's code of table 0116; None where nothing may be claimed. `LOSSES` lists what the code leaves out.

    The strongest fact decides: out of service, a patient, contamination, housekeeping, isolation, and then only vacancy.
    """
    if _service(bed) in (ServiceStatus.BLOCKED, ServiceStatus.CLOSED):
        return BedStatusCode.CLOSED
    occupancy = _occupancy(bed)
    if occupancy is Occupancy.OCCUPIED:
        return BedStatusCode.OCCUPIED
    if (soiled := _soiled(_environment(bed))) is not None:
        return soiled
    if bed.isolation is True:
        return BedStatusCode.ISOLATED
    return BedStatusCode.UNOCCUPIED if occupancy is Occupancy.VACANT else None


def code_for(bed: Bed, reservation_reaches_receiver: bool) -> BedStatusCode | Untellable | None:
    """The code that one destination may be told; `Untellable.RESERVATION` holds the write.

    `reservation_reaches_receiver` says whether that destination also learns of this bed's promise.
    """
    code = status_code(bed)
    if code is BedStatusCode.UNOCCUPIED and is_promised(bed) and not reservation_reaches_receiver:
        return Untellable.RESERVATION
    return code


def is_promised(bed: Bed) -> bool:
    """Whether the bed is kept for somebody."""
    return isinstance(bed.allocation, Allocation) and bed.allocation.status is not AllocationStatus.NONE


def speaks_of_status(bed: Bed) -> bool:
    """Whether anything that the code is made of was ever stated: if so, a code that is no longer known is withdrawn."""
    return any(getattr(bed, field) is not UNSET for field in CODE_FIELDS)


def _occupancy(bed: Bed) -> Occupancy:
    return bed.occupancy.status if bed.occupancy else Occupancy.UNKNOWN


def _environment(bed: Bed) -> Environment:
    return bed.environment if isinstance(bed.environment, Environment) else Environment.UNKNOWN


def _service(bed: Bed) -> ServiceStatus | None:
    return bed.service.status if isinstance(bed.service, Service) else None


def _soiled(environment: Environment) -> BedStatusCode | None:
    match environment:
        case Environment.CONTAMINATED:
            return BedStatusCode.CONTAMINATED
        case Environment.DIRTY | Environment.CLEANING:
            return BedStatusCode.HOUSEKEEPING
        case Environment.CLEAN | Environment.UNKNOWN:
            return None
        case _ as never:
            assert_never(never)
