"""One run from an empty folder to a verdict."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from pipeline.domain.accounts.books import Books
from pipeline.local.errors import LocalPlatformError
from pipeline.local.provenance import commit, machine
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.delay import FaultProxy
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack, Target
from pipeline.ops.books import Asked
from pipeline.roles.accounts.books import close_books
from pipeline.roles.process import now_ms
from tests.chaos.checks import UNEXPECTED, broken_chains, lost, other_states
from tests.chaos.clinician import Clinician
from tests.chaos.evidence import EhrReader, History, Seen, read_chains, read_history
from tests.chaos.killer import Doings, Killer, make_trouble
from tests.chaos.load import Load, make_load
from tests.chaos.plan import OWNER, REPLICA, ROLES, Deed, Plan, make_plan
from tests.chaos.report import Check, Report, books_check, lags_of
from tests.chaos.sender import Sender, SendersLog

RATE_PER_S: Final = 50.0
SET_UP_S: Final = 90.0
CLOSING_S: Final = 510.0
"""Of the minutes that a run may take so much is kept for what follows the load: settling, books, and the histories."""

EDITS_UNTIL: Final = 0.85
"""Share of the load after which the clinician stops, so that writes of ours come after each last edit."""
TELL_EVERY_S: Final = 5.0
SETTLE_S: Final = 120.0
GATE_S: Final = 120.0
OPEN_S: Final = 150.0
NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run is to be."""

    seed: int
    kills: int
    kills_per_role: int
    broker_kills: int
    events: int
    minutes: float
    rate_per_s: float | None = None

    @property
    def all_kills(self) -> int:
        """Of roles."""
        return self.kills + self.kills_per_role * len(ROLES)

    def rate(self) -> float:
        """Distinct messages in a second; LocalPlatformError where the events do not fit into the minutes at it."""
        load_s = self.minutes * 60 - SET_UP_S - CLOSING_S
        rate = self.rate_per_s or (max(RATE_PER_S, self.events / load_s) if load_s > 0 else RATE_PER_S)
        if load_s <= 0 or self.events > load_s * rate * (1 + 1e-9):
            needed = (self.events / rate + SET_UP_S + CLOSING_S) / 60
            raise LocalPlatformError(f"{self.events} events at {rate:g} a second need {needed:.0f} minutes: --minutes is less")
        return rate


@dataclass(slots=True)
class Scene:
    """What runs."""

    stack: Stack
    ehrs: dict[str, Ehr]
    proxies: dict[str, FaultProxy]
    clinicians: dict[str, Clinician]
    killer: Killer
    sender: Sender


@dataclass(slots=True)
class Findings:
    """What was found when all was quiet again."""

    books: Books
    asked: list[Asked]
    history: History
    seen: dict[str, Seen]
    chains: Any
    struck: Counter[str]


async def run(folder: Path, wanted: Wanted, console: Console) -> Report:
    """Run it; LocalPlatformError if the parts could not be started, or nothing could be judged in the time."""
    rate_per_s, seed = wanted.rate(), wanted.seed
    async with AsyncExitStack() as parts:
        began = time.monotonic()
        scene = await _set_up(folder, seed, parts)
        load = await asyncio.to_thread(make_load, seed, now_ms(), wanted.events, rate_per_s)
        plan = make_plan(seed, wanted.kills, load.span_s, wanted.kills_per_role, wanted.broker_kills)
        console.print(_announced(load, plan, time.monotonic() - began), soft_wrap=True)
        seconds = {"set_up": time.monotonic() - began}
        ends_at = began + wanted.minutes * 60
        struck = await _chaos(scene, load, plan, console, seconds, ends_at - CLOSING_S)
        try:
            async with asyncio.timeout(ends_at - time.monotonic()):
                findings = await _findings(scene, struck, console, seconds)
        except TimeoutError:
            raise LocalPlatformError(f"what happened was not judged within {wanted.minutes:g} minutes of the beginning") from None
        seconds["whole"] = time.monotonic() - began
        return _report(scene, load, findings, wanted, seconds)


def _announced(load: Load, plan: Plan, took_s: float) -> str:
    copies = f"{load.copies} copies ({len(load.direct)} straight to landing), {load.late} late"
    deeds = Counter(act.deed.value for act in plan.acts)
    told = ", ".join(f"{count} x {deed}" for deed, count in sorted(deeds.items()))
    return (
        f"ready after {took_s:.0f} s; {load.distinct} messages in {load.span_s:.0f} s ({len(load.batches)} HTTP requests, "
        f"{len(load.hl7)} HL7), {copies}; planned: {told}; EHR faults: {len(plan.troubles)}"
    )


