"""Renders docs/mapping/fhir.md from the maps and tables themselves: each path is one that a full state was really written to."""

import itertools
from typing import Final

from pipeline.domain.bed import LOSSES, BedStatusCode
from pipeline.domain.event import Encounter, EntityType
from pipeline.formats.fhir import episode
from pipeline.formats.fhir.forms import R4, R5
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.outcome import classify
from pipeline.formats.fhir.owned import Body, Json, Member, Path, apply_owned
from pipeline.formats.fhir.profile import NO_PLACE, OWNER_FIELDS, OWNER_FIRST
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.samples import NAMING, NAMING_R5, SAMPLES
from pipeline.formats.fhir.statuses import STATUSES_OF
from pipeline.formats.fhir.terms import (
    APPOINTMENT_STATUS,
    CLASS_OF,
    EXTENSIONS,
    HELD,
    LEVEL_TYPE,
    LOCATION_STATUS,
    OURS,
    REVISION,
    TASK_STATUS,
    TRANSFER_STAGE,
)
from pipeline.formats.markdown import table

_STATUSES: Final = (200, 201, 202, 204, 302, 304, 400, 401, 403, 404, 408, 409, 410, 412, 422, 425, 429, 500, 501, 502, 503, 504)

_HEAD: Final = """# What goes to a FHIR server

Rendered from `pipeline/formats/fhir` by `python -m pipeline.formats.fhir.document`; a test fails when it is out of date.

We write paths, not resources. A write starts from the resource as it was read, replaces the paths below, and carries the
version of that read; everything else keeps its bytes, decimals included. An element of a list is addressed by its system, url
or reference, never by position. A field that the state leaves unset touches nothing; a cleared one clears our element. A
profile (`pipeline/profiles/ehr/`) names the fields that go out, and the version of FHIR (`fhir`, R4 or R5; R4B has R4's form
in all of this). An **owner**, the EHR of record, may be told the fields marked
so and no others: start-up refuses a profile that names more. A field marked `first` is written to an owner only while it
shows nothing there or what we wrote ourselves: what the EHR says of it stands. A new bed has its identifier, kind and place
besides, any other new resource its identifier.
"""

_VERSIONS: Final = """## R4 and R5

The tables show where a field goes in R4, and in R5 where that is another place. Besides, R5 has other words for a stay's
status, says of a stay's subject in `subjectStatus` what R4 says in the status, has an element of its own for the begin of a
stay that has not begun (`plannedStartDate` for `admitted_at`), and names a procedure's patient a second time, as the subject.
Of `subjectStatus` the code of the standard's own system is ours, unless it is one that goes with the status anyway; other
systems' are left alone. Classes are a list in R5, of which the codes of the two systems that we write under are ours; there
nobody needs one, so that an unstated class makes none.
"""

_NOWHERE: Final = """## What goes to no EHR

{types}: no clinical resource means these, so none is bent to carry them. A profile that maps one is refused.
"""

_REFERENCES: Final = """## References

A reference to another entity is logical: type and identifier. A literal one needs the id that the server gave to a resource
which another worker writes from another partition, perhaps later. So no write waits for another one's, and the receiver
resolves the identifier when it reads. Two references are literal: a bed's `partOf` and a stay's `episodeOfCare`. The places
around a bed and the episodes of care have no partition of their own. They are made in the same transaction as the bed or the
stay, each by a conditional create, and the server puts their ids in; the identifier stays beside it, by which the next read
sees whether it is still the same one.

A bed's identifier is `namespace/id` under the profile's system, or the bare id under the system of an authority that the
profile names. A place without a bed is known by its path from the outside, such as `si:MAIN/wa:ICU/ro:12`.
"""

_LOCATIONS: Final = """## Encounter.location

Elements are ours if they refer to a place by an identifier of ours; all others are left alone. A place that several fields
name gets the first status that applies: the patient is there, is there for a while, is expected, was there. A place that the
state no longer names becomes `completed` if it was active, and goes if it was a plan or a promise; so a superseded move leaves
no patient in two beds. Once the stay is over nobody is anywhere: active becomes `completed`, plans and promises go. Where the
profile doesn't write `location`, a promised place that the EHR shows as taken is left to the EHR. A `period.end` that would be
before its start is left out (per-1): a server that checks would refuse the whole stay for it.
"""


_BED_STATUS: Final = """## Bed status

`operationalStatus` is HL7 table 0116. The strongest fact decides: out of service (C), a patient (O), contamination (K),
housekeeping (H), isolation (I), and only then vacancy (U). If none is known, nothing is claimed, and a code of ours is
withdrawn. A promised bed goes out as U only where the promise reaches the receiver too (`reservation` in the profile); else
the write is held as RESERVATION_UNTELLABLE.
"""

