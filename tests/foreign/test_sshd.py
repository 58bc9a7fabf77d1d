"""Places of files at OpenSSH's own server, and a partner that sends by OpenSSH's own client.

What every place promises is tried at that server by `tests/conformance/test_carriers.py -k sshd`.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncssh
import pytest

from pipeline.carriers.protocol import NotAllowed, NotPlain, Unreachable
from pipeline.carriers.sftp import SftpCarrier
from pipeline.domain.identifiers import Millis
from pipeline.local.ports import HOST
from tests.property.test_files_machine import Bomb, Log
from tests.support.files_desk import Office, run_once
from tests.support.files_in import NAME, census, manifest_of, put
from tests.support.sshd import Sshd

CLIENT_S: Final = 60.0
ROWS: Final = 2_000
WIDE: Final[dict[str, Any]] = {"not_before": Millis(1), "not_after": Millis(1 << 45)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    (tmp_path / "sshd").mkdir()
    with Sshd(tmp_path / "sshd") as found:
        yield found


@pytest.fixture
def carrier(server: Sshd) -> Iterator[SftpCarrier]:
    made = server.carrier(server.root)
    yield made
    made.let_go()


def test_a_server_with_another_key_is_not_spoken_to_and_one_that_knows_us_not_is_told_so(server: Sshd) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    impostor = server.carrier(server.root, host_keys=(other.export_public_key().decode().strip(),))
    with pytest.raises(NotAllowed, match="HOST_KEY"):
        list(impostor.found("incoming"))
    stranger = server.carrier(server.root, key=other.export_private_key)
    with pytest.raises(NotAllowed, match="KEY_REFUSED"):
        list(stranger.found("incoming"))
    assert list(server.root.iterdir()) == []


def test_a_place_that_may_only_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with Sshd(tmp_path / "sshd", "-R") as server:
        (server.root / "incoming").mkdir()
        (server.root / "incoming" / NAME).write_bytes(b"one")
        carrier = server.carrier(server.root)
        assert [each.name for each in carrier.found("incoming")] == [NAME]
        with pytest.raises(NotAllowed, match="NO_RIGHTS"):
            carrier.put("incoming", NAME, b"two")
        carrier.let_go()
        assert (server.root / "incoming" / NAME).read_bytes() == b"one"


def test_a_link_or_a_folder_is_no_file(server: Sshd, carrier: SftpCarrier) -> None:
    incoming = server.root / "incoming"
    (incoming / "folder").mkdir(parents=True)
    (incoming / "link").symlink_to("/etc/hostname")
    assert {each.name: each.is_plain for each in carrier.found("incoming")} == {"folder": False, "link": False}
    for name in ("folder", "link"):
        with pytest.raises(NotPlain), carrier.open("incoming", name):
            pass


def test_a_server_that_went_away_is_used_again_once_it_is_back(server: Sshd, carrier: SftpCarrier) -> None:
    carrier.put("acks", NAME, b"one")
    server.stop()
    with pytest.raises(Unreachable):
        carrier.put("acks", NAME, b"two")
    server.start()
    carrier.put("acks", NAME, b"three")
    assert (server.root / "acks" / NAME).read_bytes() == b"three"
    assert [each.name for each in (server.root / "acks").iterdir()] == [NAME]


async def test_what_their_client_sends_is_taken_and_what_it_fetches_is_the_acknowledgement(server: Sshd, tmp_path: Path) -> None:
    client = shutil.which("sftp")
    if client is None:
        pytest.skip("OpenSSH's client is not installed")
    office, sink = Office(server.root), Log(Bomb())
    office.copies = tmp_path / "copies"
    carriers: list[SftpCarrier] = []

    def carrier() -> SftpCarrier:
        carriers.append(SftpCarrier(server.address(office.root), f"{len(carriers)}", office.clock))
        return carriers[-1]

    office.carrier = carrier
    (tmp_path / "ours").mkdir()
    put(tmp_path / "ours", census(ROWS), manifest_of(census(ROWS), **WIDE))
    names = [NAME, f"{NAME}.manifest", f"{NAME}.manifest.jws"]
    sent = [line for name in names for line in (f"put -p {name} .{name}.part", f"rename .{name}.part {name}")]
    await told(client, server, tmp_path / "ours", [f"cd {office.incoming}", *sent])
    await run_once(office, sink)
    assert (len(sink.events), office.names("incoming")) == (ROWS, [])
    await told(client, server, tmp_path / "ours", [f"get {office.root}/acks/{NAME}.ack.json"])
    assert b'"taken"' in (tmp_path / "ours" / f"{NAME}.ack.json").read_bytes()
    for each in carriers:
        each.let_go()


async def told(client: str, server: Sshd, at: Path, lines: list[str]) -> None:
    """Their client does as a batch of lines says; it knows the server by its key."""
    address = server.address(at)
    (at / "known").write_text(f"[{HOST}]:{server.port} {address.host_keys[0]}\n")
    options = ["BatchMode=yes", f"UserKnownHostsFile={at / 'known'}", "StrictHostKeyChecking=yes", "IdentityAgent=none"]
    command = [client, "-q", "-b", "-", "-F", "none", "-i", str(server.root.parent / "user.key"), "-P", str(server.port)]
    command += [part for option in options for part in ("-o", option)]
    batch = ("\n".join(lines) + "\n").encode()
    await asyncio.to_thread(
        subprocess.run,
        [*command, f"{address.user}@{HOST}"],
        input=batch,
        cwd=at,
        check=True,
        timeout=CLIENT_S,
        capture_output=True,
    )
