"""Whatever single thing is done to audit log or checkpoints, `verify` names that record; what is untouched is whole."""

from collections.abc import Sequence
from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from pipeline.domain.accounts.audit import Fault, Finding, hash_of, heads, next_entry, verify
from pipeline.domain.accounts.checkpoints import (
    CHECKPOINTS,
    SIGNED,
    Heads,
    Read,
    SignedCheckpoint,
    digest_of,
    following,
    heads_of,
    verify_checkpoints,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Audit
from pipeline.formats.checkpoint import read_checkpoint, sign_statement

CHAINS: Final = ("auditor/0", "gate/0", "writer-ehr/0")
KEY: Final = OKPKey.generate_key("Ed25519")
OTHER: Final = OKPKey.generate_key("Ed25519")
KEYS: Final = {"audit-1": KEY}


class World(msgspec.Struct):
    """An audit log in which every few entries were joined by a checkpoint, as the auditor does it."""

    entries: list[Audit]
    signed: list[SignedCheckpoint]

    @property
    def read(self) -> list[Read]:
        return [read_checkpoint(each, KEYS) for each in self.signed]

    def findings(self) -> list[Finding]:
        read = self.read
        found = [*verify(self.entries, heads_of(read)), *verify_checkpoints(read, self.entries)]
        return [each for each in found if not each.harmless]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    last: dict[str, Audit] = {}
    world, before = World([], []), None

    def append(chain: str, action: str, detail: dict[str, str]) -> None:
        at, subject = Millis(len(world.entries)), "bed"
        entry = next_entry(last.get(chain), chain=chain, at=at, actor="a", action=action, subject=subject, detail=detail)
        last[chain] = entry
        world.entries.append(entry)

    followed = Heads()
    for count in draw(st.lists(st.integers(1, 5), min_size=2, max_size=5)):
        for _ in range(count):
            append(draw(st.sampled_from(CHAINS)), "write.confirmed", {})
        for entry in world.entries:
            followed.follow(entry)
        statement = following(
            before,
            at=Millis(len(world.entries)),
            instance="auditor/0",
            key_id="audit-1",
            heads=followed.newest.values(),
            ends={0: len(world.entries)},
            begins={"raw.http/0": 0},
        )
        world.signed.append(sign_statement(statement, KEY))
        before = world.read[-1]
        append("auditor/0", SIGNED, {"sequence": str(statement.sequence), "digest": digest_of(statement.encode())})
    return world


def named(found: Sequence[Finding]) -> list[tuple[str, int, Fault]]:
    return [(each.chain, each.sequence, each.fault) for each in found]


@given(worlds())
def test_what_is_untouched_is_whole_and_followed_heads_are_the_heads(world: World) -> None:
    assert world.findings() == []
    followed = Heads()
    assert [fault for entry in world.entries if (fault := followed.follow(entry))] == []
    assert followed.newest == heads(world.entries)


@given(worlds(), st.data())
def test_one_byte_of_an_entry_that_was_changed_is_named_at_that_record_even_where_its_hash_was_made_anew(
    world: World, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(world.entries) - 2))
    victim = world.entries[place]
    changed = msgspec.structs.replace(victim, actor="b")
    if data.draw(st.booleans()):
        changed = msgspec.structs.replace(changed, hash=hash_of(changed))
    world.entries[place] = changed
    covered = any(head.chain == victim.chain and head.sequence >= victim.sequence for head in heads_of(world.read))
    if covered or changed.hash == victim.hash:
        assert (victim.chain, victim.sequence, Fault.CHANGED) in named(world.findings())


@given(worlds(), st.data())
def test_a_tail_that_was_cut_and_written_anew_with_right_hashes_is_named_where_the_checkpoint_ends(
    world: World, data: st.DataObject
) -> None:
    head = data.draw(st.sampled_from(heads_of(world.read)))
    kept = [each for each in world.entries if each.chain != head.chain or each.sequence < head.sequence]
    last = next((each for each in reversed(kept) if each.chain == head.chain), None)
    cut = World(list(kept), world.signed)
    assert (head.chain, head.sequence, Fault.MISSING) in named(cut.findings())

    forged = next_entry(last, chain=head.chain, at=Millis(9), actor="b", action="write.confirmed", subject="bed")
    again = World([*kept, forged], world.signed)
    assert (head.chain, head.sequence, Fault.CHANGED) in named(again.findings())


@given(worlds(), st.data())
def test_an_entry_that_was_dropped_or_swapped_is_named(world: World, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(world.entries) - 2))
    victim = world.entries[place]
    later = [n for n in range(place + 1, len(world.entries)) if world.entries[n].chain == victim.chain]
    if later:
        swapped = World(list(world.entries), world.signed)
        swapped.entries[place], swapped.entries[later[0]] = swapped.entries[later[0]], swapped.entries[place]
        found = named(swapped.findings())
        assert [(chain, fault) for chain, _, fault in found] == [(victim.chain, Fault.REORDERED)]
        assert abs(found[0][1] - victim.sequence) <= 1
    if later or any(head.chain == victim.chain and head.sequence >= victim.sequence for head in heads_of(world.read)):
        del world.entries[place]
        assert (victim.chain, victim.sequence, Fault.MISSING) in named(world.findings())


@given(worlds(), st.data())
def test_any_byte_of_a_checkpoint_that_was_changed_makes_that_one_forged(world: World, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(world.signed) - 1))
    victim = world.signed[place]
    name = data.draw(st.sampled_from(("statement", "signature", "key_id", "at", "instance")))
    value = getattr(victim, name)
    if isinstance(value, bytes):
        at = data.draw(st.integers(0, len(value) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda each: each != value[at]))
        changed = msgspec.structs.replace(victim, **{name: value[:at] + bytes((byte,)) + value[at + 1 :]})
    else:
        changed = msgspec.structs.replace(victim, **{name: Millis(value + 1) if isinstance(value, int) else value + "x"})
    world.signed[place] = changed
    assert (CHECKPOINTS, victim.sequence, Fault.FORGED) in named(world.findings())


@given(worlds(), st.data())
def test_a_checkpoint_signed_with_another_key_vouches_for_nothing(world: World, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(world.signed) - 1))
    victim = world.read[place].statement
    assert victim is not None
    world.signed[place] = sign_statement(msgspec.structs.replace(victim, heads=()), OTHER)
    assert (CHECKPOINTS, victim.sequence, Fault.FORGED) in named(world.findings())
    assert world.read[place].statement is None


@given(worlds(), st.data())
def test_a_checkpoint_that_was_dropped_or_replaced_with_our_own_key_is_named_by_its_number(
    world: World, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(world.signed) - 1))
    victim = world.read[place].statement
    assert victim is not None
    replaced = World(world.entries, list(world.signed))
    replaced.signed[place] = sign_statement(msgspec.structs.replace(victim, at=victim.at + 1), KEY)
    assert (CHECKPOINTS, victim.sequence, Fault.CHANGED) in named(replaced.findings())

    if place:
        del world.signed[place:]
        found = world.findings()
        assert (CHECKPOINTS, victim.sequence, Fault.MISSING) in named(found)
