"""Renders docs/mapping/fhir.md from the maps and tables themselves: each path is one that a full state was really written to."""

from collections.abc import Iterable
from typing import Final

from pipeline.domain.bed import LOSSES, BedStatusCode
from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Identifier,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Payload,
    Place,
    Reference,
    Service,
    ServiceStatus,
    Sex,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.location import EXTENSIONS as BED_EXTENSIONS
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.outcome import classify
from pipeline.formats.fhir.owned import Json, Member, Path
from pipeline.formats.fhir.profile import OWNER_FIELDS, PatientIdentifiers, PlaceProfile, Profile, ResourceProfile
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.terms import CLASS_OF, ENCOUNTER_STATUS, LEVEL_TYPE, LOCATION_STATUS, OURS, REVISION

_ALL: Final = Profile(
    version=1,
    role="replica",
    places=PlaceProfile("PLACES"),
    resources={entity_type: ResourceProfile(f"{entity_type.value.upper()}S", ()) for entity_type in RESOURCES},
    patient_identifiers=PatientIdentifiers("{authority}"),
)
_NAMING: Final = Naming(_ALL, "TENANT", "FACILITY")
_STAY: Final = Reference("AUTHORITY", "STAY")
_TIME: Final = Millis(0)

_BED: Final = Bed(
    occupancy=BedOccupancy(Occupancy.OCCUPIED, _STAY),
    environment=Environment.CLEAN,
    allocation=Allocation(AllocationStatus.RESERVED, _STAY, _TIME),
    service=Service(ServiceStatus.OPEN, "REASON", _TIME),
    staffed=True,
    licensed=True,
    surge=True,
    isolation=True,
    place=Place("FACILITY", "BUILDING", "FLOOR", "UNIT", "ROOM", "BED"),
    level_of_care="LEVEL",
    age_group="GROUP",
    negative_pressure=True,
    telemetry=True,
)
_ENCOUNTER: Final = Encounter(
    patient=Reference("AUTHORITY", "PERSON"),
    patient_class=PatientClass.INPATIENT,
    status=EncounterStatus.IN_PROGRESS,
    location=Place(point_of_care="UNIT", room="ROOM", bed="A"),
    prior_location=Place(point_of_care="UNIT", room="ROOM", bed="B"),
    temporary_location=Place(point_of_care="UNIT", room="ROOM", bed="C"),
    pending_location=Place(point_of_care="UNIT", room="ROOM", bed="D"),
    service="SERVICE",
    admitted_at=_TIME,
    admit_decision_at=_TIME,
    expected_discharge_at=_TIME,
    discharge_ordered_at=_TIME,
    discharged_at=_TIME,
    disposition="DISPOSITION",
)
_PATIENT: Final = Patient(
    identifiers=(Identifier("OTHER", "NUMBER", "MR"),),
    name=Name("FAMILY", "GIVEN"),
    birth_date="1970-01-01",
    sex=Sex.FEMALE,
    deceased=False,
    merged_into=Reference("AUTHORITY", "SURVIVOR"),
)
SAMPLES: Final[dict[EntityType, Payload]] = {
    EntityType.BED: _BED,
    EntityType.ENCOUNTER: _ENCOUNTER,
    EntityType.PATIENT: _PATIENT,
}
"""A state of each type that states every field with a FHIR form."""

_STATUSES: Final = (200, 201, 202, 204, 304, 400, 401, 403, 404, 408, 409, 410, 412, 422, 425, 429, 500, 501, 502, 503, 504)

_HEAD: Final = """# What goes to a FHIR server

Rendered from `pipeline/formats/fhir` by `python -m pipeline.formats.fhir.document`; a test fails when it is out of date.

We write paths, not resources. A write starts from the resource as it was read, replaces the paths below, and carries the
version of that read; everything else keeps its bytes, decimals included. An element of a list is addressed by its system, url
or reference, never by position. A field that the state leaves unset touches nothing; a cleared one clears our element. A
profile (`pipeline/profiles/ehr/`) names the fields that go out. An **owner**, the EHR of record, may be told the fields marked
so and no others: start-up refuses a profile that names more. A new bed has its identifier, kind and place besides.
"""

_REFERENCES: Final = """## References

A reference to another entity is logical: type and identifier. A literal one needs the id that the server gave to a resource
which another worker writes from another partition, perhaps later. So no write waits for another one's, and the receiver
resolves the identifier when it reads. The one literal reference is a bed's `partOf`: the places around a bed are master data
without a partition of their own. They are made in the same transaction as the bed, each by a conditional create, and the
server puts their ids in; the identifier stays beside it, by which the next read sees whether the bed has moved.

A bed's identifier is `namespace/id` under the profile's system, or the bare id under the system of an authority that the
profile names. A place without a bed is known by its path from the outside, such as `si:MAIN/wa:ICU/ro:12`.
"""

_LOCATIONS: Final = """## Encounter.location

Elements are ours if they refer to a place by an identifier of ours; all others are left alone. A place that several fields
name gets the first status that applies: the patient is there, is there for a while, is expected, was there. A place that the
state no longer names becomes `completed` if it was active, and goes if it was a plan or a promise; so a superseded move leaves
no patient in two beds. Once the stay is over nobody is anywhere: active becomes `completed`, plans and promises go. Where the
profile doesn't write `location`, a promised place that the EHR shows as taken is left to the EHR.
"""


