"""A workstation with boards and a receiver of files, for tests with real processes."""

import datetime
import time
from pathlib import Path
from typing import Any, Final

import pyrage
from joserfc.jwk import OKPKey

from pipeline.local.stack import Stack, wait_for
from tests.support.stacks import ANSWER_S, surgeline

DESK: Final = pyrage.x25519.Identity.generate()
EVERY_S: Final = 2


def sections(folder: Path, key: OKPKey, every_s: float = EVERY_S, facility: str = "MAIN") -> dict[str, Any]:
    """Sections of the settings, with the folders and keys that they name."""
    for name in ("desk", "region"):
        (folder / name).mkdir(parents=True)
    (folder / "desk.recipients").write_text(str(DESK.to_public()))
    (folder / "desk.key").write_text(str(DESK))
    (folder / "sign.key").touch(mode=0o600)
    (folder / "sign.key").write_bytes(key.as_pem(private=True))
    keys = {"recipients_file": str(folder / "desk.recipients")}
    desk = {"folder": str(folder / "desk"), "facility": facility, "units": ["ICU"], **keys}
    region = {
        "folder": str(folder / "region"),
        "facilities": [facility],
        "sends": ["capacity"],
        "every_s": every_s,
        "key_id": "k1",
        "key_file": str(folder / "sign.key"),
        "patience_s": 1,
        "max_sends": 50,
        **keys,
    }
    return {
        "downtime": {"every_s": every_s, "keep": 3, "workstations": {"icu-desk": desk}},
        "files_out": {"data_dir": str(folder / "spool"), "poll_s": 0.2, "receivers": {"region": region}},
    }


def type_in(stack: Stack, *rows: str) -> None:
    """Enter a paper; again where the broker did not take it in time, which changes nothing."""
    paper = stack.folder / f"paper-{time.time_ns()}.csv"
    paper.write_text("\n".join(["Time,Facility,Unit,Room,Bed,Cleaning,Service,Service reason", *rows, ""]))
    said = ("downtime", "enter", str(paper), "--facility", "MAIN", "--reason", "test", "--yes")
    wait_for(lambda: surgeline(stack, *said).returncode == 0, ANSWER_S * 2, "a paper is entered")


def ago(minutes: int) -> str:
    """A time of the past, as it is typed in."""
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=minutes)
    return at.isoformat(timespec="seconds")


def page(stack: Stack) -> str:
    """The newest board, as the workstation's key opens it; empty where there is none, or it was just replaced."""
    boards = sorted((stack.folder / "desk").rglob("*.html.age"))
    try:
        return bytes(pyrage.decrypt(boards[-1].read_bytes(), [DESK])).decode() if boards else ""
    except FileNotFoundError:
        return ""
