"""Signed checkpoints join the heads of all audit chains: who cuts or rewrites the end of one has to forge a signature. Pure.

A checkpoint names the digest of the one before it, and the audit log names each checkpoint: what is cut from either of the two
logs shows in the other.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pipeline.domain.accounts.audit import FIRST_HASH, Checkpoint, Fault, Finding, hash_of
from pipeline.domain.event import Time
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Audit

CHECKPOINTS: Final = "checkpoints"
"""Stands for a chain's name in findings about checkpoints themselves."""

SIGNED: Final = "checkpoint.signed"
"""Action of the audit entry that names a checkpoint, by `sequence` and `digest` in its detail."""

VERSION: Final = 1


class SignedCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The heads of all audit chains at one moment, signed with Ed25519."""

    sequence: Annotated[int, Meta(description="position among the checkpoints, from 1")]
    at: Annotated[Time, Meta(description="when it was made")]
    instance: Annotated[str, Meta(description="who made it")]
    key_id: Annotated[str, Meta(description="key that it is signed with")]
    statement: Annotated[bytes, Meta(description="what is signed: JSON of pipeline.domain.checkpoints.Statement")]
    signature: Annotated[bytes, Meta(description="detached JWS in compact form over the statement's exact bytes")]


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says. `ends`: where the reading of each partition of `audit` stood; the heads speak for all before it.

    `begins`: first offset that was still there, by `topic/partition`, of each topic whose records expire by class.
    """

    version: int
    sequence: int
    at: int
    instance: str
    key_id: str
    previous: str
    heads: tuple[Checkpoint, ...]
    ends: dict[str, int]
    begins: dict[str, int]

    def encode(self) -> bytes:
        """The bytes that are signed: JSON, UTF-8, members sorted, no blanks."""
        return msgspec.json.encode(self, order="sorted")


def digest_of(statement: bytes) -> str:
    """SHA-256 of a statement in hexadecimal: its name in the next one and in the audit log."""
    return hashlib.sha256(statement).hexdigest()


def following(
    previous: "Read | None",
    *,
    at: Millis,
    instance: str,
    key_id: str,
    heads: Iterable[Checkpoint],
    ends: Mapping[int, int],
    begins: Mapping[str, int],
) -> Statement:
    """The statement behind `previous` (None: the first)."""
    return Statement(
        version=VERSION,
        sequence=previous.sequence + 1 if previous else 1,
        at=at,
        instance=instance,
        key_id=key_id,
        previous=previous.digest if previous else FIRST_HASH,
        heads=tuple(sorted(heads, key=lambda head: head.chain)),
        ends={str(partition): offset for partition, offset in sorted(ends.items())},
        begins=dict(sorted(begins.items())),
    )


@dataclass(frozen=True, slots=True)
class Read:
    """A checkpoint as it was found. `statement` is None where it proves nothing; `wrong` says why."""

    sequence: int
    at: int
    digest: str
    statement: Statement | None
    wrong: str = ""


def read_statement(record: SignedCheckpoint, is_signed: bool, unsigned: str) -> Read:
    """Judge a checkpoint whose signature was checked; `unsigned` is why it does not hold, without a value."""
    digest = digest_of(record.statement)

    def proves_nothing(wrong: str) -> Read:
        return Read(record.sequence, record.at, digest, None, wrong)

    if not is_signed:
        return proves_nothing(unsigned)
    try:
        said = msgspec.json.decode(record.statement, type=Statement)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return proves_nothing("what is signed is no statement")
    if (said.version, said.sequence, said.at, said.key_id, said.instance) != (
        VERSION,
        record.sequence,
        record.at,
        record.key_id,
        record.instance,
    ):
        return proves_nothing("the record says other than what is signed")
    return Read(record.sequence, record.at, digest, said)


def heads_of(checkpoints: Iterable[Read]) -> list[Checkpoint]:
    """Each head that some good checkpoint vouches for, once."""
    return sorted({head for each in checkpoints if each.statement for head in each.statement.heads}, key=_place)


def _place(head: Checkpoint) -> tuple[str, int, str]:
    return head.chain, head.sequence, head.hash


