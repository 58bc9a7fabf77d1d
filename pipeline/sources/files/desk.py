"""What is done with one sender's files, step by step; a crash between any two steps is made good by the next start.

The order: rows durable, then the ledger, then the acknowledgement, then the file is put away. What is not in the ledger
yet is decided again from the folder, and says the same; what is there is not decided again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

from msgspec.structs import replace

from pipeline.domain.files import life
from pipeline.domain.files.life import Content, FileReason, Files, FileState, FileStatus, Flaw, Manifest, Past, Seen, file_id_of
from pipeline.domain.identifiers import Millis
from pipeline.formats.files.reading import tally
from pipeline.formats.files.rows import Unreadable
from pipeline.formats.manifest import MAX_SIGNATURE_BYTES, check_signature, read_manifest
from pipeline.sources.files.ack import Told, ack_name, acknowledgement, names_rows, tells, told_of
from pipeline.sources.files.folder import ENCRYPTED, REJECTED, TAKEN, Arrival, Copied, Folder
from pipeline.sources.files.landing import CONTENT_TYPES, PROGRESS_CHUNKS, Ended, Landing
from pipeline.sources.files.partner import Kind, Partner, origin_of
from pipeline.sources.protocol import Sink


class Ledger(Protocol):
    """What became of each file, durably."""

    def files_of(self, partner: str) -> Files:
        """All that is known of a sender's files, those included that another process took before us. May block."""
        ...

    async def keep(self, state: FileState) -> bool:
        """Durable; False where the broker didn't take it in time: nothing that depends on it may be done then."""
        ...

    async def drop(self, state: FileState) -> bool:
        """Forget a file that is waited for no more."""
        ...


class FilesObserver(Protocol):
    """What metrics, logs and audit are told; never a name that fits no profile, never a value."""

    def settled(self, state: FileState) -> None:
        """Something was decided of a file, and is in the ledger."""
        ...

    def repeated(self, state: FileState) -> None:
        """A file came again that stands in the ledger, and was acknowledged again."""
        ...

    def waits(self, partner: str, reason: str) -> None:
        """Something can't go on now; `reason` is bounded."""
        ...

    def rows(self, partner: str, landed: int, rejected: int) -> None:
        """Rows are durable."""
        ...

    def faulted(self, partner: str, fault: Exception) -> None:
        """A fault of ours, or of the folder; it is tried again."""
        ...


class NotKept(Exception):
    """The ledger did not take an entry; everything since the one before is done again later."""


