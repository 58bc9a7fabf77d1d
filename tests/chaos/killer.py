"""Carries out a plan: kills, freezes and replaces roles, and restarts whatever has ended."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.local.errors import LocalPlatformError
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.delay import FaultProxy
from pipeline.local.stack import Stack
from tests.chaos.plan import FREEZE_S, GATE, REPLACED_AFTER_S, STATEFUL, Act, Deed, Plan, Trouble

LOOK_S: Final = 0.2
ZOMBIE_ENDS_S: Final = 30.0


@dataclass(slots=True)
class Doings:
    """What was done and seen."""

    done: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    ended_alone: list[str] = field(default_factory=list)
    """Roles that ended without being killed, with their exit codes."""
    problems: list[str] = field(default_factory=list)
    replaced: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        """Kills of both kinds."""
        return self.done[Deed.KILL] + self.done[Deed.WIPE]


class Killer:
    """Knows which process is each role's at present. `names` are the stack's own names of the processes."""

    def __init__(self, stack: Stack, names: tuple[str, ...], broker: Broker) -> None:
        self.doings = Doings()
        self._stack = stack
        self._broker = broker
        self._current = {name.rpartition("-")[0]: name for name in names}
        self._busy: set[str] = set()
        self._folders = {role: _data_folder(stack, role) for role in STATEFUL}

    async def supervise(self) -> None:
        """Restart each role that has ended, for as long as this runs."""
        while True:
            for role, name in list(self._current.items()):
                if role not in self._busy and not self._stack.roles[name].running:
                    self.doings.ended_alone.append(f"{role}: {self._exit_code(name)}")
                    await self._restart(role)
            await asyncio.sleep(LOOK_S)

    async def carry_out(self, plan: Plan) -> None:
        """Every act at its time, those of a role one after the other; returns when the last is done and its role restarted."""
        began, acts = time.monotonic(), defaultdict[str, list[Act]](list)
        for act in plan.acts:
            acts[act.role].append(act)
        async with asyncio.TaskGroup() as group:
            for of_role in acts.values():
                group.create_task(self._acts(of_role, began, group))

    async def _acts(self, acts: list[Act], began: float, group: asyncio.TaskGroup) -> None:
        for act in acts:
            if (wait_s := began + act.at_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            self._busy.add(act.role)
            await self._act(act, group)

    def names(self) -> tuple[str, ...]:
        """The processes that are the roles' at present."""
        return tuple(self._current.values())

    async def _act(self, act: Act, group: asyncio.TaskGroup) -> None:
        try:
            match act.deed:
                case Deed.KILL | Deed.WIPE:
                    await self._kill(act.role, wipe=act.deed is Deed.WIPE)
                case Deed.FREEZE:
                    await self._freeze(act.role)
                case Deed.ZOMBIE:
                    await self._replace(act.role, group)
                case Deed.BROKER:
                    await asyncio.to_thread(self._broker.kill)
                    await asyncio.to_thread(self._broker.start)
            self.doings.done[act.deed] += 1
        finally:
            self._busy.discard(act.role)

    async def _kill(self, role: str, *, wipe: bool) -> None:
        await asyncio.to_thread(self._stack.kill, self._current[role])
        if wipe:
            await asyncio.to_thread(shutil.rmtree, self._folders[role], True)
        self.doings.killed[role] += 1
        await self._restart(role)

    async def _freeze(self, role: str) -> None:
        """Its session passes meanwhile; it must end or join anew by itself, and the supervisor restarts what ended."""
        pid = self._pid(role)
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(FREEZE_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def _replace(self, role: str, group: asyncio.TaskGroup) -> None:
        """A second process under the same name works while the first is stopped. It is supervised, and may be killed too."""
        pid, zombie = self._pid(role), self._current[role]
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(REPLACED_AFTER_S)
        self.doings.replaced[role] += 1
        suffix = f"z{self.doings.replaced[role]}"
        name, folder = await asyncio.to_thread(self._start_replacement, role, suffix)
        self._current[role], self._folders[role] = name, folder
        group.create_task(self._resume(role, zombie, pid))

    async def _resume(self, role: str, zombie: str, pid: int) -> None:
        """Resumed behind its replacement, the first process must end."""
        await asyncio.sleep(FREEZE_S - REPLACED_AFTER_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        child, deadline = self._stack.roles[zombie], time.monotonic() + ZOMBIE_ENDS_S
        while child.running and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
        if child.running:
            self.doings.problems.append(f"{role}: resumed after {FREEZE_S:g} s, it did not end within {ZOMBIE_ENDS_S:g} s")
            await asyncio.to_thread(self._stack.kill, zombie)

    def _start_replacement(self, role: str, suffix: str) -> tuple[str, Path]:
        folder = self._folders[role].with_name(f"{role}-{suffix}")
        settings: dict[str, Any] = yaml.safe_load(self._stack.settings_file.read_text())
        section = settings["gate"] if role == GATE else settings["writers"][role.removeprefix("writer-")]
        section["data_dir"] = str(folder)
        file = self._stack.folder / f"{role}-{suffix}.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
        kind, _, argument = role.partition("-")
        name = self._stack.start(
            kind, *([argument] if argument else []), instance=suffix, environment={"SURGELINE_CONFIG": str(file)}
        )
        return name, folder

    async def _restart(self, role: str) -> None:
        try:
            await asyncio.to_thread(self._stack.roles[self._current[role]].start)
            self.doings.restarts += 1
        except (LocalPlatformError, OSError) as error:
            self.doings.problems.append(f"{role}: could not be restarted: {error}")

    def _pid(self, role: str) -> int | None:
        child = self._stack.roles[self._current[role]]
        return child.pid if child.running else None

    def _exit_code(self, name: str) -> int | None:
        process = self._stack.roles[name]._process
        return process.returncode if process is not None else None


async def make_trouble(troubles: tuple[Trouble, ...], proxies: dict[str, FaultProxy]) -> Counter[str]:
    """EHR faults at their times; how often each kind struck."""
    struck: Counter[str] = Counter()
    began = time.monotonic()
    try:
        for trouble in troubles:
            if (wait_s := began + trouble.at_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            faults = proxies[trouble.destination].faults
            faults.set(trouble.fault)
            await asyncio.sleep(trouble.for_s)
            struck[trouble.fault.kind.value] += faults.struck(trouble.fault.kind)
            faults.clear()
    finally:
        for proxy in proxies.values():
            proxy.faults.clear()
    return struck


def _data_folder(stack: Stack, role: str) -> Path:
    settings = stack.settings
    return settings.gate.data_dir if role == GATE else settings.writers[role.removeprefix("writer-")].data_dir