# -- what happens


async def _set_up(folder: Path, seed: int, parts: AsyncExitStack) -> Scene:
    broker = await _started(Broker(folder / "kafka"), parts)
    ehrs, proxies = {}, {}
    for name in (OWNER, REPLICA):
        ehrs[name] = await _started(Ehr(folder / name), parts)
        proxies[name] = await parts.enter_async_context(FaultProxy(ehrs[name].base_url, seed=seed))
    roles = {OWNER: "owner", REPLICA: "replica"}
    targets = tuple(Target(name, role, f"sekmet-{role}", proxies[name].url) for name, role in roles.items())
    stack = Stack(folder / "surgeline", broker.bootstrap, targets)
    parts.push_async_callback(asyncio.to_thread, stack.stop)
    stack.write_settings()
    for arguments in (("topics", "apply"), ("policy", "apply", "--reason", "chaos")):
        await asyncio.to_thread(stack.complete, *arguments)
    names = await asyncio.to_thread(stack.start_all)
    await asyncio.to_thread(stack.wait_ready, *names)
    clinicians = {name: Clinician(ehrs[name].base_url, roles[name], seed) for name in ehrs}
    return Scene(stack, ehrs, proxies, clinicians, Killer(stack, names, broker), Sender(stack))


async def _started(part: Any, parts: AsyncExitStack) -> Any:
    parts.push_async_callback(asyncio.to_thread, part.stop)
    await asyncio.to_thread(part.start)
    return part


async def _chaos(scene: Scene, load: Load, plan: Plan, console: Console, seconds: dict[str, float], until: float) -> Counter[str]:
    """Load, kills, edits and faults together, until the last is over and every role is ready again.

    What is not done at `until` (monotonic) is broken off, and the run has failed.
    """
    began, quiet = time.monotonic(), asyncio.Event()
    async with _background(scene.killer.supervise(), _tell(scene, load, console)):
        editing = [asyncio.create_task(clinician.run(quiet)) for clinician in scene.clinicians.values()]
        trouble = asyncio.create_task(make_trouble(plan.troubles, scene.proxies))
        killing = asyncio.create_task(scene.killer.carry_out(plan))
        sending = asyncio.create_task(scene.sender.play(load))
        await asyncio.sleep(load.span_s * EDITS_UNTIL)
        quiet.set()
        late = await done_until({sending, killing, trouble, *editing}, until)
        scene.killer.doings.problems += [f"{late} of its parts took longer than there was time for"] if late else []
        struck = Counter() if trouble.cancelled() else trouble.result()
        seconds["load"] = time.monotonic() - began
        await _settle(scene)
        seconds["settling"] = time.monotonic() - began - seconds["load"]
    return struck


async def done_until(tasks: set[asyncio.Task[Any]], until: float) -> int:
    """Wait for all; how many had to be broken off. An error of one is an error here."""
    _, late = await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()), return_when=asyncio.FIRST_EXCEPTION)
    for task in late:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    return len(late)


async def _settle(scene: Scene) -> None:
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        ready = [await asyncio.to_thread(scene.stack.is_ready, name) for name in scene.killer.names()]
        if all(ready):
            return
        await asyncio.sleep(0.5)
    scene.killer.doings.problems.append(f"not every role was ready again after {SETTLE_S:g} s")


