"""`surgeline run`: one role in the foreground."""

from typing import Annotated

import typer

from pipeline.cli.base import Config, settings_of

run = typer.Typer(help="Run one role in the foreground until SIGTERM.", no_args_is_help=True)


@run.command("gate")
def run_gate(config: Config = None) -> None:
    """Judge landing records: duplicate? stale? not theirs to say? nothing new? Else a new revision, by lane."""
    from pipeline.roles.gates.gate import GateRole
    from pipeline.roles.process import run_role

    settings = settings_of(config, "gate")
    raise typer.Exit(run_role(settings, "gate", settings.gate.instance, GateRole))


@run.command("writer")
def run_writer(
    destination: Annotated[str, typer.Argument(help="A name under `writers` or `hl7_out` in the settings.")],
    config: Config = None,
) -> None:
    """Bring changes to one destination: the newest state of each entity, most urgent first; by HL7 v2 each change, in order."""
    from pipeline.roles.process import run_role
    from pipeline.roles.writers.every import EveryRole
    from pipeline.roles.writers.writer import WriterRole

    settings = settings_of(config, f"writer-{destination}")
    section = settings.writers.get(destination) or settings.hl7_out.get(destination)
    instance = section.instance if section else "0"
    role = EveryRole if destination in settings.hl7_out else WriterRole
    raise typer.Exit(run_role(settings, f"writer-{destination}", instance, lambda process: role(process, destination)))


@run.command("http")
def run_http(config: Config = None) -> None:
    """Take events by HTTP."""
    from pipeline.roles.process import run_role
    from pipeline.roles.ways_in.intake import HttpRole

    raise typer.Exit(run_role(settings_of(config, "http"), "http", "0", HttpRole))


@run.command("mllp")
def run_mllp(config: Config = None) -> None:
    """Take HL7 v2 messages over MLLP."""
    from pipeline.roles.process import run_role
    from pipeline.roles.ways_in.intake import MllpRole

    raise typer.Exit(run_role(settings_of(config, "mllp"), "mllp", "0", MllpRole))


@run.command("fhir")
def run_fhir(config: Config = None) -> None:
    """Subscribe at FHIR servers, take their notifications, and read again what was missed."""
    from pipeline.roles.process import run_role
    from pipeline.roles.ways_in.fhir import FhirRole

    settings = settings_of(config, "fhir")
    raise typer.Exit(run_role(settings, "fhir", settings.fhir.instance, FhirRole))


@run.command("files")
def run_files(config: Config = None) -> None:
    """Take managed files from partners' folders, row by row."""
    from pipeline.roles.process import run_role
    from pipeline.roles.ways_in.files import FilesRole

    settings = settings_of(config, "files")
    raise typer.Exit(run_role(settings, "files", settings.files.instance, FilesRole))


@run.command("auditor")
def run_auditor(config: Config = None) -> None:
    """Sign checkpoints of the audit log, and tell in it what expired."""
    from pipeline.roles.accounts.auditor import AuditorRole
    from pipeline.roles.process import run_role

    settings = settings_of(config, "auditor")
    raise typer.Exit(run_role(settings, "auditor", settings.audit.instance, AuditorRole))


@run.command("budgets")
def run_budgets(config: Config = None) -> None:
    """Count what comes late or has to be repaired; open an incident where that uses up an error budget."""
    from pipeline.roles.accounts.budgets import BudgetsRole
    from pipeline.roles.process import run_role

    settings = settings_of(config, "budgets")
    raise typer.Exit(run_role(settings, "budgets", settings.budgets.instance, BudgetsRole))


@run.command("files-out")
def run_files_out(config: Config = None) -> None:
    """Make the files that partners get, and wait until each is acknowledged."""
    from pipeline.roles.files.outgoing import FilesOutRole
    from pipeline.roles.process import run_role

    settings = settings_of(config, "files-out")
    raise typer.Exit(run_role(settings, "files-out", settings.files_out.instance, FilesOutRole))


@run.command("downtime")
def run_downtime(config: Config = None) -> None:
    """Write bed boards and census for downtime workstations, every quarter of an hour, whatever else is down."""
    from pipeline.roles.downtime.role import DowntimeRole
    from pipeline.roles.process import run_role

    raise typer.Exit(run_role(settings_of(config, "downtime"), "downtime", "0", DowntimeRole))


@run.command("reconcile")
def run_reconcile(config: Config = None) -> None:
    """Compare what we hold with what FHIR destinations show, and have drift repaired."""
    from pipeline.roles.process import run_role
    from pipeline.roles.reconcile.role import ReconcileRole

    settings = settings_of(config, "reconcile")
    raise typer.Exit(run_role(settings, "reconcile", settings.reconcile.instance, ReconcileRole))


@run.command("timers")
def run_timers(config: Config = None) -> None:
    """End what is valid until a time: a bed's promise or block, a diversion."""
    from pipeline.roles.process import run_role
    from pipeline.roles.ways_in.timers import TimersRole

    raise typer.Exit(run_role(settings_of(config, "timers"), "timers", "0", TimersRole))
