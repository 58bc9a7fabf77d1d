"""What our mapping and other converters say of the same message, field by field.

Messages and bundles are of the data of independent origin; no value of them is kept in what is found.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from msgspec import UNSET, structs

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import Encounter, EntityType, Event, Patient, Place, Procedure
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import apply_owned
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.hl7v2.leniency import Leniency
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.merge import MERGES
from pipeline.formats.hl7v2.triggers import RULES
from pipeline.formats.hl7v2.verdict import Mapped, Rejected
from tests.support.hl7_samples import DEFAULT, RECEIVED_AT

PROFILE: Final = structs.replace(
    DEFAULT,
    patient_id_types=(*DEFAULT.patient_id_types, "GOOD HEALTH HOSPITAL"),
    tolerates=(*DEFAULT.tolerates, Leniency.TYPE_IN_AUTHORITY),
)
"""The default with the two lines that the identifiers of five of the messages need."""

KINDS: Final = ("only ours", "only theirs", "other value", "less precise")
"""How two values differ; a place is less precise where its chain lacks a level of ours."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of one message that a converter and we say otherwise. The values are a patient's and are not kept."""

    message: str
    converter: str
    field: str
    kind: str


# -- the data


def bundles(data: Path) -> Iterator[tuple[str, str, bytes, list[dict[str, Any]]]]:
    """Message, converter, the message's bytes, and the resources that the converter made of it."""
    expected = data / "expected"
    with (expected / "SOURCES.tsv").open(encoding="utf-8") as sources:
        rebuilt = {
            row["file"].removeprefix("open/"): row["note"].rpartition("hl7v2/open/")[2]
            for row in csv.DictReader(sources, delimiter="\t")
            if "ER7 rebuilt as" in row["note"] and row["file"].endswith(".output.json")
        }
    for path in sorted((expected / "microsoft").glob("*.fhir.json")):
        message = data / "hl7v2" / f"{path.name.removesuffix('.fhir.json')}.hl7"
        if message.exists():
            yield message.stem, "Microsoft", message.read_bytes(), _resources(json.loads(path.read_text(encoding="utf-8-sig")))
    for name, file in sorted(rebuilt.items()):
        message = data / "hl7v2" / file
        yield message.stem, "Google", message.read_bytes(), _resources(json.loads((expected / name).read_text(encoding="utf-8")))
    asked, answered = (expected / "microsoft" / f"docs_{name}.json" for name in ("ADT_A01", "Expected_Response_ADT_A01"))
    if asked.exists() and answered.exists():
        text = str(json.loads(asked.read_text(encoding="utf-8-sig"))["InputDataString"])
        answer = json.loads(answered.read_text(encoding="utf-8-sig"))["result"]
        yield "docs_ADT_A01", "Microsoft", text.encode(), _resources(answer)


def _resources(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, list):
        return [item for item in document if isinstance(item, dict)]
    return [entry["resource"] for entry in document.get("entry", []) if isinstance(entry.get("resource"), dict)]


# -- what each says


