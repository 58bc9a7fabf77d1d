"""Partners that send many files, one in five broken in one of the ways, and what must become of each."""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from joserfc.jwk import OKPKey

from pipeline.domain.files.life import FileReason
from pipeline.domain.identifiers import Millis
from pipeline.local.stack import wait_for
from tests.support.files_in import KEY, census, manifest_of, put
from tests.support.stacks import ANSWER_S

HOUR_MS: Final = 3_600_000
BROKEN_EVERY: Final = 5
WAYS: Final = (
    "no manifest", "no signature", "no data", "partial", "late", "early", "wrong count", "wrong sum", "unknown source",
    "unknown key", "forged", "expired key", "bad manifest", "other schema", "future", "too large", "unknown name",
    "archive", "no header", "one long line", "too many rejects", "a link",
)  # fmt: skip
REASONS: Final = {
    "no manifest": FileReason.NO_MANIFEST, "no signature": FileReason.NO_SIGNATURE, "no data": FileReason.NO_DATA,
    "wrong count": FileReason.WRONG_COUNT, "wrong sum": FileReason.WRONG_SUM, "unknown source": FileReason.UNKNOWN_SOURCE,
    "unknown key": FileReason.UNKNOWN_KEY, "forged": FileReason.BAD_SIGNATURE, "expired key": FileReason.KEY_EXPIRED,
    "bad manifest": FileReason.BAD_MANIFEST, "other schema": FileReason.UNKNOWN_SCHEMA, "future": FileReason.FUTURE_TIME,
    "too large": FileReason.TOO_LARGE, "unknown name": FileReason.UNKNOWN_NAME, "archive": FileReason.UNREADABLE,
    "no header": FileReason.UNREADABLE, "a link": FileReason.NOT_A_FILE,
}  # fmt: skip
"""Ways that end in a refusal, with what the sender is told."""


