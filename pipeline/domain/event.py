"""The canonical event: one change to one entity, as every source is translated into it.

An event states fields. A field left `UNSET` is not spoken of; a field set to `None` is cleared by the source (HL7 v2's
`""`). Composite fields (an allocation with its holder and end) are replaced as a whole, never mixed from two events.
The descriptions here are the documentation of the Avro schemas, which are generated from these classes.
"""

import enum
import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipeline.domain.identifiers import EntityKey, EventId, Millis

Time = Annotated[Millis, Meta(description="milliseconds since 1970-01-01T00:00:00Z", extra={"time": True})]


class Described(enum.StrEnum):
    """An enum whose symbols each carry their meaning; the Avro enum's documentation is made from them."""

    doc: str

    def __new__(cls, value: str, doc: str = "") -> "Described":
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member


class EntityType(Described):
    """What an event is about."""

    BED = "bed", "a bed, one place for one patient"
    STAFFING = "staffing", "staff of one role on one unit for one shift"
    DIVERSION = "diversion", "ambulance diversion of one facility in one category"
    TRANSFER = "transfer", "a request to move a patient between facilities or units"
    PROCEDURE = "procedure", "a scheduled procedure"
    ENCOUNTER = "encounter", "a patient's stay or visit"
    PATIENT = "patient", "a person under care"


class EventType(Described):
    """What happened, in the source's terms; decides the lane together with the changed fields."""

    UPDATE = "UPDATE", "one or more fields have new values"
    SNAPSHOT = "SNAPSHOT", "the whole state as a source sees it now; never urgent"
    ADMIT = "ADMIT", "a patient was admitted (HL7 A01)"
    REGISTER = "REGISTER", "a patient was registered (HL7 A04)"
    TRANSFER = "TRANSFER", "a patient moved (HL7 A02)"
    DISCHARGE = "DISCHARGE", "a patient left, the stay is over (HL7 A03)"
    DEMOGRAPHICS = "DEMOGRAPHICS", "patient or visit details changed, nobody moved (HL7 A08)"
    CANCEL_ADMIT = "CANCEL_ADMIT", "an admission was recorded in error (HL7 A11)"
    CANCEL_TRANSFER = "CANCEL_TRANSFER", "a move was recorded in error (HL7 A12)"
    CANCEL_DISCHARGE = "CANCEL_DISCHARGE", "a discharge was recorded in error (HL7 A13)"
    PREADMIT = "PREADMIT", "a stay is prepared, nobody has come (HL7 A05)"
    CLASS_CHANGE = "CLASS_CHANGE", "an outpatient became an inpatient, or the reverse (HL7 A06, A07)"
    TRACKING = "TRACKING", "a patient went somewhere for a while or came back; the bed is kept (HL7 A09, A10, A32, A33)"
    PENDING_ADMIT = "PENDING_ADMIT", "an admission was decided and is expected (HL7 A14)"
    PENDING_TRANSFER = "PENDING_TRANSFER", "a move is expected (HL7 A15)"
    PENDING_DISCHARGE = "PENDING_DISCHARGE", "a discharge is expected (HL7 A16)"
    CANCEL_PENDING = "CANCEL_PENDING", "something expected is off (HL7 A25, A26, A27, A38)"
    SWAP = "SWAP", "two patients changed beds (HL7 A17)"
    LEAVE = "LEAVE", "a patient is away on leave; the bed is kept (HL7 A21, A53)"
    RETURN = "RETURN", "a patient is back from leave (HL7 A22, A52)"
    DELETION = "DELETION", "a visit should not have been recorded (HL7 A23)"
    BED_STATUS = "BED_STATUS", "a bed's status changed (HL7 A20)"
    MERGE = "MERGE", "two identities are one; one of them is retired (HL7 A18, A30, A34 to A36, A39 to A42)"
    RENAME = "RENAME", "an identity has another number from now on; the old one is retired (HL7 A47, A49, A50)"
    EXPIRED = "EXPIRED", "something that was valid until a time has come to its end"
    OVERRIDE = "OVERRIDE", "an operator states a value, until a time"
    REASSERT = "REASSERT", "the current state is sent out again; nothing changed"


