"""A whole pipeline on this machine: broker, EHRs, topics, and every role as a process of its own. For the demo and the tests."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST, free_port
from pipeline.settings.model import Settings
from pipeline.settings.reading import load
from pipeline.settings.sections.base import DEMO_TOKEN

CLIENT: Final = "demo"
SOURCES: Final = ("capacity", "environmental", "scheduling", "operator")
READY_TIMEOUT_S: Final = 90.0
SESSION_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """One destination of the stack."""

    name: str
    role: str
    profile: str
    base_url: str


@dataclass(slots=True)
class Stack:
    """Settings in `folder`, and the roles started from them. Not thread-safe."""

    folder: Path
    bootstrap: str
    targets: tuple[Target, ...]
    prefix: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    mllp_port: int = field(default_factory=free_port)
    roles: dict[str, Child] = field(default_factory=dict)
    health_ports: dict[str, int] = field(default_factory=dict)

    @property
    def settings_file(self) -> Path:
        """The settings that every role reads."""
        return self.folder / "surgeline.yaml"

    @property
    def settings(self) -> Settings:
        """The settings, loaded."""
        return load(self.settings_file)

    @property
    def http_url(self) -> str:
        """Address of the HTTP way in."""
        return f"http://{HOST}:{self.http_port}"

    @property
    def token(self) -> str:
        """Bearer token of the one client."""
        return DEMO_TOKEN

    def write_settings(self) -> None:
        """Write the settings file: loopback, one broker, demo keys."""
        self.folder.mkdir(parents=True, exist_ok=True)
        document = _merged(self._document(), self.overrides)
        self.settings_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def _document(self) -> dict[str, Any]:
        return {
            "demo": True,
            "tenant_default": "demo",
            "kafka": {
                "bootstrap_servers": self.bootstrap,
                "topic_prefix": self.prefix,
                "replication_factor": 1,
                "min_insync_replicas": 1,
            },
            "http": {
                "port": self.http_port,
                "clients": [
                    {"name": CLIENT, "tenant": "demo", "token_file": self._token_file(), "source_systems": list(SOURCES)}
                ],
            },
            "mllp": {"port": self.mllp_port, "tenant": "demo", "profile": "default", "facility": "GENERAL"},
            "gate": {"data_dir": str(self.folder / "data" / "gate")},
            "writers": {
                target.name: {
                    "profile": target.profile,
                    "role": target.role,
                    "base_url": target.base_url,
                    "data_dir": str(self.folder / "data" / target.name),
                }
                for target in self.targets
            },
            "worker": {"session_timeout_s": SESSION_S, "heartbeat_s": 2, "standby_replicas": 0},
        }

    def _token_file(self) -> str:
        path = self.folder / "client.token"
        path.touch(mode=0o600)
        path.write_text(DEMO_TOKEN)
        return str(path)

    def complete(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Run a `surgeline` command with these settings to its end; its output. LocalPlatformError if it fails."""
        done = subprocess.run(  # noqa: S603 - our own command, no shell
            [str(_program()), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self._environment({}),
            check=False,
        )
        if done.returncode:
            raise LocalPlatformError(f"surgeline {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def start(self, role: str, *arguments: str, instance: str = "0", environment: Mapping[str, str] | None = None) -> str:
        """Start a role; its name, by which `ready`, `kill` and `stop` know it."""
        name = "-".join((role, *arguments, instance))
        port = self.health_ports.setdefault(name, free_port())
        extra = {"SURGELINE_HEALTH__BASE_PORT": str(port), **(environment or {})}
        child = self.roles.get(name) or self._child(name, ["run", role, *arguments], extra)
        child.start()
        self.roles[name] = child
        return name

    def start_all(self) -> tuple[str, ...]:
        """Every role once."""
        names = [self.start("gate")]
        names += [self.start("writer", target.name) for target in self.targets]
        return (*names, self.start("http"), self.start("mllp"), self.start("timers"))

    def wait_ready(self, *names: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until each role says that it is ready; LocalPlatformError with the end of its log otherwise."""
        for name in names or tuple(self.roles):
            child = self.roles[name]
            child.wait_until(lambda name=name: self.is_ready(name), timeout_s)  # type: ignore[misc]

    def is_ready(self, name: str) -> bool:
        """What the role's /readyz says."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.health_ports[name]}/readyz", timeout=1) as answer:
                return bool(json.load(answer)["ready"])
        except OSError:
            return False

    def kill(self, name: str) -> None:
        """kill -9."""
        self.roles[name].kill()

    def stop(self, *names: str, timeout_s: float = 25.0) -> None:
        """SIGTERM, and wait; all roles, the ways in first, without names."""
        for name in names or sorted(self.roles, key=_stop_order):
            if self.roles[name].running:
                self.roles[name].stop(timeout_s)

    def _child(self, name: str, arguments: list[str], extra: Mapping[str, str]) -> Child:
        return Child(name, [str(_program()), *arguments], self.folder, self.folder / f"{name}.log", self._environment(extra))

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "SURGELINE_CONFIG": str(self.settings_file), **extra}


def _program() -> Path:
    program = Path(sys.executable).with_name("surgeline")
    if not program.exists():
        raise LocalPlatformError("the surgeline command is not installed beside this Python; run `make install`")
    return program


def wait_for(condition: Any, timeout_s: float, what: str, poll_s: float = 0.1) -> None:
    """Until a condition holds; LocalPlatformError with `what` after the bound."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LocalPlatformError(f"{what}: not within {timeout_s:g} s")
        time.sleep(poll_s)


def _stop_order(name: str) -> int:
    return ("http", "mllp", "fhir", "files", "reconcile", "timers", "auditor", "budgets", "downtime", "gate", "writer").index(
        name.split("-")[0]
    )


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return merged
