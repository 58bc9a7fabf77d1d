"""What became of managed files, read from the topics alone: the ledger, each row's way, and what lies in quarantine."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline import topology
from pipeline.domain.event import Event
from pipeline.domain.files.life import Files, FileState, FileStatus, moments_of_others
from pipeline.domain.identifiers import CLOCKS_MS, Millis, Revision
from pipeline.domain.records import Accepted, Decision, Outcome, OutcomeKind, Quarantined, Raw
from pipeline.formats.avro import Codec, Record
from pipeline.formats.files.profile import FileProfile
from pipeline.formats.files.records import CsvRecords, Lines
from pipeline.formats.files.rows import CONTEXT, Bad
from pipeline.kafka.client import Message
from pipeline.kafka.crypto import RawCipher, Undecryptable
from pipeline.kafka.reader import LogTruncated
from pipeline.ops.topics import decoded
from pipeline.roles.repairs.replay import History
from pipeline.roles.ways_in.files import apply, file_profile

MAX_REJECTS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Reject:
    """One broken row in quarantine. `record`: its bytes, None where they can't be opened; `head`: the file's header."""

    row: int
    line: int
    column: str
    rule: str
    remedy: str
    record: bytes | None = None
    head: bytes = b""

    def __repr__(self) -> str:
        return f"Reject({self.row}, <redacted>)"


@dataclass(slots=True)
class Fate:
    """What became of a file's rows: verdicts of the gate, and at each destination the newest of each entity's outcomes."""

    rows: set[int] = field(default_factory=set)
    events: int = 0
    gate: Counter[str] = field(default_factory=Counter)
    destinations: dict[str, Counter[str]] = field(default_factory=dict)


class FilesReader:
    """Reads topics for `surgeline files`. Every method may raise KafkaUnavailable."""

    def __init__(self, topics: History, codec: Codec) -> None:
        self._topics = topics
        self._codec = codec

    def ledger(self) -> dict[str, Files]:
        """Every file of every partner."""
        found: dict[str, Files] = {}
        for message in self._all(topology.FILES, None):
            apply(message, self._codec, lambda partner: found.setdefault(partner, Files()))
        return found

    def files(self) -> list[FileState]:
        """Every file, the newest first."""
        states = [state for known in self.ledger().values() for state in known.every(*FileStatus)]
        return sorted(states, key=lambda state: state.at, reverse=True)

    def find(self, start: str) -> list[FileState]:
        """Files whose id begins so."""
        return [state for state in self.files() if state.file_id.startswith(start.lower())]

    def fate(self, state: FileState, row: int | None = None) -> Fate:
        """What became of a file's rows, or of one of them."""
        fate, of, since = Fate(), dict[str, int](), self._since(state)
        mark, others = f"{CONTEXT} {state.sha256[:32]}/", moments_of_others(state, self.files())
        for topic in topology.LANDING.values():
            for _, record in self._records(topic, since):
                if not isinstance(record, Event) or record.recorded_at in others:
                    continue
                if (record.audit_context or "").startswith(mark):
                    number = int((record.audit_context or "").removeprefix(mark))
                    if row is None or number == row:
                        of[record.event_id] = number
        fate.rows, fate.events = set(of.values()), len(of)
        accepted: dict[bytes, Revision] = {}
        for _, record in self._records(topology.ACCEPTED, since):
            if isinstance(record, Accepted) and record.event_id in of:
                fate.gate["accepted"] += 1
                accepted[record.key.encode()] = record.revision
        for _, record in self._records(topology.DECISIONS, since):
            if isinstance(record, Decision) and record.event_id in of:
                fate.gate[record.kind.value.lower()] += 1
        self._outcomes(fate, accepted, since)
        return fate

    def _outcomes(self, fate: Fate, accepted: Mapping[bytes, Revision], since: Millis) -> None:
        """At each destination: confirmed, superseded by a newer confirmed revision, parked, shadowed, or still open."""
        newest: dict[str, dict[bytes, str]] = {}
        for _, record in self._records(topology.OUTCOMES, since):
            if not isinstance(record, Outcome) or record.kind is OutcomeKind.FAILED:
                continue
            key = record.key.encode()
            revision = accepted.get(key)
            if revision is None or record.revision < revision:
                continue
            is_newer = record.revision > revision and record.kind is OutcomeKind.CONFIRMED
            said = "superseded" if is_newer else record.kind.value.lower()
            newest.setdefault(record.destination, {})[key] = said
        for destination, said_of in newest.items():
            counts = Counter(said_of.values())
            counts["open"] = len(accepted) - len(said_of)
            fate.destinations[destination] = +counts

    def rejects(self, state: FileState, cipher: RawCipher | None = None) -> list[Reject]:
        """Broken rows by their number, each once; with their bytes where a cipher is given."""
        found: dict[int, Reject] = {}
        heads: dict[tuple[int, int], bytes] = {}
        for message, record in self._records(topology.QUARANTINE, self._since(state)):
            if not isinstance(record, Quarantined) or record.file != state.sha256 or len(found) >= MAX_REJECTS:
                continue
            data, head = None, b""
            if cipher is not None:
                data = _opened(cipher, message, record)
                at = record.partition, record.offset
                head = heads[at] if at in heads else heads.setdefault(at, self._head(cipher, state, *at))
            found[record.row] = Reject(record.row, record.line, record.field or "", record.rule, record.remedy, data, head)
        return [found[row] for row in sorted(found)]

    def _head(self, cipher: RawCipher, state: FileState, partition: int, offset: int) -> bytes:
        """The header of a chunk's bytes, as they came; empty where the format has none or the bytes expired."""
        profile = file_profile(state.profile)
        if profile.format != "csv":
            return b""
        ends = dict.fromkeys(self._topics.end(topology.RAW["files"]), 0) | {partition: offset + 1}
        try:
            for message in self._topics.read(topology.RAW["files"], {partition: offset}, ends):
                raw = decoded(self._codec, message)
                if isinstance(raw, Raw) and (message.partition, message.offset) == (partition, offset):
                    return _header(profile, cipher.open(raw.key_id, raw.identity, raw.ciphertext))
        except (Undecryptable, LogTruncated):
            return b""
        return b""

    def _since(self, state: FileState) -> Millis:
        return Millis(max(0, (state.begun_at or state.since) - CLOCKS_MS))

    def _records(self, topic: str, since: Millis) -> Iterator[tuple[Message, Record]]:
        for message in self._all(topic, since):
            record = decoded(self._codec, message)
            if record is not None:
                yield message, record

    def _all(self, topic: str, since: Millis | None) -> Iterator[Message]:
        start = self._topics.begin(topic) if since is None else self._topics.since(topic, since)
        yield from self._topics.read(topic, start, self._topics.end(topic))


def _header(profile: FileProfile, body: bytes) -> bytes:
    first = next(CsvRecords(Lines(io.BytesIO(body)), profile.csv.delimiter, profile.csv.encoding), None)
    return first.raw if first is not None and not isinstance(first.cells, Bad) else b""


def _opened(cipher: RawCipher, message: Message, record: Quarantined) -> bytes | None:
    """The row's bytes: they are bound to the record's key, which names the chunk and the row's place in it."""
    context = (message.key or b"").decode("utf-8", "replace").replace("|", "/")
    try:
        return cipher.open_named(context, record.record or b"")
    except Undecryptable:
        return None