def verify_checkpoints(checkpoints: Sequence[Read], entries: Iterable[Audit] = (), kept: Sequence[Read] = ()) -> list[Finding]:
    """Every fault of the checkpoints themselves, by sequence: forged, changed, missing, forked, repeated.

    `entries`: the audit log, whose `checkpoint.signed` entries tell of checkpoints that must be there; `kept`: what somebody
    kept in another place, and must be there as well.
    """
    found = [_finding(Fault.FORGED, each.sequence, f"kept elsewhere: {each.wrong}") for each in kept if each.statement is None]
    at: dict[int, dict[str, Read]] = {}
    for each in checkpoints:
        known = at.setdefault(each.sequence, {})
        if each.digest in known and (each.statement is None) == (known[each.digest].statement is None):
            found.append(_finding(Fault.REPEATED, each.sequence, "the same checkpoint again"))
        elif each.statement is None:
            found.append(_finding(Fault.FORGED, each.sequence, each.wrong))
            known.setdefault(each.digest, each)
        else:
            known[each.digest] = each
    good = {
        sequence: {digest: each.statement for digest, each in known.items() if each.statement} for sequence, known in at.items()
    }
    for sequence, statements in good.items():
        if len(statements) > 1:
            found.append(_finding(Fault.FORKED, sequence, f"{len(statements)} checkpoints have this number"))
    told = _told(entries)
    for each in kept:
        if each.statement is not None:
            told.setdefault(each.sequence, set()).add(each.digest)
    found += _links(at.keys(), good)
    found += _absent(at.keys(), told)
    found += [
        _finding(Fault.CHANGED, sequence, "the audit log, or what was kept elsewhere, holds another digest of it")
        for sequence, digests in told.items()
        if good.get(sequence) and digests - good[sequence].keys()
    ]
    return sorted(found)


def _told(entries: Iterable[Audit]) -> dict[int, set[str]]:
    told: dict[int, set[str]] = {}
    for entry in entries:
        if entry.action == SIGNED and entry.detail.get("sequence", "").isascii() and entry.detail.get("sequence", "").isdigit():
            told.setdefault(int(entry.detail["sequence"]), set()).add(entry.detail.get("digest", ""))
    return told


def _links(there: Iterable[int], good: Mapping[int, Mapping[str, Statement]]) -> Iterable[Finding]:
    """Each checkpoint names the one before: whose name differs was replaced, though it is signed."""
    known = set(there)
    for sequence in sorted(known):
        before, named = good.get(sequence - 1, {}), {each.previous for each in good.get(sequence, {}).values()}
        if sequence == 1 and named - {FIRST_HASH}:
            yield _finding(Fault.CHANGED, 1, "it is the first and names one before it")
        elif before and named - before.keys():
            yield _finding(Fault.CHANGED, sequence - 1, "its successor holds another digest of it")


def _absent(there: Iterable[int], told: Mapping[int, object]) -> Iterable[Finding]:
    """Runs of numbers that later checkpoints, or the audit log, prove to have been there.

    Checkpoints expire from their beginning, as the audit log does: what is before the first that is left is no finding.
    """
    known = sorted(there)
    expected = known[0] if known else min(told, default=1)
    for sequence in known:
        if sequence > expected:
            yield _finding(Fault.MISSING, expected, "not there", sequence - 1)
        expected = sequence + 1
    newest = max(told, default=0)
    if newest >= expected:
        yield _finding(Fault.MISSING, expected, "the audit log, or what was kept elsewhere, tells of it", newest)


def _finding(fault: Fault, sequence: int, detail: str, last: int | None = None) -> Finding:
    return Finding(CHECKPOINTS, sequence, sequence if last is None else last, fault, detail)


@dataclass(slots=True)
class Heads:
    """The heads of all chains as the audit log is followed; what doesn't follow from them is counted and vouches for nothing."""

    newest: dict[str, Checkpoint] = field(default_factory=dict)

    @classmethod
    def of(cls, statement: Statement) -> "Heads":
        """As a checkpoint left them."""
        return cls({head.chain: head for head in statement.heads})

    def follow(self, entry: Audit) -> Fault | None:
        """Take in the next entry of its chain; the fault that it shows, REPEATED being harmless."""
        head = self.newest.get(entry.chain)
        sequence, previous = (head.sequence, head.hash) if head else (0, FIRST_HASH)
        if hash_of(entry) != entry.hash:
            return Fault.CHANGED
        if entry.sequence <= sequence:
            return Fault.REPEATED if head and (entry.sequence, entry.hash) == (head.sequence, head.hash) else Fault.REORDERED
        self.newest[entry.chain] = Checkpoint(entry.chain, entry.sequence, entry.hash)
        if entry.sequence > sequence + 1:
            return Fault.MISSING
        return None if entry.previous_hash == previous else Fault.CHANGED
