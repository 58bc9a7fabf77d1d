"""`surgeline files`: what became of managed files, their rejected rows, and putting these right."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from pipeline.cli.base import WRONG_USE, AsJson, Config, actor, console, fail, of_kafka, settings_of
from pipeline.domain.files.life import FileState, FileStatus
from pipeline.formats.rfc3339 import rfc3339_of

if TYPE_CHECKING:
    from pipeline.formats.avro import Codec
    from pipeline.roles.files.ledger import FilesReader
    from pipeline.settings.model import Settings

SHOWN: Final = 50

files = typer.Typer(help="Managed files: where each stands, its rejected rows, and putting these right.", no_args_is_help=True)

FileId = Annotated[str, typer.Argument(help="Id of a file, or how it begins; `surgeline files show` lists them.")]
Why = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log. Needed with --yes.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")]


@files.command("show")
def show(
    file: Annotated[str | None, typer.Argument(help="Id of a file, or how it begins; all files without.")] = None,
    row: Annotated[int | None, typer.Option(min=1, help="Only this row of the file.")] = None,
    partner: Annotated[str | None, typer.Option(help="Only files of this partner.")] = None,
    status: Annotated[FileStatus | None, typer.Option(help="Only files that stand there.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many files, the newest.")] = SHOWN,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """List files, or show what became of one file's rows: at the gate and at each destination."""
    _, _, reader = _reader(config)
    if file is None:
        found = [
            each
            for each in of_kafka(reader.files)
            if (partner is None or each.partner == partner) and (status is None or each.status is status)
        ]
        _print_files(found[:limit], as_json)
        return
    state = _one(reader, file)
    fate = of_kafka(lambda: reader.fate(state, row))
    said = {
        **_shown(state),
        "rows_found": len(fate.rows),
        "events": fate.events,
        "gate": dict(fate.gate),
        "destinations": {name: dict(counts) for name, counts in fate.destinations.items()},
    }
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    table = Table("", "", show_header=False)
    for name, value in said.items():
        table.add_row(name, _text(value))
    console.print(table)


