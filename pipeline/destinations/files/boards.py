"""Where a workstation finds its boards: `UNIT/UNIT-20260105T061500Z.html.age`, the newest last, older ones removed.

Where boards are signed, the signature of each lies beside it by its name and `.jws`, and is there before it.
"""

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pipeline.carriers.protocol import Carrier
from pipeline.destinations.files.crypto import Encrypt
from pipeline.domain.identifiers import Millis

ENCRYPTED: Final = ".age"
SIGNATURE: Final = ".jws"
KINDS: Final = ("html", "csv")
_STAMP: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, repr=False)
class Board:
    """What is written for one unit: content by kind. `as_of`: when it is complete as of, None where that is not known."""

    unit: str
    made_at: Millis
    content: dict[str, bytes]
    as_of: Millis | None = None


Sign = Callable[[str, bytes, Board], bytes]
"""Signature of one file of a board: its name, and its bytes as they will lie there."""


class BoardShelf:
    """The place of one workstation. Its methods block; `Unreachable` and `OSError` where it can't be written."""

    def __init__(self, carrier: Carrier, encrypt: Encrypt | None, keep: int, sign: Sign | None = None) -> None:
        """`encrypt` is None for a demo in clear, `sign` where there is no key; `keep`: newest boards of a unit and kind."""
        self._carrier = carrier
        self._encrypt = encrypt
        self._keep = keep
        self._sign = sign

    def put(self, board: Board) -> None:
        """Write a unit's board, each file whole or not at all, then remove what is older than `keep` boards.

        The new one is there before an old one goes. `BadRecipients`: nothing was written.
        """
        room = room_of(board.unit)
        ending = "" if self._encrypt is None else ENCRYPTED
        for kind in KINDS:
            content = board.content[kind]
            sealed = content if self._encrypt is None else self._encrypt(content)
            name = f"{room}-{_stamp_of(board.made_at)}.{kind}{ending}"
            if self._sign is not None:
                self._carrier.put(room, f"{name}{SIGNATURE}", self._sign(name, sealed, board))
            self._carrier.put(room, name, sealed)
        self._tidy(room, ending)

    def _tidy(self, room: str, ending: str) -> None:
        """Remove older boards, and after them what signed them; of those in clear, which a demo may have left, all once boards
        are encrypted."""
        found = {each.name for each in self._carrier.found(room)}
        for kind in KINDS:
            form = re.compile(rf"{re.escape(room)}-[0-9]{{8}}T[0-9]{{6}}Z\.{kind}({re.escape(ENCRYPTED)})?", re.ASCII)
            names = sorted(name for name in found if form.fullmatch(name))
            same = [name for name in names if name.endswith(ENCRYPTED) == bool(ending)]
            clear = [name for name in names if ending and not name.endswith(ENCRYPTED)]
            gone = {*same[: -self._keep], *clear}
            for name in sorted(gone):
                self._carrier.remove(room, name)
            signatures = [name for name in found if form.fullmatch(name.removesuffix(SIGNATURE)) and name.endswith(SIGNATURE)]
            for name in sorted(signatures):
                if name.removesuffix(SIGNATURE) not in found - gone:
                    self._carrier.remove(room, name)


def room_of(unit: str) -> str:
    """Folder and beginning of names of a unit: its code, with what a file system may take for something else encoded."""
    coded = quote(unit, safe="")
    return f"%2E{coded[1:]}" if coded.startswith(".") else coded


def _stamp_of(at: Millis) -> str:
    return datetime.datetime.fromtimestamp(at // 1000, datetime.UTC).strftime(_STAMP)
