"""Numbers on the wire."""

import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.avro.wire import LONG_MAX, LONG_MIN, long_bytes, read_block, read_length, read_long

BITS = st.integers(0, 63)


@given(BITS.flatmap(lambda bits: st.integers(-(1 << bits), (1 << bits) - 1)), st.binary(max_size=8))
def test_every_64_bit_number_is_written_as_fastavro_does_and_comes_back(number: int, after: bytes) -> None:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, "long", number)
    assert long_bytes(number) == stream.getvalue()
    assert read_long(b"\xff" + long_bytes(number) + after, 1) == (number, 1 + len(stream.getvalue()))


@pytest.mark.parametrize("number", [LONG_MIN, LONG_MAX, 0, -1])
def test_the_ends_of_the_range_come_back(number: int) -> None:
    assert read_long(long_bytes(number), 0)[0] == number


@pytest.mark.parametrize("number", [LONG_MIN - 1, LONG_MAX + 1])
def test_a_number_beyond_64_bits_is_not_written(number: int) -> None:
    with pytest.raises(OverflowError):
        long_bytes(number)


@pytest.mark.parametrize("data", [b"\xff" * 11, b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\0"])
def test_a_number_beyond_64_bits_is_not_read(data: bytes) -> None:
    with pytest.raises(ValueError, match="number"):
        read_long(data, 0)


@pytest.mark.parametrize("size", range(1, 11))
def test_a_number_cut_off_is_not_read(size: int) -> None:
    with pytest.raises(IndexError):
        read_long(b"\x80" * (size - 1), 0)


def test_negative_lengths_and_blocks_greater_than_the_data_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        read_length(b"\x01", 0)
    with pytest.raises(ValueError, match="items"):
        read_block(b"\x08\0", 0)


def test_a_block_with_its_size_in_bytes_is_read() -> None:
    assert read_block(b"\x03\x04ab", 0) == (2, 2)
