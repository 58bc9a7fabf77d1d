"""`surgeline run files`: partners' folders, with the ledger and what else they need of Kafka."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from importlib.resources import files as package_files
from typing import Any, Final

import msgspec
from joserfc.jwk import OKPKey

from pipeline import topology
from pipeline.carriers.places import carrier_of
from pipeline.carriers.protocol import BadPlace, Carrier
from pipeline.destinations.fhir.profile import InvalidProfile, load_profile
from pipeline.domain.files.life import DEFAULT_WAITS, Files, FileState, FileStatus, Waits
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.formats.files.profile import FileProfile, profile_of
from pipeline.formats.files.reading import format_of
from pipeline.formats.files.resources import Ehr
from pipeline.formats.files.table import BadProfile
from pipeline.formats.manifest import public_key
from pipeline.kafka.client import Message
from pipeline.kafka.producer import OutRecord, PublishFailed
from pipeline.kafka.projections import is_current
from pipeline.kafka.reader import Follower, read_topic
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import code_of, emit, subject, where
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.process import Process, Refused, now_ms, or_die
from pipeline.roles.ways_in.intake import CLOSE_S, Intake, hl7_profile
from pipeline.settings.model import Settings
from pipeline.settings.sections.files import FilePartner
from pipeline.sources.files.crypto import decryptor
from pipeline.sources.files.desk import Desk
from pipeline.sources.files.folder import Folder
from pipeline.sources.files.partner import Kind, Partner
from pipeline.sources.files.watch import FilesSource

WAITING: Final = (FileStatus.AWAITED, FileStatus.HELD, FileStatus.LANDING)


class FilesRole:
    """The way in of managed files."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        section = settings.files
        partners = partners_of(settings)
        self._intake = Intake(process, "files")
        self._ledger = KafkaLedger(process, self._intake)
        observer = _Observer()
        desks = [
            Desk(
                partner,
                Folder(place_of(settings, partner.name), section.data_dir / partner.name),
                self._ledger,
                observer,
                now_ms,
                section.rows_per_s,
                section.instance,
            )
            for partner in partners
        ]
        self._source = FilesSource(desks, observer, section.poll_s)
        for partner in partners:
            self._watch(partner.name)
            for key, until in expiries_of(section.partners[partner.name]).items():
                metrics.FILES_KEY_SECONDS.of(partner.name, key).set_function(partial(_seconds_until, until))

    def _watch(self, partner: str) -> None:
        known = self._ledger.known(partner)
        metrics.FILES_SERVED.of(partner).set_function(lambda: partner in self._source.serving)
        metrics.FILES_TAKEN_SECONDS.of(partner).set_function(partial(_since_taken, known))
        for status in WAITING:
            metrics.FILES_WAITING.of(partner, status.value).set_function(partial(_count, known, status))

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once earlier answers and the ledger are known. Another instance may serve the folders."""
        return {"receipts": self._intake.ready, "ledger": self._ledger.ready}

    def status(self) -> Any:
        """Pressure, and how many files of each partner stand where."""
        return {
            "pressure": self._intake.sink.pressure(),
            "serving": sorted(self._source.serving),
            "files": {
                name: dict(Counter(state.status.value for state in known.every(*FileStatus)))
                for name, known in self._ledger.every().items()
            },
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        watching = self._intake.followed(self._ledger.follower)
        await self._until_ready(stop)
        await self._source.run(self._intake.sink, stop)
        watching.cancel()
        await asyncio.gather(asyncio.to_thread(self._ledger.follower.stop, CLOSE_S), self._intake.close())

    async def _until_ready(self, stop: asyncio.Event) -> None:
        while not (stop.is_set() or (self._intake.ready() and self._ledger.ready())):
            await asyncio.sleep(READY_POLL_S)


READY_POLL_S: Final = 0.05
MAX_EHRS: Final = 32
"""Profiles of servers that are kept in memory: a reader is made anew for each file."""


class KafkaLedger:
    """The compacted topic `files`, with an entry of this process's audit chain for each decision."""

    def __init__(self, process: Process, intake: Intake) -> None:
        self._kafka = process.settings.kafka
        self._codec = process.codec
        self._publisher = intake.publisher
        self._files: dict[str, Files] = {}
        self._lock = threading.Lock()
        actor = f"files/{process.instance}"
        self._chain = AuditChain.continued(KafkaTopics(self._kafka), process.codec, process.codec, actor)
        self._turn = asyncio.Lock()
        self.follower: Final = Follower(self._kafka, (topology.FILES,), self._apply).start()

    def ready(self) -> bool:
        """Whether what was there at the start is known."""
        return is_current(self.follower)

    def known(self, partner: str) -> Files:
        """What is known of a partner's files; it grows."""
        with self._lock:
            return self._files.setdefault(partner, Files())

    def every(self) -> dict[str, Files]:
        """Of each partner."""
        with self._lock:
            return dict(self._files)

    def files_of(self, partner: str) -> Files:
        """See `Ledger`: read to its end, because another process may have served the folder a moment ago."""
        for message in read_topic(self._kafka, topology.FILES):
            self._apply(message)
        return self.known(partner)

    def _apply(self, message: Message) -> None:
        apply(message, self._codec, self.known)

    async def keep(self, state: FileState) -> bool:
        """See `Ledger`. An audit entry that can't be published ends the process: a chain with a hole can't be continued."""
        before = self.known(state.partner).get(state.file_id)
        if not await self._publish(OutRecord(topology.FILES, key_of(state), self._codec.encode(state))):
            return False
        if before is None or (before.status, before.why) != (state.status, state.why):
            await or_die(self._note(state))
        return True

    async def drop(self, state: FileState) -> bool:
        """See `Ledger`."""
        return await self._publish(OutRecord(topology.FILES, key_of(state), None))

    async def _publish(self, record: OutRecord) -> bool:
        try:
            await self._publisher.publish([record])
        except PublishFailed:
            return False
        return True

    async def _note(self, state: FileState) -> None:
        async with self._turn:
            entry = self._chain.append(
                at=now_ms(),
                actor=self._chain.chain,
                action=f"file.{state.status.value.lower()}",
                subject=state.file_id,
                destination=state.partner,
                reason=state.why.value,
                detail={
                    "sha256": state.sha256,
                    "records": str(state.records),
                    "landed": str(state.landed),
                    "rejected": str(state.rejected),
                },
            )
            await self._publisher.publish([entry])


