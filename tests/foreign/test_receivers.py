"""What we send over MLLP is read, and acknowledged, by servers that are not ours."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.local.errors import LocalPlatformError
from tests.foreign.clients import NO_CLIENT, REQUIRED
from tests.foreign.receivers import NAMES, Receiver, receiver
from tests.support.hl7_samples import adt

PROGRAM: Final = str(Path(sys.executable).with_name("surgeline"))
SEND_S: Final = 100.0


@contextmanager
def had(name: str, code: str) -> Iterator[Receiver]:
    """The receiver, or the test is skipped."""
    with ExitStack() as running:
        try:
            found = running.enter_context(receiver(name, code))
        except LocalPlatformError as missing:
            if REQUIRED:
                raise
            pytest.skip(f"{NO_CLIENT}: {missing}")
        yield found


def sent(to: Receiver, folder: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code of `surgeline hl7 send`, and what it says of each message."""
    command = [PROGRAM, "hl7", "send", "--to", f"127.0.0.1:{to.port}", "--json", *arguments, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SEND_S, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def messages_in(folder: Path, count: int) -> list[str]:
    """So many admissions, each to a bed of its own; their control ids."""
    for number in range(count):
        message = adt("A01", msh={10: f"R{number:03d}"}, pid={3: f"P{number}^^^MAIN^MR"}, pv1={3: f"ICU^1^B{number}^MAIN"})
        (folder / f"{number:03d}.hl7").write_bytes(message)
    return [f"R{number:03d}" for number in range(count)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", ["1", "8"])
def test_each_message_is_read_by_their_parser_and_its_yes_is_ours(name: str, window: str, tmp_path: Path) -> None:
    """One after the other by default; with a window HAPI reads and answers in any order, and each answer finds its message."""
    ids = messages_in(tmp_path, 20)
    with had(name, "AA") as to:
        code, said = sent(to, tmp_path, "--window", window)
    heard, told = to.heard, [(each["control_id"], each["code"]) for each in said]
    if window != "1":
        heard, told = sorted(heard, key=lambda each: each["control_id"]), sorted(told)
    assert code == 0
    assert told == [(control_id, "AA") for control_id in ids]
    assert [each["control_id"] for each in heard] == ids
    assert [(each["event"], each["patient"], each["bed"]) for each in heard] == [
        ("A01", f"P{number}", f"B{number}") for number in range(20)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_no_of_theirs_is_told_as_it_is_and_sent_once(name: str, tmp_path: Path) -> None:
    messages_in(tmp_path, 2)
    with had(name, "AR") as to:
        code, said = sent(to, tmp_path)
    assert code == 1
    assert [(each["code"], each["taken"], each["tries"]) for each in said] == [("AR", False, 1)] * 2
    assert len(to.heard) == 2
