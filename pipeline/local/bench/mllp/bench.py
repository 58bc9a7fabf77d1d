"""`surgeline bench mllp`: acknowledged messages in a second and their times, ours and a peer's, alternating on one machine."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from rich.console import Console

from pipeline.local.bench.frame import LEFT_BY_US, NOT_RUN, emptied, ended, read_report, write_report
from pipeline.local.bench.mllp.engines import PEER, Engine, MessageFoundry, Ours
from pipeline.local.bench.mllp.load import Load, Log, Messages
from pipeline.local.bench.mllp.report import OURS, Kill, MllpReport, Options, Run, joined, tell
from pipeline.local.bench.processor import busy_s
from pipeline.local.provenance import commit, machine
from pipeline.local.servers.broker import Broker

PEERS: Final = (PEER,)
WARM_UP_S: Final = 2.0
WARM_UP_MESSAGES: Final = 20_000
WARM_UPS: Final = 12
"""Most times that WARM_UP_S is spent to come to WARM_UP_MESSAGES: a broker is compiled by what it is given to do."""
KILL_AFTER_S: Final = 2.0
ROOMS: Final = ("pipeline", "loadtest/peers")

Make = Callable[[str], Engine]
"""Makes an engine of its own for a run, by the run's name."""


def bench_mllp(
    options: Options,
    peer: str | None,
    runs: int,
    is_killed: bool,
    folder: Path,
    console: Console,
    json_file: Path | None,
    check: bool,
) -> int:
    """Measure in `folder`, which is emptied. The exit code: 1 where `check` and a goal was missed, 2 where it could not run.

    What `json_file` holds of the same machine and options stays in it, and counts; it is written after each turn.
    """
    before = read_report(json_file, MllpReport)
    turn = len(before.of(OURS)) if before is not None else 0

    def run() -> MllpReport | None:
        report = before
        emptied(folder)
        with Broker(folder / LEFT_BY_US) as broker:
            makers = _makers(folder, broker, peer)
            for measured in _measured(options, range(turn, turn + runs), makers, is_killed, console):
                report = joined(before, measured)
                write_report(json_file, report)
        return report

    report = ended(run, console)
    if report is None or isinstance(report, int):
        return NOT_RUN if report is None else report
    tell(report, console)
    return 1 if check and not report.reached else 0


def _makers(folder: Path, broker: Broker, peer: str | None) -> dict[str, Make]:
    makers: dict[str, Make] = {Ours.name: lambda name: Ours(folder / f"surgeline-{name}", broker, f"{name}.")}
    if peer is not None:
        makers[peer] = lambda name: MessageFoundry(folder / f"{PEER}-{name}")
    return makers


def _measured(
    options: Options, turns: Iterable[int], makers: dict[str, Make], is_killed: bool, console: Console
) -> Iterator[MllpReport]:
    """Engines take turns, and who begins changes from run to run. What was measured so far, after each turn and each kill."""
    report = MllpReport(
        commits=(commit(*ROOMS),),
        machine=machine(),
        options=options,
        durability={each.name: each.durability for each in (Ours, MessageFoundry) if each.name in makers},
        runs=(),
        kills=(),
    )
    for number in turns:
        order = list(makers) if number % 2 == 0 else list(reversed(makers))
        runs = tuple(_run(makers[name](f"r{number}"), f"r{number}", options) for name in order)
        report = msgspec.structs.replace(report, runs=report.runs + runs)
        for run in runs:
            console.print(f"{run.engine}: {run.per_s:,.0f} messages/s, p99 at the rate {run.rate_p99_ms:.1f} ms")
        yield report
    for name in makers if is_killed else ():
        report = msgspec.structs.replace(report, kills=(*report.kills, _killed(makers[name]("kill"), options)))
        yield report


@contextmanager
def _started(engine: Engine) -> Iterator[None]:
    with ExitStack() as left:
        left.callback(engine.stop)
        engine.start()
        yield


def _messages(run: str) -> Messages:
    return Messages(run, time.strftime("%Y%m%d%H%M%S", time.gmtime()))


def _run(engine: Engine, name: str, options: Options) -> Run:
    """One engine from its start to its end, with its loads one after the other."""
    with _started(engine), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_loads(engine, name, options))


async def _loads(engine: Engine, name: str, options: Options) -> Run:
    load = Load(engine.port, options.connections, _messages(name))
    await load.connect()
    warm = 0
    for _ in range(WARM_UPS):
        warm += len((await load.as_fast_as_answered(WARM_UP_S)).yes)
        if warm >= WARM_UP_MESSAGES:
            break
    before = _cpu(engine)
    busy = await load.as_fast_as_answered(options.seconds)
    used = [after - each for after, each in zip(_cpu(engine), before, strict=True)]
    even = await load.at_rate(options.rate, options.seconds)
    alone = await load.as_fast_as_answered(options.seconds / 2, connections=1)
    await load.close()
    span_s = busy.ended - busy.began
    everybody, engine_s, store_s, sender_s = used
    return Run(
        engine=engine.name,
        per_s=busy.per_s,
        p50_ms=busy.percentile_ms(0.5),
        p99_ms=busy.percentile_ms(0.99),
        engine_us=engine_s / max(1, len(busy.yes)) * 1e6,
        store_us=store_s / max(1, len(busy.yes)) * 1e6,
        one_per_s=alone.per_s,
        one_p50_ms=alone.percentile_ms(0.5),
        rate_p50_ms=even.percentile_ms(0.5),
        rate_p99_ms=even.percentile_ms(0.99),
        rate_unanswered=int(options.rate * options.seconds) - len(even.seconds),
        not_yes=sum(map(_not_yes, (busy, even, alone))),
        others=round((everybody - engine_s - store_s - sender_s) / max(1e-9, span_s), 2),
    )


def _cpu(engine: Engine) -> tuple[float, float, float, float]:
    """Processor seconds of everybody, the engine, its store, and the sender, which is this process."""
    return busy_s(), engine.cpu_s(), engine.store_cpu_s(), time.process_time()


def _not_yes(log: Log) -> int:
    return log.astray + sum(count for code, count in log.codes.items() if code != "AA")


def _killed(engine: Engine, options: Options) -> Kill:
    """kill -9 amid the load; then it is started again and asked for what it acknowledged."""
    messages = _messages("kill")
    with _started(engine), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        log = runner.run(_until_killed(engine, Load(engine.port, options.connections, messages)))
        engine.start()
        missing = engine.missing(messages, sorted(log.yes))
    return Kill(engine=engine.name, acknowledged=len(log.yes), lost=len(missing))


async def _until_killed(engine: Engine, load: Load) -> Log:
    await load.connect()
    log = load.begin()
    await asyncio.sleep(KILL_AFTER_S)
    await asyncio.to_thread(engine.kill)
    await load.until_lost()
    return log


__all__ = ["PEERS", "Options", "bench_mllp"]
