"""Where a workstation finds its boards: `UNIT/UNIT-20260105T061500Z.html.age`, the newest last, older ones removed."""

import datetime
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pipeline.carriers.protocol import Carrier
from pipeline.destinations.files.crypto import Encrypt
from pipeline.domain.identifiers import Millis

ENCRYPTED: Final = ".age"
KINDS: Final = ("html", "csv")
_STAMP: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, repr=False)
class Board:
    """What is written for one unit: content by kind."""

    unit: str
    made_at: Millis
    content: dict[str, bytes]


class BoardShelf:
    """The place of one workstation. Its methods block; `Unreachable` and `OSError` where it can't be written."""

    def __init__(self, carrier: Carrier, encrypt: Encrypt | None, keep: int) -> None:
        """`encrypt` is None for a demo in clear; `keep`: newest boards of a unit and kind that stay."""
        self._carrier = carrier
        self._encrypt = encrypt
        self._keep = keep

    def put(self, board: Board) -> None:
        """Write a unit's board, each file whole or not at all, then remove what is older than `keep` boards.

        The new one is there before an old one goes. `BadRecipients`: nothing was written.
        """
        room = room_of(board.unit)
        ending = "" if self._encrypt is None else ENCRYPTED
        for kind in KINDS:
            content = board.content[kind]
            sealed = content if self._encrypt is None else self._encrypt(content)
            self._carrier.put(room, f"{room}-{_stamp_of(board.made_at)}.{kind}{ending}", sealed)
        self._tidy(room, ending)

    def _tidy(self, room: str, ending: str) -> None:
        """Remove older boards; of those in clear, which a demo may have left, all once boards are encrypted."""
        for kind in KINDS:
            form = re.compile(rf"{re.escape(room)}-[0-9]{{8}}T[0-9]{{6}}Z\.{kind}({re.escape(ENCRYPTED)})?", re.ASCII)
            names = sorted(found.name for found in self._carrier.found(room) if form.fullmatch(found.name))
            same = [name for name in names if name.endswith(ENCRYPTED) == bool(ending)]
            clear = [name for name in names if ending and not name.endswith(ENCRYPTED)]
            for name in (*same[: -self._keep], *clear):
                self._carrier.remove(room, name)


def room_of(unit: str) -> str:
    """Folder and beginning of names of a unit: its code, with what a file system may take for something else encoded."""
    coded = quote(unit, safe="")
    return f"%2E{coded[1:]}" if coded.startswith(".") else coded


def _stamp_of(at: Millis) -> str:
    return datetime.datetime.fromtimestamp(at // 1000, datetime.UTC).strftime(_STAMP)
