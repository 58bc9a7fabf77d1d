"""Files by SFTP: a real server in this process whose connections, keys and clock fail as they do in the world."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from pipeline.carriers import lease as lease_module
from pipeline.carriers.lease import LEASE_S, Lease
from pipeline.carriers.protocol import Carrier, NotAllowed, Unreachable
from pipeline.carriers.sftp import SftpCarrier
from pipeline.domain.files.life import FileReason, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.sources.files.crypto import decryptor
from tests.property.test_files_machine import Bomb, Log
from tests.support.files_desk import Office, run_once
from tests.support.files_in import NAME, census, manifest_of, place, put
from tests.support.sftp_server import USER_KEY, SftpServer

WIDE = {"not_before": Millis(1), "not_after": Millis(1 << 45)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SftpServer]:
    (tmp_path / "server").mkdir()
    with SftpServer(tmp_path / "server") as found:
        yield found


@pytest.fixture
def office(server: SftpServer, tmp_path: Path) -> Office:
    """A partner's place at the server; its processes look at it by SFTP."""
    made = Office(server.root)
    made.copies = tmp_path / "copies"

    def carrier() -> SftpCarrier:
        found = SftpCarrier(server.address("/epic"), secrets.token_hex(4), made.clock)
        server.at_end.append(found.let_go)
        return found

    made.carrier = carrier
    return made


def log() -> Log:
    return Log(Bomb())


def by_sftp(server: SftpServer, owner: str | None = None, **said: Any) -> SftpCarrier:
    (server.root / "place").mkdir(exist_ok=True)
    made = SftpCarrier(server.address(**said), owner or secrets.token_hex(4))
    server.at_end.append(made.let_go)
    return made


async def test_a_file_is_taken_and_acknowledged(office: Office) -> None:
    put(office.incoming, census(5), manifest_of(census(5), **WIDE))
    sink = log()
    await run_once(office, sink)
    told = office.ack(NAME)
    assert told is not None
    assert (told["outcome"], told["landed"], len(sink.events)) == ("taken", 5, 5)
    assert (office.names("incoming"), len(office.names("taken"))) == ([], 3)


@pytest.mark.parametrize("step", ["scandir", "open", "read", "write", "rename", "renamed"])
async def test_a_connection_that_is_lost_at_any_step_loses_and_doubles_nothing(
    server: SftpServer, office: Office, step: str
) -> None:
    content = census(400)
    put(office.incoming, content, manifest_of(content, **WIDE))
    sink, desk, stop = log(), office.desk(), asyncio.Event()
    assert desk.locked()
    await desk.begin(sink, stop)
    lost = 0
    for nth in range(1, 40):  # the connection is lost at each n-th such step, until a round meets none
        seen = 0

        def cut(name: str, nth: int = nth) -> bool:
            nonlocal seen
            seen += name == step
            return name == step and seen == nth

        server.cut_at = cut
        try:
            await desk.round(sink, stop)
        except Unreachable:
            lost += 1
            continue
        if seen < nth and office.names("incoming") == []:
            break
    server.cut_at = lambda _: False
    await desk.round(sink, stop)
    told = office.ack(NAME)
    assert lost > 0
    assert told is not None
    assert (told["outcome"], told["landed"], len(sink.events), sink.conflicts) == ("taken", 400, 400, 0)
    assert [state.status for state in office.ledger.files.every(*FileStatus)] == [FileStatus.TAKEN], "no fault of the file"
    assert office.names("incoming") == []
    assert [name for name in os.listdir(office.root / "acks") if not name.startswith(".")] == [f"{NAME}.ack.json"]


async def test_a_connection_lost_amid_an_encrypted_file_is_no_fault_of_the_file(server: SftpServer, tmp_path: Path) -> None:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "files.key").write_text(str(identity))
    sealed = pyrage.encrypt(census(20_000), [identity.to_public()])
    carrier = by_sftp(server)
    place_of = server.root / "place" / "incoming"
    place_of.mkdir()
    (place_of / "x").write_bytes(sealed)
    office = Office(tmp_path)
    office.carrier = lambda: carrier
    folder = office.desk()._folder
    folder.lock()
    reads = 0

    def cut(name: str) -> bool:
        nonlocal reads
        reads += name == "read"
        return reads == 20

    server.cut_at = cut
    with pytest.raises(Unreachable):
        folder.copy("x", "c", 1 << 30, decryptor([tmp_path / "files.key"]))


def test_another_host_key_is_not_spoken_to(server: SftpServer) -> None:
    server.stop()
    server.host_key = asyncssh.generate_private_key("ssh-ed25519")
    server.start()
    with pytest.raises(NotAllowed, match="HOST_KEY"):
        by_sftp(server).hold()
    assert server.logins == 0, "it was shown no key of ours"


def test_a_key_that_is_not_known_there_and_one_that_is_past_its_time_are_refused_as_such(server: SftpServer) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key()
    with pytest.raises(NotAllowed, match="KEY_REFUSED"):
        by_sftp(server, key=lambda: other).hold()
    with pytest.raises(NotAllowed, match="KEY_EXPIRED"):
        by_sftp(server, valid_until=Millis(1)).hold()
    with pytest.raises(NotAllowed, match="KEY_UNREADABLE"):
        by_sftp(server, key=lambda: b"no key").hold()


def test_a_key_is_read_at_each_connection(server: SftpServer) -> None:
    keys = [USER_KEY.export_private_key()]
    carrier = by_sftp(server, key=lambda: keys[0])
    assert carrier.hold()
    server.user_key = asyncssh.generate_private_key("ssh-ed25519")
    server.stop()
    server.start()
    with pytest.raises(Unreachable):
        list(carrier.found("incoming"))
    keys[0] = server.user_key.export_private_key()
    assert list(carrier.found("incoming")) == []


