"""The benchmarks, each against its goal."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from pipeline.cli.base import WRONG_USE, console, fail

bench = typer.Typer(help="Measure, each against its goal.", no_args_is_help=True)

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
Assert = Annotated[bool, typer.Option("--assert", help="Exit 1 where the goal is not reached.")]


@bench.command()
def gate(
    peer: Annotated[
        str | None,
        typer.Option(help="quix, streams, or none: the whole worker on a real broker, beside this framework or alone."),
    ] = None,
    runs: Annotated[int, typer.Option(min=0, help="Alternating runs of each; the median counts.")] = 5,
    records: Annotated[int, typer.Option(min=100, help="Records measured in a run.")] = 60_000,
    entities: Annotated[int, typer.Option(min=10, help="Beds and stays.")] = 2_000,
    kill: Annotated[bool, typer.Option(help="Whether each is killed once in mid-stream, after the runs.")] = True,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/bench"),
    json_file: JsonFile = None,
    check: Assert = False,
) -> None:
    """Judge records: in processor time. Without --peer no broker, the decision alone, in this process.

    With it: a real broker, landing topics that are full already, one worker process, its own processor time; then the same
    decision in Quix Streams, or a port of it in Kafka Streams (Java, fetched at the first run), turn by turn, and both after a
    kill -9. The runs of --json are added to those that it holds.
    """
    if peer is None:
        from pipeline.local.bench.rooms import BENCHES

        _measure("gate", BENCHES["gate"], json_file, check)
    from pipeline.local.bench.gate.bench import NO_PEER, PEER_NAMES, bench_gate_worker
    from pipeline.local.bench.gate.report import Options
    from pipeline.local.bench.gate.streams import STREAMS, WARM_UP

    if peer not in (NO_PEER, *PEER_NAMES):
        fail(f"{peer}: there is no such peer; known: {', '.join(PEER_NAMES)}, none", WRONG_USE)
    warm_up = WARM_UP if peer == STREAMS else 5 * entities
    options = Options(entities=entities, warm_up=warm_up, records=records, kill_records=max(100, records // 2))
    raise typer.Exit(bench_gate_worker(options, peer, runs, kill, folder.resolve(), console, json_file, check))


@bench.command()
def parse(json_file: JsonFile = None, check: Assert = False) -> None:
    """Read HL7 v2 messages: in processor time of this process."""
    from pipeline.local.bench.rooms import BENCHES

    _measure("parse", BENCHES["parse"], json_file, check)


@bench.command()
def ehr(json_file: JsonFile = None, check: Assert = False) -> None:
    """Write to a stand-in EHR that has a cap: in what is reached of it."""
    from pipeline.local.bench.ehr import bench_ehr

    _measure("ehr", bench_ehr, json_file, check)


@bench.command()
def scheduler(json_file: JsonFile = None, check: Assert = False) -> None:
    """What a backlog costs: processor time per decision, memory and table per entity that waits."""
    from pipeline.local.bench.scheduler import bench_scheduler

    _measure("scheduler", bench_scheduler, json_file, check)


@bench.command()
def mllp(
    peer: Annotated[str | None, typer.Option(help="messagefoundry: run it beside ours, turn by turn.")] = None,
    runs: Annotated[int, typer.Option(min=0, help="Alternating runs of each; the median counts.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="How long each load lasts.")] = 5.0,
    connections: Annotated[int, typer.Option(min=1, help="With one message in flight on each.")] = 50,
    rate: Annotated[float, typer.Option(min=1, help="Messages in a second of the load whose p99 counts.")] = 300.0,
    kill: Annotated[bool, typer.Option(help="Whether each is killed once in mid-stream, after the runs.")] = True,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/bench"),
    json_file: JsonFile = None,
    check: Assert = False,
) -> None:
    """Receive HL7 v2 over MLLP on a real broker: acknowledged messages a second, their times, and what a kill -9 loses.

    An acknowledgement is given when the message and all its events are durable. With --peer another engine does the same work.
    The runs of --json are added to those that it holds.
    """
    from pipeline.local.bench.mllp.bench import PEERS, bench_mllp
    from pipeline.local.bench.mllp.report import Options

    if peer is not None and peer not in PEERS:
        fail(f"{peer}: there is no such peer; known: {', '.join(PEERS)}", WRONG_USE)
    options = Options(seconds=seconds, connections=connections, rate=rate)
    raise typer.Exit(bench_mllp(options, peer, runs, kill, folder.resolve(), console, json_file, check))


@bench.command()
def e2e(
    rate: Annotated[float, typer.Option(min=20, help="Events in a second.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long the load is measured.")] = 60.0,
    entities: Annotated[int, typer.Option(min=10, help="Beds and stays.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Another load for another number.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/bench"),
    json_file: JsonFile = None,
    check: Assert = False,
) -> None:
    """From the source by HTTP to the EHR's confirmation, per lane: real broker, way in, gate and writer. Two minutes."""
    from pipeline.local.bench.e2e.bench import Options, bench_e2e

    options = Options(rate=rate, seconds=seconds, entities=entities, seed=seed)
    raise typer.Exit(bench_e2e(options, folder.resolve(), console, json_file, check))


