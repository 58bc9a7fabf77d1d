"""What a server's answer means for the write that it answers. Pure.

The answer of each entry of a bundle counts, whatever the bundle's own status says.
"""

import re
from typing import Final

from pipeline.destinations.fhir_http import Answer
from pipeline.destinations.protocol import Ambiguous, Confirmed, Outcome, Refused, Request, Retry, VersionMismatch
from pipeline.formats.fhir.outcome import Failure, Meaning, classify, is_resource
from pipeline.formats.fhir.owned import Body, dotted_value, elements

RESOURCE_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)


def outcome_of(request: Request, answer: Answer) -> Outcome:
    """What became of a write that was answered."""
    updates = request.target != ""
    if answer.status == 404 and (updates or not is_resource(answer.body)):
        return VersionMismatch()  # it was there when it was read; or it isn't the EHR that answers: a read tells
    if (failure := classify(answer.status, answer.body)) is not None:
        return _failed(failure, answer.retry_after_s)
    if not answer.readable or (answer.body is not None and not is_resource(answer.body)):
        return Ambiguous()  # a success that isn't FHIR may come from something in between
    if request.method == "POST":
        return _transaction_outcome(request, answer.body)
    if _is_fenced_create(request) and answer.status != 201:
        return VersionMismatch()
    etag = answer.etag or (etag_of(answer.body) if answer.body else None)
    return Confirmed(request.target.rpartition("/")[2], etag, request.write.accepted.revision)


def _failed(failure: Failure, retry_after_s: float) -> Outcome:
    match failure.meaning:
        case Meaning.RETRY:
            return Retry(failure.reason, retry_after_s)
        case Meaning.REFUSED:
            return Refused(failure.reason)
        case Meaning.MISMATCH:
            return VersionMismatch()
        case Meaning.UNKNOWN:
            return Ambiguous()


def _transaction_outcome(request: Request, body: Body | None) -> Outcome:
    """The answer of each entry counts: a conditional create that met an existing resource wrote nothing into it."""
    answers = elements(body, "entry") if body is not None and body.get("resourceType") == "Bundle" else []
    asked = elements(request.body, "entry")
    if len(answers) != len(asked):
        return Ambiguous()
    for entry in answers:
        failure = classify(status_of(entry), dotted_value(entry, "response.outcome"))
        if failure is not None:
            return _failed(failure, 0.0)
    last, wanted = answers[-1], dotted_value(asked[-1], "request")
    creates = wanted.get("method") == "POST" or "ifNoneMatch" in wanted
    if creates and status_of(last) != 201:
        return VersionMismatch()
    remote_id = wanted["url"].rpartition("/")[2] if wanted.get("method") == "PUT" else id_of(last)
    if remote_id is None:
        return Ambiguous()  # it is there, but what it is called has to be read
    made = last.get("resource")
    shown = isinstance(made, dict) and (made.get("resourceType"), made.get("id")) == (
        asked[-1]["resource"]["resourceType"],
        remote_id,
    )
    return Confirmed(remote_id, entry_etag(last), request.write.accepted.revision, made if creates and shown else None)


def status_of(entry: Body) -> int:
    """Status of an entry, 500 where it says none: then nobody knows."""
    head = str(dotted_value(entry, "response.status") or "")[:3]
    return int(head) if head.isascii() and head.isdigit() else 500


def id_of(entry: Body) -> str | None:
    """Id of the resource that an entry of an answer is about."""
    location = dotted_value(entry, "response.location")
    if isinstance(location, str):
        parts = location.partition("/_history/")[0].rsplit("/", 1)
        if len(parts) == 2 and RESOURCE_ID.fullmatch(parts[1]):
            return parts[1]
    remote_id = dotted_value(entry, "resource.id")
    return remote_id if isinstance(remote_id, str) and RESOURCE_ID.fullmatch(remote_id) else None


def entry_etag(entry: Body) -> str | None:
    """Version of the resource that an entry of an answer is about."""
    etag = dotted_value(entry, "response.etag")
    resource = entry.get("resource")
    if isinstance(etag, str):
        return etag if etag.endswith('"') else f'W/"{etag}"'  # HAPI gives the bare version here
    if isinstance(resource, dict) and (told := etag_of(resource)) is not None:
        return told
    version = version_in(dotted_value(entry, "response.location"))
    return f'W/"{version}"' if version else None


def version_in(location: object) -> str | None:
    """Version at the end of `[base]/type/id/_history/version`."""
    return location.partition("/_history/")[2] or None if isinstance(location, str) else None


def etag_of(body: Body) -> str | None:
    """Weak ETag of the version that a resource names (R4, 3.1.0.1.2)."""
    version = dotted_value(body, "meta.versionId")
    return f'W/"{version}"' if isinstance(version, str) else None


def _is_fenced_create(request: Request) -> bool:
    return any(name.lower() == "if-none-match" for name, _ in request.headers)