def said_by_us(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Each patient, stay and appointment of the message's events, as the shipped replica profile writes it."""
    profile = load_profile("hapi-replica")
    found = []
    for event in events:
        resource = RESOURCES.get(event.entity_type)
        if resource is None or event.entity_type is EntityType.BED:
            continue
        naming = Naming(profile, event.tenant, event.facility)
        ident = naming.entity(event.entity_type, event.namespace, event.entity_id)
        start = resource.created(event.payload, naming)
        body: Any = apply_owned(start, resource.desired(event.payload, ident, naming, start))
        match event.payload:
            case Patient():
                found.append(_patient(body) | {"Patient.identifier": _identifiers_of(event)})
            case Encounter() as stay:
                places = {
                    naming.innermost(place): _names(place)
                    for name in ("location", "prior_location", "temporary_location", "pending_location")
                    if isinstance(place := getattr(stay, name), Place)
                }
                found.append(
                    _encounter(body, lambda at, known=places: _ours_at(at, known)) | {"Encounter.identifier": {event.entity_id}}
                )
            case Procedure():
                found.append(_appointment(body) | {"Appointment.identifier": {event.entity_id}})
    return found


def _identifiers_of(event: Event) -> set[Any]:
    payload = event.payload
    assert isinstance(payload, Patient)
    return {item.value for item in payload.identifiers or ()} if payload.identifiers is not UNSET else set()


def _ours_at(element: Mapping[str, Any], known: Mapping[Any, frozenset[str]]) -> frozenset[str]:
    named = element["location"]["identifier"]
    return next(names for ident, names in known.items() if (ident.system, ident.value) == (named["system"], named["value"]))


def _names(place: Place) -> frozenset[str]:
    return frozenset(value for name in place.__struct_fields__ if (value := getattr(place, name)))


def said_by_them(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same of a converter's bundle; a place is the names along its chain of Locations."""
    places = {f"Location/{item.get('id')}": item for item in resources if item.get("resourceType") == "Location"}

    def at(element: Mapping[str, Any]) -> frozenset[str]:
        names: dict[str, str] = {}
        name = element.get("location", {}).get("reference")
        while name in places and name not in names:
            names[name] = str(places[name].get("name", ""))
            name = places[name].get("partOf", {}).get("reference")
        return frozenset(names.values()) - {""}

    found: list[dict[str, Any]] = []
    for item in resources:
        match item.get("resourceType"):
            case "Patient":
                found.append(_patient(item) | {"Patient.identifier": _values(item)})
            case "Encounter":
                found.append(_encounter(item, at) | {"Encounter.identifier": _values(item)})
            case "Appointment":
                found.append(_appointment(item) | {"Appointment.identifier": _values(item)})
    return found


def _values(item: Mapping[str, Any]) -> set[str]:
    return {str(one["value"]) for one in item.get("identifier", ()) if one.get("value")}


def _patient(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Patient.name": {
            (name.get("family"), tuple(name.get("given", ()))) for name in item.get("name", ()) if name.get("family")
        },
        "Patient.birthDate": item.get("birthDate"),
        "Patient.gender": item.get("gender"),
        "Patient.deceased": item.get("deceasedBoolean") or bool(item.get("deceasedDateTime")) or None,
    }


def _encounter(item: Mapping[str, Any], at: Any) -> dict[str, Any]:
    where = {at(element): element.get("status") for element in item.get("location", ())}
    stay = item.get("hospitalization", {})
    return {
        "Encounter.class": item.get("class", {}).get("code"),
        "Encounter.status": item.get("status"),
        "Encounter.period.start": _moment(item.get("period", {}).get("start")),
        "Encounter.period.end": _moment(item.get("period", {}).get("end")),
        "Encounter.location": {names for names in where if names},
        "Encounter.location.status": {(names, status) for names, status in where.items() if names},
        "Encounter.serviceType": _code(item.get("serviceType")),
        "Encounter.hospitalization.dischargeDisposition": _code(stay.get("dischargeDisposition")),
    }


def _appointment(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Appointment.status": item.get("status"),
        "Appointment.start": _moment(item.get("start")),
        "Appointment.end": _moment(item.get("end")),
    }


def _moment(text: str | None) -> Any:
    if text is None or "T" not in text:
        return text
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _code(concept: Mapping[str, Any] | None) -> Any:
    codings = (concept or {}).get("coding", ())
    return next((coding.get("code") for coding in codings), None)


# -- the comparison


@dataclass(frozen=True, slots=True)
class Compared:
    """One message beside one converter's output."""

    message: str
    converter: str
    becomes: str
    fields: int = 0
    cells: tuple[Cell, ...] = ()


def compared(data: Path) -> list[Compared]:
    """Every message that moves capacity and that a converter made something of.

    Merges are left out: what we write of them is about two identities, what others made of these is about one or none.
    """
    found = []
    for message, converter, content, resources in bundles(data):
        kind = message.removeprefix("docs_").split("_")
        if not (kind[0] == "SIU" or (kind[0] == "ADT" and kind[1] in {rule.trigger for rule in RULES} - MERGES.keys())):
            continue
        verdict = map_bytes(content, PROFILE, "t", RECEIVED_AT)[1]
        if isinstance(verdict, Mapped):
            fields, cells = _cells(message, converter, said_by_us(verdict.events), said_by_them(resources))
            found.append(Compared(message, converter, "mapped", fields, cells))
        else:
            becomes = (
                f"refused: {verdict.reason.value} at {verdict.field}" if isinstance(verdict, Rejected) else "ignored by rule"
            )
            found.append(Compared(message, converter, becomes))
    return found


def _cells(
    message: str, converter: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> tuple[int, tuple[Cell, ...]]:
    """Differences, resource by resource of each type in the order of the message."""
    fields, cells = 0, []
    for kind in ("Patient", "Encounter", "Appointment"):
        of_us, of_them = ([one for one in side if any(name.startswith(f"{kind}.") for name in one)] for side in (ours, theirs))
        for number, said in enumerate(of_us):
            other = of_them[number] if number < len(of_them) else {}
            fields += len(said)
            for name, value in said.items():
                cells += [Cell(message, converter, name, kind) for kind in differences(name, value, other.get(name))]
    return fields, tuple(dict.fromkeys(cells))


def differences(name: str, ours: Any, theirs: Any) -> tuple[str, ...]:
    """Kinds in which two values of a field differ; none where they agree, or where a finer field tells."""
    if name == "Encounter.location":
        return _of_places(ours, theirs or set())
    if name == "Encounter.location.status":
        return ("other value",) if any(_status_at(at, theirs or set()) not in (None, status) for at, status in ours) else ()
    if name == "Patient.name" and ours <= (theirs or set()):
        return ()
    if ours == theirs or (not ours and not theirs):
        return ()
    if isinstance(ours, set) and isinstance(theirs, set):
        return ("only ours",) if theirs < ours else ("only theirs",) if ours < theirs else ("other value",)
    return ("only ours",) if not theirs else ("only theirs",) if not ours else ("other value",)


def _of_places(ours: set[frozenset[str]], theirs: set[frozenset[str]]) -> tuple[str, ...]:
    left, kinds = set(theirs), set()
    for place in sorted(ours, key=len, reverse=True):
        same = next((other for other in sorted(left, key=len, reverse=True) if other <= place), None)
        left.discard(same or frozenset())
        if same != place:
            kinds.add("only ours" if same is None else "less precise")
    return tuple(kind for kind in KINDS if kind in kinds or (kind == "only theirs" and left))


def _status_at(place: frozenset[str], theirs: set[tuple[frozenset[str], str]]) -> str | None:
    found = [(len(at), status) for at, status in theirs if at <= place]
    return max(found)[1] if found else None
