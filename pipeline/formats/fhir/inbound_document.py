"""Renders docs/mapping/fhir-in.md: what is read from where is found out by taking each element of a full resource away."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import UNSET

from pipeline.domain.event import Described, Encounter, EncounterStatus, EntityType, Payload
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.forms import R5_ENCOUNTER_READ, R5_SUBJECT_READ
from pipeline.formats.fhir.inbound import MAPPED_TYPES, Mapped, Origin, events_of
from pipeline.formats.fhir.inbound_appointment import STATUS_OF
from pipeline.formats.fhir.inbound_encounter import MORE_CLASSES, VACATED_WINDOW_MS
from pipeline.formats.fhir.inbound_task import STAGE_OF
from pipeline.formats.fhir.inbound_verdict import IgnoredBecause, RejectedBecause
from pipeline.formats.fhir.owned import Body, Json, apply_owned, dotted_value
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.samples import ALL, NAMING, SAMPLES
from pipeline.formats.fhir.terms import EXTENSIONS, OURS
from pipeline.formats.hl7v2.profile import BED_STATUS, BedStatement
from pipeline.formats.markdown import table

_ORIGIN: Final = Origin("TENANT", "FACILITY", "EHR", "FEED")
_IDS: Final = {EntityType.BED: "UNIT/ROOM/BED"}
_REQUIRED: Final = "required"
_META: Final = {"versionId": "1", "lastUpdated": "2026-01-31T08:00:00Z"}

_HEAD: Final = """# What comes from a FHIR server

Rendered from `pipeline/formats/fhir` by `python -m pipeline.formats.fhir.inbound_document`; a test fails when it is out of
date. `surgeline map FILE` shows what a resource or a bundle would make.

A resource is a state; what enters are the fields that are the EHR's word. Without our mark in it that is all that it shows.
With it the resource enters as a difference: a field that we wrote only where its digest tells that somebody changed it since,
one that we never wrote and that the profile leaves to the EHR always, and one that neither of us ever said not at all. So our
own write comes back as `ECHO` and makes no event, and a clinician's edit on a resource that still carries our mark enters as
that field alone. A mark that travels as a tag has one digest for all fields: after any edit the whole resource is the EHR's
word; where a profile lets no mark travel, each version is. At an owner, a stay that carries nothing of ours but a reservation
tells its own fields with each version; the gate finds nothing new in them.

- **Identity**: server, type, id and versionId; without a version the digest of the content takes its place.
- **Order**: `meta.lastUpdated`, which is required. A server has no sequence that a reader could trust.
- **Names**: an entity is named by the identifier whose system the profile names: `namespace/id` under the profile's own
  system, the bare value under an authority's. None or several: `AMBIGUOUS_IDENTITY`, never a guess. A reference without such
  an identifier is resolved by reading what it leads to; `UNRESOLVED` where that has none either.
- **Unsaid**: an element that is valid and means nothing here (a bare date for a moment, a code of another system) is left
  unsaid and named; one that is not valid has the resource refused, with path, rule and remedy, never with the value.
"""

_HOURS: Final = VACATED_WINDOW_MS // 3_600_000
_BEDS: Final = f"""## Beds of a stay

As for an ADT, a stay makes events of its beds, in this order: the stay, the beds left, the bed taken.

- The place of an *active* element is occupied by this stay, unless the stay has not begun or is over. Of several active
  places the innermost counts if the others surround it, else the one begun last; without times it is a `CONTRADICTION`.
  A place that nobody here knows is left unsaid beside a known bed; alone it has the stay refused as `UNRESOLVED`.
- The place left last, and each other left within {_HOURS} hours before the update, is vacated of this stay. The gate lets
  a vacancy end no other patient's stay. A place that nobody knows any more is left unsaid.
- When the stay is over, its active places are vacated too.
- *reserved*, or *planned* once the stay has begun, is the pending location, and occupies nothing. A reservation that was
  ours and was taken away is cleared; one of the EHR's own ends with the next one.
- A stay that goes on and has no end was not ended: `discharged_at` and `disposition` are cleared.
"""

_LOCATION: Final = """`status` says `service` only where neither our extension nor operationalStatus does; beside our mark
only where it contradicts our extension. A Location that is no single bed is ignored (`NOT_A_BED`).
"""

_R5: Final = """## R5

