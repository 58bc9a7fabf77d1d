"""The life of a managed file: what becomes of it, told from what lies in its sender's folder and what is known of it. Pure.

Nothing about a file that waits is kept anywhere but in the folder itself, so a start after a crash sees what the one before
saw. What is kept, in the ledger, is what was decided: a file that is being landed, was taken, is held or was refused.
`look` decides before a byte of the file is read, `weigh` once it was read to its end; a file is taken only after both.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.domain.event import Redacted
from pipeline.domain.files.record import FileReason, FileState, FileStatus, Flaw, flaw_of
from pipeline.domain.identifiers import Millis

__all__ = [
    "DEFAULT_WAITS",
    "Again",
    "Content",
    "FileReason",
    "FileState",
    "FileStatus",
    "Files",
    "Flaw",
    "Hold",
    "Land",
    "Manifest",
    "Part",
    "Past",
    "Read",
    "Refuse",
    "Repeat",
    "Rules",
    "Seen",
    "Wait",
    "Waits",
    "file_id_of",
    "flaw_of",
    "look",
    "weigh",
]  # fmt: skip

HOUR_MS: Final = 3_600_000
SETTLED: Final = (FileStatus.TAKEN, FileStatus.REPEATED, FileStatus.REFUSED)
"""Where a file ends, and is put away."""
NO_TIME: Final = Millis(0)


class Manifest(Redacted, frozen=True, kw_only=True):
    """What a file's sender says of it. Times in milliseconds of the epoch; `size` and `sha256` are of the plain content."""

    file: str
    size: int
    records: int
    sha256: str
    created_at: Millis
    not_before: Millis
    not_after: Millis
    source_system: str
    schema: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Part:
    """A file in the folder. `since` is when it came to be what it is, by the clock of the machine that has the folder."""

    size: int
    since: Millis
    is_plain: bool = True
    """A regular file with one name: no link, folder or device."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What lies in the folder under one name. `manifest` is a Flaw where it can't be read."""

    name: str
    data: Part | None
    manifest: Manifest | Flaw | None = None
    manifest_since: Millis | None = None
    signature_since: Millis | None = None
    signature: Flaw | None = None
    """Why the signature proves nothing; None where it does, or where there is none to look at."""
    watched_since: Millis = NO_TIME
    """Waits count from no earlier than this: where a sender can set the times of its files, since when we see them so."""

    @property
    def since(self) -> Millis:
        """When the newest part came."""
        return Millis(max(self.data.since if self.data else 0, self.manifest_since or 0, self.signature_since or 0))

    def stood_ms(self, since: int, now: Millis) -> int:
        """For how long something stands as it does that came at `since`."""
        return now - max(since, self.watched_since)


@dataclass(frozen=True, slots=True)
class Past:
    """What the ledger knows of this file, and of others with its name or content that were taken.

    `same_content`: of several, the one whose content was true at the same moment, if there is one.
    """

    own: FileState | None = None
    same_name: FileState | None = None
    same_content: FileState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long a sender's files are waited for, in milliseconds."""

    patience_ms: int = HOUR_MS // 4
    """What waits for longer is told: an entry in the ledger, an alert."""
    give_up_ms: int = 24 * HOUR_MS
    """What waits for longer is refused."""
    settle_ms: int = 2_000
    """A manifest or signature that changed just now may still be being written."""
    partial_ms: int = 600_000
    """A file that is too short and hasn't grown for so long will not grow."""
    grace_ms: int = 60_000
    """A file is late only if it came by more than this after its time."""
    skew_ms: int = 300_000
    """The sender's clock may be ahead by so much."""