def test_a_server_without_posix_rename_still_shows_no_half_written_file(server: SftpServer) -> None:
    server.posix_rename = False
    carrier = by_sftp(server)
    for content in (b"one", b"another"):
        carrier.put("acks", "a.ack.json", content)
        assert (server.root / "place" / "acks" / "a.ack.json").read_bytes() == content
    assert len(list(carrier.found("acks"))) == 1


@pytest.mark.parametrize("ahead_s", [-7_200, 0, 7_200])
def test_the_time_of_a_file_is_by_our_clock_whatever_the_servers_says(server: SftpServer, ahead_s: int) -> None:
    server.ahead_s = ahead_s
    carrier = by_sftp(server)
    assert carrier.hold()
    (server.root / "place" / "incoming").mkdir()
    place(server.root / "place" / "incoming" / NAME, b"x")
    came = os.stat(server.root / "place" / "incoming" / NAME).st_mtime * 1000
    (found,) = carrier.found("incoming")
    assert abs(found.since - came) < 5_000


async def test_a_file_whose_sender_sets_its_times_back_is_not_refused_before_its_manifest_can_come(
    server: SftpServer, office: Office
) -> None:
    """`put -p` keeps the times of the sender's own file."""
    place(office.incoming / NAME, census(3))
    os.utime(office.incoming / NAME, (0, 86_400))
    sink = log()
    desk = await run_once(office, sink)
    assert (office.names("incoming"), office.ack(NAME)) == ([NAME], None)
    put(office.incoming, census(3), manifest_of(census(3), **WIDE))
    await run_once(office, sink, desk)
    told = office.ack(NAME)
    assert told is not None
    assert told["outcome"] == "taken"


async def test_a_half_written_manifest_with_an_old_time_is_waited_for(server: SftpServer, office: Office) -> None:
    put(office.incoming, census(3), manifest_of(census(3), **WIDE))
    manifest = office.incoming / f"{NAME}.manifest"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:20])
    os.utime(manifest, (0, 86_400))
    desk = await run_once(office, log())
    assert office.names("rejected") == []
    manifest.write_bytes(whole)
    sink = log()
    await run_once(office, sink, desk)
    assert len(sink.events) == 3


async def test_a_file_replaced_after_it_was_listed_is_judged_by_what_was_read(server: SftpServer, office: Office) -> None:
    put(office.incoming, census(3), manifest_of(census(3), **WIDE))
    other = census(3, first=50)
    read = False

    def replace(name: str) -> bool:
        nonlocal read
        if name == "read" and not read and (office.incoming / NAME).read_bytes() != other:
            read = True
            place(office.incoming / NAME, other)
        return False

    server.cut_at = replace
    sink = log()
    await run_once(office, sink)
    server.cut_at = lambda _: False
    assert {state.why for state in office.ledger.files.every(FileStatus.REFUSED)} <= {FileReason.WRONG_SUM}
    assert {len(sink.events)} <= {0, 3}, "all of the one, or nothing"
    assert not any("/50/" in event for event in sink.events)


def test_a_link_in_place_of_a_room_is_not_followed(server: SftpServer, tmp_path: Path) -> None:
    carrier = by_sftp(server)
    (server.root / "elsewhere").mkdir()
    (server.root / "place" / "incoming").symlink_to("../elsewhere")
    with pytest.raises(Unreachable, match="NO_FOLDER"):
        list(carrier.found("incoming"))
    (server.root / "elsewhere" / "secret").write_bytes(b"x")
    (server.root / "place" / "in").mkdir()
    (server.root / "place" / "in" / "file").symlink_to("../../elsewhere/secret")
    (found,) = carrier.found("in")
    assert not found.is_plain


def test_a_name_that_is_no_text_stops_nobody_elses_file(server: SftpServer) -> None:
    carrier = by_sftp(server)
    room = server.root / "place" / "incoming"
    room.mkdir()
    (Path(os.fsdecode(os.fsencode(room) + b"/\xff.csv"))).write_bytes(b"x")
    (room / NAME).write_bytes(b"x")
    found = {each.name: each for each in carrier.found("incoming")}
    assert set(found) == {NAME, "\udcff.csv"}
    assert carrier.move("incoming", "\udcff.csv", "rejected", "\udcff.csv", found["\udcff.csv"].stamp)


def test_a_lease_is_taken_only_once_it_stood_still_and_its_former_holder_finds_out(server: SftpServer) -> None:
    now = [0.0]
    first, second = (Lease(by_sftp(server)._lock, name, lambda: now[0]) for name in ("first/1", "second/1"))
    assert first.hold()
    assert not second.hold()
    now[0] = LEASE_S + 1
    first.beat()
    assert not second.hold(), "it beats"
    now[0] += LEASE_S + 1
    assert second.hold(), "it stood still"
    first.beat()
    assert not first.hold(), "it is another's"
    assert second.hold()
    first.let_go()
    second.let_go()


def test_a_holder_whose_connection_is_away_lets_nobody_wait_for_it_for_ever(server: SftpServer) -> None:
    carrier: Carrier = by_sftp(server)
    assert carrier.hold()
    server.stop()
    carrier.let_go()
    server.start()
    assert not by_sftp(server).hold(), "it is taken once it stood still"
    assert lease_module.BEAT_S * 3 < LEASE_S


def test_a_process_takes_at_once_what_the_one_before_it_held_but_only_at_its_start(server: SftpServer) -> None:
    first, second = by_sftp(server, "files-0/1/x"), by_sftp(server, "files-0/2/y")
    assert first.hold()
    assert second.hold(), "an instance has one process at a time: the first is dead"
    first._lease.beat()
    assert not first.hold(), "it is none that starts"
