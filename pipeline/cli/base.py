"""What the commands share."""

import getpass
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console

from pipeline.domain.identifiers import Millis
from pipeline.settings.model import Settings
from pipeline.settings.reading import SettingsError, load

HELP = """Keeps hospital capacity systems and the EHR consistent while the hospital is under surge.

Start with `surgeline demo`: it needs nothing but this machine. For your own cluster, copy surgeline.example.yaml to
surgeline.yaml, then `surgeline topics apply`, `surgeline policy apply`, and `surgeline run` each role.
"""

app = typer.Typer(name="surgeline", help=HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

WRONG_USE: Final = 2
"""Exit code where what was asked for can't be done as it was asked; Typer gives it for an unknown option."""
TRY_AGAIN: Final = 75
BAD_SETTINGS: Final = 78

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; else $SURGELINE_CONFIG, else ./surgeline.yaml.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
console = Console()


def settings_of(path: Path | None, role: str | None = None) -> Settings:
    """The settings; says all problems and ends with BAD_SETTINGS where there are any."""
    try:
        return load(path, role=role)
    except SettingsError as error:
        fail(str(error), BAD_SETTINGS)


def fail(text: str, code: int = 1) -> NoReturn:
    """Say why on standard error and end."""
    typer.echo(text, err=True)
    raise typer.Exit(code)


def now() -> Millis:
    """Now."""
    return Millis(time.time_ns() // 1_000_000)


def actor() -> str:
    """Who gives the command, for the audit log."""
    return f"operator:{getpass.getuser()}"


def of_kafka(work: Callable[[], Any]) -> Any:
    """The work's result; says so and ends with TRY_AGAIN where Kafka does not answer, or forgot what was being read."""
    from pipeline.kafka.client import KafkaUnavailable
    from pipeline.kafka.reader import LogTruncated

    try:
        return work()
    except LogTruncated as error:
        fail(f"{error}.", TRY_AGAIN)
    except KafkaUnavailable as error:
        fail(f"Kafka does not answer ({error}). Check kafka.bootstrap_servers in the settings.", TRY_AGAIN)