DEFAULT_WAITS: Final = Waits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a sender and a profile allow."""

    sources: frozenset[str]
    schema: str | None
    """None where the name fits no profile."""
    is_encrypted: bool = False
    is_dated_by_manifest: bool = False
    """Its rows are as old as its manifest says, so that the same content says something new of another moment."""
    late: Literal["take", "refuse"] = "take"
    waits: Waits = DEFAULT_WAITS
    max_bytes: int = 2 << 30
    max_rejected: float = 0.1
    """Part of the rows that may be broken; a file with more is held."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet; look again. `is_long`: it has waited longer than it should, and that must be told."""

    why: FileReason
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read it to its end, then `weigh`."""

    late: bool = False


@dataclass(frozen=True, slots=True)
class Land:
    """Land its rows behind the first `rows_done`, which are durable."""

    rows_done: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep it, and land nothing of it."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing of it is landed; its sender is told."""

    flaw: Flaw


@dataclass(frozen=True, slots=True)
class Repeat:
    """It says what was taken under another name: nothing of it is landed."""

    of: FileState


@dataclass(frozen=True, slots=True)
class Again:
    """This very file was taken: give its sender the same acknowledgement, and put it away."""

    taken: FileState


Glance = Wait | Read | Refuse | Again
Weighed = Land | Hold | Refuse | Repeat | Again


def look(seen: Seen, past: Past, now: Millis, rules: Rules) -> Glance:
    """What to do with what lies in the folder, before it is read."""
    if seen.data is not None:
        if not seen.data.is_plain:
            return Refuse(flaw_of(FileReason.NOT_A_FILE))
        if rules.schema is None:
            return Refuse(flaw_of(FileReason.UNKNOWN_NAME))
    if past.own is not None and _is_remainder(seen, past.own):
        return Again(past.own)
    incomplete = _incomplete(seen, now, rules)
    if incomplete is not None:
        return incomplete
    manifest = seen.manifest
    assert isinstance(manifest, Manifest)
    own = past.own
    is_taken = own is not None and own.status is FileStatus.TAKEN
    if own is not None and seen.data is None and (is_taken or _is_left_over(seen, own)):
        return Again(own)
    if not is_taken and (flaw := _not_theirs(seen, manifest, now, rules)) is not None:
        return Refuse(flaw)
    if seen.data is None:
        return _missing(manifest, now, rules)
    if is_taken:
        # Its manifest says that it is the file that was taken; only its content proves that.
        return _whole(seen, manifest, now, rules) or Read()
    return _read(seen, manifest, past, now, rules)


def _read(seen: Seen, manifest: Manifest, past: Past, now: Millis, rules: Rules) -> Wait | Read | Refuse:
    """All three parts are there and may be what they say: whether it is time to read the file."""
    late = seen.since > manifest.not_after + rules.waits.grace_ms
    if late and rules.late == "refuse":
        return Refuse(flaw_of(FileReason.LATE))
    if now < manifest.not_before:
        return Wait(FileReason.EARLY)
    if past.own is not None and past.own.status is FileStatus.HELD and not past.own.released_by:
        return Wait(FileReason.TOO_MANY_REJECTS)
    return _whole(seen, manifest, now, rules) or Read(late)


def _whole(seen: Seen, manifest: Manifest, now: Millis, rules: Rules) -> Wait | Refuse | None:
    """Whether the file has its length by now; that of an encrypted one says nothing."""
    assert seen.data is not None
    if rules.is_encrypted or seen.data.size >= manifest.size:
        return None
    stood_ms = seen.stood_ms(seen.data.since, now)
    if stood_ms > rules.waits.partial_ms:
        return Refuse(flaw_of(FileReason.PARTIAL))
    return Wait(FileReason.PARTIAL, stood_ms > rules.waits.patience_ms)


def _is_remainder(seen: Seen, own: FileState) -> bool:
    """Whether manifest or signature alone was left behind when its file was put away, and we died or lost the place."""
    is_whole = seen.data is not None or (seen.manifest is not None and seen.signature_since is not None)
    return not is_whole and own.status in SETTLED and seen.since <= own.at


def _is_left_over(seen: Seen, own: FileState) -> bool:
    """Whether manifest and signature were left behind by a crash, after their file was put away."""
    return own.status in (FileStatus.REFUSED, FileStatus.REPEATED) and seen.since <= own.at


