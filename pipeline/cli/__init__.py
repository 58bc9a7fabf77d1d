"""The `surgeline` command: a module for each kind of use. Each imports what it needs only when it runs."""

from typing import Annotated

import typer

from pipeline import __version__
from pipeline.cli import (
    bench,
    budgets,
    cluster,
    downtime,
    evidence,
    files,
    hl7,
    looking,
    modes,
    reconcile,
    repairs,
    replay,
    report,
    roles,
    rules,
    trying,
)
from pipeline.cli.base import app

__all__ = ["app", "main", "repairs", "trying"]

for name, group in (
    ("run", roles.run),
    ("topics", cluster.topics),
    ("policy", rules.policy),
    ("feeds", rules.feeds),
    ("shadow", rules.shadow),
    ("audit", looking.audit),
    ("schemas", cluster.schemas),
    ("config", cluster.config),
    ("replay", replay.replay),
    ("reconcile", reconcile.reconcile),
    ("files", files.files),
    ("downtime", downtime.downtime),
    ("report", report.report),
    ("evidence", evidence.evidence),
    ("budgets", budgets.budgets),
    ("mode", modes.mode),
    ("hl7", hl7.hl7),
    ("bench", bench.bench),
):
    app.add_typer(group, name=name)


def main() -> None:
    """Entry point."""
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
