"""The two workers of `surgeline bench gate`: ours, as `surgeline run gate` is, and the peer in an environment of its own."""

import hashlib
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from pipeline import topology
from pipeline.domain.judging.policy import Policy, encode_policy
from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError
from pipeline.local.provenance import REPOSITORY
from pipeline.local.servers.jars import cache_folder
from pipeline.local.stack import SESSION_S, Stack
from pipeline.roles.gates.gate import PRODUCER_TUNING
from pipeline.stream.worker.outputs import LINGER_MS

PEERS: Final = REPOSITORY / "loadtest" / "peers"
INSTALL_TIMEOUT_S: Final = 300.0
STOP_S: Final = 25.0
PEER_GROUP: Final = "peer-gate"
COMMIT_INTERVAL_S: Final = 1.0
"""Of both; it is also the pipeline's own default."""


class Worker(Protocol):
    """One worker process. `group` is its consumer group, without the prefix."""

    name: str
    group: str

    def start(self) -> None:
        """Start it, or start it again; it may not be ready yet."""
        ...

    @property
    def pid(self) -> int:
        """Its process."""
        ...

    def all_run(self) -> None:
        """LocalPlatformError where it has ended by itself."""
        ...

    def kill(self) -> None:
        """kill -9."""
        ...

    def stop(self) -> None:
        """An orderly end."""
        ...


class Ours:
    """`surgeline run gate`."""

    name = "surgeline"
    group = topology.GATE_APP

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._role = ""

    def start(self) -> None:
        """See `Worker`."""
        self._role = self._stack.start("gate")

    @property
    def pid(self) -> int:
        """See `Worker`."""
        return self._stack.roles[self._role].pid

    def all_run(self) -> None:
        """See `Worker`."""
        refuse_ended(self._stack.roles[self._role])

    def kill(self) -> None:
        """See `Worker`."""
        self._stack.kill(self._role)

    def stop(self) -> None:
        """See `Worker`."""
        self._stack.stop(self._role)


class Program:
    """A peer that is one program."""

    group = PEER_GROUP

    def __init__(self, name: str, child: Child) -> None:
        self.name = name
        self._child = child

    def start(self) -> None:
        """See `Worker`."""
        self._child.start()

    @property
    def pid(self) -> int:
        """See `Worker`."""
        return self._child.pid

    def all_run(self) -> None:
        """See `Worker`."""
        refuse_ended(self._child)

    def kill(self) -> None:
        """See `Worker`."""
        self._child.kill()

    def stop(self) -> None:
        """See `Worker`."""
        self._child.stop(STOP_S)


class Peer(Program):
    """The same decision in another framework: `loadtest/peers/<name>/gate.py`."""

    def __init__(self, name: str, stack: Stack, policy: Policy, epochs: Mapping[str, int]) -> None:
        """`epochs` by the landing topic's name at the broker. Makes the peer's environment where there is none yet."""
        folder = stack.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        job = folder / "job.json"
        job.write_bytes(msgspec.json.encode(_job(stack, policy, epochs, folder)))
        program = str(PEERS / name / "gate.py")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
        command = [str(python_of(name)), program, str(job)]
        super().__init__(name, Child(name, command, folder, folder / "peer.log", environment))


def refuse_ended(child: Child) -> None:
    """LocalPlatformError, with the end of its log, where a child has ended by itself."""
    if not child.running:
        raise LocalPlatformError(f"{child.name} ended. {child.log_tail()}")


class Held:
    """A process that stands still within `with`: what is loaded meanwhile it finds all at once."""

    def __init__(self, worker: Worker) -> None:
        self._pid = worker.pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


def _job(stack: Stack, policy: Policy, epochs: Mapping[str, int], folder: Path) -> dict[str, Any]:
    """What the peer's program reads. Its producer is set as ours is; the partitioner is Quix's own default, the same one."""
    kafka = stack.settings.kafka

    def at_broker(name: str) -> str:
        return topology.topic(name, kafka.topic_prefix)

    producer = {**PRODUCER_TUNING, "linger.ms": LINGER_MS, "acks": "all", "enable.idempotence": True}
    return {
        "bootstrap": kafka.bootstrap_servers,
        "group": at_broker(PEER_GROUP),
        "landing": {at_broker(name): kind.value for kind, name in topology.LANDING.items() if at_broker(name) in epochs},
        "epochs": dict(epochs),
        "accepted": at_broker(topology.ACCEPTED),
        "decisions": at_broker(topology.DECISIONS),
        "lanes": {lane.value: at_broker(name) for lane, name in topology.LANE_TOPICS.items()},
        "policy": encode_policy(policy),
        "producer": producer,
        "commit_interval_s": COMMIT_INTERVAL_S,
        "session_ms": round(SESSION_S * 1000),
        "state_dir": str(folder / "state"),
    }


def python_of(peer: str) -> Path:
    """Python of the peer's environment in the cache, made from its lock file where it is missing (a minute, network).

    LocalPlatformError where there is no such peer beside the package (an installation holds none), or it can't be made.
    """
    lock = PEERS / peer / "requirements.lock"
    if not lock.exists():
        raise LocalPlatformError(f"there is no {lock}: a peer is measured from a checkout")
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = cache_folder() / "peers" / f"{peer}-{digest}"
    python = home / "bin" / "python"
    ready = home / ".ready"
    if not ready.exists():
        venv.create(home, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise LocalPlatformError(f"{peer}: its environment was not made within {INSTALL_TIMEOUT_S:g} s") from None
        if done.returncode:
            raise LocalPlatformError(f"{peer}: its environment could not be made: {done.stderr[-1000:]}")
        ready.touch()
    return python
