"""`surgeline downtime`: boards for when nothing else works, and entering afterwards what was written on paper."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli.base import WRONG_USE, Config, actor, fail, of_kafka, settings_of

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey

    from pipeline.domain.identifiers import Millis

MAX_BOARD_BYTES: Final = 64 * 1024 * 1024
ENCRYPTED: Final = ".age"

downtime = typer.Typer(help="Downtime: open a board, enter what was written on paper.", no_args_is_help=True)


@downtime.command("open")
def open_board(
    file: Annotated[Path, typer.Argument(help="A board (.age), or a folder: its newest board.", exists=True)],
    key: Annotated[Path, typer.Option(help="The workstation's key, as age-keygen writes it.", exists=True, dir_okay=False)],
    to: Annotated[
        Path | None, typer.Option(help="Write it here; else beside the board, without .age. It holds patient data.")
    ] = None,
    signer: Annotated[
        list[str], typer.Option(help="KEYID=FILE, a public key (PEM) that boards are signed with; one or several.")
    ] = [],  # noqa: B006 - typer copies it
    unverified: Annotated[bool, typer.Option("--unverified", help="Open a signed board without looking who wrote it.")] = False,
) -> None:
    """Decrypt a board for this workstation, readable to its user alone. Needs no broker, no EHR and no settings.

    With --signer it says who wrote it, when, and as of when it is complete; a board that was changed, renamed or not signed by
    one of these keys is not opened. Exit code: 0 done, 1 the key does not open it or the signature is not right, 2 used wrongly.
    """
    import pyrage

    from pipeline.sources.files.crypto import identities_of

    board = _newest(file) if file.is_dir() else file
    if board.suffix != ENCRYPTED:
        fail("a board that is encrypted ends in .age; open this one as it is", WRONG_USE)
    if board.stat().st_size > MAX_BOARD_BYTES:
        fail("no board is so large", WRONG_USE)
    try:
        identities = identities_of(key.read_text())
    except (OSError, UnicodeDecodeError, ValueError):
        identities = []
    if not identities:
        fail("the key file holds no age identity: age-keygen -o desk.key writes one", WRONG_USE)
    sealed = board.read_bytes()
    typer.echo(_who_wrote(board, sealed, signer, unverified), err=True)
    try:
        content = pyrage.decrypt(sealed, identities)
    except pyrage.DecryptError:
        fail("the board is not whole, or not encrypted to this key")
    target = to or board.with_suffix("")
    _write_private(target, content)
    typer.echo(str(target))


def _who_wrote(board: Path, sealed: bytes, signers: list[str], unverified: bool) -> str:
    """What is known of who wrote a board and when, in words; ends the command where the signature does not hold."""
    from pipeline.destinations.files.boards import SIGNATURE

    beside = board.with_name(f"{board.name}{SIGNATURE}")
    is_signed = beside.is_file()
    if not signers:
        if is_signed and not unverified:
            fail("the board is signed: say by whose key, --signer KEYID=FILE, or open it with --unverified", WRONG_USE)
        return "NOT VERIFIED: anybody who can write to its folder may have written this board"
    from pipeline.formats.boards.signature import MAX_SIGNATURE_BYTES, BoardFlaw, read_signature
    from pipeline.roles.process import now_ms

    keys = _public_keys(signers)
    if not is_signed:
        fail("the board is not signed: nobody knows who wrote it")
    with beside.open("rb") as signature:
        found = read_signature(board.name, sealed, signature.read(MAX_SIGNATURE_BYTES), keys)
    if isinstance(found, BoardFlaw):
        fail(f"the board is not to be trusted: {found.value}")
    now = now_ms()
    complete = "when it is complete as of is not known" if found.as_of is None else f"complete as of {_age(found.as_of, now)}"
    return f"signed by {found.key_id}; written {_age(found.made_at, now)}; {complete}"


def _public_keys(signers: list[str]) -> "dict[str, OKPKey]":
    from pipeline.formats.manifest import public_key

    keys = {}
    for each in signers:
        key_id, _, file = each.partition("=")
        try:
            key = public_key(Path(file).read_bytes()) if file else None
        except OSError:
            key = None
        if key is None:
            fail("--signer is KEYID=FILE, a file with an Ed25519 public key: openssl pkey -in boards.key -pubout", WRONG_USE)
        keys[key_id] = key
    return keys


def _age(at: "Millis", now: "Millis") -> str:
    from pipeline.formats.rfc3339 import rfc3339_of

    minutes = (now - at) // 60_000
    return f"{rfc3339_of(at)} ({f'{minutes} min ago' if now >= at else 'in the future by the clock here'})"


@downtime.command("form")
def form(
    to: Annotated[Path, typer.Argument(help="Where to write it; a file that is there already stays.", dir_okay=False)],
) -> None:
    """Write an empty form (CSV) for what was written on paper: its header alone."""
    from pipeline.roles.downtime.enter import PROFILE
    from pipeline.roles.ways_in.files import file_profile

    _write_private(to, (",".join(column.column for column in file_profile(PROFILE).columns) + "\r\n").encode(), replace=False)
    typer.echo(str(to))


@downtime.command("enter")
def enter(
    file: Annotated[Path, typer.Argument(help="What stands on the paper, as CSV.", exists=True, dir_okay=False)],
    facility: Annotated[str, typer.Option(help="Site of rows that name none.")],
    tenant: Annotated[str | None, typer.Option(help="Organisation; tenant_default if left out.")] = None,
    time_zone: Annotated[str, typer.Option(help="Zone of times without an offset, e.g. Europe/Berlin.")] = "UTC",
    source: Annotated[str, typer.Option(help="Source system that the paper speaks for.")] = "operator-downtime",
    reason: Annotated[str, typer.Option("--reason", help="Why; goes into the audit log. Needed with --yes.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")] = False,
    config: Config = None,
) -> None:
    """Enter changes from paper, each with the time that stands there; what was said later by anybody stays.

    Broken rows are named by line, column, rule and remedy; right ones are landed. To enter a file twice changes nothing.
    Exit code: 0 done, 1 some rows are broken, 2 used wrongly.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from pipeline.formats.files.rows import Unreadable
    from pipeline.roles.downtime import enter as downtime_enter
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    if yes and not reason:
        fail("say why: --reason", WRONG_USE)
    if file.stat().st_size > downtime_enter.MAX_BYTES:
        fail(f"a file has at most {downtime_enter.MAX_BYTES} bytes; enter it in parts", WRONG_USE)
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        fail("--time-zone is no zone of the IANA database, e.g. Europe/Berlin", WRONG_USE)
    content = file.read_bytes()
    try:
        paper = downtime_enter.read(settings, content, facility, tenant, time_zone, source)
    except Unreadable as unreadable:
        fail(f"{unreadable.flaw.field or 'the file'}: {unreadable.flaw.rule}; {unreadable.flaw.remedy}", WRONG_USE)
    for number, line, bad in paper.broken:
        typer.echo(f"row {number}, line {line}: {bad.field or 'the row'}: {bad.rule}; {bad.remedy}", err=True)
    if yes and paper.events:
        of_kafka(lambda: downtime_enter.land(settings, codec_of(settings), content, paper, actor(), reason))
    done = "entered" if yes else "would be entered; --yes does it"
    typer.echo(f"{len(paper.events)} changes {done}, {len(paper.broken)} rows are broken")
    raise typer.Exit(1 if paper.broken else 0)


def _newest(folder: Path) -> Path:
    """By the name, in which its time stands: the clock of a file system may be another one."""
    found = sorted(folder.rglob(f"*.html{ENCRYPTED}"), key=lambda path: path.name.rpartition("-")[2])
    if not found:
        fail("no board is in this folder", WRONG_USE)
    return found[-1]


def _write_private(path: Path, content: bytes, replace: bool = True) -> None:
    """A file that only its owner may open; in place of one that is there, whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp") if replace else path
    try:
        if replace:
            aside.unlink(missing_ok=True)
        opened = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(opened, "wb") as out:
            out.write(content)
        if replace:
            aside.replace(path)
    except FileExistsError:
        fail(f"{path} is there already", WRONG_USE)
    except OSError:
        fail(f"{path} can't be written", WRONG_USE)
