"""`surgeline report`: bed capacity as authorities want it, and where the files that go out stand."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from pipeline.cli.base import WRONG_USE, AsJson, Config, console, fail, of_kafka, settings_of
from pipeline.domain.files.outgoing import OutStatus
from pipeline.formats.rfc3339 import rfc3339_of

SHOWN: Final = 50

report = typer.Typer(help="Reports: bed capacity (US SAFR), and files that go out.", no_args_is_help=True)


@report.command("safr")
def safr(
    facility: Annotated[str, typer.Option(help="Site that is reported.")],
    tenant: Annotated[str | None, typer.Option(help="Organisation; tenant_default if left out.")] = None,
    period: Annotated[float, typer.Option(min=1, max=86_400, help="Length of the period that ends now, s.")] = 900.0,
    to: Annotated[Path | None, typer.Option(help="Write it here, in place of standard output.", dir_okay=False)] = None,
    config: Config = None,
) -> None:
    """Print the bed capacity of a site as a FHIR R4 MeasureReport of US SAFR. It holds no patient data.

    Exit code: 0 done, 2 nothing is known of the site, 75 what was landed is not judged yet.
    """
    from pipeline.roles.files import report as files_out_report

    settings = settings_of(config)
    bundle = of_kafka(lambda: files_out_report.safr(settings, facility, tenant, period))
    if bundle is None:
        fail("nothing is known of this site", WRONG_USE)
    if to is None:
        typer.echo(bundle.decode(), nl=False)
    else:
        to.write_bytes(bundle)
        typer.echo(str(to))


@report.command("sent")
def sent(
    receiver: Annotated[str | None, typer.Option(help="Only files for this receiver.")] = None,
    status: Annotated[OutStatus | None, typer.Option(help="Only files that stand there.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many files, the newest.")] = SHOWN,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """List files that go out: what each is, how often it was sent, whether its receiver has taken it."""
    from pipeline.roles.files import report as files_out_report
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    found = [
        each
        for each in of_kafka(lambda: files_out_report.sent(settings, codec_of(settings)))
        if (receiver is None or each.receiver == receiver) and (status is None or each.status is status)
    ][:limit]
    names = ("file", "receiver", "name", "status", "why", "records", "sends", "sha256", "created at", "at")
    rows = [
        (
            each.file_id[:12],
            each.receiver,
            each.name,
            each.status.value,
            "" if each.why.value == "NONE" else each.why.value,
            str(each.records),
            str(each.sends),
            each.sha256,
            rfc3339_of(each.created_at),
            rfc3339_of(each.at),
        )
        for each in found
    ]
    if as_json:
        typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    table = Table(*(name for name in names if name != "sha256"))
    for row in rows:
        table.add_row(*(cell for name, cell in zip(names, row, strict=True) if name != "sha256"))
    console.print(table)
