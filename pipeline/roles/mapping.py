"""`surgeline map`: any input format to canonical events, without a broker."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.destinations.fhir.profile import InvalidProfile, load_profile
from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.forms import FORMS
from pipeline.formats.fhir.inbound import Ignored, Mapped, Origin, Rejected, events_of
from pipeline.formats.fhir.inbound_verdict import FhirVersion
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.fhir.profile import Profile as EhrProfile
from pipeline.formats.fhir.references import own_name
from pipeline.formats.fhir.revision import carrier_of
from pipeline.formats.hl7v2.mapping import map_hl7
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.json_events import Client, Invalid, event_to_json, parse_event
from pipeline.roles.process import Refused

MAX_FILE_BYTES: Final = 64 << 20
MAPPER: Final = "map"


@dataclass(frozen=True, slots=True)
class Ehr:
    """The EHR that FHIR files are from. Without `digest_key`, the writers' own, nobody can tell our marks from edits."""

    profile: EhrProfile
    origin: Origin
    digest_key: bytes | None = field(default=None, repr=False)


def ehr_of(profile: str, tenant: str, facility: str, server: str, version: FhirVersion, digest_key: Path | None) -> Ehr:
    """The EHR as the command names it. Refused where its profile or the key's file can't be used."""
    try:
        loaded = load_profile(profile)
        key = digest_key.read_bytes().strip() if digest_key is not None else None
    except InvalidProfile as error:
        raise Refused([str(error)]) from None
    except OSError as error:
        raise Refused([f"{digest_key}: {error.strerror or 'can not be read'}"]) from None
    if FORMS[version] is not loaded.form:
        raise Refused([f"the files are said to be of FHIR {version}, and profile {profile} is one of {loaded.fhir}"])
    return Ehr(loaded, Origin(tenant, facility, server, MAPPER, version), key)


def map_file(file: Path, profile: Profile, tenant: str, received_at: Millis, ehr: Ehr | None = None) -> Iterator[dict[str, Any]]:
    """Canonical events of a file, or one object that says why there are none."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            yield _rejected(file, "OVERSIZE", f"at most {MAX_FILE_BYTES} bytes")
            return
        data = file.read_bytes()
    except OSError as error:
        yield _rejected(file, "UNREADABLE", error.strerror or "can't be read")
        return
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        yield from _map_json(file, text, tenant, received_at, ehr)
    else:
        yield from map_hl7(data, profile=profile, tenant=tenant, received_at=received_at, file=str(file))


def _map_json(file: Path, text: bytes, tenant: str, received_at: Millis, ehr: Ehr | None) -> Iterator[dict[str, Any]]:
    try:
        items = _items(text)
    except (ValueError, RecursionError):
        yield _rejected(file, "UNDECODABLE", "neither JSON nor JSON lines")
        return
    for number, item in enumerate(items):
        if ehr is not None and isinstance(item, dict) and "resourceType" in item:
            yield from _map_fhir(file, item, f"/{number}", received_at, ehr)
            continue
        source = item.get("source_system", "") if isinstance(item, dict) else ""
        client = Client(MAPPER, tenant, frozenset({source} if isinstance(source, str) else ()))
        key = str(item.get("idempotency_key") or f"{file.name}") if isinstance(item, dict) else file.name
        match parse_event(item, client=client, idempotency_key=key, item=number, received_at=received_at):
            case Event() as event:
                yield event_to_json(event)
            case Invalid() as invalid:
                yield {
                    "file": str(file),
                    "rejected": invalid.rule,
                    "field": f"/{number}{invalid.field}",
                    "detail": invalid.rule.doc,
                    "remedy": invalid.remedy,
                }


def _map_fhir(file: Path, body: Body, at: str, received_at: Millis, ehr: Ehr) -> Iterator[dict[str, Any]]:
    """A resource, or each resource of a bundle; those of one bundle may refer to each other."""
    if body.get("resourceType") != "Bundle":
        yield from _map_resource(file, body, at, received_at, ehr, {})
        return
    found = [
        (number, entry, resource)
        for number, entry in enumerate(elements(body, "entry"))
        if isinstance(resource := entry.get("resource"), dict)
    ]
    known = {name: resource for _, _, resource in found if (name := own_name(resource)) is not None}
    known |= {url: resource for _, entry, resource in found if isinstance(url := entry.get("fullUrl"), str)}
    for number, _, resource in found:
        yield from _map_resource(file, resource, f"{at}/entry/{number}/resource", received_at, ehr, known)


def _map_resource(
    file: Path, resource: Body, at: str, received_at: Millis, ehr: Ehr, known: Mapping[str, Body]
) -> Iterator[dict[str, Any]]:
    if ehr.digest_key is None and carrier_of(ehr.profile).read(resource) is not None:
        remedy = "give the writers' key with --digest-key-file"
        yield {**_rejected(file, "NO_DIGEST_KEY", "the resource carries our mark"), "field": at, "remedy": remedy}
        return
    match events_of(resource, ehr.origin, ehr.profile, ehr.digest_key or b"", received_at, known):
        case Mapped(events=events):
            yield from map(event_to_json, events)
        case Ignored(reason=reason, detail=detail):
            yield {"file": str(file), "ignored": reason.value, "field": at, "detail": f"{detail}: {reason.doc}"}
        case Rejected(reason=reason, field=path, rule=rule, remedy=remedy):
            place = f"{at} {path}"
            yield {"file": str(file), "rejected": reason.value, "field": place, "detail": rule, "remedy": remedy}


def _items(text: bytes) -> list[Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return document if isinstance(document, list) else [document]


def _rejected(file: Path, reason: str, detail: str) -> dict[str, Any]:
    return {"file": str(file), "rejected": reason, "detail": detail}
