"""The audit chain: each entry holds the hash of the one before, and `verify` names every place where that fails."""

import enum
import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Final

import msgspec

from pipeline.domain.identifiers import EventId, Millis, Revision
from pipeline.domain.records import Audit

FIRST_HASH: Final = "0" * 64
"""`previous_hash` of a chain's first entry."""

_ENCODER: Final = msgspec.json.Encoder(order="sorted")


def hash_of(entry: Audit) -> str:
    """SHA-256 in hexadecimal over the entry as JSON without `hash`: UTF-8, keys sorted, no blanks, absent values `null`.

    Python's `json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)` gives the same bytes,
    so that an auditor needs no code of ours.
    """
    fields: dict[str, Any] = {name: getattr(entry, name) for name in Audit.__struct_fields__ if name != "hash"}
    return hashlib.sha256(_ENCODER.encode(fields)).hexdigest()


def next_entry(
    previous: Audit | None,
    *,
    chain: str,
    at: Millis,
    actor: str,
    action: str,
    subject: str,
    destination: str | None = None,
    revision: Revision | None = None,
    event_id: EventId | None = None,
    reason: str = "",
    detail: Mapping[str, str] | None = None,
) -> Audit:
    """The entry that follows `previous` (None: the chain's first). ValueError where `previous` is of another chain.

    The same arguments always make the same entry; a chain has one writer, so the caller keeps the order.
    """
    if previous is not None and previous.chain != chain:
        raise ValueError("the previous entry belongs to another chain")
    entry = Audit(
        chain=chain,
        sequence=previous.sequence + 1 if previous else 1,
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        destination=destination,
        revision=revision,
        event_id=event_id,
        reason=reason,
        detail=dict(detail or {}),
        previous_hash=previous.hash if previous else FIRST_HASH,
        hash="",
    )
    return msgspec.structs.replace(entry, hash=hash_of(entry))


class Fault(enum.StrEnum):
    """What is wrong with a record of a chain."""

    CHANGED = "CHANGED"
    """Its content is not what was written: its hash, or the hash that its successor holds, says so."""

    MISSING = "MISSING"
    """It was written, since later entries or a checkpoint tell of it, and is not there."""

    REORDERED = "REORDERED"
    """It stands elsewhere than its sequence says."""

    FORKED = "FORKED"
    """Two entries continue the same one: two processes wrote this chain, one of them a zombie."""

    REPEATED = "REPEATED"
    """The same entry, twice: harmless, a publish was repeated."""

    FORGED = "FORGED"
    """A checkpoint whose signature does not prove who wrote it: it vouches for nothing."""


class Finding(msgspec.Struct, frozen=True, order=True):
    """One fault, at `sequence`; `last` is the end of a run of missing entries, else the same number."""

    chain: str
    sequence: int
    last: int
    fault: Fault
    detail: str = ""

    @property
    def harmless(self) -> bool:
        """Whether the chain is still whole."""
        return self.fault is Fault.REPEATED


class Checkpoint(msgspec.Struct, frozen=True):
    """A chain's head, as it was when somebody wrote it down elsewhere."""

    chain: str
    sequence: int
    hash: str


class _Link(msgspec.Struct, frozen=True):
    sequence: int
    hash: str
    previous_hash: str
    computed: str


def verify(entries: Iterable[Audit], checkpoints: Iterable[Checkpoint] = ()) -> list[Finding]:
    """Every fault of every chain, by chain and sequence; an empty list means that all chains are whole.

    `entries` come in the topic's order, from each chain's beginning; chains may be mixed. Nothing inside a chain can
    tell that its very last entries were cut off or rewritten with their hashes: that takes a checkpoint kept elsewhere.
    """
    chains: dict[str, list[_Link]] = {}
    for entry in entries:
        link = _Link(entry.sequence, entry.hash, entry.previous_hash, hash_of(entry))
        chains.setdefault(entry.chain, []).append(link)
    marks: dict[str, list[Checkpoint]] = {}
    for mark in checkpoints:
        marks.setdefault(mark.chain, []).append(mark)
    found: list[Finding] = []
    for chain in sorted(chains.keys() | marks.keys()):
        found += _Chain(chain, chains.get(chain, [])).findings(marks.get(chain, []))
    return sorted(found)