@bench.command()
def scale(
    workers: Annotated[
        list[int] | None, typer.Option(min=0, max=8, help="Workers; give it again for several. 0: none, the recovery alone.")
    ] = None,
    entities: Annotated[int, typer.Option(min=10, help="Beds and stays.")] = 100_000,
    records: Annotated[int, typer.Option(min=0, help="Changes beside the first record of each.")] = 100_000,
    heads: Annotated[
        list[int] | None, typer.Option(min=0, help="Heads to recover; give it again for several. 0: none, the workers alone.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/bench"),
    json_file: JsonFile = None,
    check: Assert = False,
) -> None:
    """The gate in one, two and four workers on a real broker, and how soon it serves again after a kill.

    Then the recovery of 100,000 and of 1,000,000 heads of 1 KB. What is measured is added to what --json holds of this commit.
    """
    from pipeline.local.bench.scale.bench import Options, bench_scale

    options = Options(entities=entities, records=records)
    if workers:
        options = msgspec.structs.replace(options, workers=tuple(filter(None, workers)))
    if heads:
        options = msgspec.structs.replace(options, heads=tuple(filter(None, heads)))
    raise typer.Exit(bench_scale(options, folder.resolve(), console, json_file, check))


@bench.command()
def pace(
    rate: Annotated[list[int] | None, typer.Option(min=1, help="Events a second; give it again for several.")] = None,
    within_ms: Annotated[
        list[int] | None, typer.Option(min=1, max=1000, help="`gate.within_s`, in ms; again for several.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, help="How long each is run.")] = 10,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/bench"),
    json_file: JsonFile = None,
) -> None:
    """How late the gate tells its verdicts at a steady rate, by the broker's times, and what `gate.within_s` does to it."""
    from pipeline.local.bench.gate.pace import Options, bench_gate_pace

    options = Options(seconds=seconds)
    if rate:
        options = msgspec.structs.replace(options, rates=tuple(rate))
    if within_ms:
        options = msgspec.structs.replace(options, within_ms=tuple(within_ms))
    raise typer.Exit(bench_gate_pace(options, folder.resolve(), console, json_file))


@bench.command()
def surge(
    part: Annotated[
        list[str] | None, typer.Option(help="queue, refuse, outage or kills; give it again for several. All without it.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long each load lasts.")] = 60.0,
    rate: Annotated[float, typer.Option(min=10, help="Events in a second.")] = 1_000.0,
    entities: Annotated[int, typer.Option(min=10, help="Beds and stays.")] = 5_000,
    critical_rate: Annotated[float, typer.Option(min=1, help="Of the events in a second, those that are critical.")] = 50.0,
    ehr_rate: Annotated[float, typer.Option(min=1, help="Requests in a second that the stand-in takes.")] = 100.0,
    healthy_s: Annotated[float, typer.Option(min=1, help="How long the load on the healthy stand-in lasts.")] = 30.0,
    outage_s: Annotated[float, typer.Option(min=1, help="How long the stand-in is out.")] = 600.0,
    outage_rate: Annotated[float, typer.Option(min=10, help="Events in a second in that part.")] = 500.0,
    fifo: Annotated[bool, typer.Option(help="Whether a FIFO writer of the same parts runs beside the part queue.")] = True,
    seed: Annotated[int, typer.Option(help="Another load for another number.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/bench"),
    json_file: JsonFile = None,
    check: Assert = False,
) -> None:
    """Judge the whole: a surge while the EHR is slow, refuses, is out; and kills. Real broker, gate and writer.

    queue: the EHR takes 100 requests a second by queueing, then twice the bulk load, beside a FIFO writer. refuse: 429 with
    Retry-After. outage: it is away for ten minutes. kills: gate, writer and broker die once each. Wants a quiet machine:
    all parts take half an hour; `--part queue --seconds 10 --entities 800 --healthy-s 5` is a try of a minute and a half.
    """
    from pipeline.local.bench.surge.bench import PARTS, bench_surge
    from pipeline.local.bench.surge.report import Options

    unknown = set(part or ()) - PARTS.keys()
    if unknown:
        fail(f"{', '.join(sorted(unknown))}: there is no such part; known: {', '.join(PARTS)}", WRONG_USE)
    if critical_rate > rate:
        fail("--critical-rate: what is critical is part of --rate", WRONG_USE)
    options = Options(
        seconds=seconds,
        rate=rate,
        entities=entities,
        critical_rate=critical_rate,
        ehr_rate=ehr_rate,
        healthy_seconds=healthy_s,
        outage_seconds=outage_s,
        outage_rate=outage_rate,
        fifo=fifo,
        seed=seed,
    )
    raise typer.Exit(bench_surge(options, part or tuple(PARTS), folder.resolve(), console, json_file, check))


@bench.command()
def reconcile(
    beds: Annotated[int, typer.Option(min=100, help="Beds.")] = 10_000,
    encounters: Annotated[int, typer.Option(min=0, help="Stays.")] = 100_000,
    latency_ms: Annotated[float, typer.Option(min=0, help="What the stand-in takes for an answer.")] = 5.0,
    json_file: JsonFile = None,
    check: Assert = False,
) -> None:
    """Measure a full comparison with a FHIR server of many resources: a stand-in, of which one in a hundred has drifted."""
    from pipeline.local.bench.reconcile import bench_reconcile

    _measure("reconcile", lambda: bench_reconcile(beds, encounters, latency_ms), json_file, check)


def _measure(what: str, measure: Callable[[], Any], json_file: Path | None, check: bool) -> None:
    figures = measure()
    table = Table("figure", "value", title=f"bench {what}")
    for name, value in _rows_of(msgspec.to_builtins(figures)):
        table.add_row(name, value)
    console.print(table)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    raise typer.Exit(1 if check and not figures.reached else 0)


def _rows_of(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values; a list's items follow their own names."""
    for name, value in figures.items():
        if isinstance(value, list | tuple):
            for item in value:
                yield from _rows_of(item)
        else:
            yield name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else str(value)
