"""NDJSON of FHIR resources, one a line, as a server's bulk export writes them: mapped as a subscription's are. Pure.

A reference is known by its own identifier, or by those of the resource that it leads to where that stands on an earlier line
of the same file. So what a line makes follows from what is before it, however the file is cut into chunks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Final, assert_never

import msgspec

from pipeline.domain.event import Event, sealed
from pipeline.domain.identifiers import Millis, derive_event_id
from pipeline.formats.fhir import inbound_verdict as fhir
from pipeline.formats.fhir.codec import decode
from pipeline.formats.fhir.inbound import events_of, needed
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.references import own_name
from pipeline.formats.files.profile import FileProfile
from pipeline.formats.files.records import BYTE_ORDER_MARK, TOO_LONG, Lines
from pipeline.formats.files.rows import Bad, Entry, Origin
from pipeline.formats.json_density import is_too_dense
from pipeline.formats.rfc3339 import rfc3339_of

MAX_KNOWN: Final = 20_000
"""Resources of one file that later lines may refer to, the first: some 20 MB."""
NOT_JSON: Final = Bad(None, "a line is one JSON object (RFC 8259) in UTF-8", "write one resource a line")
TOO_DENSE: Final = Bad(None, "an object has no more members than a resource would", "write one resource a line")

_NOWHERE: Final = fhir.Origin("", "", "", "")


@dataclass(frozen=True, slots=True)
class Ehr:
    """The server that wrote a file: its profile, and the key that our marks at it are made with."""

    profile: Profile
    digest_key: bytes

    def __repr__(self) -> str:
        return "Ehr(<redacted>)"


@dataclass(frozen=True, slots=True)
class _Said:
    """A line's resource, and what earlier lines say of those that it refers to."""

    resource: Body
    known: Mapping[str, Body]

    def __repr__(self) -> str:
        return "_Said(<redacted>)"


class ResourceLines:
    """Reads the files of FHIR resources of one profile."""

    def __init__(self, profile: FileProfile, facility: str, ehr: Ehr) -> None:
        """`facility`: the partner's, where neither profile nor resource names one."""
        self._profile = profile
        self._facility = profile.facility or facility
        self._ehr = ehr

    def head(self) -> bytes:
        """There is none."""
        return b""

    def entries(self, data: IO[bytes]) -> Iterator[Entry]:
        """See `Format`. Blank lines are no records. A line is mapped once its source is known."""
        number = 0
        before: dict[str, Body] = {}
        for line in Lines(data):
            text = line.raw.removeprefix(BYTE_ORDER_MARK) if line.number == 1 else line.raw
            if not text.strip():
                continue
            number += 1
            said = self._said(text, before) if line.is_whole else TOO_LONG
            yield Entry(number, line.number, line.raw, said)
            if isinstance(said, _Said) and len(before) < MAX_KNOWN:
                _remember(before, said.resource)

    def check(self, entry: Entry, origin: Origin) -> Bad | None:
        """See `Format`."""
        made = self.events(entry, origin)
        return made if isinstance(made, Bad) else None

    def events(self, entry: Entry, origin: Origin) -> tuple[Event, ...] | Bad:
        """See `Format`. The manifest's source system is the server; what the way of FHIR ignores makes no event.

        A line is as old as its meta.lastUpdated says, else as the file, and never younger than the file.
        """
        said = entry.said
        if not isinstance(said, _Said):
            return said if isinstance(said, Bad) else NOT_JSON
        server = fhir.Origin(origin.tenant, self._facility, origin.source_system, self._profile.feed, self._profile.fhir_version)
        resource = _dated(said.resource, origin.created_at)
        ehr = self._ehr
        verdict = events_of(resource, server, ehr.profile, ehr.digest_key, Millis(origin.received_at), said.known)
        match verdict:
            case fhir.Mapped(events):
                return tuple(self._of_row(event, index, entry.number, origin) for index, event in enumerate(events))
            case fhir.Ignored():
                return ()
            case fhir.Rejected(reason, field, rule, remedy):
                return Bad(field, f"{reason.value}: {rule}", remedy)
            case unknown:
                assert_never(unknown)

    def _of_row(self, event: Event, index: int, number: int, origin: Origin) -> Event:
        """The event as one of the file's: its identity is that of its row, and the file says what was, not what happened."""
        recorded_at = min(event.recorded_at, origin.created_at)
        identity = origin.identity(number, is_dated=recorded_at == origin.created_at)
        return sealed(
            msgspec.structs.replace(
                event,
                event_id=derive_event_id(origin.tenant, origin.source_system, identity, event.key, index),
                event_type=self._profile.event_type,
                recorded_at=recorded_at,
                audit_context=origin.context(number),
            )
        )

    def _said(self, text: bytes, before: Mapping[str, Body]) -> object:
        if is_too_dense(text):
            return TOO_DENSE
        resource = decode(text)
        if resource is None:
            return NOT_JSON
        names = needed(resource, _NOWHERE, self._ehr.profile) if before else ()
        return _Said(resource, {name: before[name] for name in names if name in before})


def _remember(before: dict[str, Body], resource: Body) -> None:
    """Keep by which identifiers a resource is known, where it has any."""
    name = own_name(resource)
    if name is not None and resource.get("identifier"):
        before.setdefault(name, {part: resource[part] for part in ("resourceType", "id", "identifier")})


def _dated(resource: Body, created_at: Millis) -> Body:
    """A resource that does not tell when it was last updated was so when the file was made."""
    meta = resource.get("meta", {})
    if not isinstance(meta, dict) or meta.get("lastUpdated") is not None:
        return resource
    return {**resource, "meta": {**meta, "lastUpdated": rfc3339_of(created_at)}}