_BED_STATUS: Final = """## Bed status

`operationalStatus` is HL7 table 0116. The strongest fact decides: out of service (C), a patient (O), contamination (K),
housekeeping (H), isolation (I), and only then vacancy (U). If none is known, nothing is claimed, and a code of ours is
withdrawn. A promised bed goes out as U only where the promise reaches the receiver too (`reservation` in the profile); else
the write is held as RESERVATION_UNTELLABLE.
"""

_MARK: Final = f"""## The mark

Every write carries the extension `{REVISION}`:
`revision` (`epoch.offset`, as text, since a FHIR integer ends at 2^31), `stateHash`, and one `digest` per written field,
`field=hex`: eight bytes of keyed BLAKE2b over revision, state hash, field and value. A reader with the key tells which fields
somebody changed since, without a history; without the key the digests say nothing, and equal values of two people have
different ones. It is an extension and no tag, because servers carry tags from version to version. A resource without a whole
mark is of unknown revision, not of revision zero.
"""

_ANSWERS: Final = """A 404 to an update means that the resource went after it was read: read again. A 412 with the issue code
`multiple-matches` is refused as MULTIPLE_MATCHES. A success that carries an OperationOutcome with an error is judged by its
issue codes. A fenced create that met an existing resource (200 and not 201) wrote nothing: read again. Without an answer a
write is ambiguous as soon as its headers were sent, and a plain retry before that. `Retry-After` is seconds or a date, cut at
one hour.
"""


def render() -> str:
    """The page."""
    parts = [_HEAD, _REFERENCES]
    parts += [_resource(entity_type) for entity_type in RESOURCES]
    parts += [_LOCATIONS, _bed_status(), _codes(), _MARK, _answers()]
    return "\n".join(parts)


def shown_path(path: Path) -> str:
    """A path for people: `extension[url=…].valueCode`."""
    text = ""
    for step in path:
        text += _member(step) if isinstance(step, Member) else f".{step}"
    return text.removeprefix(".")


def _member(member: Member) -> str:
    return "[" + ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in member.match) + "]"


def _resource(entity_type: EntityType) -> str:
    resource, ident = RESOURCES[entity_type], _NAMING.entity(entity_type, "AUTHORITY", "ID")
    rows = []
    for owned in resource.desired(SAMPLES[entity_type], ident, _NAMING, resource.created(SAMPLES[entity_type])):
        if owned.value is not None:
            owner = "yes" if owned.field in OWNER_FIELDS[entity_type] else ""
            rows.append((f"`{owned.field}`", f"`{shown_path(owned.path)}`", f"`{_example(owned.value)}`", owner))
    head = f"## {entity_type.value.capitalize()}: {resource.resource_type}\n"
    return head + "\n" + _table(("field", "path", "example", "owner"), rows)


def _example(value: Json) -> str:
    if isinstance(value, list):
        return ", ".join(map(_example, value))
    if not isinstance(value, dict):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if "extension" in value:
        return ", ".join(
            f"{part['url']}: {_example(next(v for k, v in part.items() if k != 'url'))}" for part in value["extension"]
        )
    if "coding" in value:
        return _example(value["coding"][0])
    if "identifier" in value:
        return f"{value.get('type', '')} {value['identifier']['value']}".strip()
    return str(value.get("code") or next((_example(v) for k, v in value.items() if k.startswith("value")), ""))


def _bed_status() -> str:
    codes = _table(("code", "meaning"), [(code.value, code.doc) for code in BedStatusCode])
    return f"{_BED_STATUS}\n{codes}\nWhat the table cannot say:\n\n{_table(('what', 'becomes'), LOSSES)}"


def _codes() -> str:
    return "\n".join((
        "## Codes\n\nEncounter.class, by the v2-to-FHIR guide's PatientClass[EncounterClass]:\n",
        _table(("table 0004", "code", "system"), [(key.value, code, system) for key, (system, code) in CLASS_OF.items()]),
        "Location.status:\n",
        _table(("service", "status"), [(key.value, value) for key, value in LOCATION_STATUS.items()]),
        "Encounter.status:\n",
        _table(("status", "code"), [(key.value, value) for key, value in ENCOUNTER_STATUS.items()]),
        "Location.physicalType. The guide leaves the point of care open; `wa` is R4's ward:\n",
        _table(("level", "code", "display"), [(level, code, display) for level, (code, display) in LEVEL_TYPE.items()]),
        f"Extensions of a bed, under `{OURS}`:\n",
        _table(("field", "name", "value"), [(field, name, kind) for field, (name, kind) in BED_EXTENSIONS.items()]),
    ))  # fmt: skip


def _answers() -> str:
    rows = []
    for status in _STATUSES:
        failure = classify(status, None)
        rows.append((str(status), failure.meaning.value if failure else "taken", failure.reason.value if failure else ""))
    return f"## Answers\n\n{_table(('status', 'meaning', 'reason'), rows)}\n{_ANSWERS}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - the page is this module's output