def heads(entries: Iterable[Audit]) -> dict[str, Checkpoint]:
    """The newest entry of each chain, as the checkpoint to keep elsewhere."""
    newest: dict[str, Checkpoint] = {}
    for entry in entries:
        known = newest.get(entry.chain)
        if known is None or entry.sequence > known.sequence:
            newest[entry.chain] = Checkpoint(entry.chain, entry.sequence, entry.hash)
    return newest


class _Chain:
    """One chain's links, by sequence, without repeats."""

    def __init__(self, name: str, links: list[_Link]) -> None:
        self._name = name
        self._found: list[Finding] = []
        self._order: list[int] = []
        self._at: dict[int, list[_Link]] = {}
        for link in links:
            here = self._at.setdefault(link.sequence, [])
            if link in here:
                self._add(Fault.REPEATED, link.sequence, "the same entry again")
                continue
            here.append(link)
            self._order.append(link.sequence)

    def findings(self, checkpoints: list[Checkpoint]) -> list[Finding]:
        """Faults; a run of missing entries is one finding."""
        changed = self._changed()
        for sequence in sorted(changed):
            self._add(Fault.CHANGED, sequence, changed[sequence])
        self._forks(changed)
        self._reordered()
        self._missing(checkpoints)
        self._against(checkpoints, changed)
        return self._found

    def _add(self, fault: Fault, sequence: int, detail: str, last: int | None = None) -> None:
        self._found.append(Finding(self._name, sequence, sequence if last is None else last, fault, detail))

    def _changed(self) -> dict[int, str]:
        changed: dict[int, str] = {}
        for sequence, links in self._at.items():
            if any(link.computed != link.hash for link in links):
                changed[sequence] = "its content does not match its hash"
        for sequence, links in self._at.items():
            before = self._at.get(sequence - 1)
            known = {link.hash for link in before} if before else {FIRST_HASH} if sequence == 1 else None
            if known is None or all(link.previous_hash in known for link in links):
                continue
            if sequence == 1:
                changed.setdefault(1, "it is the first and names one before it")
            elif sequence - 1 not in changed and sequence not in changed:
                changed[sequence - 1] = "its successor holds another hash of it"
        return changed

    def _forks(self, changed: Mapping[int, str]) -> None:
        for sequence, links in self._at.items():
            parents = [link.previous_hash for link in links]
            if len(links) > 1 and sequence not in changed and len(set(parents)) < len(parents):
                self._add(Fault.FORKED, sequence, f"{len(links)} entries continue the one before")

    def _reordered(self) -> None:
        """What must move for the rest to rise: all outside of a longest rising run. Branches of a fork do fall back."""
        order = [sequence for sequence in self._order if len(self._at[sequence]) == 1]
        if all(left < right for left, right in pairwise(order)):
            return
        tails: list[int] = []
        length_at: list[int] = []
        for sequence in order:
            place = bisect_left(tails, sequence)
            tails[place : place + 1] = [sequence]
            length_at.append(place + 1)
        wanted, kept = len(tails), set()
        for position in range(len(order) - 1, -1, -1):
            if length_at[position] == wanted:
                kept.add(order[position])
                wanted -= 1
        for sequence in order:
            if sequence not in kept:
                self._add(Fault.REORDERED, sequence, "it stands elsewhere than its sequence says")

    def _missing(self, checkpoints: list[Checkpoint]) -> None:
        expected = 1
        for sequence in sorted(self._at):
            if sequence > expected:
                self._add(Fault.MISSING, expected, "not there", sequence - 1)
            expected = sequence + 1
        newest = max((mark.sequence for mark in checkpoints), default=0)
        if newest >= expected:
            self._add(Fault.MISSING, expected, "a checkpoint tells of it", newest)

    def _against(self, checkpoints: list[Checkpoint], changed: Mapping[int, str]) -> None:
        for mark in checkpoints:
            links = self._at.get(mark.sequence)
            if links and mark.sequence not in changed and all(link.hash != mark.hash for link in links):
                self._add(Fault.CHANGED, mark.sequence, "a checkpoint holds another hash of it")
