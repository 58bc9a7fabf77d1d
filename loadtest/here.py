"""`make load PROFILE=…`: the whole pipeline on this machine, a load on it, and the verdict.

Kafka, two FHIR servers behind fault proxies and every role are started as the demo does; Locust runs in processes of its
own. Exit code: 0 every threshold held, 1 not, 2 it could not be run.
"""

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.report import LoadReport, read
from loadtest.shapes import SHAPES
from loadtest.target import HttpTarget, KillTarget, MllpTarget, Target, write
from pipeline.local.child import TETHER
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST, free_port
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.delay import controlled
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack
from pipeline.local.stack import Target as Destination

LOOK_S: Final = 0.2
ENDS_S: Final = 30.0
MAX_WORKERS: Final = 16
DESTINATIONS: Final = {"ehr-owner": ("owner", "sekmet-owner"), "ehr-replica": ("replica", "sekmet-replica")}
REPOSITORY: Final = Path(__file__).resolve().parents[1]
LOCUSTFILE: Final = REPOSITORY / "loadtest" / "locustfile.py"


class Keeper:
    """Keeps the roles running as a cluster would: what ends is started again. Kills them on demand."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._free = asyncio.Lock()

    async def keep(self) -> None:
        """For as long as this runs."""
        while True:
            async with self._free:
                for child in list(self._stack.roles.values()):
                    if not child.running:
                        with suppress(OSError):  # tried again at the next look
                            await asyncio.to_thread(child.start)
            await asyncio.sleep(LOOK_S)

    def app(self) -> web.Application:
        """POST /kill/ROLE: kill -9; 404 where there is no such role."""
        app = web.Application()
        app.add_routes([web.post("/kill/{role}", self._kill)])
        return app

    async def _kill(self, request: web.Request) -> web.Response:
        name = f"{request.match_info['role']}-0"
        if name not in self._stack.roles:
            return web.Response(status=404)
        async with self._free:
            await asyncio.to_thread(self._stack.kill, name)
        return web.Response(status=204)


async def run(given: argparse.Namespace, console: Console) -> int:
    """Set up, run, tell; the exit code."""
    folder: Path = given.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    async with AsyncExitStack() as parts:
        target = await _set_up(folder, parts, console)
        code = await _locust(folder, target, given)
    report = folder / "report.json"
    if not report.exists():
        raise LocalPlatformError(f"Locust ended with {code} and left no report. Logs and data: {folder}")
    _tell(read(report), console)
    console.print(f"Report: {folder / 'report.html'}   Logs and data: {folder}", highlight=False, soft_wrap=True)
    return code


async def _set_up(folder: Path, parts: AsyncExitStack, console: Console) -> Path:
    broker, destinations, controls = Broker(folder / "kafka"), [], []
    with console.status("Apache Kafka, two FHIR servers, every role …"):
        await _started(broker, parts)
        for name, (role, profile) in DESTINATIONS.items():
            ehr, control = Ehr(folder / name), free_port()
            await _started(ehr, parts)
            proxy = await parts.enter_async_context(controlled(ehr.base_url, free_port(), control, 0))
            destinations.append(Destination(name, role, profile, proxy.url))
            controls.append(f"http://{HOST}:{control}/faults")
        stack = Stack(folder / "surgeline", broker.bootstrap, tuple(destinations))
        parts.push_async_callback(asyncio.to_thread, stack.stop)
        stack.write_settings()
        for arguments in (("topics", "apply"), ("policy", "apply", "--reason", "load test")):
            await asyncio.to_thread(stack.complete, *arguments)
        names = await asyncio.to_thread(stack.start_all)
        await asyncio.to_thread(stack.wait_ready, *names)
    kill_url = await _keeper(stack, parts)
    roles = tuple(name.removesuffix("-0") for name in names)
    return _target(folder, stack, controls, KillTarget((*_module("loadtest.kill"), f"{kill_url}/kill/{{role}}"), roles))


async def _started(part: Any, parts: AsyncExitStack) -> None:
    parts.push_async_callback(asyncio.to_thread, part.stop)
    await asyncio.to_thread(part.start)


async def _keeper(stack: Stack, parts: AsyncExitStack) -> str:
    keeper, port = Keeper(stack), free_port()
    runner = web.AppRunner(keeper.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    parts.push_async_callback(runner.cleanup)
    keeping = asyncio.create_task(keeper.keep())
    parts.callback(keeping.cancel)
    return f"http://{HOST}:{port}"


def _target(folder: Path, stack: Stack, controls: list[str], kill: KillTarget) -> Path:
    token = folder / "load.token"
    token.touch(mode=0o600)
    token.write_text(stack.token)
    file = folder / "target.yaml"
    http, mllp = HttpTarget(stack.http_url, token.name), MllpTarget(HOST, stack.mllp_port)
    write(Target(str(stack.settings_file), http, mllp, tuple(controls), kill), file)
    return file


# -- Locust


async def _locust(folder: Path, target: Path, given: argparse.Namespace) -> int:
    """Its exit code. Interrupted, it gets time to end by itself: it hears Ctrl-C too."""
    common = [*_module("locust"), "-f", str(LOCUSTFILE), "--target", str(target), "--report", str(folder), "--headless"]
    common += ["--shape", given.profile, "--rate", str(given.rate), "--time", str(given.time), "--seed", str(given.seed)]
    if given.thresholds is not None:
        common += ["--thresholds", str(given.thresholds.resolve())]
    lead = ["--only-summary", "--csv", str(folder / "locust"), "--html", str(folder / "locust.html")]
    port = str(free_port())
    workers = []
    if given.workers:
        lead += ["--master", "--master-bind-port", port, "--expect-workers", str(given.workers)]
        follow = ["--worker", "--master-host", HOST, "--master-port", port]
        workers = [await _spawn([*common, *follow], folder / f"worker-{number}.log") for number in range(given.workers)]
    leader = await _spawn([*common, *lead], None)
    processes = [leader, *workers]
    try:
        return await leader.wait()
    finally:
        for process in processes:
            await _end(process)


async def _spawn(command: list[str], log: Path | None) -> asyncio.subprocess.Process:
    """It ends when this process does, however that ends."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    tethered = [sys.executable, "-I", "-S", TETHER, str(os.getpid()), *command]
    with _file(log) as out:
        return await asyncio.create_subprocess_exec(*tethered, stdout=out, stderr=out, env=environment)


