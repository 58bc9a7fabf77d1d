"""What a receiver, a wrong clock or a broken record may do to the files of one receiver, and does not."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.destinations.files.outgoing import Made, read_acknowledgement
from pipeline.domain.files.outgoing import FileOutState, OutStatus, Unreadable
from pipeline.domain.identifiers import Millis
from pipeline.roles.files.made import Unmakable
from pipeline.roles.files.outgoing import Ledger, Receiver
from pipeline.settings.model import Settings
from pipeline.settings.rules.evidence import problems_of_tenants
from tests.unit.roles.test_files_out import NOW, Log, ward
from tests.unit.roles.test_files_out import Receiver as Keys

DAY_MS = 86_400_000


@pytest.mark.parametrize("deep", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000], ids=["cut", "whole"])
def test_an_acknowledgement_however_deep_ends_no_process(deep: bytes) -> None:
    content = b'{"x":' + deep + b',"file":"a","sha256":"b","outcome":"taken"}'
    assert isinstance(read_acknowledgement(content, "a"), Unreadable)


def test_a_file_of_a_time_to_come_which_a_wrong_clock_made_holds_none_back(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    ahead = ward()
    ahead.as_of = Millis(NOW + 400 * DAY_MS)
    (wrong,) = keys.maker(ahead, Log(), "capacity", at=NOW + 400 * DAY_MS).due([])
    (right,) = keys.maker(ward(), Log(), "capacity").due([wrong.state])
    assert right.state.name != wrong.state.name
    assert list(keys.maker(ward(), Log(), "capacity").due([wrong.state, right.state])) == []
    again = ward()
    again.as_of = Millis(NOW + 400 * DAY_MS)
    assert list(keys.maker(again, Log(), "capacity", at=NOW + 400 * DAY_MS).due([right.state, wrong.state])) == []


class MemoryLedger:
    def __init__(self) -> None:
        self.states: dict[str, FileOutState] = {}

    def load(self) -> None:
        return

    def files(self) -> list[FileOutState]:
        return list(self.states.values())

    def keep(self, state: FileOutState) -> None:
        self.states[state.file_id] = state


class Broken:
    """Makes one file, and can't make the next."""

    def __init__(self, made: Made) -> None:
        self.made = made

    def due(self, known: Sequence[FileOutState]) -> Iterator[Made]:
        if not known:
            yield self.made
        raise Unmakable("UNREADABLE")


async def test_what_is_open_goes_on_while_nothing_new_can_be_made(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    (tmp_path / "place").mkdir()
    (made,) = keys.maker(ward(), Log(), "capacity").due([])
    said = keys.settings("capacity").model_dump(mode="json")
    said["files_out"]["data_dir"] = str(tmp_path / "spool")
    settings = Settings.model_validate(said)
    process: Any = type("P", (), {"settings": settings, "instance": "0"})()
    ledger = MemoryLedger()
    receiver = Receiver(process, "r", settings.files_out.receivers["r"], cast("Ledger", ledger), cast("Any", Broken(made)))
    await asyncio.to_thread(receiver.turn)
    (state,) = ledger.files()
    assert state.status is OutStatus.SENT
    receiver.close()


def receivers(tenants: dict[str, Any], **more: Any) -> Settings:
    section = {
        "folder": "/srv/a",
        "facilities": ["MAIN"],
        "sends": ["audit"],
        "key_id": "k",
        "key_file": "/srv/k",
        "tenant": "north",
        "region": "us",
        "purpose": "care",
    } | more
    return Settings.model_validate({"tenants": tenants, "files_out": {"receivers": {"r": section}}})


NORTH = {"regions": ["us"], "purposes": ["care"]}


def test_the_audit_log_tells_of_every_tenant_and_goes_only_where_all_of_them_may() -> None:
    assert list(problems_of_tenants(receivers({"north": NORTH}))) == []
    assert list(problems_of_tenants(receivers({"north": NORTH, "south": NORTH}))) == []
    other = {"regions": ["eu"], "purposes": ["care"]}
    ((where, what, _),) = list(problems_of_tenants(receivers({"north": NORTH, "south": other})))
    assert where == "files_out.receivers.r"
    assert "south" in what
    assert list(problems_of_tenants(receivers({"north": NORTH, "south": other}, sends=["capacity"]))) == []
