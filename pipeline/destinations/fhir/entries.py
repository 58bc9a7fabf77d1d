"""The entries of a batch: which request may be one, and what the answer to each entry says. Pure."""

import enum
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pipeline.destinations.fhir.answers import entry_etag, status_of
from pipeline.destinations.fhir_http import Answer, Exchange
from pipeline.destinations.protocol import Request
from pipeline.domain.records import Lane
from pipeline.formats.fhir.codec import encode
from pipeline.formats.fhir.outcome import Meaning, classify
from pipeline.formats.fhir.owned import Body, dotted_value, elements
from pipeline.formats.fhir.profile import BundleProfile

_PLAIN: Final = re.compile(r"[A-Za-z]+/[A-Za-z0-9\-.]{1,64}", re.ASCII)


class Alone(enum.Enum):
    """No answer in company: send it by itself. The server has done nothing of it, or a repetition is fenced."""

    ALONE = "alone"


ALONE: Final = Alone.ALONE
Part = Exchange | Alone


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, encoded. `about` is `type/id` of what it names, or the condition of a create: one bundle holds it once.

    What is `safe` changes nothing and may be asked again without a thought.
    """

    about: str
    data: bytes
    safe: bool = False

    def __repr__(self) -> str:
        return f"Entry({len(self.data)} bytes)"


def entry_of(about: str, request: Body, resource: Body | None) -> Entry:
    """An entry; `request` as in Bundle.entry.request."""
    body = {"request": request} if resource is None else {"resource": resource, "request": request}
    return Entry(about, encode(body), safe=resource is None)


def entry_of_write(request: Request, profile: BundleProfile | None) -> Entry | None:
    """The entry that is the same as `request`; None for what goes alone.

    That is what is critical, because it waits for nobody; what has no fence of its own; what is a transaction of several
    resources; and a create where the profile does not say that a batch fences it.
    """
    if profile is None or request.write.lane is Lane.CRITICAL:
        return None
    if request.method == "POST":
        entries = elements(request.body, "entry")
        if not profile.creates or len(entries) != 1 or request.target:
            return None
        wanted, resource = entries[0]["request"], entries[0]["resource"]
        about = f"{wanted['url']}?{wanted['ifNoneExist']}" if "ifNoneExist" in wanted else wanted["url"]
        return entry_of(about, wanted, resource)
    fences = {name.lower(): value for name, value in request.headers}
    if not _PLAIN.fullmatch(request.target):
        return None
    wanted = {"method": request.method, "url": request.target}
    if "if-match" in fences:
        return entry_of(request.target, wanted | {"ifMatch": fences["if-match"]}, request.body)
    if "if-none-match" in fences and profile.creates:
        return entry_of(request.target, wanted | {"ifNoneMatch": fences["if-none-match"]}, request.body)
    return None


def entry_of_read(target: str, lane: Lane, profile: BundleProfile | None) -> Entry | None:
    """The entry that reads `type/id`; None for what goes alone."""
    if profile is None or not profile.reads or lane is Lane.CRITICAL or not _PLAIN.fullmatch(target):
        return None
    return entry_of(target, {"method": "GET", "url": target}, None)


def as_if_alone(request: Request, part: Exchange) -> Exchange:
    """The answer as the request by itself would have had it: a transaction of one entry has one entry's answer inside."""
    if request.method != "POST" or not isinstance(part, Answer) or classify(part.status, part.body) is not None:
        return part
    response = {"status": str(part.status), "etag": part.etag, "location": part.location}
    told = {name: value for name, value in response.items() if value is not None}
    return replace(part, status=200, body={"resourceType": "Bundle", "entry": [{"response": told}]})


def parts_of(entries: list[Entry], body: Body | None) -> list[Part | None]:
    """The answer to each entry of a bundle that was answered; None where none can be told."""
    answered = elements(body, "entry") if body is not None and body.get("resourceType") == "Bundle" else []
    found = _matched([entry.about for entry in entries], answered)
    return [None if each is None else _part(each) for each in found]


def _matched(asked: list[str], answered: list[Body]) -> Iterator[Body | None]:
    """The answer to each of what was asked; None where none can be told.

    By place, as the standard says, if there are as many answers as entries and each that names a resource names the one at
    its place. Else the places mean nothing, and only an answer that names its resource is one, if no other names the same.
    """
    named = [_about(entry) for entry in answered]
    if len(asked) == len(answered) and all(map(_may_be, asked, named)):
        yield from answered
        return
    times = Counter(named)
    by_name = {name: entry for name, entry in zip(named, answered, strict=True) if name is not None and times[name] == 1}
    for wanted in asked:
        yield by_name.get(wanted)


def _may_be(wanted: str, there: str | None) -> bool:
    """Whether an answer that names `there` may be the one to `wanted`; a create does not know its id."""
    return there in (None, wanted) or "?" in wanted


def _about(entry: Body) -> str | None:
    """`type/id` of the resource that an answer names: where it is, or the resource itself."""
    location = dotted_value(entry, "response.location")
    if isinstance(location, str):
        parts = location.partition("/_history/")[0].rsplit("/", 2)[-2:]
        return "/".join(parts) if len(parts) == 2 else None
    resource = entry.get("resource")
    if isinstance(resource, dict) and resource.get("resourceType") != "OperationOutcome" and "id" in resource:
        return f"{resource.get('resourceType')}/{resource['id']}"
    return None


def _part(entry: Body) -> Part:
    """An entry's answer, as if it had been alone. Refused in company it is asked again alone."""
    status = status_of(entry)
    outcome, resource = dotted_value(entry, "response.outcome"), entry.get("resource")
    body = outcome if isinstance(outcome, dict) else resource if isinstance(resource, dict) else None
    failure = classify(status, body)
    if failure is not None and failure.meaning is Meaning.REFUSED:
        return ALONE
    if failure is None and isinstance(resource, dict):
        body = resource
    location = dotted_value(entry, "response.location")
    return Answer(status, entry_etag(entry), location if isinstance(location, str) else None, 0.0, body)
