"""One kind of file, ready to be read: its profile with what reads it, and a first look at a whole file. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, assert_never

from pipeline.domain.event import Event
from pipeline.formats.files.events import EventLines
from pipeline.formats.files.messages import MessageBatch
from pipeline.formats.files.profile import FileProfile
from pipeline.formats.files.resources import Ehr, ResourceLines
from pipeline.formats.files.rows import Bad, Entry, Format, Origin
from pipeline.formats.files.table import Table
from pipeline.formats.hl7v2.profile import Profile as Hl7Profile


@dataclass(frozen=True, slots=True)
class Tally:
    """Records of a file, and how many of them are broken."""

    records: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A broken record: which, where, why, and its bytes."""

    entry: Entry
    bad: Bad

    def __repr__(self) -> str:
        return f"Reject({self.entry.number}, <redacted>)"


@dataclass(slots=True)
class Made:
    """What a chunk makes: events in the order of its records, broken records, and how many records made the events."""

    events: list[Event]
    rejects: list[Reject]
    landed: int


def format_of(profile: FileProfile, facility: str, hl7_profile: Callable[[str], Hl7Profile], ehr: Callable[[str], Ehr]) -> Format:
    """What reads a profile's files. `facility`: the partner's site; `hl7_profile` finds a profile of messages by name, `ehr` a
    server by that of its profile.

    `BadProfile` of one that names a field which its entity does not have. What is returned reads one file at a time.
    """
    match profile.format:
        case "csv":
            return Table(profile, facility, is_dated_by_file=True)
        case "ndjson":
            return EventLines(profile)
        case "hl7v2":
            return MessageBatch(hl7_profile(profile.hl7_profile or ""))
        case "fhir":
            return ResourceLines(profile, facility, ehr(profile.ehr_profile or ""))
        case unknown:
            assert_never(unknown)


def tally(form: Format, data: IO[bytes], origin: Origin, stopped: Callable[[], bool] = lambda: False) -> Tally:
    """Every record, checked as it will be when it is landed. Raises `Unreadable`; ends early once `stopped`."""
    records = rejected = 0
    for entry in form.entries(data):
        records += 1
        rejected += form.check(entry, origin) is not None
        if not records % 1_000 and stopped():
            break
    return Tally(records, rejected)


def make(form: Format, entries: Iterable[Entry], origin: Origin) -> Made:
    """Events and broken records of a chunk."""
    made = Made([], [], 0)
    for entry in entries:
        found = form.events(entry, origin)
        if isinstance(found, Bad):
            made.rejects.append(Reject(entry, found))
        else:
            made.events += found
            made.landed += 1
    return made