@contextmanager
def _file(path: Path | None) -> Iterator[Any]:
    if path is None:
        yield None
        return
    with path.open("ab") as file:
        yield file


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), ENDS_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


# -- the verdict


def _tell(report: LoadReport, console: Console) -> None:
    lags = Table(title="Lag from receipt to confirmation, ms", title_justify="left")
    for column in ("destination", "lane", "changes", "superseded", "p50", "p99", "max"):
        lags.add_column(column, justify="left" if column in ("destination", "lane") else "right")
    for lane in report.lanes:
        figures = (lane.changes, lane.superseded, lane.p50_ms, lane.p99_ms, lane.max_ms)
        lags.add_row(lane.destination, lane.lane, *(f"{figure:,.0f}" for figure in figures))
    console.print(lags)
    checks = Table(title=f"{report.shape}: {report.says}", title_justify="left")
    for column in ("", "threshold", "limit", "seen"):
        checks.add_column(column, overflow="fold")
    for check in report.checks:
        mark = Text("✔ held", "green") if check.held else Text("✘ NOT HELD", "bold red")
        checks.add_row(mark, check.name, check.limit, check.seen)
    console.print(checks)


def main() -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.here", description=__doc__)
    parser.add_argument("--profile", choices=sorted(SHAPES), default="steady-day", help="what the load looks like")
    parser.add_argument("--rate", type=float, default=1.0, help="so many times the shape's messages a second")
    parser.add_argument("--time", type=float, default=1.0, help="so many times the shape's length")
    parser.add_argument("--seed", type=int, default=1, help="another house and other patients for another number")
    parser.add_argument("--workers", type=int, choices=range(MAX_WORKERS + 1), default=0, metavar="N", help="load workers")
    parser.add_argument("--thresholds", type=Path, help="what must hold: a YAML file")
    parser.add_argument("--folder", type=Path, default=Path(".surgeline/load"), help="where everything goes; emptied first")
    console = Console()
    try:
        return asyncio.run(run(parser.parse_args(), console))
    except LocalPlatformError as error:
        console.print(f"could not be run: {error}", style="bold red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