@dataclass
class Partner:
    """One partner: where its files lie, and what must become of each."""

    name: str
    root: Path
    settings: dict[str, Any]
    links: bool = True
    expected: dict[str, tuple[str, FileReason, int, int]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    rows: tuple[int, int] = (0, 0)
    """How many are landed, and how many in quarantine, by what was sent first."""
    made_at: Millis = field(default_factory=lambda: Millis(time.time_ns() // 1_000_000 - 60_000))
    """When its contents were true: what it sends again is of the same moment."""

    def send(self, number: int) -> None:
        """The number says what is wrong with it, if anything."""
        way = WAYS[number // BROKEN_EVERY % len(WAYS)] if number % BROKEN_EVERY == 0 else "true"
        way = "true" if way == "a link" and not self.links else way
        name, rows = f"census-20260105-{number}.csv", 1 + number % 20
        first = _first(self.name, number)
        bad = frozenset({first}) if rows > 10 and number % 3 == 0 else frozenset[int]()
        if way == "too many rejects":
            bad = frozenset(range(first, first + rows))
        content = census(rows, first=first, broken=bad)
        self.expected[name] = self._of(way, rows, len(bad))
        Sending(self, way, name, content).go()
        if way in ("early", "partial"):
            self.waiting.add(name)
            del self.expected[name]

    def _of(self, way: str, rows: int, bad: int) -> tuple[str, FileReason, int, int]:
        if way in REASONS:
            return "refused", REASONS[way], 0, 0
        if way == "one long line":
            return "held", FileReason.TOO_MANY_REJECTS, 0, 0
        if way == "too many rejects":
            return "held", FileReason.TOO_MANY_REJECTS, 0, 0
        return "taken", FileReason.NONE, rows - bad, bad

    def send_again(self) -> None:
        """What senders do that were told: the same again, the same under another name, another under the same name."""
        self.rows = sum(each[2] for each in self.expected.values()), sum(each[3] for each in self.expected.values())
        taken = [(name, each) for name, each in self.expected.items() if each[0] == "taken" and not each[3]]
        for place, (name, (_, _, rows, _)) in enumerate(taken[:9]):
            number = int(name.removesuffix(".csv").rpartition("-")[2])
            content = census(rows, first=_first(self.name, number))
            match place % 3:
                case 0:
                    Sending(self, "true", name, content).go()
                case 1:
                    other = f"census-20260106-{number}.csv"
                    self.expected[other] = "repeated", FileReason.SAME_CONTENT, 0, 0
                    Sending(self, "true", other, content).go()
                case _:
                    self.expected[name] = "refused", FileReason.OTHER_CONTENT, 0, 0
                    Sending(self, "true", name, content.replace(b"Y", b"N")).go()

    def told(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.root / "acks" / f"{name}.ack.json").read_bytes()))
        except FileNotFoundError:
            return None

    def settled(self) -> bool:
        """What is done with is put away."""
        return self.left() == self.waiting | {name for name, each in self.expected.items() if each[0] == "held"}

    def left(self) -> set[str]:
        names = {name.removesuffix(".jws").removesuffix(".manifest") for name in os.listdir(self.root / "incoming")}
        return {name for name in names if not name.startswith(".")}

    def ended(self) -> bool:
        return all(
            (told := self.told(name)) is not None and told["outcome"] == outcome
            for name, (outcome, why, _, _) in self.expected.items()
            if why is not FileReason.UNKNOWN_NAME
        )


@dataclass
class Sending:
    """One file on its way to a partner's folder, in one of the ways."""

    to: Partner
    way: str
    name: str
    content: bytes

    def go(self) -> None:
        incoming, now = self.to.root / "incoming", Millis(time.time_ns() // 1_000_000)
        times = {"created_at": self.to.made_at, "not_before": now - HOUR_MS, "not_after": now + HOUR_MS}
        said, key, data, content = {**times, **self._said(now)}, KEY, self.content, self._content()
        match self.way:
            case "wrong sum":
                data = content.replace(b"ICU", b"ICV")
            case "partial":
                data = content[:-4]
            case "forged":
                key = OKPKey.generate_key("Ed25519")
            case _:
                data = content
        name = f"{self.name}.zip" if self.way == "unknown name" else self.name
        put(incoming, content, manifest_of(content, name, **said), key, data)
        gone = {"no manifest": ".manifest", "no signature": ".manifest.jws", "no data": ""}.get(self.way)
        if gone is not None:
            (incoming / f"{name}{gone}").unlink(missing_ok=True)
        if self.way == "bad manifest":
            (incoming / f"{name}.manifest").write_bytes(b"{}")
        if self.way == "a link":
            (incoming / name).unlink(missing_ok=True)
            (incoming / name).symlink_to("/etc/hostname")

    def _content(self) -> bytes:
        match self.way:
            case "archive":
                return b"PK\x03\x04" + bytes(2_000)
            case "no header":
                return self.content.partition(b"\n")[2]
            case "one long line":
                return census(1) + b"MAIN,ICU," + b"9" * 3_000_000 + b",A,Y,V\r\n"
            case _:
                return self.content

    def _said(self, now: Millis) -> dict[str, Any]:
        rows = self._content().count(b"\n") - 1
        return {
            "no data": {"not_after": now - 61_000},
            "late": {"not_before": now - 3 * HOUR_MS, "not_after": now - 2 * HOUR_MS},
            "early": {"not_before": now + 2 * HOUR_MS, "not_after": now + 3 * HOUR_MS},
            "wrong count": {"records": rows + 1},
            "unknown source": {"source_system": "x"},
            "unknown key": {"key_id": "k9"},
            "expired key": {"key_id": "old"},
            "other schema": {"schema": "census-snapshot/9"},
            "future": {"created_at": now + HOUR_MS},
            "too large": {"size": 1 << 40},
            "archive": {"records": 1},
            "no header": {"records": 1},
        }.get(self.way, {})


def _first(partner: str, number: int) -> int:
    return {"folder": 1, "sftp": 2, "objects": 3}[partner] * 1_000_000 + number * 100


def judge(partner: Partner) -> None:
    for name, (outcome, why, landed, bad) in partner.expected.items():
        if why is FileReason.UNKNOWN_NAME:
            continue
        told = partner.told(name)
        assert told is not None
        found = (told["outcome"], told["reason"] or "NONE", told["landed"], told["rejected"])
        assert found == (outcome, why.value, landed, bad), name
    for name in partner.waiting:
        assert partner.told(name) is None, "it is neither taken nor refused before its time"
        assert (partner.root / "incoming" / name).exists()
    wait_for(partner.settled, ANSWER_S, "what is done with is put away")
