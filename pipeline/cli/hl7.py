"""HL7 v2, for those who onboard a feed."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pipeline.cli.base import AsJson, console, fail

hl7 = typer.Typer(help="HL7 v2: what a message means under a profile.", no_args_is_help=True)


@hl7.command("explain")
def hl7_explain(
    files: Annotated[list[Path], typer.Argument(help="HL7 v2: messages or batches.", exists=True, dir_okay=False)],
    profile: Annotated[str, typer.Option(help="HL7 profile: a name under profiles/hl7, or a file.")] = "default",
    values: Annotated[bool, typer.Option(help="Show the values, which may be a patient's.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show each field that a message states: its value, where it was read, and by which rule. No broker is needed.

    Exit code 1 if a message is rejected.
    """
    from pipeline.formats.hl7v2.mapping import messages_of
    from pipeline.formats.hl7v2.origins import explain
    from pipeline.formats.hl7v2.verdict import Rejected
    from pipeline.ops.render_hl7 import as_builtins, rejection, tables_of
    from pipeline.roles.intake import hl7_profile
    from pipeline.roles.process import Refused

    try:
        chosen = hl7_profile(profile)
    except Refused as error:
        fail("\n".join(error.problems), 2)
    refused = False
    for file in files:
        parts = messages_of(file.read_bytes())
        if isinstance(parts, Rejected):
            refused = True
            console.print(rejection(file.name, parts))
            continue
        for part in parts:
            found = explain(part, chosen)
            refused = refused or found.rejected is not None
            if as_json:
                typer.echo(msgspec.json.encode(as_builtins(found, values)).decode())
            else:
                console.print(*tables_of(found, values), sep="\n")
    if refused:
        raise typer.Exit(1)