class SequenceBasis(Described):
    """What orders the events of one source and feed."""

    SOURCE = "SOURCE", "the source's own sequence number, which its profile trusts"
    RECORDED_TIME = "RECORDED_TIME", "the time at which the source recorded the change, then arrival"


class Occupancy(Described):
    """Whether a patient lies in the bed, derived from the EHR's encounters."""

    OCCUPIED = "OCCUPIED", "a patient is in the bed"
    VACANT = "VACANT", "no patient is in the bed"
    UNKNOWN = "UNKNOWN", "the source does not know"


class Environment(Described):
    """Housekeeping state of the bed."""

    CLEAN = "CLEAN", "clean, may be used"
    DIRTY = "DIRTY", "waiting for cleaning"
    CLEANING = "CLEANING", "being cleaned"
    CONTAMINATED = "CONTAMINATED", "contaminated, needs terminal cleaning"
    UNKNOWN = "UNKNOWN", "the source does not know"


class AllocationStatus(Described):
    """Whether the bed is promised to somebody."""

    NONE = "NONE", "not promised"
    RESERVED = "RESERVED", "kept for a patient who has no bed assignment yet"
    ASSIGNED = "ASSIGNED", "assigned to a patient on the way"


class ServiceStatus(Described):
    """Whether the bed may be used at all."""

    OPEN = "OPEN", "in service"
    BLOCKED = "BLOCKED", "temporarily out of service"
    CLOSED = "CLOSED", "closed"


class DiversionStatus(Described):
    """EMSTraffic of EDXL-HAVE 1.0."""

    NORMAL = "NORMAL", "accepting ambulances"
    ADVISORY = "ADVISORY", "accepting, with delays"
    CLOSED = "CLOSED", "on diversion"
    NOT_APPLICABLE = "NOT_APPLICABLE", "the facility has no such service"


class TransferStage(Described):
    """Where a transfer request stands (Task.businessStatus)."""

    REQUESTED = "REQUESTED", "asked for"
    IN_REVIEW = "IN_REVIEW", "under clinical review"
    CLINICALLY_ACCEPTED = "CLINICALLY_ACCEPTED", "a physician accepted"
    BED_REQUESTED = "BED_REQUESTED", "a bed is asked for"
    BED_ASSIGNED = "BED_ASSIGNED", "a bed is assigned"
    TRANSPORT_ARRANGED = "TRANSPORT_ARRANGED", "transport is arranged"
    DEPARTED = "DEPARTED", "the patient is on the way"
    ARRIVED = "ARRIVED", "the patient arrived"
    DECLINED = "DECLINED", "declined"
    CANCELLED = "CANCELLED", "cancelled"
    REDIRECTED = "REDIRECTED", "sent elsewhere"
    UNKNOWN = "UNKNOWN", "a stage that this version does not know"


class TransferKind(Described):
    """Where the request comes from."""

    INCOMING = "INCOMING", "from another facility"
    INTERNAL = "INTERNAL", "between units of this facility"


class ProcedureStatus(Described):
    """HL7 table 0278, filler status."""

    PENDING = "PENDING", "not yet confirmed"
    WAITLIST = "WAITLIST", "on the waiting list"
    BOOKED = "BOOKED", "booked"
    STARTED = "STARTED", "under way"
    COMPLETE = "COMPLETE", "done"
    CANCELLED = "CANCELLED", "cancelled before it began"
    DISCONTINUED = "DISCONTINUED", "stopped; will not resume"
    DELETED = "DELETED", "removed from the schedule"
    BLOCKED = "BLOCKED", "the slot is blocked"
    OVERBOOK = "OVERBOOK", "booked beyond capacity"
    NOSHOW = "NOSHOW", "the patient did not come"
    UNKNOWN = "UNKNOWN", "a status that this version does not know"


