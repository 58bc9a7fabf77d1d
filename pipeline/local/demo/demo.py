"""`surgeline demo`: the main job on one machine, watched live, and judged by the books."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.domain.accounts.books import Books
from pipeline.domain.identifiers import Millis
from pipeline.kafka.client import KafkaUnavailable
from pipeline.local.demo.drive import Driver, Sent
from pipeline.local.demo.trace import Step, surge_trace
from pipeline.local.errors import LocalPlatformError
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.delay import FaultProxy
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from pipeline.local.stack import Stack, Target
from pipeline.ops.books import Asked, exit_code
from pipeline.ops.render.books import render_books
from pipeline.ops.render.status import render_status

DURATION_S: Final = 60.0
SLOW_FROM_S, SLOW_FOR_S, SLOW_FACTOR = 20.0, 20.0, 10.0
LOOK_S: Final = 1.0
DRAIN_S: Final = 40.0
OWNER, REPLICA = "ehr-owner", "ehr-replica"


@dataclass(slots=True)
class Running:
    """What the demo has started."""

    stack: Stack
    proxies: dict[str, FaultProxy]
    ehrs: dict[str, Ehr]


def run_demo(folder: Path, *, seed: int, keep: bool, json_file: Path | None, console: Console) -> int:
    """Run it; the exit code: 0 if the books balance with nothing open, 1 if not, 2 if it could not be run."""
    try:
        return asyncio.run(_demo(folder, seed, keep, json_file, console))
    except LocalPlatformError as error:
        console.print(Text(f"The demo could not run: {error}", style="bold red"))
        return 2
    except KeyboardInterrupt:
        return 130


async def _demo(folder: Path, seed: int, keep: bool, json_file: Path | None, console: Console) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    async with AsyncExitStack() as parts:
        running = await _set_up(folder, console, parts)
        steps = surge_trace(seed, Millis(time.time_ns() // 1_000_000), duration_s=DURATION_S)
        console.print(
            f"\n[bold]Surge:[/] {len(steps)} messages in {DURATION_S:.0f} s; from second {SLOW_FROM_S:.0f} on the EHRs "
            f"are {SLOW_FACTOR:.0f} times slower for {SLOW_FOR_S:.0f} s.\n"
        )
        began = time.monotonic()
        sent = await _surge(running, steps, console)
        books, asked = await asyncio.to_thread(_close, running.stack)
        report = _report(books, asked, sent, len(steps), time.monotonic() - began)
        _tell(report, books, asked, sent, console)
        if json_file is not None:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        if keep:
            await _keep(running, console)
        return report.exit_code


# -- setting up


async def _set_up(folder: Path, console: Console, parts: AsyncExitStack) -> Running:
    with _step(console, "Apache Kafka (one node; the first run fetches it)"):
        broker = parts.enter_context(_started(Broker(folder / "kafka")))
    ehrs, proxies = {}, {}
    for name in (OWNER, REPLICA):
        with _step(console, f"FHIR server {name}"):
            ehrs[name] = await asyncio.to_thread(lambda name=name: parts.enter_context(_started(Ehr(folder / name))))  # type: ignore[misc]
            proxies[name] = FaultProxy(ehrs[name].base_url)
            await parts.enter_async_context(proxies[name])
    targets = (
        Target(OWNER, "owner", "sekmet-owner", proxies[OWNER].url),
        Target(REPLICA, "replica", "sekmet-replica", proxies[REPLICA].url),
    )
    stack = Stack(folder / "surgeline", broker.bootstrap, targets)
    parts.callback(stack.stop)
    with _step(console, "topics, epochs and policy"):
        await asyncio.to_thread(_prepare, stack)
    with _step(console, "roles: gate, two writers, http, mllp, timers"):
        names = await asyncio.to_thread(stack.start_all)
        await asyncio.to_thread(stack.wait_ready, *names)
    return Running(stack, proxies, ehrs)


def _prepare(stack: Stack) -> None:
    stack.write_settings()
    for arguments in (("topics", "apply"), ("policy", "apply", "--reason", "demo")):
        stack.complete(*arguments)


@contextmanager
def _started(part: Any) -> Iterator[Any]:
    part.start()
    try:
        yield part
    finally:
        part.stop()


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    began = time.monotonic()
    with console.status(f"starting {what} …"):
        yield
    console.print(f"  ✔ {what} [dim]({time.monotonic() - began:.1f} s)[/]")


# -- the surge


async def _surge(running: Running, steps: list[Step], console: Console) -> Sent:
    driver = Driver(running.stack.http_url, running.stack.token, running.stack.mllp_port)
    began = time.monotonic()
    slow = asyncio.create_task(_slow(running))
    with Live(console=console, auto_refresh=False, transient=True) as live:
        watching = asyncio.create_task(_watch(running, driver, began, live))
        try:
            await driver.play(steps)
            await slow
            await _until_drained(running.stack)
        finally:
            watching.cancel()
            slow.cancel()
    return driver.sent


async def _slow(running: Running) -> None:
    await asyncio.sleep(SLOW_FROM_S)
    for proxy in running.proxies.values():
        proxy.faults.set(Fault(kind=FaultKind.SLOW_FACTOR, amount=SLOW_FACTOR))
    await asyncio.sleep(SLOW_FOR_S)
    for proxy in running.proxies.values():
        proxy.faults.clear()


async def _watch(running: Running, driver: Driver, began: float, live: Live) -> None:
    from pipeline.roles.accounts.books import current_status

    settings = running.stack.settings
    while True:
        try:
            status = await asyncio.to_thread(current_status, settings)
        except KafkaUnavailable:
            await asyncio.sleep(LOOK_S)
            continue
        at = time.monotonic() - began
        ehr = "slow" if SLOW_FROM_S <= at < SLOW_FROM_S + SLOW_FOR_S else "healthy"
        head = Text(f"second {at:.0f}   answered {driver.sent.total}   EHRs {ehr}", style="bold")
        live.update(Group(head, render_status(status)), refresh=True)
        await asyncio.sleep(LOOK_S)


async def _until_drained(stack: Stack) -> None:
    """Until no writer has anything open, within a bound: the books say what is open then."""
    from pipeline.roles.accounts.books import current_status

    settings, deadline = stack.settings, time.monotonic() + DRAIN_S
    calm = 0
    while time.monotonic() < deadline and calm < 2:
        status = await asyncio.to_thread(current_status, settings)
        waiting = sum(d.waiting + d.in_flight for d in status.destinations)
        calm = calm + 1 if waiting == 0 else 0
        await asyncio.sleep(LOOK_S)


# -- the verdict


class Report(msgspec.Struct, frozen=True):
    """What the demo found."""

    messages: int
    answered_yes: int
    refused: int
    retries: int
    seconds: float
    balanced: bool
    open: int
    exit_code: int
    books: Books
    asked: list[Asked]


def _close(stack: Stack) -> tuple[Books, list[Asked]]:
    from pipeline.roles.accounts.books import close_books

    return close_books(stack.settings, open_s=DRAIN_S / 2)


def _report(books: Books, asked: list[Asked], sent: Sent, messages: int, seconds: float) -> Report:
    whole = exit_code(books, asked) == 0 and books.complete and not sent.refused
    return Report(
        messages=messages,
        answered_yes=sum(count for answer, count in sent.answers.items() if answer in ("AA", "202")),
        refused=len(sent.refused),
        retries=sent.retries,
        seconds=round(seconds, 1),
        balanced=books.balanced,
        open=books.open,
        exit_code=0 if whole else 1,
        books=books,
        asked=asked,
    )


def _tell(report: Report, books: Books, asked: list[Asked], sent: Sent, console: Console) -> None:
    console.print(render_books(books, asked))
    table = Table(title="What the senders heard", title_justify="left")
    for column in ("answer", "messages"):
        table.add_column(column)
    for answer, count in sorted(sent.answers.items()):
        table.add_row(answer, str(count))
    console.print(table)
    for refused in sent.refused[:10]:
        console.print(f"refused: {refused}", style="red")
    good = report.exit_code == 0
    verdict = "✔ The books balance, nothing is open." if good else "✘ The books do not close; see above."
    console.print(Text(f"\n{verdict} ({report.seconds:.0f} s)", style="bold green" if good else "bold red"))


async def _keep(running: Running, console: Console) -> None:
    stack = running.stack
    console.print("\n[bold]Everything goes on running until Ctrl-C:[/]")
    console.print(f"  HTTP in   {stack.http_url}/v1/events   (docs at {stack.http_url}/docs)")
    console.print(f"  token     {stack.token}")
    console.print(f"  MLLP in   127.0.0.1:{stack.mllp_port}")
    console.print(f"  Kafka     {stack.bootstrap}")
    for name, ehr in running.ehrs.items():
        console.print(f"  {name:10}{ehr.base_url}")
    for name, port in stack.health_ports.items():
        console.print(f"  {name:22}http://127.0.0.1:{port}/metrics")
    console.print(f"  surgeline status --watch --config {stack.settings_file}")
    while True:
        await asyncio.sleep(3600)
