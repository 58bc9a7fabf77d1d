"""A stand-in EHR in a process of its own, and how it is spoken to beside its FHIR side."""

import sys
import urllib.request
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.local.child import Child
from pipeline.local.ports import HOST, free_port
from pipeline.local.servers.standin import Behaviour, Mode, Witness

START_TIMEOUT_S: Final = 30.0
ANSWER_S: Final = 30.0
SEED_AT_ONCE: Final = 1_000


class StandInChild:
    """Start it by `with`. Synchronous: from a coroutine, call it by `asyncio.to_thread`."""

    def __init__(
        self, folder: Path, mode: Mode = "queue", singles_per_s: float = 400.0, resources_per_s: float = 2_000.0
    ) -> None:
        self._port = free_port()
        command = [sys.executable, "-m", "pipeline.local.servers.standin", "--port", str(self._port), "--mode", mode]
        command += ["--singles", str(singles_per_s), "--resources", str(resources_per_s)]
        self._child = Child("the stand-in", command, folder, folder / f"standin-{self._port}.log")
        self.base_url = f"http://{HOST}:{self._port}/fhir"

    def __enter__(self) -> "StandInChild":
        self._child.start()
        self._child.wait_until(self._answers, START_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop(timeout_s=5)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def counts(self) -> dict[str, int]:
        """What it did so far."""
        return msgspec.json.decode(self._ask("stats"), type=dict[str, int])

    def witness(self) -> Witness:
        """What it saw so far."""
        return msgspec.json.decode(self._ask("witness"), type=Witness)

    def behave(self, behaviour: Behaviour) -> None:
        """From now on."""
        self._ask("behave", msgspec.json.encode(behaviour))

    def seed(self, resources: list[dict[str, Any]]) -> None:
        """Put resources there, outside the caps."""
        for start in range(0, len(resources), SEED_AT_ONCE):
            self._ask("seed", msgspec.json.encode(resources[start : start + SEED_AT_ONCE]))

    def forget(self, names: list[str]) -> None:
        """Delete resources by `type/id`, as somebody else may."""
        self._ask("forget", msgspec.json.encode(names))

    def _answers(self) -> bool:
        try:
            self.counts()
        except OSError:
            return False
        return True

    def _ask(self, what: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://{HOST}:{self._port}/{what}", data, method="GET" if data is None else "POST")
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310 (an address of this machine)
            told: bytes = answer.read()
            return told