class EncounterStatus(Described):
    """FHIR R4 Encounter.status."""

    PLANNED = "PLANNED", "not begun"
    ARRIVED = "ARRIVED", "the patient is present"
    TRIAGED = "TRIAGED", "assessed, waiting"
    IN_PROGRESS = "IN_PROGRESS", "under way"
    ONLEAVE = "ONLEAVE", "begun, the patient is away"
    FINISHED = "FINISHED", "over"
    CANCELLED = "CANCELLED", "ended before it began"
    ENTERED_IN_ERROR = "ENTERED_IN_ERROR", "should not have been recorded"
    UNKNOWN = "UNKNOWN", "the source does not know"


class PatientClass(Described):
    """HL7 table 0004, patient class."""

    EMERGENCY = "E", "emergency"
    INPATIENT = "I", "inpatient"
    OUTPATIENT = "O", "outpatient"
    PREADMIT = "P", "pre-admission"
    RECURRING = "R", "recurring patient"
    OBSTETRICS = "B", "obstetrics"
    COMMERCIAL = "C", "commercial account"
    NOT_APPLICABLE = "N", "not applicable"
    UNKNOWN = "U", "unknown"


class Sex(Described):
    """FHIR administrative gender."""

    MALE = "MALE", "male"
    FEMALE = "FEMALE", "female"
    OTHER = "OTHER", "other"
    UNKNOWN = "UNKNOWN", "unknown"


class Redacted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of what may hold patient data: its representation never shows a value, wherever it ends up."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    __str__ = __repr__


class Place(Redacted, frozen=True):
    """A place in the hospital, outermost first (HL7 PL)."""

    facility: Annotated[str | None, Meta(description="facility (PL.4)")] = None
    building: Annotated[str | None, Meta(description="building (PL.7)")] = None
    floor: Annotated[str | None, Meta(description="floor (PL.8)")] = None
    point_of_care: Annotated[str | None, Meta(description="unit or ward (PL.1)")] = None
    room: Annotated[str | None, Meta(description="room (PL.2)")] = None
    bed: Annotated[str | None, Meta(description="bed (PL.3)")] = None


class Reference(Redacted, frozen=True):
    """Names another entity of the same tenant."""

    namespace: Annotated[str, Meta(description="assigning authority")]
    id: Annotated[str, Meta(description="identifier within the authority")]


class BedOccupancy(Redacted, frozen=True):
    """Occupancy with the encounter it comes from: a VACANT of one encounter never ends the stay of another."""

    status: Annotated[Occupancy, Meta(description="occupancy")]
    encounter: Annotated[Reference | None, Meta(description="who is in the bed, or who left it")] = None


class Allocation(Redacted, frozen=True):
    """A bed's promise, with its holder and end."""

    status: Annotated[AllocationStatus, Meta(description="allocation")]
    encounter: Annotated[Reference | None, Meta(description="for whom")] = None
    until: Annotated[Time | None, Meta(description="end of the promise; it ends by itself then")] = None


class Service(Redacted, frozen=True):
    """Whether a bed is in service, why not, and until when."""

    status: Annotated[ServiceStatus, Meta(description="service")]
    reason: Annotated[str | None, Meta(description="reason code of the source")] = None
    until: Annotated[Time | None, Meta(description="end of the block; it ends by itself then")] = None


class Bed(Redacted, frozen=True, tag="bed"):
    """A bed: independent fields, from which *ready* and the code of HL7 table 0116 are derived."""

    occupancy: Annotated[BedOccupancy | None | UnsetType, Meta(description="is a patient in it; derived from encounters")] = UNSET
    environment: Annotated[Environment | None | UnsetType, Meta(description="housekeeping state")] = UNSET
    allocation: Annotated[Allocation | None | UnsetType, Meta(description="is it promised")] = UNSET
    service: Annotated[Service | None | UnsetType, Meta(description="is it in service")] = UNSET
    staffed: Annotated[bool | None | UnsetType, Meta(description="are there staff for it")] = UNSET
    licensed: Annotated[bool | None | UnsetType, Meta(description="is it licensed")] = UNSET
    surge: Annotated[bool | None | UnsetType, Meta(description="is it a surge bed")] = UNSET
    isolation: Annotated[bool | None | UnsetType, Meta(description="is it under isolation")] = UNSET
    place: Annotated[Place | None | UnsetType, Meta(description="where it stands (location master)")] = UNSET
    level_of_care: Annotated[str | None | UnsetType, Meta(description="level of care (location master)")] = UNSET
    age_group: Annotated[str | None | UnsetType, Meta(description="age group (location master)")] = UNSET
    negative_pressure: Annotated[bool | None | UnsetType, Meta(description="negative pressure (location master)")] = UNSET
    telemetry: Annotated[bool | None | UnsetType, Meta(description="telemetry (location master)")] = UNSET


