"""A workstation with boards and a receiver of files, for tests with real processes."""

import datetime
import time
from pathlib import Path
from typing import Any, Final

import pyrage
from joserfc.jwk import OKPKey

from pipeline.local.stack import Stack
from tests.support.stacks import surgeline

DESK: Final = pyrage.x25519.Identity.generate()
EVERY_S: Final = 2


def sections(folder: Path, key: OKPKey, every_s: float = EVERY_S) -> dict[str, Any]:
    """Sections of the settings, with the folders and keys that they name."""
    for name in ("desk", "region"):
        (folder / name).mkdir(parents=True)
    (folder / "desk.recipients").write_text(str(DESK.to_public()))
    (folder / "desk.key").write_text(str(DESK))
    (folder / "sign.key").touch(mode=0o600)
    (folder / "sign.key").write_bytes(key.as_pem(private=True))
    keys = {"recipients_file": str(folder / "desk.recipients")}
    desk = {"folder": str(folder / "desk"), "facility": "MAIN", "units": ["ICU"], **keys}
    region = {
        "folder": str(folder / "region"),
        "facilities": ["MAIN"],
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
    """Enter a paper."""
    paper = stack.folder / f"paper-{time.time_ns()}.csv"
    paper.write_text("\n".join(["Time,Facility,Unit,Room,Bed,Cleaning,Service,Service reason", *rows, ""]))
    done = surgeline(stack, "downtime", "enter", str(paper), "--facility", "MAIN", "--reason", "test", "--yes")
    assert done.returncode == 0, done.stderr


def ago(minutes: int) -> str:
    """A time of the past, as it is typed in."""
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=minutes)
    return at.isoformat(timespec="seconds")


def page(stack: Stack) -> str:
    """The newest board, as the workstation opens it; empty where there is none."""
    desk, key, to = (str(stack.folder / name) for name in ("desk", "desk.key", "board.html"))
    done = surgeline(stack, "downtime", "open", desk, "--key", key, "--to", to)
    return Path(to).read_text() if done.returncode == 0 else ""
