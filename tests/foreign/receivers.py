"""MLLP servers that are not ours, each a program of its own: it acknowledges each message and prints what it read of it.

All are called alike, `PORT CODE`, with CODE the answer to every message. A line `{"ready": true}` says that it listens; then
come lines of JSON, one for each message, with what the server's own parser found: `control_id`, `event`, `patient` (PID-3.1) and
`bed` (PV1-3.3).
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pipeline.local.ports import free_port
from pipeline.local.servers.jars import cache_folder, class_path, compiled
from tests.foreign.clients import HAPI, PROGRAMS, java_command

START_S: Final = 60.0
NAMES: Final = ("python-hl7", "hapi-hl7v2")


@dataclass(slots=True)
class Receiver:
    """One that runs."""

    port: int
    heard: list[dict[str, str]] = field(default_factory=list)
    """Messages in the order in which they came."""


@contextmanager
def receiver(name: str, code: str) -> Iterator[Receiver]:
    """It listens within; LocalPlatformError where it can't be had."""
    found = Receiver(free_port())
    command = (*_command_of(name), str(found.port), code)
    folder = tempfile.TemporaryDirectory()  # HAPI keeps a file of control ids where it runs
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder.name)
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"ready"'):
                ready.set()
            elif line.startswith("{"):
                found.heard.append(json.loads(line))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        assert ready.wait(START_S), f"{name} did not listen in time"
        yield found
    finally:
        process.kill()
        process.wait()
        reading.join(START_S)
        folder.cleanup()


def _command_of(name: str) -> tuple[str, ...]:
    if name == "python-hl7":
        return (sys.executable, str(PROGRAMS / "python_hl7_receiver.py"))
    libraries = class_path(HAPI, cache_folder())
    return java_command(libraries, compiled(PROGRAMS / "HapiReceiver.java", libraries, cache_folder()), "HapiReceiver")