class Staffing(Redacted, frozen=True, tag="staffing"):
    """Staff of one role on one unit for one shift."""

    unit: Annotated[str | None | UnsetType, Meta(description="unit")] = UNSET
    role: Annotated[str | None | UnsetType, Meta(description="role, e.g. RN")] = UNSET
    shift_start: Annotated[Time | None | UnsetType, Meta(description="start of the shift")] = UNSET
    shift_end: Annotated[Time | None | UnsetType, Meta(description="end of the shift")] = UNSET
    required: Annotated[float | None | UnsetType, Meta(description="staff required, full-time equivalents")] = UNSET
    actual: Annotated[float | None | UnsetType, Meta(description="staff present, full-time equivalents")] = UNSET


class DiversionState(Redacted, frozen=True):
    """One decision to divert, or to stop diverting."""

    status: Annotated[DiversionStatus, Meta(description="diversion status")]
    start: Annotated[Time | None, Meta(description="from when")] = None
    until: Annotated[Time | None, Meta(description="expiry; it returns to NORMAL by itself then")] = None
    authoriser: Annotated[str | None, Meta(description="who authorised it (staff code)")] = None
    reason: Annotated[str | None, Meta(description="why")] = None


class Diversion(Redacted, frozen=True, tag="diversion"):
    """Diversion of one facility in one category."""

    category: Annotated[str | None | UnsetType, Meta(description="ED, ICU, trauma, stroke, psychiatric …")] = UNSET
    state: Annotated[DiversionState | None | UnsetType, Meta(description="the decision in force")] = UNSET


class StageState(Redacted, frozen=True):
    """A transfer's stage with its reason and time."""

    stage: Annotated[TransferStage, Meta(description="stage")]
    reason: Annotated[str | None, Meta(description="why (declined, cancelled, redirected)")] = None
    at: Annotated[Time | None, Meta(description="when the stage was reached")] = None


class Transfer(Redacted, frozen=True, tag="transfer"):
    """A transfer request; the patient may have no record number yet."""

    kind: Annotated[TransferKind | None | UnsetType, Meta(description="incoming or internal")] = UNSET
    stage: Annotated[StageState | None | UnsetType, Meta(description="where it stands")] = UNSET
    patient: Annotated[Reference | None | UnsetType, Meta(description="who, once known")] = UNSET
    encounter: Annotated[Reference | None | UnsetType, Meta(description="the stay it belongs to, once known")] = UNSET
    origin: Annotated[Place | None | UnsetType, Meta(description="from where")] = UNSET
    destination: Annotated[Place | None | UnsetType, Meta(description="to where")] = UNSET
    service: Annotated[str | None | UnsetType, Meta(description="clinical service asked for")] = UNSET
    requested_at: Annotated[Time | None | UnsetType, Meta(description="when it was asked for")] = UNSET


class Procedure(Redacted, frozen=True, tag="procedure"):
    """A scheduled procedure."""

    status: Annotated[ProcedureStatus | None | UnsetType, Meta(description="filler status, HL7 table 0278")] = UNSET
    start: Annotated[Time | None | UnsetType, Meta(description="planned or actual start")] = UNSET
    end: Annotated[Time | None | UnsetType, Meta(description="planned or actual end")] = UNSET
    place: Annotated[Place | None | UnsetType, Meta(description="where")] = UNSET
    patient: Annotated[Reference | None | UnsetType, Meta(description="who")] = UNSET
    encounter: Annotated[Reference | None | UnsetType, Meta(description="the stay it belongs to")] = UNSET
    service: Annotated[str | None | UnsetType, Meta(description="what (service or procedure code)")] = UNSET
    reason: Annotated[str | None | UnsetType, Meta(description="reason of the last change")] = UNSET