_TRANSFERS: Final = f"""## Task.status

`businessStatus` has the transfer centre's own stage, in the code system `{TRANSFER_STAGE}`. Task.status is mandatory and R4's;
it has no code for unknown, so a stage that is cleared or not known asks for something and claims no more. `intent` is `order`.
An unknown patient has no `for`, and no stand-in. `lastModified` is when the stage was reached; it is left out where that would
be before the request (inv-1), and our extension has it anyway. An origin without its facility is named only where the transfer
is internal: a ward elsewhere must not be taken for ours of the same name.
"""

_PROCEDURES: Final = """## Appointment.status

By the v2-to-FHIR guide's map of table 0278, which leaves three open: DISCONTINUED, BLOCKED and OVERBOOK are ours. R4 wants
start and end together (app-2), and both of them unless the appointment is proposed, cancelled or on the waiting list (app-3).
So what isn't fixed in time yet is proposed, what was deleted without its times is cancelled, and a start or end that is known
alone is in an extension. *Held* has no code that would be both valid and true: the write is refused as REFUSED_INVALID and
parked until the times come. The raw status goes beside it in an extension.

Patient and place are participants, addressed by their references; whoever else takes part is left alone, and so is a
participant's own status once it is there: `accepted` when we add it, `needs-action` while the appointment is undecided. Where
nobody is known one participant says that (R4 wants at least one, app-1); it goes when somebody is there. The reason of the last
change is the `cancelationReason` where the status is `cancelled` (app-4), else an extension: `reasonCode` would say why the
appointment takes place. A status other than `cancelled` takes the `cancelationReason` away, whoever gave it.
"""

_EPISODES: Final = """## EpisodeOfCare

Where the source names the episode of care that a stay belongs to (PV1-54, `episode` in JSON), the stay refers to it, and the
same transaction creates it unless it is there. Where no source names one there is none. It is never written again: its later
life is not ours to say, no source tells us of its end. `period.start` is the admission of the stay that named it first. Its
patient is mandatory: until the patient is known, and where the profile keeps the patient back, the stay refers by identifier
alone and nothing is made.
"""

_OWN_CODES: Final = """## An EHR's own statuses

A profile's `statuses` map a code of ours to the EHR's, by field, with the EHR's code system where the element has one. Where the
standard binds the element, only its codes are allowed.
"""

_MARK: Final = f"""## The mark

Every write carries the extension `{REVISION}`:
`revision` (`epoch.offset`, as text, since a FHIR integer ends at 2^31), `stateHash`, and one `digest` per written field,
`field=hex`: eight bytes of keyed BLAKE2b over revision, state hash, field and value. A reader with the key tells which fields
somebody changed since, without a history; without the key the digests say nothing, and equal values of two people have
different ones. It is an extension and no tag, because servers carry tags from version to version. A resource without a whole
mark is of unknown revision, not of revision zero.
"""

_ANSWERS: Final = """A 404 to an update means that the resource went after it was read, or that something else answers in the
EHR's place: read again. A read that is answered by what is no FHIR, or by a redirect, says that the EHR is away. A 412 with the
issue code `multiple-matches` is refused as MULTIPLE_MATCHES. A success that carries an OperationOutcome with an error is judged
by its issue codes. A fenced create that met an existing resource (200 and not 201) wrote nothing: read again. Without an answer a
write is ambiguous as soon as its headers were sent, and a plain retry before that. `Retry-After` is seconds or a date, cut at
one hour.
"""


def render() -> str:
    """The page."""
    parts = [_HEAD, _VERSIONS, _REFERENCES]
    parts += [_resource(entity_type) for entity_type in RESOURCES]
    parts += [_LOCATIONS, _episodes(), _bed_status(), _transfers(), _procedures(), _codes(), _own_codes()]
    parts += [_NOWHERE.format(types=" and ".join(sorted(each.value.capitalize() for each in NO_PLACE))), _MARK, _answers()]
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
    r4, r5 = _paths(entity_type, NAMING), _paths(entity_type, NAMING_R5)
    rows = []
    for field in dict.fromkeys([*r4, *r5]):
        for (path, example), (later, in_r5) in itertools.zip_longest(r4.get(field, []), r5.get(field, []), fillvalue=("", "")):
            elsewhere = later if later != path else ""
            rows.append((f"`{field}`", path, elsewhere, example or in_r5, _owner(entity_type, field)))
    head = f"## {entity_type.value.capitalize()}: {RESOURCES[entity_type].resource_type}\n"
    return head + "\n" + table(("field", "R4 path", "R5 path", "example", "owner"), rows)


def _paths(entity_type: EntityType, naming: Naming) -> dict[str, list[tuple[str, str]]]:
    """By field: each path with an example of what is written there."""
    resource, ident, state = RESOURCES[entity_type], naming.entity(entity_type, "AUTHORITY", "ID"), SAMPLES[entity_type]
    found: dict[str, list[tuple[str, str]]] = {}
    for owned in resource.desired(state, ident, naming, resource.created(state, naming)):
        if owned.value is not None:
            found.setdefault(owned.field, []).append((f"`{shown_path(owned.path)}`", f"`{_example(owned.value)}`"))
    return found


