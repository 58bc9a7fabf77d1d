"""Trying it on one machine: the demo and the benchmarks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from pipeline.cli.base import app, console, fail


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running and print the addresses.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Another surge for another number.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/demo"),
) -> None:
    """Run the main job on this machine: a real Kafka, two real FHIR servers, and a surge of one minute.

    Exit code 0 only if the books balance and nothing is open.
    """
    from pipeline.local.demo import run_demo

    raise typer.Exit(run_demo(folder.resolve(), seed=seed, keep=keep, json_file=json_file, console=console))


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="gate: judge records, no broker; parse: read HL7 v2 messages; ehr: write to a stand-in EHR that has a cap."
        ),
    ],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--assert", help="Exit 1 where the goal is not reached.")] = False,
) -> None:
    """Measure: gate and parse in CPU time of this process, ehr in what is reached of the cap."""
    from pipeline.local.bench_ehr import bench_ehr
    from pipeline.roles.bench import BENCHES

    benches: dict[str, Callable[[], Any]] = {**BENCHES, "ehr": bench_ehr}
    if what not in benches:
        fail(f"{what}: there is no such bench; known: {', '.join(sorted(benches))}", 2)
    figures = benches[what]()
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
