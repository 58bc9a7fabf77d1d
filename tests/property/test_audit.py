"""Whatever single thing is done to a chain, `verify` names that record and no other."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.accounts.audit import Fault, hash_of, heads, next_entry, verify
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Audit

CHAINS = ("gate/0", "writer-ehr/0", "writer-ehr/1")


@st.composite
def logs(draw: st.DrawFn) -> list[Audit]:
    """A topic in which several processes wrote their chains, mixed at random."""
    last: dict[str, Audit] = {}
    entries: list[Audit] = []
    for number, chain in enumerate(draw(st.lists(st.sampled_from(CHAINS), min_size=6, max_size=40))):
        actor = draw(st.sampled_from(("operator", "writer", "gate")))
        entry = next_entry(last.get(chain), chain=chain, at=Millis(number), actor=actor, action="write.confirmed", subject="bed")
        last[chain] = entry
        entries.append(entry)
    return entries


@given(logs())
def test_untouched_chains_are_whole(entries: list[Audit]) -> None:
    assert verify(entries, heads(entries).values()) == []


@given(logs(), st.data())
def test_a_changed_record_is_the_one_that_is_named(entries: list[Audit], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(entries) - 1))
    victim, kept = entries[place], heads(entries).values()
    changed = msgspec.structs.replace(victim, actor="somebody else")
    if data.draw(st.booleans()):
        changed = msgspec.structs.replace(changed, hash=hash_of(changed))
    entries[place] = changed
    assert [(f.chain, f.sequence, f.fault) for f in verify(entries, kept)] == [(victim.chain, victim.sequence, Fault.CHANGED)]


@given(logs(), st.data())
def test_a_removed_record_is_the_one_that_is_missing(entries: list[Audit], data: st.DataObject) -> None:
    kept = heads(entries).values()
    victim = entries.pop(data.draw(st.integers(0, len(entries) - 1)))
    assert [(f.chain, f.sequence, f.last, f.fault) for f in verify(entries, kept)] == [
        (victim.chain, victim.sequence, victim.sequence, Fault.MISSING)
    ]


@given(logs(), st.data())
def test_a_second_continuation_is_a_fork_where_it_begins(entries: list[Audit], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(entries) - 1))
    victim = entries[place]
    other = msgspec.structs.replace(victim, actor="zombie")
    other = msgspec.structs.replace(other, hash=hash_of(other))
    entries.insert(data.draw(st.integers(place + 1, len(entries))), other)
    assert [(f.chain, f.sequence, f.fault) for f in verify(entries)] == [(victim.chain, victim.sequence, Fault.FORKED)]
