"""`surgeline bench gate --peer`: the gate's worker on a real broker, beside the same decision in another framework.

Runs alternate, so that what else happens on the machine meets both alike; a figure is the median of its runs. Processor
time is of the whole worker process, without the broker.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from pipeline.local.bench.frame import LEFT_BY_US, emptied, ended, read_report, write_report
from pipeline.local.bench.gate.load import by_cycle, one_by_one
from pipeline.local.bench.gate.report import Alone, GateReport, Kill, Options, Run, Twin, joined, tell
from pipeline.local.bench.gate.run import Bench, Made
from pipeline.local.bench.gate.streams import STREAMS, twin_alone
from pipeline.local.bench.gate.worker import Ours
from pipeline.local.provenance import commit, machine
from pipeline.local.servers.broker import Broker
from pipeline.roles.policies import load_policy

NO_PEER: Final = "none"
ROOMS: Final = ("pipeline", "loadtest/peers")
PEER_NAMES: Final = ("quix", STREAMS)


def bench_gate_worker(
    options: Options, peer: str, runs: int, kill: bool, folder: Path, console: Console, json_file: Path | None, check: bool
) -> int:
    """Alternate `runs` runs of each worker in `folder`, which is emptied; with `kill`, a kill -9 of each after them.

    The exit code: 1 where `check` and a goal was not reached, 2 where it could not be run. `json_file` keeps the runs that it
    held before, of the same commit, machine and options.
    """
    workers = (Ours.name,) if peer == NO_PEER else (Ours.name, peer)

    def run() -> GateReport:
        emptied(folder)
        return joined(read_report(json_file, GateReport), _measure(options, peer, workers, runs, kill, folder, console))

    report = ended(run, console)
    if isinstance(report, int):
        return report
    write_report(json_file, report)
    tell(report, console)
    return 1 if check and not report.reached else 0


def _measure(
    options: Options, peer: str, workers: Sequence[str], runs: int, kill: bool, folder: Path, console: Console
) -> GateReport:
    done: list[Run] = []
    alone: list[Alone] = []
    kills: list[Kill] = []
    twins: list[Twin] = []
    broker, policy = Broker(folder / LEFT_BY_US), load_policy()
    broker.start()
    try:
        for number in range(runs):
            for worker in workers:
                with Bench(worker, str(number), broker, folder, policy, options) as bench:
                    run, made = bench.run()
                    twins += [bench.twin()] if worker == STREAMS and not number else []
                done.append(run)
                console.print(f"{worker}: {run.us:.1f} µs per event, {run.records / run.wall_s:,.0f} events/s as it ran")
                if worker == Ours.name:
                    alone.append(_alone(made, run, bench, peer))
        for worker in workers if kill else ():
            with Bench(worker, "killed", broker, folder, policy, options) as bench:
                kills.append(bench.killed())
    finally:
        broker.stop()
    return GateReport(
        commit=commit(*ROOMS),
        machine=machine(),
        options=options,
        peer=peer,
        runs=tuple(done),
        alone=tuple(alone),
        kills=tuple(kills),
        twins=tuple(twins),
    )


def _alone(made: Made, run: Run, bench: Bench, peer: str) -> Alone:
    policy = load_policy()
    folder = bench.stack.folder / STREAMS
    twin_us = twin_alone(made.before, made.records, bench.stack.settings.kafka, policy, folder).us if peer == STREAMS else None
    single = one_by_one(made.before, made.records, bench.codec, policy)
    cycles = by_cycle(made.before, made.records, round(run.cycle), bench.codec, policy)
    return Alone(one_by_one_us=single.us, by_cycle_us=cycles.us, head_bytes=single.head_bytes, twin_us=twin_us)
