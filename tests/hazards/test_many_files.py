"""Many files at once, one in five broken in each of the ways, by each kind of place, the role killed amid them.

Every file ends as it should, every row is landed once or in quarantine, and the books balance down to rows.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from joserfc.jwk import OKPKey

from pipeline.domain.event import Event
from pipeline.domain.file_life import FileReason, FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Decision, DecisionKind, Quarantined
from pipeline.local.broker import Broker
from pipeline.local.stack import Stack, wait_for
from tests.hazards.harness import ANSWER_S, SHORT
from tests.support.carrier_adapters import object_server
from tests.support.files_in import KEY, KEY_ID, PUBLIC, census, manifest_of, put
from tests.support.sftp_server import HOST_KEY, USER, USER_KEY, SftpServer
from tests.support.stacks import records, stack_at, stopped_at_end

BY_FOLDER: Final = 60 if SHORT else 840
ELSEWHERE: Final = 20 if SHORT else 80
KILLS: Final = 1 if SHORT else 4
PATIENCE_S: Final = 4.0
GIVE_UP_S: Final = 12.0
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
        times = {"created_at": now - 60_000, "not_before": now - HOUR_MS, "not_after": now + HOUR_MS}
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


@pytest.fixture
def partners(tmp_path: Path) -> Iterator[list[Partner]]:
    """One by each kind of place; object storage where a server can be had."""
    (tmp_path / "partner.pub").write_bytes(PUBLIC.as_pem(private=False))
    with ExitStack() as stack:
        made = [Partner("folder", tmp_path / "folder", {"folder": str(tmp_path / "folder")})]
        (tmp_path / "server").mkdir()
        server = stack.enter_context(SftpServer(tmp_path / "server"))
        secret(tmp_path / "ssh.key", USER_KEY.export_private_key())
        sftp = {"host_keys": [HOST_KEY.export_public_key().decode().strip()], "key_file": str(tmp_path / "ssh.key")}
        address = f"sftp://{USER}@127.0.0.1:{server.port}/sftp"
        made.append(Partner("sftp", tmp_path / "server" / "sftp", {"folder": address, "sftp": sftp}, links=False))
        try:
            endpoint = stack.enter_context(object_server(tmp_path / "objects"))
        except pytest.skip.Exception:
            endpoint = None
        if endpoint is not None:
            secret(tmp_path / "s3.key", b"not-a-secret-1234")
            objects = {"endpoint": endpoint, "access_key_id": "north", "secret_key_file": str(tmp_path / "s3.key")}
            where = {"folder": "s3://surgeline/partners/objects", "objects": objects}
            made.append(Partner("objects", tmp_path / "objects" / "surgeline/partners/objects", where, links=False))
        for each in made:
            (each.root / "incoming").mkdir(parents=True)
        yield made


def secret(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


@pytest.fixture
def running(broker: Broker, partners: list[Partner], tmp_path: Path) -> Iterator[Stack]:
    said = {
        "facility": "MAIN",
        "source_systems": ["ehr-main"],
        "profiles": ["census-snapshot"],
        "patience_s": PATIENCE_S,
        "give_up_s": GIVE_UP_S,
        "signers": [
            {"key_id": KEY_ID, "public_file": str(tmp_path / "partner.pub")},
            {"key_id": "old", "public_file": str(tmp_path / "partner.pub"), "valid_until": "2026-01-01T00:00:00Z"},
        ],
    }
    section = {
        "data_dir": str(tmp_path / "copies"),
        "poll_s": 0.2,
        "rows_per_s": 5_000,
        "partners": {each.name: {**said, **each.settings} for each in partners},
    }
    (tmp_path / "stack").mkdir()
    with stopped_at_end(stack_at(tmp_path / "stack", broker.bootstrap, overrides={"files": section})) as stack:
        stack.wait_ready(stack.start("gate"), stack.start("files"))
        yield stack


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_fifth_of_many_files_is_broken_and_every_row_counts_once(running: Stack, partners: list[Partner]) -> None:
    for number in range(1, BY_FOLDER + 1):
        for partner in partners:
            if partner.name == "folder" or number <= ELSEWHERE:
                partner.send(number)
        if number % (BY_FOLDER // (KILLS + 1)) == 0 and number < BY_FOLDER:
            running.kill("files-0")
            running.wait_ready(running.start("files"))
    for partner in partners:
        wait_for(partner.ended, 3 * ANSWER_S, f"every file of {partner.name} is acknowledged as it should be")
        judge(partner)
    for partner in partners:
        partner.send_again()
    for partner in partners:
        wait_for(lambda at=partner: at.ended() and at.settled(), 3 * ANSWER_S, f"what {partner.name} sent again is acknowledged")
        judge(partner)
    balance(running, partners)


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


def balance(running: Stack, partners: list[Partner]) -> None:
    """From file to row to the gate's verdict."""
    newest = {each.file_id: each for each in records(running, "files") if isinstance(each, FileState)}
    taken = [each for each in newest.values() if each.status is FileStatus.TAKEN]
    landed, bad = (sum(partner.rows[place] for partner in partners) for place in (0, 1))
    assert (sum(each.landed for each in taken), sum(each.rejected for each in taken)) == (landed, bad)
    assert all(each.records == each.landed + each.rejected == each.rows_done for each in taken)
    events = [each for each in records(running, "landing.bed") if isinstance(each, Event)]
    assert len({each.event_id for each in events}) == len({each.audit_context for each in events}) == landed
    quarantined = {(each.file, each.row) for each in records(running, "quarantine") if isinstance(each, Quarantined)}
    assert len(quarantined) == bad

    def judged() -> Counter[str]:
        accepted = sum(isinstance(each, Accepted) for each in records(running, "events.accepted"))
        kinds = Counter(each.kind.value for each in records(running, "decisions") if isinstance(each, Decision))
        return Counter({"accepted": accepted}) + kinds

    wait_for(lambda: judged()["accepted"] >= landed, ANSWER_S, "the gate has judged every row")
    found = judged()
    assert found["accepted"] == landed
    assert set(found) <= {"accepted", DecisionKind.DUPLICATE.value, DecisionKind.CONTROL.value}
    for partner in partners:
        told = Counter(each.status for each in newest.values() if each.partner == partner.name)
        assert told[FileStatus.LANDING] == 0
