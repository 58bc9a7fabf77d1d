"""Many files at once, one in five broken in each of the ways, by each kind of place, the role killed amid them.

Every file ends as it should, every row is landed once or in quarantine, and the books balance down to rows.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from pipeline.domain.event import Event
from pipeline.domain.files.life import FileState, FileStatus
from pipeline.domain.records import Accepted, Decision, DecisionKind, Quarantined
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack, wait_for
from tests.hazards.harness import ANSWER_S, SHORT
from tests.support.carrier_adapters import object_server
from tests.support.files_in import KEY_ID, PUBLIC
from tests.support.many_files import Partner, judge
from tests.support.sftp_server import HOST_KEY, USER, USER_KEY, SftpServer
from tests.support.stacks import records, stack_at, stopped_at_end

BY_FOLDER: Final = 60 if SHORT else 840
ELSEWHERE: Final = 20 if SHORT else 80
KILLS: Final = 1 if SHORT else 4
PATIENCE_S: Final = 4.0
GIVE_UP_S: Final = 12.0


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