@contextlib.asynccontextmanager
async def _background(*coroutines: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def _tell(scene: Scene, load: Load, console: Console) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        doings, edits = scene.killer.doings, sum(c.log.edits for c in scene.clinicians.values())
        frozen = doings.done["freeze"] + doings.done["zombie"]
        console.print(
            f"  second {time.monotonic() - began:4.0f} of {load.span_s:.0f}: yes {scene.sender.answered} of {load.distinct}, "
            f"kills {doings.kills}, freezes {frozen}, restarts {doings.restarts}, edits {edits}",
            highlight=False,
            soft_wrap=True,
        )


# -- what is found


async def _findings(scene: Scene, struck: Counter[str], console: Console, seconds: dict[str, float]) -> Findings:
    settings, began = scene.stack.settings, time.monotonic()
    async with _background(scene.killer.supervise()):
        console.print("  load over; waiting until nothing is open")
        books, asked = await asyncio.to_thread(close_books, settings, gate_s=GATE_S, open_s=OPEN_S)
        seconds["drain_and_books"] = time.monotonic() - began
        history = await asyncio.to_thread(read_history, settings)
        console.print("  reading every resource's history")
        seen = {
            name: await EhrReader(settings, name, ehr.base_url, scene.clinicians[name].log).look(history.last.values())
            for name, ehr in scene.ehrs.items()
        }
        chains = await asyncio.to_thread(read_chains, settings)
    seconds["verification"] = time.monotonic() - began - seconds["drain_and_books"]
    return Findings(books, asked, history, seen, chains, struck)


def _report(scene: Scene, load: Load, found: Findings, wanted: Wanted, seconds: dict[str, float]) -> Report:
    log, doings = scene.sender.log, scene.killer.doings
    checks = (
        _answered(log, load, found.history),
        _heads(load, found.history),
        *(_history(name, seen, scene.clinicians[name]) for name, seen in found.seen.items()),
        books_check(found.books, found.asked),
        _chains(found.chains, doings),
        _processes(doings, wanted),
    )
    return Report(
        commit=commit("pipeline", "tests/chaos"),
        machine=machine(),
        seed=wanted.seed,
        kills=wanted.kills,
        kills_per_role=wanted.kills_per_role,
        broker_kills=wanted.broker_kills,
        minutes=wanted.minutes,
        events=load.distinct,
        seconds={name: round(value, 1) for name, value in seconds.items()},
        load={
            "http_requests": len(load.batches),
            "hl7_messages": len(load.hl7),
            "copies": load.copies,
            "copies_straight_to_landing": len(load.direct),
            "late": load.late,
            "retries": log.retries,
        },
        deeds={
            "done": dict(doings.done),
            "killed": dict(doings.killed),
            "ended_alone": doings.ended_alone,
            "restarts": doings.restarts,
            "ehr_faults": dict(found.struck),
        },
        verdicts=dict(found.history.counts),
        checks=checks,
        lags=lags_of(found.books),
        passed=all(check.held for check in checks),
    )


def _answered(log: SendersLog, load: Load, history: History) -> Check:
    gone = lost(log.yes, history.verdicts)
    problems = [f"lost: {event_id}" for event_id in gone] + log.refused + [f"other ids: {key}" for key in log.disagreeing]
    problems += [f"{count} x {kind}, which nothing asked for" for kind, count in history.counts.items() if kind in UNEXPECTED]
    answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(log.answers.items()))
    seen = f"{len(log.yes)} events promised ({answers}), {len(gone)} lost, {log.retries} retries"
    return Check("no answered event is lost", not problems, seen, tuple(problems[:NAMED]))


def _heads(load: Load, history: History) -> Check:
    other = other_states(load.known_in_the_end, history.shown(load.known_in_the_end))
    problems = tuple(f"{kind.value} {entity}: {name}" for kind, entity, name in other[:NAMED])
    return Check("the newest statement of each field is known", not other, f"{len(load.known_in_the_end)} fields", problems)


def _history(name: str, seen: Seen, clinician: Clinician) -> Check:
    log = clinician.log
    refused = sum(count for status, count in log.statuses.items() if status not in (200, 412))
    text = (
        f"{seen.resources} resources, {seen.ours} versions of ours, {seen.edits} of the clinician "
        f"({log.conflicts} tried again), {seen.problem_count} problems"
    )
    held = not seen.problem_count and seen.resources > 0 and log.edits == seen.edits and not refused and not log.gave_up
    problems = [*seen.problems, *([f"{refused} edits refused"] if refused else [])]
    problems += [f"{log.gave_up} edits given up"] if log.gave_up else []
    return Check(f"{name}: each revision once, rising to the head; edits stand", held, text, tuple(problems))


def _chains(verified: Any, doings: Doings) -> Check:
    broken = broken_chains(verified.findings, [f"{role}/0" for role in doings.replaced])
    forks = sum(not finding.harmless for finding in verified.findings) - len(broken)
    problems = tuple(f"{f.chain} {f.sequence}-{f.last} {f.fault.value}: {f.detail}" for f in broken[:NAMED])
    heads = ", ".join(f"{head.chain} 1-{head.sequence}" for head in verified.heads)
    return Check("the audit chains are whole", not broken, f"{heads}; forks of zombies: {forks}", problems)


def _processes(doings: Doings, wanted: Wanted) -> Check:
    missing = wanted.all_kills - doings.kills + wanted.broker_kills - doings.done[Deed.BROKER]
    problems = [*doings.problems, *([f"{missing} kills were not made"] if missing else [])]
    done = ", ".join(f"{count} x {deed}" for deed, count in sorted(doings.done.items()))
    seen = f"{done}; restarts {doings.restarts}, ended by themselves {len(doings.ended_alone)}"
    return Check("every role came back, every zombie ended", not problems, seen, tuple(problems[:NAMED]))