def _incomplete(seen: Seen, now: Millis, rules: Rules) -> Wait | Refuse | None:
    """While a part of it is not there, or says nothing yet."""
    if seen.manifest is None:
        return _awaited(FileReason.NO_MANIFEST, seen, now, rules)
    if isinstance(seen.manifest, Flaw):
        return _settled(seen.manifest, seen.stood_ms(seen.manifest_since or 0, now), rules)
    if seen.signature_since is None:
        return _awaited(FileReason.NO_SIGNATURE, seen, now, rules)
    if seen.signature is not None:
        since = max(seen.signature_since, seen.manifest_since or 0)
        return _settled(seen.signature, seen.stood_ms(since, now), rules)
    return None


def _awaited(why: FileReason, seen: Seen, now: Millis, rules: Rules) -> Wait | Refuse:
    waited_ms = seen.stood_ms(seen.since, now)
    return Refuse(flaw_of(why)) if waited_ms > rules.waits.give_up_ms else Wait(why, waited_ms > rules.waits.patience_ms)


def _settled(flaw: Flaw, stood_ms: int, rules: Rules) -> Wait | Refuse:
    """A flaw of something that may still be being written counts only once it has lain still for a moment."""
    return Refuse(flaw) if stood_ms > rules.waits.settle_ms else Wait(flaw.why)


def _missing(manifest: Manifest, now: Millis, rules: Rules) -> Wait | Refuse:
    """A file that was announced is missing once its time is over, and given up a while later."""
    overdue = now - manifest.not_after - rules.waits.grace_ms
    return Refuse(flaw_of(FileReason.NO_DATA)) if overdue > rules.waits.give_up_ms else Wait(FileReason.NO_DATA, overdue > 0)


def _not_theirs(seen: Seen, manifest: Manifest, now: Millis, rules: Rules) -> Flaw | None:
    """What a manifest may not say, though it is well-formed and signed."""
    if manifest.file != seen.name:
        return flaw_of(FileReason.BAD_MANIFEST)
    if rules.schema is None:
        return flaw_of(FileReason.UNKNOWN_NAME)
    if manifest.source_system not in rules.sources:
        return flaw_of(FileReason.UNKNOWN_SOURCE)
    if manifest.schema != rules.schema:
        return flaw_of(FileReason.UNKNOWN_SCHEMA)
    if max(manifest.size, seen.data.size if seen.data else 0) > rules.max_bytes:
        return flaw_of(FileReason.TOO_LARGE)
    return flaw_of(FileReason.FUTURE_TIME) if manifest.created_at > now + rules.waits.skew_ms else None


@dataclass(frozen=True, slots=True)
class Content:
    """What was read: of the plain content its length, digest and records, and how many of these are broken.

    `flaw`: why no record could be told from another, e.g. a header without a column that is needed.
    """

    size: int
    sha256: str
    records: int = 0
    rejected: int = 0
    flaw: Flaw | None = None


def weigh(manifest: Manifest, content: Content, past: Past, rules: Rules) -> Weighed:
    """What to do with a file that was read to its end."""
    if content.flaw is not None and content.flaw.why is not FileReason.UNREADABLE:
        return Refuse(content.flaw)
    if content.size < manifest.size:
        return Refuse(flaw_of(FileReason.PARTIAL))
    if content.sha256 != manifest.sha256 or content.size != manifest.size:
        return Refuse(flaw_of(FileReason.WRONG_SUM))
    if past.own is not None and past.own.status is FileStatus.TAKEN:
        return Again(past.own)
    if past.same_content is not None and _is_same_word(manifest, past.same_content, rules):
        return Repeat(past.same_content)
    if past.same_name is not None:
        return Refuse(flaw_of(FileReason.OTHER_CONTENT))
    if content.flaw is not None:
        return Refuse(content.flaw)
    if content.records != manifest.records:
        return Refuse(flaw_of(FileReason.WRONG_COUNT))
    if content.rejected > content.records * rules.max_rejected and not (past.own and past.own.released_by):
        return Hold()
    return Land(past.own.rows_done if past.own is not None and past.own.status is FileStatus.LANDING else 0)