class Encounter(Redacted, frozen=True, tag="encounter"):
    """A patient's stay or visit."""

    patient: Annotated[Reference | None | UnsetType, Meta(description="who")] = UNSET
    patient_class: Annotated[PatientClass | None | UnsetType, Meta(description="HL7 table 0004")] = UNSET
    status: Annotated[EncounterStatus | None | UnsetType, Meta(description="status")] = UNSET
    location: Annotated[Place | None | UnsetType, Meta(description="assigned location (PV1-3)")] = UNSET
    prior_location: Annotated[Place | None | UnsetType, Meta(description="location before the move (PV1-6)")] = UNSET
    temporary_location: Annotated[Place | None | UnsetType, Meta(description="where the patient is for a while (PV1-11)")] = UNSET
    pending_location: Annotated[Place | None | UnsetType, Meta(description="where the patient is expected (PV1-42)")] = UNSET
    service: Annotated[str | None | UnsetType, Meta(description="hospital service (PV1-10)")] = UNSET
    admitted_at: Annotated[Time | None | UnsetType, Meta(description="admission (PV1-44)")] = UNSET
    admit_decision_at: Annotated[Time | None | UnsetType, Meta(description="decision to admit; a boarder in ED or PACU")] = UNSET
    expected_discharge_at: Annotated[Time | None | UnsetType, Meta(description="expected discharge (PV2-9)")] = UNSET
    discharge_ordered_at: Annotated[Time | None | UnsetType, Meta(description="discharge order signed")] = UNSET
    discharged_at: Annotated[Time | None | UnsetType, Meta(description="the patient left (PV1-45)")] = UNSET
    disposition: Annotated[str | None | UnsetType, Meta(description="discharge disposition (PV1-36)")] = UNSET
    episode: Annotated[
        Reference | None | UnsetType, Meta(description="one condition's care that the stay belongs to (PV1-54); never inferred")
    ] = UNSET
    merged_into: Annotated[Reference | None | UnsetType, Meta(description="the visit that survives a merge")] = UNSET


class Identifier(Redacted, frozen=True):
    """One identifier of a person."""

    system: Annotated[str, Meta(description="assigning authority")]
    value: Annotated[str, Meta(description="identifier")]
    type: Annotated[str | None, Meta(description="HL7 table 0203, e.g. MR")] = None


class Name(Redacted, frozen=True):
    """A person's name."""

    family: Annotated[str | None, Meta(description="family name")] = None
    given: Annotated[str | None, Meta(description="given names, separated by blanks")] = None


class Patient(Redacted, frozen=True, tag="patient"):
    """A person under care."""

    identifiers: Annotated[tuple[Identifier, ...] | None | UnsetType, Meta(description="identifiers")] = UNSET
    name: Annotated[Name | None | UnsetType, Meta(description="name")] = UNSET
    birth_date: Annotated[str | None | UnsetType, Meta(description="date of birth, YYYY, YYYY-MM or YYYY-MM-DD")] = UNSET
    sex: Annotated[Sex | None | UnsetType, Meta(description="administrative sex")] = UNSET
    deceased: Annotated[bool | None | UnsetType, Meta(description="has the person died")] = UNSET
    merged_into: Annotated[Reference | None | UnsetType, Meta(description="the identity that survives a merge")] = UNSET


Payload = Bed | Staffing | Diversion | Transfer | Procedure | Encounter | Patient

PAYLOADS: Final[dict[EntityType, type[Payload]]] = {
    EntityType.BED: Bed,
    EntityType.STAFFING: Staffing,
    EntityType.DIVERSION: Diversion,
    EntityType.TRANSFER: Transfer,
    EntityType.PROCEDURE: Procedure,
    EntityType.ENCOUNTER: Encounter,
    EntityType.PATIENT: Patient,
}

REFERENCES: Final[dict[EntityType, dict[str, EntityType]]] = {
    EntityType.BED: {"occupancy": EntityType.ENCOUNTER, "allocation": EntityType.ENCOUNTER},
    EntityType.TRANSFER: {"patient": EntityType.PATIENT, "encounter": EntityType.ENCOUNTER},
    EntityType.PROCEDURE: {"patient": EntityType.PATIENT, "encounter": EntityType.ENCOUNTER},
    EntityType.ENCOUNTER: {"patient": EntityType.PATIENT},
}
"""Fields that name another entity, with its type; a composite field names it in its `encounter`."""