class Desk:
    """Serves one sender's folder."""

    def __init__(
        self,
        partner: Partner,
        folder: Folder,
        ledger: Ledger,
        observer: FilesObserver,
        clock: Callable[[], Millis],
        rows_per_s: float,
        instance: str,
    ) -> None:
        self._partner = partner
        self._folder = folder
        self._ledger = ledger
        self._observer = observer
        self._clock = clock
        self._rows_per_s = rows_per_s
        self._instance = instance
        self._files = Files()

    @property
    def name(self) -> str:
        """The sender."""
        return self._partner.name

    def locked(self) -> bool:
        """Take the folder, or hold it; False while another process has it."""
        return self._folder.lock()

    def unlock(self) -> None:
        """Let go of the folder."""
        self._folder.unlock()

    async def begin(self, sink: Sink, stopping: asyncio.Event) -> None:
        """What a process before us left: its ledger is read, and files that it was landing are finished from its copies."""
        self._files = await asyncio.to_thread(self._ledger.files_of, self.name)
        landing = self._files.every(FileStatus.LANDING)
        await asyncio.to_thread(self._folder.drop_others, [state.file_id for state in landing])
        for state in landing:
            if stopping.is_set():
                return
            await self._resume(sink, state, stopping)

    async def round(self, sink: Sink, stopping: asyncio.Event) -> None:
        """Look once at everything that lies in the folder, and do what is to be done."""
        waiting: set[str] = set()
        for arrival in await asyncio.to_thread(self._folder.arrivals):
            if stopping.is_set():
                return
            if (waits := await self._one(sink, arrival, stopping)) is not None:
                waiting.add(waits)
        await self._forget_awaited(waiting)

    # -- one file

    async def _one(self, sink: Sink, arrival: Arrival, stopping: asyncio.Event) -> str | None:
        """Do what is to be done with one name; its digest where it is waited for."""
        seen = self._seen(arrival)
        kind = self._partner.kind_of(arrival.name)
        state = self._state(seen, kind)
        past = self._past(seen, state)
        rules = self._partner.rules(kind, arrival.name)
        now = self._clock()
        match life.look(seen, past, now, rules):
            case life.Wait(why, is_long):
                if why is FileReason.TOO_MANY_REJECTS and past.own is not None:
                    await self._tell(arrival.name, past.own)
                await self._awaited(state, why, is_long, past)
                return state.name_digest
            case life.Refuse(flaw):
                await self._refuse(arrival, state, flaw)
            case life.Again(known):
                await self._again(arrival, known)
            case life.Read(late):
                assert kind is not None
                await self._read(sink, arrival, replace(state, late=late), kind, stopping)
            case unknown:
                assert_never(unknown)
        return None

    def _past(self, seen: Seen, state: FileState) -> Past:
        """What is known of it; of a manifest that lies there alone, what is known of the file that it speaks of."""
        past = self._files.past(state.file_id, state.name_digest, state.sha256, state.created_at)
        if seen.data is not None or seen.signature_since is not None or not isinstance(seen.manifest, Manifest):
            return past
        spoken_of = self._files.get(file_id_of(state.tenant, state.partner, state.name_digest, seen.manifest.sha256))
        return past if spoken_of is None else Past(spoken_of, past.same_name, past.same_content)

    def _seen(self, arrival: Arrival) -> Seen:
        manifest = None if arrival.manifest is None else read_manifest(arrival.manifest)
        forged: Flaw | None = None
        if isinstance(manifest, Manifest) and arrival.manifest is not None and arrival.signature is not None:
            signature = arrival.signature if len(arrival.signature) <= MAX_SIGNATURE_BYTES else b""
            forged = check_signature(arrival.manifest, signature, manifest.key_id, self._partner.keys())
            until = self._partner.valid_until.get(manifest.key_id)
            if forged is None and until is not None and max(arrival.signature_since or 0, arrival.watched_since) > until:
                forged = life.flaw_of(FileReason.KEY_EXPIRED)
        return Seen(
            name=arrival.name,
            data=arrival.data,
            manifest=manifest,
            manifest_since=arrival.manifest_since,
            signature_since=arrival.signature_since,
            signature=forged,
            watched_since=arrival.watched_since,
        )

    def _state(self, seen: Seen, kind: Kind | None) -> FileState:
        """What is known of a file before it is read."""
        partner = self._partner
        base = seen.name.removesuffix(ENCRYPTED)
        digest = partner.digest(base)
        # What an unproven manifest says is nobody's word: it must not speak for a file that another one proves.
        proven = seen.manifest if isinstance(seen.manifest, Manifest) and seen.signature_since and not seen.signature else None
        sha256 = proven.sha256 if proven is not None else ""
        file_id = file_id_of(partner.tenant, partner.name, digest, sha256)
        state = FileState(
            tenant=partner.tenant,
            partner=partner.name,
            file_id=file_id,
            name=base if kind is not None else "",
            name_digest=digest,
            profile=kind.name if kind is not None else "",
            status=FileStatus.AWAITED,
            since=seen.since,
            at=self._clock(),
            instance=self._instance,
        )
        if proven is None:
            return state
        return replace(
            state,
            sha256=sha256,
            size=proven.size,
            records=proven.records,
            source_system=proven.source_system if proven.source_system in partner.sources else "",
            schema=proven.schema if kind is not None and proven.schema == kind.profile.schema else "",
            key_id=proven.key_id,
            created_at=proven.created_at,
        )

    async def _read(self, sink: Sink, arrival: Arrival, state: FileState, kind: Kind, stopping: asyncio.Event) -> None:
        """Copy it, read it to its end, and decide."""
        rules = self._partner.rules(kind, arrival.name)
        decrypt = self._partner.decrypt if rules.is_encrypted else None
        try:
            copied = await asyncio.to_thread(self._folder.copy, arrival.name, state.file_id, rules.max_bytes, decrypt)
        except FileNotFoundError:
            return
        content = copied if isinstance(copied, Flaw) else await asyncio.to_thread(self._content, copied, state, kind, stopping)
        if stopping.is_set() and not isinstance(content, Flaw) and content.flaw is None and content.records != state.records:
            return  # broken off
        manifest = read_manifest(arrival.manifest or b"")
        assert isinstance(manifest, Manifest)
        past = self._files.past(state.file_id, state.name_digest, state.sha256, state.created_at)
        weighed = life.Refuse(content) if isinstance(content, Flaw) else life.weigh(manifest, content, past, rules)
        match weighed:
            case life.Land():
                await self._land(sink, arrival, self._begun(state, past), kind, stopping)
            case life.Hold():
                await self._held(state, kind)
            case life.Refuse(flaw):
                await self._refuse(arrival, state, flaw)
            case life.Repeat(of):
                repeated = replace(state, status=FileStatus.REPEATED, why=FileReason.SAME_CONTENT, same_as=of.file_id)
                await self._put_away(arrival, await self._settle(repeated), TAKEN)
            case life.Again(known):
                await self._again(arrival, known)
            case unknown:
                assert_never(unknown)

    def _content(self, copied: Copied, state: FileState, kind: Kind, stopping: asyncio.Event) -> Content:
        if copied.sha256 != state.sha256 or copied.size != state.size:
            return Content(copied.size, copied.sha256)
        try:
            with copied.path.open("rb") as data:
                counted = tally(kind.reader(), data, origin_of(state, self._clock()), stopping.is_set)
        except Unreadable as unreadable:
            return Content(copied.size, copied.sha256, flaw=unreadable.flaw)
        return Content(copied.size, copied.sha256, counted.records, counted.rejected)

    # -- what is decided

    def _begun(self, state: FileState, past: Past) -> FileState:
        """A file that is landed from its start, or from where a process before us had come.

        Once rows of it were landed its moment stays: of another one their receipts, which know name and content, would let
        only the others be landed.
        """
        own = past.own
        if own is not None and own.status is FileStatus.LANDING:
            return own
        if own is not None and own.begun_at is not None:
            state = replace(state, created_at=own.created_at)
        released_by = own.released_by if own is not None else ""
        return replace(state, status=FileStatus.LANDING, begun_at=self._clock(), released_by=released_by)

    async def _land(self, sink: Sink, arrival: Arrival | None, state: FileState, kind: Kind, stopping: asyncio.Event) -> None:
        known = self._files.get(state.file_id)
        if known is None or known.status is not FileStatus.LANDING:
            state = await self._settle(state)
        path = self._folder.copy_path(state.file_id)
        landing = Landing(kind.reader(), path, CONTENT_TYPES[kind.profile.format], self._rows_per_s, self._clock, stopping)
        ended, state = await landing.run(sink, state, _Told(self._observer, self._keep))
        match ended:
            case Ended.WHOLE:
                await self._put_away(arrival, await self._settle(replace(state, status=FileStatus.TAKEN)), TAKEN)
            case Ended.STOPPED:
                await self._keep(state)
            case Ended.OTHER:
                await self._refuse(arrival, state, life.flaw_of(FileReason.OTHER_CONTENT))
            case unknown:
                assert_never(unknown)

    async def _resume(self, sink: Sink, state: FileState, stopping: asyncio.Event) -> None:
        """Go on with a file that was being landed, from our copy: its sender may have put another in its place."""
        kind = self._partner.named(state.profile)
        kept = await asyncio.to_thread(self._folder.kept, state.file_id)
        if kind is None:
            return
        if kept is not None and kept.sha256 == state.sha256:
            # What lies in `incoming` under its name may be another one by now: it is judged by itself, in the next round.
            await self._land(sink, None, state, kind, stopping)
        elif not await asyncio.to_thread(self._still_there, state):
            # Another process that took it meanwhile said so in the ledger before it put it away.
            self._files = await asyncio.to_thread(self._ledger.files_of, self.name)
            if (now := self._files.get(state.file_id)) is not None and now.status is FileStatus.LANDING:
                await self._refuse(None, now, life.flaw_of(FileReason.GONE))

    def _still_there(self, state: FileState) -> bool:
        """Whether this very file, by its manifest, lies in `incoming`."""
        kind_of, seen_of = self._partner.kind_of, self._seen
        return any(
            self._state(seen_of(arrival), kind_of(arrival.name)).file_id == state.file_id for arrival in self._folder.arrivals()
        )

    async def _held(self, state: FileState, kind: Kind) -> None:
        state = await self._settle(replace(state, status=FileStatus.HELD, why=FileReason.TOO_MANY_REJECTS))
        await asyncio.to_thread(self._acknowledge, state)
        self._folder.drop(state.file_id)

    async def _refuse(self, arrival: Arrival | None, state: FileState, flaw: Flaw) -> None:
        known = self._files.get(state.file_id)
        if known is not None and known.status is FileStatus.TAKEN:
            # Its manifest is that of a file that was taken, and it is none: it must not stand in that one's place.
            self._folder.drop(state.file_id)
            state = replace(state, file_id=file_id_of(state.tenant, state.partner, state.name_digest, ""), sha256="")
        refused = replace(
            state, status=FileStatus.REFUSED, why=flaw.why, field=flaw.field[:80], rule=flaw.rule, remedy=flaw.remedy
        )
        await self._put_away(arrival, await self._settle(refused), REJECTED)

    async def _again(self, arrival: Arrival, known: FileState) -> None:
        self._observer.repeated(known)
        await self._tell(arrival.name, known)
        to = REJECTED if known.status is FileStatus.REFUSED else TAKEN
        await asyncio.to_thread(self._folder.put_away, arrival, to)
        self._folder.drop(known.file_id)

    async def _tell(self, name: str, known: FileState) -> None:
        """Acknowledge what is in the ledger, unless that was done: a crash may have come between the two."""
        if tells(await asyncio.to_thread(self._folder.acknowledged, ack_name(known)), known):
            return
        if (kind := self._partner.named(known.profile)) is not None and names_rows(known):
            rules = self._partner.rules(kind, name)
            decrypt = self._partner.decrypt if rules.is_encrypted else None
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(self._folder.copy, name, known.file_id, rules.max_bytes, decrypt)
        await asyncio.to_thread(self._acknowledge, known)
        self._folder.drop(known.file_id)

    async def _put_away(self, arrival: Arrival | None, state: FileState, to: str) -> None:
        """Acknowledge, and move the file out of the way; our copy goes last, as the acknowledgement needs it."""
        await asyncio.to_thread(self._acknowledge, state)
        if arrival is not None:
            await asyncio.to_thread(self._folder.put_away, arrival, to)
        self._folder.drop(state.file_id)

    def _acknowledge(self, state: FileState) -> None:
        told, kind, path = Told(), self._partner.named(state.profile), self._folder.copy_path(state.file_id)
        if kind is not None and names_rows(state) and path.exists():
            with path.open("rb") as data:
                told = told_of(kind.reader(), data, origin_of(state, self._clock()))
        self._folder.acknowledge(ack_name(state), acknowledgement(state, told))

    # -- the ledger

    async def _settle(self, state: FileState) -> FileState:
        """Put a decision into the ledger; NotKept where the broker doesn't take it."""
        state = await self._keep(state)
        self._observer.settled(state)
        return state

    async def _keep(self, state: FileState) -> FileState:
        known = self._files.get(state.file_id)
        state = replace(state, version=(known.version if known else 0) + 1, at=self._clock(), instance=self._instance)
        if not await self._ledger.keep(state):
            raise NotKept
        self._files.put(state)
        return state

    async def _awaited(self, state: FileState, why: FileReason, is_long: bool, past: Past) -> None:
        """What is waited for too long is told, once for each reason."""
        known = past.own
        if not is_long or (known is not None and (known.status is not FileStatus.AWAITED or known.why is why)):
            return
        await self._settle(replace(state, status=FileStatus.AWAITED, why=why))

    async def _forget_awaited(self, waiting: set[str]) -> None:
        """What was waited for came under another content, or is gone: the ledger waits for it no more."""
        for state in self._files.every(FileStatus.AWAITED):
            if state.name_digest not in waiting and await self._ledger.drop(state):
                self._files.forget(state.file_id)


class _Told:
    """What landing tells: each chunk to the observer, and now and then how far it is to the ledger."""

    def __init__(self, observer: FilesObserver, keep: Callable[[FileState], Awaitable[FileState]]) -> None:
        self._observer = observer
        self._keep = keep
        self._chunks = 0

    async def landed(self, state: FileState, rows: int, rejected: int) -> None:
        """See `Progress`."""
        self._observer.rows(state.partner, rows, rejected)
        self._chunks += 1
        if self._chunks % PROGRESS_CHUNKS == 0:
            await self._keep(state)

    def waits(self, partner: str, reason: str) -> None:
        """See `Progress`."""
        self._observer.waits(partner, reason)
