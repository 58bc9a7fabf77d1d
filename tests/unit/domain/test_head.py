"""The head as the table and its changelog hold it."""

import msgspec
import pytest

from pipeline.domain.event import Bed, Environment, Patient
from pipeline.domain.head import Clock, Head, UnknownHeadVersion, at_of, decode_head, encode_head, state_hash_of
from pipeline.domain.identifiers import EventId, Millis, revision_of
from pipeline.domain.ring import EMPTY_RING, entry_of, with_entry

HEAD = Head(
    epoch=2,
    position=7,
    revision=revision_of(2, 5),
    state_hash="0" * 16,
    facility="F",
    state=Bed(environment=Environment.CLEAN, staffed=None),
    clocks={"environment": Clock("capacity", "x", 1, Millis(5), 9, Millis(3))},
    ring=with_entry(EMPTY_RING, entry_of(EventId("1" * 32), "2" * 16)),
    event_id=EventId("1" * 32),
    content_hash="2" * 16,
    recorded_at=Millis(5),
    received_at=Millis(6),
)


def test_encoding_is_exact_and_keeps_a_cleared_field_apart_from_an_unspoken_one() -> None:
    assert decode_head(encode_head(HEAD)) == HEAD
    assert decode_head(encode_head(HEAD)).state == Bed(environment=Environment.CLEAN, staffed=None)


@pytest.mark.parametrize(("epoch", "position"), [(2, 7), (1, 0), (3, (1 << 44) - 1)])
def test_which_of_two_heads_is_later_is_known_without_reading_them(epoch: int, position: int) -> None:
    head = msgspec.structs.replace(HEAD, epoch=epoch, position=position)
    assert at_of(encode_head(head)) == head.at
    with pytest.raises(UnknownHeadVersion):
        at_of(b"\x02")


def test_a_clock_without_a_floor_is_still_read() -> None:
    short = msgspec.msgpack.encode(("capacity", "x", 1, 5, None))
    assert msgspec.msgpack.decode(short, type=Clock).floor == 0


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x00x"])
def test_a_later_version_is_refused(data: bytes) -> None:
    with pytest.raises(UnknownHeadVersion):
        decode_head(data)


def test_of_two_heads_the_one_further_on_is_later_over_epochs_too() -> None:
    assert HEAD.at == revision_of(2, 7)
    assert HEAD.at > msgspec.structs.replace(HEAD, epoch=1, position=9_999).at


def test_equal_states_have_equal_hashes_and_unlike_states_do_not() -> None:
    assert state_hash_of(Bed(staffed=True)) == state_hash_of(Bed(staffed=True))
    states = [Bed(), Bed(staffed=None), Bed(staffed=False), Bed(surge=False), Patient()]
    assert len({state_hash_of(state) for state in states}) == len(states)


def test_no_value_shows_in_its_representation() -> None:
    assert "CLEAN" not in repr(HEAD)
