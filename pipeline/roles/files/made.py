"""The files that are due for one receiver: their content, manifest and signature, from what is known now."""

import datetime
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from pipeline import topology
from pipeline.destinations.files.crypto import encryptor
from pipeline.destinations.files.outgoing import ENCRYPTED, Made
from pipeline.domain.files.life import Manifest
from pipeline.domain.files.outgoing import FileOutState, OutKind, OutStatus, covered, file_out_id
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.policy import Policy
from pipeline.domain.records import Audit
from pipeline.domain.ward.capacity import capacity_of
from pipeline.domain.ward.census import Unit
from pipeline.domain.ward.lines import UnitBoard
from pipeline.formats.avro import Codec
from pipeline.formats.manifest import MANIFEST_SUFFIX, SIGNATURE_SUFFIX, sign, write_manifest
from pipeline.formats.reports.extract import AUDIT_SCHEMA, CAPACITY_SCHEMA, SAFR_SCHEMA, audit_lines, capacity_csv
from pipeline.formats.reports.safr import GROUPS, safr_bundle
from pipeline.ops.topics import KafkaTopics, Topics, decoded
from pipeline.roles.downtime.state import Standing
from pipeline.roles.process import now_ms
from pipeline.settings.model import Settings
from pipeline.settings.sections.files import FileReceiver

MAX_AUDIT_ENTRIES: Final = 50_000
"""Most entries of one audit export; the others come in the next."""
AHEAD_SLOTS: Final = 1
"""A file of a later period than the next is of a clock that was wrong, and holds back none until its time has come."""
SCHEMAS: Final = {OutKind.CAPACITY: CAPACITY_SCHEMA, OutKind.AUDIT: AUDIT_SCHEMA, OutKind.SAFR: SAFR_SCHEMA}
SUFFIXES: Final = {OutKind.CAPACITY: "csv", OutKind.AUDIT: "ndjson", OutKind.SAFR: "json"}
_CURVE: Final = "Ed25519"


