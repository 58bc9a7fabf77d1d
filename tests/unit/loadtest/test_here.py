"""The local stack of `make load`: roles that end come back, and are killed by name."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from loadtest import kill
from loadtest.here import Keeper, _target
from loadtest.target import KillTarget, Opened
from pipeline.local.ports import free_port

BOUND_S = 20.0


class Role:
    """A child that can be ended; its first start afterwards may fail."""

    def __init__(self, failures: int = 0) -> None:
        self.running = True
        self.starts = 0
        self._failures = failures

    def start(self) -> None:
        self.starts += 1
        if self.starts <= self._failures:
            raise OSError("no process to be had")
        self.running = True


def stack_of(**roles: Role) -> Any:
    named = {f"{name}-0": role for name, role in roles.items()}

    def end(name: str) -> None:
        named[name].running = False

    return SimpleNamespace(roles=named, kill=end)


async def until(condition: Any) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_role_that_ends_is_started_again_even_if_it_takes_two_tries() -> None:
    gate = Role(failures=1)
    keeping = asyncio.create_task(Keeper(stack_of(gate=gate)).keep())
    gate.running = False
    await until(lambda: gate.running)
    assert gate.starts == 2
    keeping.cancel()


async def test_a_role_is_killed_by_its_name_and_no_other_one() -> None:
    gate, http = Role(), Role()
    async with TestClient(TestServer(Keeper(stack_of(gate=gate, http=http)).app())) as client:
        assert (await client.post("/kill/gate")).status == 204
        assert (await client.post("/kill/nobody")).status == 404
        assert (await client.get("/kill/http")).status == 405
    assert (gate.running, http.running) == (False, True)


async def test_the_kill_command_says_whether_it_killed() -> None:
    async with TestClient(TestServer(Keeper(stack_of(gate=Role())).app())) as client:
        url = str(client.make_url("/kill"))
        assert await asyncio.to_thread(kill.main, f"{url}/gate") == 0
        assert await asyncio.to_thread(kill.main, f"{url}/nobody") == 1
    assert kill.main(f"http://127.0.0.1:{free_port()}/kill/gate") == 1


def test_the_target_of_the_local_stack_can_be_opened_and_its_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    stack: Any = SimpleNamespace(token="secret", http_url="http://h", mllp_port=1, settings_file=tmp_path / "surgeline.yaml")
    file = _target(tmp_path, stack, ["http://c/faults"], KillTarget(("kill", "{role}"), ("gate",)))
    opened = Opened(file)
    assert (opened.token(), opened.target.ehr_faults) == ("secret", ("http://c/faults",))
    assert "secret" not in file.read_text()
    assert opened.path(opened.target.http.token_file).stat().st_mode & 0o077 == 0
