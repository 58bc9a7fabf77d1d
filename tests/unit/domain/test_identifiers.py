"""Entity keys, derived ids, revisions and partitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.identifiers import (
    MAX_EPOCH,
    OFFSET_MASK,
    EntityKey,
    derive_event_id,
    epoch_and_offset,
    murmur2,
    partition_of,
    revision_of,
    show_revision,
    tenant_of,
)

PART = st.text(min_size=1, max_size=12)
KEY = EntityKey("t", "bed", "N", "A")
PLACES = st.tuples(st.integers(1, MAX_EPOCH), st.integers(0, OFFSET_MASK))


@given(PLACES, PLACES)
def test_revisions_rise_with_epoch_then_offset_and_a_json_reader_holds_them(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (revision_of(*one) < revision_of(*other)) == (one < other)
    assert epoch_and_offset(revision_of(*one)) == one
    assert 0 < revision_of(*one) < 2**53


@pytest.mark.parametrize(("epoch", "offset"), [(0, 0), (MAX_EPOCH + 1, 0), (1, -1), (1, OFFSET_MASK + 1)])
def test_what_would_not_fit_is_refused(epoch: int, offset: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        revision_of(epoch, offset)


def test_revisions_are_shown_as_epoch_and_offset() -> None:
    assert show_revision(revision_of(2, 17)) == "2.17"
    assert show_revision(epoch_and_offset(revision_of(1, 0))[1]) == "-"  # type: ignore[arg-type]


@given(PART, PART, PART, PART)
def test_keys_survive_whatever_is_in_them_and_never_collide(tenant: str, kind: str, namespace: str, id_: str) -> None:
    key = EntityKey(tenant, kind, namespace, id_)
    assert EntityKey.decode(key.encode()) == key


@pytest.mark.parametrize("key", [b"", b"a|b|c", b"a|b|c|d|e", b"a||c|d", b"\xff|b|c|d", b"a|b|c\\|d"])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a decoding error is one too
        EntityKey.decode(key)


def test_the_same_message_always_makes_the_same_ids_and_its_events_differ() -> None:
    ids = [derive_event_id("t", "s", ("a", "b"), KEY, ordinal) for ordinal in range(3)]
    assert ids == [derive_event_id("t", "s", ("a", "b"), KEY, ordinal) for ordinal in range(3)]
    assert len(set(ids)) == 3
    assert all(len(each) == 32 for each in ids)


@given(st.lists(PART, min_size=1, max_size=4), st.lists(PART, min_size=1, max_size=4))
def test_no_two_message_identities_run_together(one: list[str], other: list[str]) -> None:
    same = derive_event_id("t", "s", one, KEY, 0) == derive_event_id("t", "s", other, KEY, 0)
    assert same == (one == other)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, expected: int) -> None:
    """Values of org.apache.kafka.common.utils.UtilsTest."""
    assert murmur2(data) == expected & 0xFFFFFFFF


@given(st.binary(max_size=64), st.integers(1, 512))
def test_a_partition_always_exists(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


@given(PART, PART, PART, PART)
def test_two_keys_have_one_tenant_exactly_if_it_is_named_the_same(tenant: str, other: str, one_id: str, other_id: str) -> None:
    one = tenant_of(EntityKey(tenant, "bed", "N", one_id).encode())
    assert one
    assert one == tenant_of(EntityKey(tenant, "encounter", "M", other_id).encode())
    assert (one == tenant_of(EntityKey(other, "bed", "N", one_id).encode())) == (tenant == other)


@pytest.mark.parametrize("key", [b"", b"a", b"a\\|b", b"|a"])
def test_what_is_no_entity_key_has_no_tenant(key: bytes) -> None:
    assert tenant_of(key) == b""
