"""The parts of `surgeline bench surge`: what happens in each, and what it must show."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Lane
from pipeline.local.bench.surge import figures as of
from pipeline.local.bench.surge.fifo import FifoReport
from pipeline.local.bench.surge.fifo_child import fifo_beside
from pipeline.local.bench.surge.figures import History, Phase, Span
from pipeline.local.bench.surge.lab import BURST_S, GATE, HEALTHY, WRITER, Lab, laboratory
from pipeline.local.bench.surge.load import Load, Mix
from pipeline.local.bench.surge.report import Check, Options, Part, others_in
from pipeline.local.servers.standin import BUCKET_S, Behaviour, Mode, Witness
from pipeline.ops.books import exit_code
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.accounts.books import close_books
from pipeline.roles.process import now_ms

CRITICAL_GOAL: Final = 3.0
"""Times the critical p99 of the healthy stand-in."""

DOUBLED_GOAL: Final = 1.2
"""Times the critical p99 of the single load: no worse, but for what two runs differ by in any case."""

DRAIN_GOAL: Final = 1.1
RESUME_GOAL_S: Final = 5.0
OVER_GOAL: Final = 1.1
FLAT_GOAL: Final = 1.1

RATE_PER_S: Final = 10_000.0
"""What the settings let the writer ask for: more than any stand-in here takes, so that the limit is learnt."""

DRAIN_BOUND: Final = 4.0
"""Times the time that draining should take at most, after which the part goes on and its checks fail."""

DRAIN_SPARE_S: Final = 90.0
BOOKS_GATE_S, BOOKS_OPEN_S = 120.0, 60.0
LEARN_S: Final = 20.0
AFTER_S: Final = 30.0
"""Of the outage part: time to learn the limit before, and time that is looked at after it."""

RETRY_AFTER_S: Final = 1
KILLS: Final = ((0.2, "gate"), (0.45, "writer"), (0.7, "broker"))
"""When who is killed, as a share of the load."""

KNOWN_SHARE: Final = 0.95
"""The entities are known once so many of the most that ever waited do."""


@dataclass(slots=True)
class Run:
    """One part on its way."""

    name: str
    lab: Lab
    options: Options
    console: Console
    spans: list[Span] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    fifo: FifoReport | None = None

    @contextlib.asynccontextmanager
    async def step(self, what: str) -> AsyncIterator[None]:
        """Show what goes on, and what it took."""
        began = time.monotonic()
        with self.console.status(f"{self.name}: {what} …") as status:
            watching = asyncio.create_task(self._watch(status, what, began))
            try:
                yield
            finally:
                watching.cancel()
        self.console.print(f"  {self.name}: {what} [dim]({time.monotonic() - began:.0f} s)[/]", highlight=False)

    async def _watch(self, status: Any, what: str, began: float) -> None:
        while True:
            last = self.lab.samples[-1] if self.lab.samples else None
            waiting = f", {last.pending} entities wait" if last is not None and last.pending is not None else ""
            status.update(f"{self.name}: {what}, {time.monotonic() - began:.0f} s{waiting} …")
            await asyncio.sleep(1.0)

    async def warm_up(self) -> None:
        """Every entity is written once, on a healthy stand-in."""
        async with self.step(f"warm-up, {self.options.entities:,} entities"):
            await self.lab.sender.warm_up()
            await self._drain(DRAIN_SPARE_S)

    async def phase(self, name: str, mix: Mix, span_s: float, behaviour: Behaviour, *also: Any) -> Span:
        """One load, until it is drained. `also` goes on meanwhile and is awaited with it."""
        await asyncio.to_thread(self.lab.standin.behave, behaviour)
        async with self.step(f"{name}, {mix.per_s:,.0f} events/s for {span_s:g} s"):
            begin = now_ms()
            await asyncio.gather(self.lab.sender.play(mix, span_s), *also)
            span = Span(name, begin, now_ms(), mix.per_s, mix.critical)
        self.spans.append(span)
        async with self.step(f"{name}, draining"):
            await self._drain(DRAIN_BOUND * self.options.entities / self.options.ehr_rate + DRAIN_SPARE_S)
        return span

    async def _drain(self, bound_s: float) -> None:
        if not await self.lab.drained(bound_s):
            self.check("drained at all", False, f"not within {bound_s:.0f} s")

    def check(self, name: str, held: bool, seen: str) -> None:
        """Note a promise."""
        self.checks.append(Check(name, held, seen))

    async def close(self) -> tuple[Part, History, Witness]:
        """The proofs that every part owes, and its figures."""
        await asyncio.to_thread(self.lab.standin.behave, HEALTHY)
        async with self.step("books, topics and the stand-in's record"):
            history, witness = await asyncio.to_thread(self._prove)
        phases = tuple(of.phase_of(history, span) for span in self.spans)
        samples = [(sample.at, sample.cpu_s) for sample in self.lab.samples]
        part = Part(
            name=self.name,
            phases=phases,
            checks=tuple(self.checks),
            figures=self.figures,
            cpu={span.name: of.cpu_between(samples, span.begin, span.end) for span in self.spans},
            concurrency={span.name: self._concurrency(span) for span in self.spans},
            fifo=self.fifo,
        )
        self.figures["processors_used_by_others"] = others_in(part)
        return part, history, witness

    def _concurrency(self, span: Span) -> float:
        seen = [sample.concurrency for sample in self.lab.samples if span.begin <= sample.at < span.end and sample.concurrency]
        return round(sum(seen) / len(seen), 1) if seen else 0.0

    def _prove(self) -> tuple[History, Witness]:
        lab, sender = self.lab, self.lab.sender
        books, asked = close_books(lab.stack.settings, gate_s=BOOKS_GATE_S, open_s=BOOKS_OPEN_S)
        history, witness = read_history(lab), lab.standin.witness()
        missing = of.lost(sender.yes, history.judged)
        self.check(
            "nothing is lost",
            missing == 0 and sender.given_up == 0 and len(sender.yes) > 0,
            f"{len(sender.yes):,} events acknowledged, {missing} without a verdict, {sender.given_up} never acknowledged",
        )
        same, different = sum(look.same for look in asked), sum(look.different + look.unanswered for look in asked)
        parked = sum(destination.parked for destination in books.destinations)
        self.check(
            "the books balance, nothing is open",
            exit_code(books, asked) == 0 and books.complete and different == 0 and parked == 0,
            f"{sum(topic.positions for topic in books.topics):,} positions, {books.open} open, {parked} parked, "
            f"{sum(books.problem_counts.values())} problems; {same:,} entities as confirmed, {different} not",
        )
        stale, foreign = of.stale_overwrites(witness), of.unmarked(witness)
        versions = sum(len(each) for each in witness.shown.values())
        self.check(
            "no stale overwrite",
            stale == 0 and foreign == 0,
            f"{versions:,} versions of {len(witness.shown):,} resources at the stand-in, {stale} not newer than the one before",
        )
        self.figures |= {f"failed_attempts_{reason}": count for reason, count in sorted(history.failed.items())}
        return history, witness


def read_history(lab: Lab) -> History:
    """From the topics."""
    return of.read_history(KafkaTopics(lab.stack.settings.kafka), lab.sender.codec)


def capped(options: Options, mode: Mode, retry_after_s: int = 0) -> Behaviour:
    """The stand-in as it is in a surge: it takes so many requests and no more. Who refuses counts by a bucket, as limits of
    the field do, of a quarter of a second; who queues has none to speak of."""
    rate, burst_s = options.ehr_rate, BURST_S if mode == "queue" else BUCKET_S
    return Behaviour(rate, rate, mode, burst_s=burst_s, latency_s=HEALTHY.latency_s, retry_after_s=retry_after_s)


# -- the parts


async def queue(run: Run, folder: Path) -> Part:
    """A stand-in that queues, then the same with twice the bulk; beside a FIFO writer in the first."""
    options, mix = run.options, Mix.of(run.options.rate, run.options.critical_rate)
    slow = capped(options, "queue")
    await run.warm_up()
    await run.phase("healthy", mix, options.healthy_seconds, HEALTHY)
    async with fifo_beside(run.lab, folder, options.fifo, run.step) as beside:
        await asyncio.to_thread(beside.behave, slow)
        await run.phase("slow", mix, options.seconds, slow)
        run.fifo = await asyncio.to_thread(beside.report)
        if run.fifo is not None:
            run.figures["fifo_backlog_would_take_s"] = run.fifo.waiting / options.ehr_rate
    await run.phase("slow, bulk doubled", mix.doubled(), options.seconds, slow)
    part, _, _ = await run.close()
    checks = (*part.checks, *queue_checks(part.phases, options))
    return msgspec.structs.replace(part, checks=checks)


def queue_checks(phases: Sequence[Phase], options: Options) -> list[Check]:
    """What the phases healthy, slow and doubled must show of each other."""
    healthy, slow, doubled = phases
    p99 = [phase.lag(Lane.CRITICAL).p99_ms for phase in phases]
    ratio, worse = p99[1] / max(1.0, p99[0]), p99[2] / max(1.0, p99[1])
    checks = [
        Check(
            f"critical p99 within {CRITICAL_GOAL:g} times that of the healthy stand-in",
            ratio <= CRITICAL_GOAL and healthy.lag(Lane.CRITICAL).count > 0,
            f"{p99[1]:,.0f} ms against {p99[0]:,.0f} ms: {ratio:.2f} times",
        ),
        Check(
            "critical p99 no worse with twice the bulk",
            worse <= DOUBLED_GOAL,
            f"{p99[2]:,.0f} ms against {p99[1]:,.0f} ms: {worse:.2f} times",
        ),
    ]
    for phase in (slow, doubled):
        bound_s = phase.left / options.ehr_rate * DRAIN_GOAL
        checks.append(
            Check(
                f"{phase.name}: drained within distinct entities / rate + 10 %",
                phase.open == 0 and phase.drained_s <= bound_s,
                f"{phase.drained_s:.1f} s for {phase.left:,} entities, allowed {bound_s:.1f} s",
            )
        )
    return checks


async def refuse(run: Run, _folder: Path) -> Part:
    """A stand-in that answers 429 with Retry-After."""
    options, mix = run.options, Mix.of(run.options.rate, run.options.critical_rate)
    await run.warm_up()
    await run.phase("healthy", mix, options.healthy_seconds, HEALTHY)
    span = await run.phase("429 with Retry-After", mix, options.seconds, capped(options, "refuse", RETRY_AFTER_S))
    part, _, witness = await run.close()
    taken, refused = of.per_s(witness, span.begin, span.end)
    learnt = Millis(int(span.begin + RESUME_GOAL_S * 1000))
    busiest = of.busiest(witness, learnt, span.end) if learnt < span.end else 0
    run.figures |= {"taken_per_s": taken, "refused_per_s": refused, "busiest_second_after_five": float(busiest)}
    healthy, refusing = (phase.lag(Lane.CRITICAL).p99_ms for phase in part.phases)
    run.figures["critical_p99_against_healthy_times"] = refusing / max(1.0, healthy)
    return part


async def outage(run: Run, _folder: Path) -> Part:
    """The stand-in is away for long, in the middle of a load; its limit is learnt from 429s without a time."""
    options = run.options
    mix, up = Mix.of(options.outage_rate, options.outage_rate * options.critical_rate / options.rate), capped(options, "refuse")
    times: list[Millis] = []

    async def away() -> None:
        await asyncio.sleep(LEARN_S)
        times.append(now_ms())
        await asyncio.to_thread(run.lab.standin.behave, msgspec.structs.replace(up, out=True))
        await asyncio.sleep(options.outage_seconds)
        times.append(now_ms())
        await asyncio.to_thread(run.lab.standin.behave, up)

    await run.warm_up()
    span = await run.phase(f"out for {options.outage_seconds:g} s", mix, LEARN_S + options.outage_seconds + AFTER_S, up, away())
    part, _, witness = await run.close()
    left, back = times
    checks = (*part.checks, *_after_outage(run, witness, left, back, span), *_flat(run, left, back))
    return msgspec.structs.replace(part, checks=checks)


def _after_outage(run: Run, witness: Witness, left: Millis, back: Millis, span: Span) -> list[Check]:
    resumed = of.taken_since(witness, back)
    waited_s = (resumed - back) / 1000 if resumed is not None else float("inf")
    learnt = [sample.rate_per_s for sample in run.lab.samples if span.begin <= sample.at < left and sample.rate_per_s > 0]
    cap, settled = run.options.ehr_rate, Millis(int(back + RESUME_GOAL_S * 1000))
    late = [sample.rate_per_s for sample in run.lab.samples if settled <= sample.at < back + AFTER_S * 1000]
    limit = min(OVER_GOAL * cap, max(cap, *late, 0.0))  # what it says that it learnt, as long as that is near the truth
    most = of.busiest(witness, settled, Millis(int(back + AFTER_S * 1000)))
    run.figures |= {
        "learnt_rate_before_per_s": learnt[-1] if learnt else 0.0,
        "busiest_second_of_the_first_five": float(of.busiest(witness, back, settled)),
        "busiest_second_before": float(of.busiest(witness, span.begin, left)),
    }
    return [
        Check(
            f"work resumes within {RESUME_GOAL_S:g} s of its return",
            waited_s <= RESUME_GOAL_S,
            f"first request taken after {waited_s:.1f} s",
        ),
        Check(
            f"after {RESUME_GOAL_S:g} s no second has more than 10 % over the learnt limit",
            most <= OVER_GOAL * limit,
            f"the busiest has {most} requests; the stand-in takes {cap:g}, learnt was {limit:.0f}",
        ),
    ]


def _flat(run: Run, left: Millis, back: Millis) -> list[Check]:
    """Memory from the moment when nearly all that ever waited did, to the outage's end."""
    during = [sample for sample in run.lab.samples if left <= sample.at < back]
    most = max((sample.pending or 0 for sample in during), default=0)
    known = next((n for n, sample in enumerate(during) if (sample.pending or 0) >= KNOWN_SHARE * most), 0)
    checks = []
    for name in ("gate", "writer"):
        memory = [sample.memory[name] for sample in during[known:] if name in sample.memory]
        grown = of.growth(memory)
        run.figures[f"{name}_most_memory_mb"] = max(memory, default=0) / 2**20
        checks.append(
            Check(
                f"memory of the {name} is flat once the entities are known",
                grown <= FLAT_GOAL - 1 and len(memory) > 1,
                f"+{grown:.1%} from {memory[0] / 2**20:,.0f} MB in {len(memory)} s" if memory else "never seen",
            )
        )
    return checks


