"""Avro's primitive encodings, as the compiled readers and writers use them (Avro 1.12 specification, "Binary Encoding")."""

import struct
from typing import Final

LONG_MIN: Final = -(1 << 63)
LONG_MAX: Final = (1 << 63) - 1
MAX_VARINT_BYTES: Final = 10
REMEMBERED_LENGTHS: Final = 4096
"""Lengths whose encoding is kept; greater ones are worked out each time."""

pack_double = struct.Struct("<d").pack
unpack_double = struct.Struct("<d").unpack_from


def long_bytes(number: int) -> bytes:
    """Zig-zag variable-length encoding; OverflowError outside 64 bits."""
    if 0 <= number < REMEMBERED_LENGTHS:
        return _SMALL[number]
    if not LONG_MIN <= number <= LONG_MAX:
        raise OverflowError("not a 64-bit number")
    rest = (number << 1) ^ (number >> 63)
    high = rest >> 28
    if 128 <= high < 16384:  # six bytes: a time in milliseconds, July 1970 to September 2039
        return _PAIRS[rest & 16383] + _PAIRS[rest >> 14 & 16383] + _LAST_PAIR[high]
    if 16384 <= high < 2097152:  # seven bytes: a revision of one of the first fifteen epochs
        return _PAIRS[rest & 16383] + _PAIRS[rest >> 14 & 16383] + _PAIRS[high & 16383] + _LAST[high >> 14]
    return _varint(rest)


def _varint(rest: int) -> bytes:
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """Number at `at`, and the position after it; IndexError at the end of the data, ValueError outside 64 bits."""
    one = data[at]
    if one < 128:
        return (one >> 1) ^ -(one & 1), at + 1
    two = data[at + 1]
    if two < 128:
        return (two << 6 | one >> 1 & 63) ^ -(one & 1), at + 2
    three = data[at + 2]
    low = (three & 127) << 13 | (two & 127) << 6 | one >> 1 & 63
    if three < 128:
        return low ^ -(one & 1), at + 3
    four = data[at + 3]
    five = data[at + 4] if four > 127 else 0
    six = data[at + 5] if five > 127 else 128
    if six < 128:  # a time in milliseconds
        return ((six << 14 | (five & 127) << 7 | four & 127) << 20 | low) ^ -(one & 1), at + 6
    seven = data[at + 6] if five > 127 else 128
    if seven < 128:  # a revision
        return ((seven << 21 | (six & 127) << 14 | (five & 127) << 7 | four & 127) << 20 | low) ^ -(one & 1), at + 7
    return _read_varint(data, at)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    rest, shift = 0, 0
    for position in range(at, at + MAX_VARINT_BYTES):
        byte = data[position]
        rest |= (byte & 127) << shift
        if byte < 128:
            if rest >> 64:
                raise ValueError("not a 64-bit number")
            return (rest >> 1) ^ -(rest & 1), position + 1
        shift += 7
    raise ValueError("a number of more than ten bytes")


def read_length(data: bytes, at: int) -> tuple[int, int]:
    """Length of a string or of bytes at `at`; ValueError if negative."""
    length, at = read_long(data, at)
    if length < 0:
        raise ValueError("a negative length")
    return length, at


def read_block(data: bytes, at: int) -> tuple[int, int]:
    """Number of items of the next block of an array or map, 0 at its end. Each item has a byte, so a count is bounded."""
    count, at = read_long(data, at)
    if count < 0:
        count = -count
        _, at = read_long(data, at)
    if count > len(data) - at:
        raise ValueError("more items than bytes")
    return count, at


class Lengths(dict[int, bytes]):
    """Encoded length by length, after `prefix` (the index of a union's branch)."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__({length: prefix + _varint(length << 1) for length in range(REMEMBERED_LENGTHS)})
        self._prefix = prefix

    def __missing__(self, length: int) -> bytes:
        """Not kept: a great length is rare."""
        return self._prefix + _varint(length << 1)


_SMALL: Final = tuple(_varint(number << 1) for number in range(REMEMBERED_LENGTHS))
_PAIRS: Final = tuple(bytes((pair & 127 | 128, pair >> 7 | 128)) for pair in range(16384))
_LAST_PAIR: Final = tuple(bytes((pair & 127 | 128, pair >> 7)) for pair in range(16384))
_LAST: Final = tuple(bytes((last,)) for last in range(128))
LENGTHS: Final = Lengths(b"")
PRESENT_LENGTHS: Final = Lengths(b"\x02")