def _is_same_word(manifest: Manifest, taken: FileState, rules: Rules) -> bool:
    """Whether a file of the same content says nothing that the one which was taken did not.

    A snapshot that finds things as they were an hour ago says more: that they are so again, whatever was said in between.
    """
    return not rules.is_dated_by_manifest or taken.created_at == manifest.created_at


def moments_of_others(state: FileState, known: Iterable[FileState]) -> frozenset[Millis]:
    """When other files of the same content were true: a row that is as old as one of these is of that one."""
    same = (each for each in known if each.sha256 == state.sha256 and each.created_at != state.created_at)
    return frozenset(each.created_at for each in same if each.created_at is not None)


class Files:
    """The ledger in memory: what became of each file of one sender. The newest version of each counts.

    One thread may put while another reads: each step is one operation on a dictionary.
    """

    def __init__(self, states: Iterable[FileState] = ()) -> None:
        self._of: dict[str, FileState] = {}
        self._taken_by_content: dict[str, str] = {}
        self._taken_by_moment: dict[tuple[str, Millis | None], str] = {}
        """By content and when it was true: a snapshot may find things as they were before."""
        self._taken_by_name: dict[str, str] = {}
        for state in states:
            self.put(state)

    def __len__(self) -> int:
        return len(self._of)

    def put(self, state: FileState) -> None:
        """Know a record of the ledger; an older one than is known changes nothing."""
        known = self._of.get(state.file_id)
        if known is not None and known.version >= state.version:
            return
        self._of[state.file_id] = state
        if state.status is FileStatus.TAKEN:
            self._taken_by_content.setdefault(state.sha256, state.file_id)
            self._taken_by_moment.setdefault((state.sha256, state.created_at), state.file_id)
            self._taken_by_name.setdefault(state.name_digest, state.file_id)

    def forget(self, file_id: str) -> None:
        """The ledger holds nothing of it any more."""
        gone = self._of.pop(file_id, None)
        if gone is not None and self._taken_by_content.get(gone.sha256) == file_id:
            del self._taken_by_content[gone.sha256]
        if gone is not None and self._taken_by_moment.get((gone.sha256, gone.created_at)) == file_id:
            del self._taken_by_moment[gone.sha256, gone.created_at]
        if gone is not None and self._taken_by_name.get(gone.name_digest) == file_id:
            del self._taken_by_name[gone.name_digest]

    def get(self, file_id: str) -> FileState | None:
        """What became of a file."""
        return self._of.get(file_id)

    def every(self, *statuses: FileStatus) -> tuple[FileState, ...]:
        """Each file that stands at one of these."""
        return tuple(state for state in list(self._of.values()) if state.status in statuses)

    def past(self, file_id: str, name_digest: str, sha256: str, created_at: Millis | None) -> Past:
        """What is known that bears on a file, whose content is `sha256` and was true at `created_at`."""
        of_moment = self._taken_by_moment.get((sha256, created_at))
        content = self._of.get(of_moment or self._taken_by_content.get(sha256, ""))
        name = self._of.get(self._taken_by_name.get(name_digest, ""))
        return Past(
            own=self._of.get(file_id),
            same_name=name if name is not None and name.file_id != file_id else None,
            same_content=content if content is not None and content.file_id != file_id else None,
        )


def file_id_of(tenant: str, partner: str, name_digest: str, sha256: str) -> str:
    """32 hexadecimal digits that name a file: the same name and content always give the same. No content yet: empty.

    `name_digest` is a keyed one: a name may be one that must not be guessed.
    """
    digest = hashlib.sha256()
    for part in (tenant, partner, name_digest, sha256):
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()[:32]