UNTIL_FIELDS: Final[dict[EntityType, tuple[str, ...]]] = {
    EntityType.BED: ("allocation", "service"),
    EntityType.DIVERSION: ("state",),
}
"""Composite fields that end by themselves at their `until`."""


class Provenance(msgspec.Struct, frozen=True):
    """Where the original bytes of an event lie."""

    topic: Annotated[str, Meta(description="raw topic")]
    partition: Annotated[int, Meta(description="partition")]
    offset: Annotated[int, Meta(description="offset")]


class Event(Redacted, frozen=True, kw_only=True):
    """One change to one entity."""

    event_id: Annotated[EventId, Meta(description="derived from the message, so that a repeat has the same id")]
    tenant: Annotated[str, Meta(description="organisation")]
    facility: Annotated[str, Meta(description="site")]
    source_system: Annotated[str, Meta(description="system that says so")]
    feed: Annotated[str, Meta(description="connection it came by")]
    entity_type: Annotated[EntityType, Meta(description="what it is about")]
    namespace: Annotated[str, Meta(description="assigning authority of entity_id")]
    entity_id: Annotated[str, Meta(description="identifier within the namespace")]
    event_type: Annotated[EventType, Meta(description="what happened")]
    sequence: Annotated[int | None, Meta(description="order within source_system and feed, where the source has one")] = None
    sequence_basis: Annotated[SequenceBasis, Meta(description="what orders this source's events")] = SequenceBasis.RECORDED_TIME
    occurred_at: Annotated[Time | None, Meta(description="when it happened; never an order")] = None
    recorded_at: Annotated[Time, Meta(description="when the source recorded it")]
    received_at: Annotated[Time, Meta(description="when it reached us")]
    idempotency_key: Annotated[str | None, Meta(description="HTTP Idempotency-Key")] = None
    control_id: Annotated[str | None, Meta(description="HL7 MSH-10")] = None
    location: Annotated[Place | None, Meta(description="where it happened, for routing")] = None
    priority: Annotated[str | None, Meta(description="the source's own priority")] = None
    user: Annotated[str | None, Meta(description="who did it at the source (staff code)")] = None
    reason: Annotated[str | None, Meta(description="why (reason code of the source)")] = None
    audit_context: Annotated[str | None, Meta(description="the caller's reference for its own audit")] = None
    trace_id: Annotated[str | None, Meta(description="W3C trace id")] = None
    payload: Annotated[Payload, Meta(description="the fields that the event states")]
    content_hash: Annotated[str, Meta(description="digest of what the event says; see content_hash_of")] = ""
    provenance: Annotated[Provenance | None, Meta(description="where the original bytes are")] = None
    replaces: Annotated[Reference | None, Meta(description="MERGE, RENAME: the identity that is retired into this one")] = None
    came_by: Annotated[
        tuple[Reference, ...], Meta(description="retired identities that it was redirected from, the first one first")
    ] = ()

    @property
    def key(self) -> EntityKey:
        """Entity key; its encoding is the Kafka key."""
        return EntityKey(self.tenant, str(self.entity_type), self.namespace, self.entity_id)


_NOT_CONTENT: Final = frozenset({"received_at", "trace_id", "provenance", "content_hash", "event_id", "came_by"})


def content_hash_of(event: Event) -> str:
    """16 hexadecimal digits over what the event says, without what a retry of the same message would change.

    Two events of one id and other content hashes are a conflict, never a duplicate.
    """
    said = {
        name: value
        for name in event.__struct_fields__
        if name not in _NOT_CONTENT and (value := getattr(event, name)) is not None
    }
    return hashlib.blake2b(msgspec.json.encode(said, order="deterministic"), digest_size=8).hexdigest()


def sealed(event: Event) -> Event:
    """The event with its content hash."""
    return msgspec.structs.replace(event, content_hash=content_hash_of(event))