async def kills(run: Run, _folder: Path) -> Part:
    """Gate and writer are killed, and the broker restarted, once each, in the middle of a load."""
    options, mix = run.options, Mix.of(run.options.rate, run.options.critical_rate)
    await run.warm_up()
    deeds: dict[str, Callable[[], None]] = {
        "gate": lambda: _again(run.lab, GATE, "gate"),
        "writer": lambda: _again(run.lab, WRITER, "writer", "ehr"),
        "broker": run.lab.broker_again,
    }

    async def strike() -> None:
        began = time.monotonic()
        for share, who in KILLS:
            await asyncio.sleep(max(0.0, began + share * options.seconds - time.monotonic()))
            took = time.monotonic()
            run.lab.is_struck = True
            try:
                await asyncio.to_thread(deeds[who])
            finally:
                run.lab.is_struck = False
            run.figures[f"{who}_away_s"] = time.monotonic() - took

    supervising = asyncio.create_task(run.lab.supervise())
    try:
        await run.phase("kill -9 of each", mix, options.seconds, capped(options, "queue"), strike())
    finally:
        supervising.cancel()
    run.figures["roles_that_ended_and_were_started_again"] = float(run.lab.restarts)
    run.figures["publishes_repeated"] = float(run.lab.sender.retries)
    part, _, _ = await run.close()
    return part


def _again(lab: Lab, name: str, role: str, *arguments: str) -> None:
    """kill -9, and the same again at once, until it is ready."""
    lab.stack.kill(name)
    lab.stack.start(role, *arguments)
    lab.stack.wait_ready(name)


PARTS: Final = {"queue": queue, "refuse": refuse, "outage": outage, "kills": kills}


async def run_part(name: str, options: Options, folder: Path, console: Console) -> Part:
    """One part from an empty folder to its figures. LocalPlatformError if something could not be started or ended by itself."""
    load = Load(options.entities, options.seed)
    console.print(f"[bold]{name}[/]")
    async with laboratory(folder, load, {"rate_per_s": RATE_PER_S}) as lab:
        return await PARTS[name](Run(name, lab, options, console), folder)
