"""Looking: what a message becomes, the books, the status, the audit log."""

import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.live import Live

from pipeline.cli.base import WRONG_USE, AsJson, Config, app, console, fail, now, of_kafka, settings_of
from pipeline.formats.fhir.inbound_verdict import FhirVersion

audit = typer.Typer(help="The audit log.", no_args_is_help=True)


@app.command("map")
def map_files(
    files: Annotated[
        list[Path],
        typer.Argument(help="HL7 v2 messages, FHIR resources or bundles, or JSON events (one object, a list, or a line each)."),
    ],
    profile: Annotated[str, typer.Option(help="HL7 profile.")] = "default",
    tenant: Annotated[str, typer.Option(help="Organisation.")] = "demo",
    ehr_profile: Annotated[str, typer.Option(help="Profile of the EHR that FHIR files are from.")] = "sekmet-owner",
    facility: Annotated[str, typer.Option(help="Site, where a FHIR file names none.")] = "MAIN",
    server: Annotated[str, typer.Option(help="Name of that EHR: the source system of its events.")] = "ehr",
    fhir_version: Annotated[FhirVersion, typer.Option(help="FHIR version of the files.")] = "R4",
    digest_key_file: Annotated[
        Path | None, typer.Option(help="The writers' key: without it, what we wrote can't be told from edits.")
    ] = None,
) -> None:
    """Print the canonical events that files would make, as JSON lines; needs no broker.

    A rejected input is one object with file, rejected and detail (exit code 1); one that is ignored by rule is one
    object with file, ignored and detail (exit code 0).
    """
    from pipeline.roles.mapping import ehr_of, map_file
    from pipeline.roles.process import Refused
    from pipeline.roles.ways_in.intake import hl7_profile

    try:
        chosen = hl7_profile(profile)
        ehr = ehr_of(ehr_profile, tenant, facility, server, fhir_version, digest_key_file)
    except Refused as error:
        fail("\n".join(error.problems), WRONG_USE)
    rejected = False
    for file in files:
        for line in map_file(file, chosen, tenant, now(), ehr):
            rejected = rejected or "rejected" in line
            sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()
    raise typer.Exit(1 if rejected else 0)


@app.command()
def books(
    config: Config = None,
    as_json: AsJson = False,
    wait_s: Annotated[float, typer.Option(help="Wait so long for what is open.")] = 0.0,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Also compare each entity with what its destination shows.")] = True,
) -> None:
    """Prove that nothing was lost: from the topics and the destinations, not from any counter.

    Exit code 0 if the books balance. What is open or waits is shown, and is no fault.
    """
    from pipeline.ops.books import exit_code
    from pipeline.ops.render.books import books_json, render_books
    from pipeline.roles.accounts.books import close_books

    settings = settings_of(config)
    result, asked = of_kafka(lambda: close_books(settings, open_s=wait_s, ask=ask))
    if as_json:
        sys.stdout.buffer.write(books_json(result, asked) + b"\n")
    else:
        console.print(render_books(result, asked, now()))
    raise typer.Exit(exit_code(result, asked))


@app.command()
def status(
    config: Config = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
) -> None:
    """Answer four questions per destination: current? delayed? what is stuck? what was last confirmed?"""
    from pipeline.ops.render.status import render_status, status_json
    from pipeline.roles.accounts.books import current_status

    settings = settings_of(config)
    if as_json:
        sys.stdout.buffer.write(status_json(of_kafka(lambda: current_status(settings))) + b"\n")
        return
    if not watch:
        console.print(render_status(of_kafka(lambda: current_status(settings))))
        return
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(render_status(of_kafka(lambda: current_status(settings))), refresh=True)
                time.sleep(1)
        except KeyboardInterrupt:
            return


@audit.command("show")
def audit_show(
    config: Config = None,
    as_json: AsJson = False,
    chain: Annotated[str | None, typer.Option(help="Only chains that begin so.")] = None,
    action: Annotated[str | None, typer.Option(help="Only actions that begin so, e.g. write.confirmed.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.")] = 50,
) -> None:
    """Print audit entries, oldest first."""
    from pipeline.ops.audit import AuditFilter, read_entries, render_entries, show
    from pipeline.ops.audit import as_json as encoded
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    wanted = AuditFilter(chain=chain, action=action, destination=destination)
    entries = of_kafka(lambda: show(read_entries(KafkaTopics(settings.kafka), codec_of(settings)), wanted, limit))
    if as_json:
        sys.stdout.buffer.write(encoded(entries) + b"\n")
    else:
        console.print(render_entries(entries))


@audit.command("verify")
def audit_verify(
    config: Config = None,
    as_json: AsJson = False,
    against: Annotated[
        list[Path] | None, typer.Option(help="Checkpoints that were kept elsewhere, as `audit checkpoint` prints them.")
    ] = None,
) -> None:
    """Verify every chain: a changed, missing or reordered entry, a cut end, a forged checkpoint is named. Exit code 1 then."""
    from pipeline.ops.audit import Verified, read_entries, render_verified, verify_all
    from pipeline.ops.audit import as_json as encoded
    from pipeline.ops.checkpoints import BadAuditKey, imported, judged, public_keys, read_checkpoints
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    try:
        keys = public_keys(settings.audit, settings.demo)
        kept = judged([imported(file.read_bytes()) for file in against or ()], keys)
    except BadAuditKey as bad:
        fail(str(bad), WRONG_USE)
    except (OSError, msgspec.DecodeError):
        fail("--against: a file can't be read, or holds no checkpoint", WRONG_USE)
    topics, codec = KafkaTopics(settings.kafka), codec_of(settings)

    def verify() -> Verified:
        """Checkpoints before and behind the entries: some are signed meanwhile."""
        before = list(read_checkpoints(topics, codec))
        entries = list(read_entries(topics, codec))
        late = list(read_checkpoints(topics, codec))[len(before) :]
        return verify_all(entries, judged(before, keys), kept, judged(late, keys))

    verified: Verified = of_kafka(verify)
    if as_json:
        sys.stdout.buffer.write(encoded(verified) + b"\n")
    else:
        console.print(render_verified(verified))
    raise typer.Exit(0 if verified.whole else 1)


@audit.command("checkpoint")
def audit_checkpoint(
    config: Config = None,
    save: Annotated[Path | None, typer.Option(help="Write it to a file that is not there yet.", dir_okay=False)] = None,
) -> None:
    """Print the newest signed checkpoint, to be kept where nobody of this cluster can write; exit code 1 if there is none."""
    from pipeline.ops.checkpoints import export, read_checkpoints
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    signed = of_kafka(lambda: list(read_checkpoints(KafkaTopics(settings.kafka), codec_of(settings))))
    if not signed:
        fail("There is no checkpoint: is `surgeline run auditor` running?")
    if save is None:
        sys.stdout.buffer.write(export(signed[-1]))
        return
    try:
        with save.open("xb") as out:
            out.write(export(signed[-1]))
    except FileExistsError:
        fail(f"{save} is there already", WRONG_USE)