def key_of(state: FileState) -> bytes:
    """Key of a file in the ledger."""
    return f"{state.tenant}|{state.partner}|{state.file_id}".encode()


def apply(message: Message, codec: Codec, known: Callable[[str], Files]) -> None:
    """Know a record of the ledger; one that can't be read is passed over, as nothing was promised by it."""
    if message.value is None:
        parts = (message.key or b"").decode("utf-8", "replace").split("|")
        if len(parts) == 3:
            known(parts[1]).forget(parts[2])
        return
    record = decoded(codec, message)
    if isinstance(record, FileState):
        known(record.partner).put(record)


def partners_of(settings: Settings) -> tuple[Partner, ...]:
    """Every partner of the settings; Refused with all problems at once."""
    problems: list[str] = []
    found: list[Partner] = []
    for name, section in settings.files.partners.items():
        try:
            found.append(partner_of(settings, name, section))
        except Refused as refused:
            problems += refused.problems
    if not settings.files.partners:
        problems.append("files.partners: nobody may send; name a partner with its folder and keys")
    if problems:
        raise Refused(problems)
    return tuple(found)


def partner_of(settings: Settings, name: str, section: FilePartner) -> Partner:
    """One partner; Refused."""
    where_ = f"files.partners.{name}"
    key = settings.digest_key()
    signers = partial(signers_of, where_, section)
    signers()
    return Partner(
        name=name,
        tenant=section.tenant or settings.tenant_default,
        sources=frozenset(section.source_systems),
        kinds=tuple(kind_of(profile, section, key) for profile in section.profiles),
        keys=signers,
        decrypt=decryptor(each.key_file for each in section.decrypt_keys),
        digest=lambda text: subject(text.encode("utf-8", "surrogateescape"), key),
        waits=Waits(
            patience_ms=round(section.patience_s * 1000),
            give_up_ms=round(section.give_up_s * 1000),
            settle_ms=DEFAULT_WAITS.settle_ms,
        ),
        must_encrypt=section.must_encrypt,
        valid_until={each.key_id: millis(each.valid_until) for each in section.signers if each.valid_until is not None},
    )


def expiries_of(section: FilePartner) -> dict[str, Millis]:
    """Until when what is taken: a key of the partner by its id, or what we enter its place with, as `place`."""
    found = {each.key_id: millis(each.valid_until) for each in section.signers if each.valid_until is not None}
    for access in (section.sftp, section.objects):
        if access is not None and access.valid_until is not None:
            found["place"] = millis(access.valid_until)
    return found


