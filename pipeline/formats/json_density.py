"""How much a JSON document costs once it is decoded, told from its bytes before."""

from typing import Final

FREE_MEMBERS: Final = 2_000
"""Members that a document of any size may have."""
BYTES_PER_MEMBER: Final = 8
"""Beyond those, the fewest bytes per member. The least event has 19, a FHIR resource without white space about 25."""


def is_too_dense(body: bytes) -> bool:
    """Whether it has more members than a message would: a megabyte of `[],[],…` is thirty times as large in memory.

    Commas and opening brackets are counted, those within texts too: more than there are members, never fewer.
    """
    members = body.count(b",") + body.count(b"[") + body.count(b"{")
    return members > FREE_MEMBERS + len(body) // BYTES_PER_MEMBER