def _owner(entity_type: EntityType, field: str) -> str:
    if field not in OWNER_FIELDS[entity_type]:
        return ""
    return "first" if field in OWNER_FIRST.get(entity_type, ()) else "yes"


def _episodes() -> str:
    stay, resource = SAMPLES[EntityType.ENCOUNTER], RESOURCES[EntityType.ENCOUNTER]
    assert isinstance(stay, Encounter)
    body = apply_owned({}, resource.desired(stay, NAMING.entity(EntityType.ENCOUNTER, "AUTHORITY", "ID"), NAMING, {}))
    (entry,) = episode.entries_of(stay, NAMING, body)
    made: Body = entry["resource"]
    rows = [(f"`{name}`", f"`{_example(value)}`") for name, value in made.items() if name != "resourceType"]
    return f"{_EPISODES}\n{table(('element', 'example'), rows)}"


def _example(value: Json) -> str:
    if isinstance(value, list):
        return ", ".join(map(_example, value))
    if not isinstance(value, dict):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if "url" in value and "extension" in value:
        return ", ".join(
            f"{part['url']}: {_example(next(v for k, v in part.items() if k != 'url'))}" for part in value["extension"]
        )
    if "coding" in value:
        return _example(value["coding"][0])
    if "identifier" in value:
        return f"{value.get('type', '')} {value['identifier']['value']}".strip()
    if "value" in value or "start" in value:
        return ", ".join(f"{name}: {_example(inner)}" for name, inner in value.items() if name != "system")
    return str(value.get("code") or next((_example(v) for k, v in value.items() if k.startswith("value")), ""))


def _bed_status() -> str:
    codes = table(("code", "meaning"), [(code.value, code.doc) for code in BedStatusCode])
    return f"{_BED_STATUS}\n{codes}\nWhat the table cannot say:\n\n{table(('what', 'becomes'), LOSSES)}"


def _transfers() -> str:
    rows = [(stage.value, stage.doc, status) for stage, status in TASK_STATUS.items()]
    return f"{_TRANSFERS}\n{table(('stage', 'meaning', 'Task.status'), rows)}"


def _procedures() -> str:
    rows = [
        (key.value, key.doc, timed, "*held*" if timeless == HELD else timeless)
        for key, (timed, timeless) in APPOINTMENT_STATUS.items()
    ]
    return f"{_PROCEDURES}\n{table(('table 0278', 'meaning', 'with both times', 'without'), rows)}"


def _own_codes() -> str:
    rows = [
        (
            f"`resources.{entity_type.value}.statuses.{field}`",
            element.element,
            ", ".join(element.ours),
            element.system or "",
            f"{version}'s" if element.bound else "any",
        )
        for version, types in STATUSES_OF.items()
        for entity_type, fields in types.items()
        for field, element in fields.items()
        if version == R4.name or element != STATUSES_OF[R4.name][entity_type][field]
    ]
    return f"{_OWN_CODES}\n{table(('setting', 'element', 'our codes', 'our system', 'their codes'), rows)}"


def _codes() -> str:
    return "\n".join((
        "## Codes\n\nEncounter.class, by the v2-to-FHIR guide's PatientClass[EncounterClass]:\n",
        table(("table 0004", "code", "system"), [(key.value, code, system) for key, (system, code) in CLASS_OF.items()]),
        "Location.status:\n",
        table(("service", "status"), [(key.value, value) for key, value in LOCATION_STATUS.items()]),
        "Encounter.status:\n",
        table(("status", "R4", "R5", "R5 `subjectStatus`", "left there"), _encounter_statuses()),
        "Location.physicalType, in R5 `form`. The guide leaves the point of care open; `wa` is R4's ward:\n",
        table(("level", "code", "display"), [(level, code, display) for level, (code, display) in LEVEL_TYPE.items()]),
        f"Our extensions, under `{OURS}` unless the profile gives one another URL:\n",
        table(
            ("entity", "field", "name", "value"),
            [
                (entity_type.value, field, name, kind)
                for entity_type, names in EXTENSIONS.items()
                for field, (name, kind) in names.items()
            ],
        ),
    ))  # fmt: skip


def _encounter_statuses() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for status, words in R5.encounter_status.items():
        written, *left = words.subject
        left_alone = ", ".join(code for code in left if code)
        rows.append((status.value, R4.encounter_status[status].status, words.status, written or "", left_alone))
    return rows


def _answers() -> str:
    rows = []
    for status in _STATUSES:
        failure = classify(status, None)
        rows.append((str(status), failure.meaning.value if failure else "taken", failure.reason.value if failure else ""))
    return f"## Answers\n\n{table(('status', 'meaning', 'reason'), rows)}\n{_ANSWERS}"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - the page is this module's output
