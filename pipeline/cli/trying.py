"""Trying it on one machine: the demo."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.base import app, console


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
    from pipeline.local.demo.demo import run_demo

    raise typer.Exit(run_demo(folder.resolve(), seed=seed, keep=keep, json_file=json_file, console=console))
