"""NPU: the bed status of an A20 (chapter 3, bed status update)."""

from msgspec import UNSET

from pipeline.domain.event import Bed, BedOccupancy, Place, Service
from pipeline.formats.hl7v2.datatypes import bed_id
from pipeline.formats.hl7v2.er7 import NULL, Segment
from pipeline.formats.hl7v2.profile import TABLE_0116, BedStatement, Profile
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Reason, Rejected


def bed_status(reading: Reading, npu: Segment) -> tuple[Place, Bed] | Rejected:
    """The bed of NPU-1 and what NPU-2 states of it under the profile."""
    place = reading.place(npu, 1)
    if not isinstance(place, Place) or bed_id(place) is None:
        return Rejected(Reason.MISSING_FIELD, "NPU-1", "no bed", "send the bed in NPU-1.3, with unit and room")
    sent = (npu.value(2) or "").strip()
    code = sent.upper()
    if not code:
        return Rejected(Reason.MISSING_FIELD, "NPU-2", "no bed status", "send a code of table 0116 in NPU-2")
    own = reading.profile.own_bed_status.get(sent)
    if own is None and (code == NULL or code not in TABLE_0116):
        remedy = "send C, H, O, U, K or I in NPU-2, or give the code a meaning in the profile's own_bed_status"
        return Rejected(Reason.UNKNOWN_CODE, "NPU-2", "not a code of table 0116", remedy)
    statement = own or reading.profile.bed_status.get(code)
    if statement is None:
        return Rejected(Reason.UNKNOWN_CODE, "NPU-2", "the profile gives the code no meaning", "add it to bed_status")
    return place, _stated(statement, reading.profile)


def _stated(statement: BedStatement, profile: Profile) -> Bed:
    return Bed(
        occupancy=UNSET if statement.occupancy is None else BedOccupancy(statement.occupancy),
        environment=UNSET if statement.environment is None else statement.environment,
        service=UNSET if statement.service is None else Service(statement.service, profile.bed_reason),
        isolation=UNSET if statement.isolation is None else statement.isolation,
    )