@files.command("rejects")
def rejects(
    file: FileId,
    save: Annotated[
        Path | None, typer.Option(help="Write the rows themselves here, to be corrected; holds patient data.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show a file's rejected rows: line, column, rule and remedy. The rows themselves only by --save."""
    from pipeline.formats.files import corrections
    from pipeline.kafka.crypto import RawCipher
    from pipeline.roles.ways_in.files import file_profile

    settings, _, reader = _reader(config)
    state = _one(reader, file)
    cipher = None
    if save is not None:
        key_id, _ = settings.raw_key()
        cipher = RawCipher(settings.raw_keys(), key_id)
    found = of_kafka(lambda: reader.rejects(state, cipher))
    if save is not None:
        known = [each for each in found if each.record is not None]
        broken = [
            corrections.Broken(each.row, each.line, each.column, each.rule, each.remedy, each.head, each.record or b"")
            for each in known
        ]
        _write_private(save, corrections.write(file_profile(state.profile), broken))
        typer.echo(f"{len(known)} rows written to {save}: correct them, then surgeline files replay {state.file_id[:12]} {save}")
        if len(known) < len(found):
            fail(f"{len(found) - len(known)} rows can't be opened: name their key under raw_encryption.previous")
        return
    if as_json:
        names = ("row", "line", "column", "rule", "remedy")
        typer.echo(json.dumps([{name: getattr(each, name) for name in names} for each in found], indent=2))
        return
    table = Table("row", "line", "column", "rule", "remedy", "corrected")
    for each in found:
        is_done = "yes" if each.row in state.corrected else ""
        table.add_row(str(each.row), str(each.line), each.column, each.rule, each.remedy, is_done)
    console.print(table)


@files.command("replay")
def replay(
    file: FileId,
    corrected: Annotated[
        Path, typer.Argument(help="Rows that `files rejects --save` wrote, corrected.", exists=True, dir_okay=False)
    ],
    reason: Why = "",
    yes: Yes = False,
    config: Config = None,
) -> None:
    """Land corrected rows through the same gate, under the file's own identity; only rows that were rejected.

    Exit code: 0 done, 1 some rows are still broken, 2 used wrongly.
    """
    from pipeline.formats.files import corrections
    from pipeline.roles.files import repair as files_repair
    from pipeline.roles.process import Refused
    from pipeline.roles.ways_in.files import file_profile

    settings, codec, reader = _reader(config)
    state = _one(reader, file)
    if state.status is not FileStatus.TAKEN or state.partner not in settings.files.partners:
        fail("only rows of a file that was taken, of a partner of the settings, can be corrected", WRONG_USE)
    if yes and not reason:
        fail("say why: --reason", WRONG_USE)
    try:
        rows = corrections.read(file_profile(state.profile), corrected.read_bytes())
        rejected = {each.row for each in of_kafka(lambda: reader.rejects(state))}
        plan = files_repair.plan(settings, state, rows, rejected)
    except (ValueError, Refused) as error:
        fail(str(error), WRONG_USE)
    for number, bad in plan.broken:
        typer.echo(f"row {number}: {bad.field or 'the row'}: {bad.rule}; {bad.remedy}", err=True)
    if yes and plan.ready:
        of_kafka(lambda: files_repair.land(settings, codec, state, plan.ready, actor(), reason))
    typer.echo(f"{len(plan.ready)} rows {'landed' if yes else 'would be landed; --yes does it'}, {len(plan.broken)} still broken")
    raise typer.Exit(1 if plan.broken else 0)


@files.command("release")
def release(file: FileId, reason: Why = "", yes: Yes = False, config: Config = None) -> None:
    """Let a held file be landed though many of its rows are broken; these go to quarantine."""
    from pipeline.roles.files import repair as files_repair

    settings, codec, reader = _reader(config)
    state = _one(reader, file)
    if state.status is not FileStatus.HELD:
        fail(f"the file is not held, it stands at {state.status.value}", WRONG_USE)
    if yes and not reason:
        fail("say why: --reason", WRONG_USE)
    if yes:
        of_kafka(lambda: files_repair.release(settings, codec, state, actor(), reason))
    typer.echo("released: it is landed as soon as its folder is looked at" if yes else "would be released; --yes does it")


@files.command("link")
def link(
    file: FileId,
    reason: Why = "",
    seconds: Annotated[float, typer.Option(min=1, max=900, help="How long the address works.")] = 300.0,
    config: Config = None,
) -> None:
    """Print an address from which the partner can fetch the acknowledgement of one file, for a while.

    Only where its place is object storage. Whoever has the address can fetch it: send it to the partner alone.
    """
    from pipeline.carriers.protocol import Unreachable
    from pipeline.roles.files import repair as files_repair
    from pipeline.roles.process import Refused

    settings, codec, reader = _reader(config)
    state = _one(reader, file)
    if not reason or state.partner not in settings.files.partners:
        fail("say why (--reason), of a file of a partner of the settings", WRONG_USE)
    try:
        address = of_kafka(lambda: files_repair.link(settings, codec, state, seconds, actor(), reason))
    except (Refused, Unreachable) as error:
        fail(str(error))
    if address is None:
        fail("the partner's place gives no such address", WRONG_USE)
    typer.echo(address)


def _reader(config: Path | None) -> "tuple[Settings, Codec, FilesReader]":
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.files.ledger import FilesReader
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    codec = codec_of(settings)
    return settings, codec, FilesReader(KafkaTopics(settings.kafka), codec)


def _one(reader: "FilesReader", start: str) -> FileState:
    found: list[FileState] = of_kafka(lambda: reader.find(start))
    if len(found) != 1:
        fail("no file has this id" if not found else f"{len(found)} files have ids that begin so; write more of it", WRONG_USE)
    return found[0]


def _shown(state: FileState) -> dict[str, Any]:
    return {
        "file": state.file_id,
        "partner": state.partner,
        "name": state.name,
        "profile": state.profile,
        "status": state.status.value,
        "why": state.why.value,
        "late": state.late,
        "rule": state.rule,
        "remedy": state.remedy,
        "sha256": state.sha256,
        "records": state.records,
        "rows_done": state.rows_done,
        "landed": state.landed,
        "rejected": state.rejected,
        "corrected": len(state.corrected),
        "source_system": state.source_system,
        "key_id": state.key_id,
        "created_at": rfc3339_of(state.created_at) if state.created_at is not None else None,
        "at": rfc3339_of(state.at),
        "same_as": state.same_as,
        "released_by": state.released_by,
    }


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items()) or "-"
    return "-" if value in ("", None) else str(value)


def _print_files(found: list[FileState], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_shown(state) for state in found], indent=2))
        return
    table = Table("file", "partner", "name", "status", "why", "records", "landed", "rejected", "corrected", "at")
    for state in found:
        counts = (state.records, state.landed, state.rejected, len(state.corrected))
        why = "" if state.why.value == "NONE" else state.why.value
        row = (state.file_id[:12], state.partner, state.name or "(not agreed)", state.status.value, why, *map(str, counts))
        table.add_row(*row, rfc3339_of(state.at))
    console.print(table)


def _write_private(path: Path, content: bytes) -> None:
    """A file that only its owner may open, and that was not there before."""
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{path} is there already", WRONG_USE)
    with os.fdopen(opened, "wb") as out:
        out.write(content)