def millis(at: datetime) -> Millis:
    """A moment as the ledger writes it."""
    return Millis(round(at.timestamp() * 1000))


def place_of(settings: Settings, partner: str) -> Carrier:
    """Where a partner's files lie; Refused."""
    try:
        return carrier_of(settings.files.partners[partner], settings.files.instance)
    except BadPlace as problem:
        raise Refused([f"files.partners.{partner}.{problem}"]) from None


def signers_of(where_: str, section: FilePartner) -> dict[str, OKPKey]:
    """The partner's public keys by id, read now; Refused where a file holds none."""
    found: dict[str, OKPKey] = {}
    for number, signer in enumerate(section.signers):
        key = public_key(signer.public_file.read_bytes())
        if key is None:
            raise Refused([f"{where_}.signers.{number}.public_file: {signer.public_file} holds no public Ed25519 key in PEM"])
        found[signer.key_id] = key
    return found


def kind_of(name: str, section: FilePartner, digest_key: bytes) -> Kind:
    """A kind of file by the name of its profile; Refused where there is none, it has problems, or is not this partner's.

    `digest_key`: what our marks are made with, by which our own word is known where a server exports it.
    """
    profile = file_profile(name)
    messages = partial(hl7_profile, facility=section.facility)
    if profile.format == "hl7v2":
        speaks_for = messages(profile.hl7_profile or "").source_system
        if speaks_for not in section.source_systems:
            raise Refused([f"files: {name} speaks for {speaks_for}, which is none of the partner's source_systems"])
    try:
        reader = partial(format_of, profile, section.facility, messages, partial(_ehr, digest_key=digest_key))
        reader()
    except (BadProfile, InvalidProfile) as error:
        raise Refused([f"profiles/files/{name}.yaml: {error}"]) from None
    return Kind(name, profile, reader)


@lru_cache(maxsize=MAX_EHRS)
def _ehr(profile: str, digest_key: bytes) -> Ehr:
    return Ehr(load_profile(profile), digest_key)


def file_profile(name: str) -> FileProfile:
    """A shipped profile of files by name; Refused where there is none, or it has problems."""
    shipped = {file.name.removesuffix(".yaml"): file for file in (package_files("pipeline") / "profiles" / "files").iterdir()}
    if name not in shipped:
        raise Refused([f"there is no profile of files {name}; known: {', '.join(sorted(shipped))}"])
    try:
        return profile_of(shipped[name].read_bytes())
    except msgspec.ValidationError as error:
        raise Refused([f"profiles/files/{name}.yaml: {error}"]) from None


def _count(known: Files, status: FileStatus) -> float:
    return len(known.every(status))


def _seconds_until(until: Millis) -> float:
    return (until - now_ms()) / 1000


def _since_taken(known: Files) -> float:
    newest = max((state.at for state in known.every(FileStatus.TAKEN)), default=None)
    return -1 if newest is None else max(0, now_ms() - Millis(newest)) / 1000


class _Observer:
    def settled(self, state: FileState) -> None:
        """Something was decided of a file."""
        metrics.FILES_SETTLED.of(state.partner, state.status.value, state.why.value).inc()
        if state.status is FileStatus.TAKEN:
            emit(lines.FILE_TAKEN, source=state.partner, file=state.file_id, count=state.records)
        elif state.status is not FileStatus.LANDING:
            emit(lines.FILE_SETTLED, source=state.partner, file=state.file_id, cause=state.status.value, reason=state.why.value)

    def repeated(self, state: FileState) -> None:
        """A file came again."""
        metrics.FILES_REPEATED.of(state.partner).inc()

    def waits(self, partner: str, reason: str) -> None:
        """Rows can't be taken now."""
        if reason != "PRESSURE":
            emit(lines.FILE_WAITS, source=partner, reason=reason)

    def rows(self, partner: str, landed: int, rejected: int) -> None:
        """Rows are durable."""
        metrics.FILES_ROWS.of(partner, "landed").inc(landed)
        metrics.FILES_ROWS.of(partner, "rejected").inc(rejected)

    def faulted(self, partner: str, fault: Exception) -> None:
        """A fault of ours, or of the folder: its type and place, never its text."""
        emit(lines.INTAKE_FAULT, source=partner, exception=code_of(type(fault).__name__), where=where(fault.__traceback__))
