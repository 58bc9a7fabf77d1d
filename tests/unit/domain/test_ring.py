"""The ring of recent events, kept as bytes: what it says is what a list of its entries would say."""

from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.identifiers import EventId
from pipeline.domain.ring import EMPTY_RING, RING_LENGTH, entry_of, find, with_entry


class Seen(NamedTuple):
    event_id: bytes
    content: bytes


IDS = st.one_of(
    st.binary(min_size=16, max_size=16),
    # Ids that hold the marks of an entry, at every place: what looks like an entry's beginning is none.
    st.integers(0, 13).map(lambda at: (b"\x00" * at + b"\x92\xc4\x10" + b"\x00" * 16)[:16]),
)
SEEN = st.builds(Seen, IDS, st.sampled_from([b"\x00" * 8, b"\x92\xc4\x10\x00\x00\x00\x00\x00", b"\xff" * 8]))


@given(st.lists(SEEN, max_size=3 * RING_LENGTH), SEEN)
def test_the_ring_remembers_what_a_list_of_its_last_entries_does(events: list[Seen], asked: Seen) -> None:
    ring, kept = EMPTY_RING, list[Seen]()
    for each in (*events, None):
        assert bytes(ring) == msgspec.msgpack.encode(kept)
        for one in (asked, *kept):
            same = [seen for seen in kept if seen.event_id == one.event_id]
            found = find(ring, entry(one))
            assert found == (entry(same[0]) if same else None)
        if each is not None:
            ring, kept = with_entry(ring, entry(each)), [*kept, each][-RING_LENGTH:]


@pytest.mark.parametrize(("event_id", "content"), [("00" * 15, "00" * 8), ("00" * 16, "00" * 9), ("no digits", "00" * 8)])
def test_an_id_of_another_length_never_gets_into_the_ring(event_id: str, content: str) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal"):
        entry_of(EventId(event_id), content)


def entry(seen: Seen) -> bytes:
    return entry_of(EventId(seen.event_id.hex()), seen.content.hex())
