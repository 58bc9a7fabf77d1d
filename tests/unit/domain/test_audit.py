"""The audit chain: what was tampered with is named exactly, and an auditor can recompute every hash without our code."""

import hashlib
import json

import msgspec
import pytest

from pipeline.domain.accounts.audit import Checkpoint, Fault, Finding, hash_of, heads, next_entry, verify
from pipeline.domain.identifiers import EventId, Millis, Revision
from pipeline.domain.records import Audit

CHAIN = "writer-ehr/0"


def chain_of(length: int, name: str = CHAIN, after: Audit | None = None, actor: str = "writer") -> list[Audit]:
    entries: list[Audit] = []
    for number in range(length):
        after = next_entry(
            after,
            chain=name,
            at=Millis(1_700_000_000_000 + number),
            actor=actor,
            action="write.confirmed",
            subject="00112233445566aa",
            destination="ehr",
            revision=Revision(17_592_186_044_416 + number),
            event_id=EventId("0" * 32),
            reason='tab\t, quote ", line\n, über',
            detail={"status": "200", "attempts": "1"},
        )
        entries.append(after)
    return entries


def named(entries: list[Audit], checkpoints: list[Checkpoint] | None = None) -> list[tuple[int, int, Fault]]:
    return [(finding.sequence, finding.last, finding.fault) for finding in verify(entries, checkpoints or [])]


def forged(entry: Audit, **changes: object) -> Audit:
    changed = msgspec.structs.replace(entry, **changes)
    return msgspec.structs.replace(changed, hash=hash_of(changed))


def test_a_whole_chain_has_no_finding_even_among_others() -> None:
    mixed = [entry for pair in zip(chain_of(20), chain_of(20, "gate/0"), strict=True) for entry in pair]
    assert verify(mixed) == []


def test_an_auditor_recomputes_a_hash_with_the_standard_library_alone() -> None:
    fields = msgspec.to_builtins(chain_of(2)[1])
    claimed = fields.pop("hash")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == claimed


def test_a_changed_record_is_named() -> None:
    entries = chain_of(6)
    entries[3] = msgspec.structs.replace(entries[3], actor="nobody")
    assert named(entries) == [(4, 4, Fault.CHANGED)]


def test_a_record_that_was_rewritten_with_its_hash_is_named_and_not_its_successor() -> None:
    entries = chain_of(6)
    entries[3] = forged(entries[3], actor="nobody")
    assert named(entries) == [(4, 4, Fault.CHANGED)]


def test_a_record_whose_hash_alone_was_changed_is_named() -> None:
    entries = chain_of(6)
    entries[3] = msgspec.structs.replace(entries[3], hash="f" * 64)
    assert named(entries) == [(4, 4, Fault.CHANGED)]


def test_missing_records_are_named_as_one_run() -> None:
    entries = chain_of(9)
    assert named(entries[:2] + entries[5:]) == [(3, 5, Fault.MISSING)]
    assert named(entries[3:]) == [(1, 3, Fault.MISSING)]


def test_a_record_that_was_moved_is_the_only_one_named() -> None:
    entries = chain_of(9)
    assert named([*entries[:2], entries[7], *entries[2:7], entries[8]]) == [(8, 8, Fault.REORDERED)]


def test_a_zombies_branch_is_a_fork_named_once_at_the_place_where_it_begins() -> None:
    entries = chain_of(5)
    zombie = chain_of(3, after=entries[2], actor="zombie")
    assert named([*entries, *zombie]) == [(4, 4, Fault.FORKED)]
    assert named([*entries[:4], zombie[0], entries[4], *zombie[1:]]) == [(4, 4, Fault.FORKED)]


def test_two_processes_that_both_began_a_chain_are_a_fork_of_its_first_entry() -> None:
    assert named([*chain_of(2), *chain_of(2, actor="zombie")]) == [(1, 1, Fault.FORKED)]


def test_a_repeated_publish_is_seen_and_harmless() -> None:
    entries = chain_of(3)
    findings = verify([*entries, entries[2]])
    assert findings == [Finding(CHAIN, 3, 3, Fault.REPEATED, "the same entry again")]
    assert findings[0].harmless


def test_a_cut_end_and_a_rewritten_end_are_seen_against_a_checkpoint_only() -> None:
    entries = chain_of(6)
    kept = [heads(entries)[CHAIN]]
    assert named(entries[:4]) == []
    assert named(entries[:4], kept) == [(5, 6, Fault.MISSING)]
    rewritten = [*entries[:5], forged(entries[5], actor="nobody")]
    assert named(rewritten) == []
    assert named(rewritten, kept) == [(6, 6, Fault.CHANGED)]
    assert named([], kept) == [(1, 6, Fault.MISSING)]


def test_the_same_arguments_make_the_same_entry() -> None:
    assert chain_of(3) == chain_of(3)


def test_a_chain_never_continues_another_one() -> None:
    with pytest.raises(ValueError, match="another chain"):
        next_entry(chain_of(1)[0], chain="gate/0", at=Millis(0), actor="gate", action="mode.changed", subject="ehr")