The tables above name R4's elements. A feed whose `version` is R5 is read as R5 writes them: where one is kept elsewhere there,
`fhir.md` says for each field, and what our writer wrote in R5's form comes back as an echo all the same. What an Appointment's
`subject` names besides its participants has to be the same patient, else it is a `CONTRADICTION`; a group is left unsaid.
"""

_R5_STATUS: Final = """Encounter.status of R5. `discharged` is over: the patient left, what remains is paper. `discontinued` had
begun. Where the subject's status says more, the two count together; that somebody departed ends no stay that goes on.
"""

_TASK: Final = """businessStatus is the stage. Where somebody changed Task.status to one that businessStatus does not go
with, the status decides. A task of another code is ignored.
"""


def render() -> str:
    """The page."""
    parts = [_HEAD, *(_resource(entity_type) for entity_type in RESOURCES), _R5, _BEDS, _codes(), _verdicts()]
    return "\n".join(parts)


def _resource(entity_type: EntityType) -> str:
    kind = RESOURCES[entity_type].resource_type
    found: dict[str, set[str]] = {}
    for body in _bodies(entity_type):
        whole = _fields(body)
        for element, without in _taken_away(body, kind):
            left = _fields(without)
            changed = {_REQUIRED} if left is None else {name for name in whole or {} if left.get(name) != (whole or {})[name]}
            found.setdefault(element, set()).update(changed)
    rows = [
        (f"`{element}`", ", ".join(name if name == _REQUIRED else f"`{name}`" for name in sorted(fields)))
        for element, fields in found.items()
        if fields
    ]
    note = {"Location": _LOCATION, "Task": _TASK}.get(kind, "")
    return f"## {kind}: {entity_type.value}\n\n{table(('element', 'field'), rows)}{chr(10) + note if note else ''}"


def _bodies(entity_type: EntityType) -> Iterator[Body]:
    """Full resources: with our extensions and without, and a stay that goes on and one that is over."""
    state = SAMPLES[entity_type]
    body = _body(entity_type, state)
    yield body
    yield {name: value for name, value in body.items() if name != "extension"}
    if isinstance(state, Encounter):
        yield _body(entity_type, msgspec.structs.replace(state, status=EncounterStatus.FINISHED, discharged_at=Millis(0)))


def _body(entity_type: EntityType, state: Payload) -> Body:
    """The full resource as our writer makes it, without the mark."""
    resource = RESOURCES[entity_type]
    ident = NAMING.entity(entity_type, "FACILITY", _IDS.get(entity_type, "ID"))
    start = resource.created(state, NAMING)
    return {**apply_owned(start, resource.desired(state, ident, NAMING, start)), "id": "1", "meta": _META}


def _fields(body: Body) -> dict[str, Any] | None:
    """What the resource's own event states; None where the resource is refused."""
    verdict = events_of(body, _ORIGIN, ALL, b"", Millis(0))
    if not isinstance(verdict, Mapped):
        return None
    payload = verdict.events[0].payload
    return {name: value for name in payload.__struct_fields__ if (value := getattr(payload, name)) is not UNSET}


def _taken_away(body: Body, kind: str) -> Iterator[tuple[str, Body]]:
    """Each element with the resource that lacks it: members of an object and elements of a list one by one."""
    for name, value in body.items():
        if name in ("resourceType", "id"):
            continue
        if isinstance(value, list):
            for index, element in enumerate(value):
                label = _label(element, kind, name)
                yield f"{name}{label}", {**body, name: value[:index] + value[index + 1 :]}
        elif isinstance(value, dict) and name in ("meta", "period", "hospitalization", "statusReason", "cancelationReason"):
            for inner in value:
                yield f"{name}.{inner}", {**body, name: {key: kept for key, kept in value.items() if key != inner}}
        else:
            yield name, {key: kept for key, kept in body.items() if key != name}


def _label(element: Json, kind: str, name: str) -> str:
    url = element.get("url")
    if isinstance(url, str):
        return f"[{url.removeprefix(OURS)}]"
    if kind == "Encounter" and name == "location":
        temporary = " temporary" if "extension" in element else ""
        return f"[{element.get('status')}{temporary}]"
    target = dotted_value(element, "actor.type") or element.get("type")
    return f"[{target}]" if isinstance(target, str) else ""


def _codes() -> str:
    extensions = [
        (kind.value, field, f"`{name}`", value) for kind, fields in EXTENSIONS.items() for field, (name, value) in fields.items()
    ]
    return "\n".join((
        "## Codes\n\nLocation.operationalStatus, table 0116: each code states its own dimension and nothing else.\n",
        table(("code", "states"), [(code, _statement(statement)) for code, statement in BED_STATUS.items()]),
        _R5_STATUS,
        table(("Encounter.status", "status"), [(code, status.value) for code, status in R5_ENCOUNTER_READ.items()]),
        table(("with subjectStatus", "status"), [(" + ".join(both), known.value) for both, known in R5_SUBJECT_READ.items()]),
        "Encounter.class besides those that we write ourselves, by the class that each is a kind of:\n",
        table(("code", "table 0004"), [(code, known.value) for code, known in MORE_CLASSES.items()]),
        "Task.status alone. `draft`, `ready` and `on-hold` claim no stage.\n",
        table(("code", "stage"), [(code, stage.value) for code, stage in STAGE_OF.items()]),
        "Appointment.status, where our extension does not say the same in more words:\n",
        table(("code", "status"), [(code, status.value) for code, status in STATUS_OF.items()]),
        f"Extensions of ours, under `{OURS}` unless the profile gives another URL:\n",
        table(("entity", "field", "name", "value"), extensions),
    ))  # fmt: skip


def _statement(statement: BedStatement) -> str:
    said = {name: getattr(statement, name) for name in statement.__struct_fields__}
    return ", ".join(
        f"{name} {str(value).lower() if value is True else value}" for name, value in said.items() if value is not None
    )


def _verdicts() -> str:
    others = f"Resource types other than {', '.join(MAPPED_TYPES)} are ignored by name.\n"
    return "\n".join((
        "## Ignored\n", table(("reason", "meaning"), _meanings(IgnoredBecause)), others,
        "## Refused\n", table(("reason", "meaning"), _meanings(RejectedBecause)),
    ))  # fmt: skip


def _meanings(kind: type[Described]) -> list[tuple[str, str]]:
    return [(f"`{each.value}`", each.doc) for each in kind]


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - the page is this module's output
