"""`surgeline reconcile`: order a comparison, and see what they found."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli.base import WRONG_USE, AsJson, Config, actor, console, fail, now, of_kafka, settings_of
from pipeline.settings.model import Settings

if TYPE_CHECKING:
    from pipeline.domain.reconcile.record import Reconciliation

SHOWN: Final = 20

reconcile = typer.Typer(
    help="What differs between what we hold and what destinations show: ordering a comparison, and what was found.",
    no_args_is_help=True,
)


@reconcile.command("run")
def reconcile_run(
    reason: Annotated[str, typer.Option("--reason", help="Why; goes into the audit log. No patient data.")],
    destination: Annotated[str | None, typer.Option(help="A name under `writers`; else each that is compared.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Everything; else what changed since the last run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only compare; repair nothing.")] = False,
    config: Config = None,
) -> None:
    """Order a comparison; `surgeline run reconcile` carries it out when the destination's mode lets it."""
    from pipeline.domain.reconcile.record import Scope
    from pipeline.roles.process import codec_of
    from pipeline.roles.reconcile.orders import order_run

    settings = settings_of(config)
    if not reason.strip():
        fail("Say why: --reason. It goes into the audit log.", WRONG_USE)
    scope, codec = Scope.FULL if full else Scope.INCREMENTAL, codec_of(settings)
    for name in _meant(settings, destination):

        def ordered(name: str = name) -> object:
            return order_run(settings, codec, name, scope, dry_run, actor(), reason.strip(), now())

        of_kafka(ordered)
        console.print(f"{name}: ordered. `surgeline reconcile show` shows when it is done.", markup=False)


@reconcile.command("show")
def reconcile_show(
    run: Annotated[str | None, typer.Argument(help="A run, or how its id begins; else the newest runs.")] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the run's signed report here, and its signature beside it as .jws.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest runs, or one with all that it found. Entities are named by the digest that logs and audit show."""
    from pipeline.ops.render.reconcile import render_run, render_runs
    from pipeline.roles.reconcile.role import shown

    runs = _runs(settings_of(config))
    if run is None:
        if as_json:
            _print_json([shown(each) for each in runs[:SHOWN]])
        else:
            console.print(render_runs(runs[:SHOWN], now()))
        return
    found = [each for each in runs if each.run.startswith(run)]
    if len(found) != 1:
        fail("There is no such run." if not found else f"{len(found)} runs begin so; write more of the id.", WRONG_USE)
    if save is not None:
        _save(found[0], save)
    if as_json:
        import msgspec

        _print_json({**shown(found[0]), "drifts": msgspec.to_builtins(found[0].drifts)})
    else:
        console.print(render_run(found[0], now()))


@reconcile.command("verify")
def reconcile_verify(
    report: Annotated[Path, typer.Argument(help="A saved report; its signature lies beside it as .jws.")],
    key: Annotated[Path, typer.Option("--key", help="Public key, Ed25519, PEM.")],
    key_id: Annotated[str, typer.Option("--key-id", help="Name of the key: reconcile.sign_key_id.")] = "reconcile-1",
) -> None:
    """Check that a saved report is as it was signed. Exit code 1 where it is not."""
    from pipeline.formats.manifest import check_signature, public_key

    try:
        data, signature, pem = report.read_bytes(), _signature_of(report).read_bytes(), key.read_bytes()
    except OSError:
        fail("The report, its signature (.jws) or the key can't be read.", WRONG_USE)
    public = public_key(pem)
    if public is None:
        fail("The key is no public Ed25519 key in PEM.", WRONG_USE)
    if check_signature(data, signature, key_id, {key_id: public}) is not None:
        fail("The report is not what was signed with this key.")
    console.print("The report is as it was signed.")


def _meant(settings: Settings, destination: str | None) -> tuple[str, ...]:
    compared = settings.reconcile.destinations or tuple(sorted(settings.writers))
    if destination is None:
        return compared
    if destination not in compared:
        fail(f"No such FHIR destination is compared; known: {', '.join(compared) or 'none'}.", WRONG_USE)
    return (destination,)


def _runs(settings: Settings) -> "list[Reconciliation]":
    """The newest record of each run, the newest run first."""
    from pipeline import topology
    from pipeline.domain.reconcile.record import Reconciliation
    from pipeline.ops.topics import KafkaTopics, decoded
    from pipeline.roles.process import codec_of

    codec, topics = codec_of(settings), KafkaTopics(settings.kafka)

    def read() -> list[Reconciliation]:
        newest: dict[str, Reconciliation] = {}
        begin, end = topics.begin(topology.RECONCILIATIONS), topics.end(topology.RECONCILIATIONS)
        for message in topics.read(topology.RECONCILIATIONS, begin, end):
            record = decoded(codec, message)
            if isinstance(record, Reconciliation):
                newest[record.run] = record
        return sorted(newest.values(), key=lambda each: each.begun_at, reverse=True)

    found: list[Reconciliation] = of_kafka(read)
    return found


def _save(run: "Reconciliation", path: Path) -> None:
    if run.report is None or run.signature is None:
        fail("This run has no signed report: only full ones have, where reconcile.sign_key_file is set.")
    try:
        path.write_bytes(run.report)
        _signature_of(path).write_text(run.signature + "\n")
    except OSError:
        fail(f"{path} can't be written.", WRONG_USE)


def _signature_of(report: Path) -> Path:
    return report.with_name(report.name + ".jws")


def _print_json(value: object) -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