class Unmakable(Exception):
    """A file can't be made now. `reason` is bounded."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, repr=False)
class _Content:
    """What a new file says."""

    data: bytes
    records: int
    created_at: Millis
    facility: str = ""
    begins: tuple[int, ...] = ()
    reached: tuple[int, ...] = ()


class Maker:
    """Makes what is due for one receiver: one file of each kind (SAFR: and site) in each period, none of periods that passed."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        section: FileReceiver,
        standing: Standing,
        policy: Policy,
        codec: Codec,
        topics: Topics | None = None,
        clock: Callable[[], Millis] = now_ms,
    ) -> None:
        self._name = name
        self._section = section
        self._tenant = section.tenant or settings.tenant_default
        self._standing = standing
        self._policy = policy
        self._codec = codec
        self._topics = topics or KafkaTopics(settings.kafka)
        self._clock = clock
        self._every_ms = round(section.every_s * 1000)

    def due(self, known: Sequence[FileOutState]) -> Iterable[Made]:
        """New files, none of what isn't complete, none twice of one moment. BadRecipients, KafkaUnavailable, Unmakable."""
        slot = self._clock() // self._every_ms
        for word in dict.fromkeys(self._section.sends):
            kind = OutKind(word.upper())
            sites = self._section.facilities if kind is OutKind.SAFR else ("",)
            for number, site in enumerate(sites):
                before = [each for each in known if each.kind is kind and each.facility == site]
                if any(slot <= each.slot <= slot + AHEAD_SLOTS for each in before):
                    continue
                content = self._content(kind, site, before, slot)
                if content is not None:
                    yield self._made(kind, number, slot, content)

    def _content(self, kind: OutKind, site: str, before: Sequence[FileOutState], slot: int) -> _Content | None:
        if kind is OutKind.AUDIT:
            return self._audit(before)
        as_of = self._standing.as_of
        if as_of is None or any(each.created_at >= as_of for each in before if each.slot <= slot):
            return None
        boards = self._boards((site,) if site else self._section.facilities)
        if kind is OutKind.CAPACITY:
            data, records = capacity_csv(boards, as_of)
            return _Content(data, records, as_of)
        start = Millis(min(as_of - 1, slot * self._every_ms - self._every_ms))
        bundle = safr_bundle(site, capacity_of(boards, self._policy), start, as_of)
        return _Content(bundle, len(GROUPS), as_of, site)

    def _boards(self, sites: Sequence[str]) -> list[UnitBoard]:
        units: list[Unit] = [unit for unit in self._standing.units() if unit.tenant == self._tenant and unit.facility in sites]
        return list(self._standing.boards(units, self._clock()).values())

    def _audit(self, before: Sequence[FileOutState]) -> _Content | None:
        """Entries that no export holds so far; those of an export whose copy was lost come again."""
        reached = covered(before)
        begin, end = self._topics.begin(topology.AUDIT), self._topics.end(topology.AUDIT)
        places = [
            max(reached[where] if where < len(reached) else 0, begin.get(where, 0)) for where in range(max(end, default=-1) + 1)
        ]
        begins, start = tuple(places), dict(enumerate(places))
        found: list[tuple[int, int, Audit]] = []
        now = self._clock()
        for message in self._topics.read(topology.AUDIT, start, end):
            if len(found) >= MAX_AUDIT_ENTRIES:
                break
            places[message.partition] = message.offset + 1
            record = decoded(self._codec, message)
            if not isinstance(record, Audit):
                raise Unmakable("UNREADABLE")
            found.append((message.partition, message.offset, record))
        if not found:
            return None
        data, records = audit_lines(sorted(found, key=lambda each: each[:2]))
        return _Content(data, records, now, begins=begins, reached=tuple(places))

    def _made(self, kind: OutKind, number: int, slot: int, content: _Content) -> Made:
        at = datetime.datetime.fromtimestamp(slot * self._every_ms // 1000, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        label = f"-{number + 1}" if kind is OutKind.SAFR else ""
        name = f"{kind.value.lower()}{label}-{at}.{SUFFIXES[kind]}"
        section = self._section
        encrypted = section.recipients_file is not None
        state = FileOutState(
            tenant=self._tenant,
            receiver=self._name,
            kind=kind,
            file_id=file_out_id(self._tenant, self._name, name),
            name=name,
            encrypted=encrypted,
            status=OutStatus.MADE,
            slot=slot,
            facility=content.facility,
            sha256=hashlib.sha256(content.data).hexdigest(),
            size=len(content.data),
            records=content.records,
            key_id=section.key_id,
            created_at=content.created_at,
            begins=content.begins,
            reached=content.reached,
            at=self._clock(),
        )
        manifest = write_manifest(self._manifest(state))
        key = signing_key(section.key_file)
        if key is None:
            raise Unmakable("BAD_KEY")
        data = encryptor(section.recipients_file)(content.data) if section.recipients_file is not None else content.data
        return Made(state, {"": data, MANIFEST_SUFFIX: manifest, SIGNATURE_SUFFIX: sign(manifest, key, section.key_id)})

    def _manifest(self, state: FileOutState) -> Manifest:
        """The window in which it is expected ends when it counts as overdue for good."""
        last = state.at + round(self._section.patience_s * 1000) * (1 << min(self._section.max_sends, 20))
        return Manifest(
            file=f"{state.name}{ENCRYPTED}" if state.encrypted else state.name,
            size=state.size,
            records=state.records,
            sha256=state.sha256,
            created_at=state.created_at,
            not_before=Millis(min(state.created_at, state.at)),
            not_after=Millis(min(last, state.at + 366 * 86_400_000)),
            source_system=self._section.source_system,
            schema=SCHEMAS[state.kind],
            key_id=state.key_id,
        )


def signing_key(path: Path) -> OKPKey | None:
    """The Ed25519 private key that a file holds, read now; None where it holds none."""
    try:
        key = OKPKey.import_key(path.read_bytes())
    except (OSError, JoseError, ValueError, TypeError, AttributeError):
        return None
    return key if key.curve_name == _CURVE and key.is_private else None
