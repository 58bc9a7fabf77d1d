"""`surgeline mode`: what mode a destination is in, and forcing one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.base import WRONG_USE, AsJson, Config, actor, console, fail, now, of_kafka, settings_of
from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.replay import millis_ago
from pipeline.domain.writing.modes import FORCEABLE, MAX_FORCE_S, Mode
from pipeline.settings.model import Settings

mode = typer.Typer(
    help="The mode of a destination: what it is and why, and forcing another one for a while.", no_args_is_help=True
)

Destination = Annotated[str, typer.Argument(help="A name under `writers` in the settings.")]
Why = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log and is shown by status. No patient data.")]


@mode.command("show")
def mode_show(
    destination: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show each destination's mode: since when, why, by which figures, what it freezes, and who forces it."""
    import msgspec

    from pipeline.ops.render.modes import modes_json, render_modes
    from pipeline.ops.status import read_status
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    names = [destination] if destination is not None else list(settings.destinations)
    _check_known(settings, destination)
    found = of_kafka(lambda: read_status(KafkaTopics(settings.kafka), codec_of(settings), names, now))
    shown = msgspec.structs.replace(found, destinations=tuple(at for at in found.destinations if at.destination in names))
    if as_json:
        sys.stdout.buffer.write(modes_json(shown) + b"\n")
    else:
        console.print(render_modes(shown))


@mode.command("check")
def mode_check(
    file: Annotated[Path | None, typer.Argument(help="Policy of modes; else the shipped one.")] = None,
) -> None:
    """Check a policy of modes before a writer is started with it. Exit code 1, and all that is wrong, if it can't be used."""
    from pipeline.domain.judging.policy import BadPolicy
    from pipeline.roles.policies import load_modes

    try:
        policy = load_modes(file)
    except BadPolicy as bad:
        fail("\n".join(bad.problems))
    console.print(f"version {policy.version}: good")
    for name, rules in (("slow", policy.slow.freezes), ("severe", policy.severe.freezes), ("outage", policy.outage.freezes)):
        for rule in rules:
            what = [*rule.lanes, *(rule.entity_types or ("every type but encounter",)), *rule.event_types]
            console.print(f"{name} freezes {', '.join(what)}: {rule.why}", markup=False)


@mode.command("force")
def mode_force(
    destination: Destination,
    wanted: Annotated[Mode, typer.Argument(metavar="MODE", help="normal, slow, severe or outage.", show_choices=False)],
    reason: Why,
    length: Annotated[str, typer.Option("--for", help="It ends by itself after this: 90s, 30m, 2h; at most 24h.")] = "1h",
    yes: Annotated[
        bool, typer.Option("--yes", help="Needed for outage: nothing is sent then, not even critical changes.")
    ] = False,
    config: Config = None,
) -> None:
    """Force a mode, whatever the figures say. It holds over restarts; what doesn't answer is in outage all the same.

    normal freezes nothing. severe freezes what its policy says. outage sends nothing at all, for maintenance of an EHR.
    """
    settings = settings_of(config)
    _check_known(settings, destination)
    if wanted not in FORCEABLE:
        fail(f"{wanted.value} follows from an outage and can't be forced. Can be: {', '.join(FORCEABLE)}.", WRONG_USE)
    length_ms = millis_ago(length)
    if length_ms is None or length_ms > MAX_FORCE_S * 1000:
        fail("--for is a number with s, m or h: 90s, 30m, 2h; at most 24h.", WRONG_USE)
    if wanted is Mode.OUTAGE and not yes:
        fail("In a forced outage nothing is sent, not even critical changes. Add --yes to do it.", WRONG_USE)
    at = now()
    _order(settings, destination, wanted, reason, at, Millis(at + length_ms))
    console.print(
        f"{destination}: {wanted.value} is ordered for {length}. `surgeline mode show {destination}` shows when it is in force."
    )
    console.print(f'To end it before: surgeline mode release {destination} --reason "why"')


@mode.command("release")
def mode_release(destination: Destination, reason: Why, config: Config = None) -> None:
    """Let the figures decide again."""
    settings = settings_of(config)
    _check_known(settings, destination)
    at = now()
    _order(settings, destination, None, reason, at, at)
    console.print(f"{destination}: released; the figures decide within a second or two.")


def _order(settings: Settings, destination: str, wanted: Mode | None, reason: str, at: Millis, until: Millis) -> None:
    from pipeline.roles.process import codec_of
    from pipeline.roles.writers.mode_orders import order_mode

    if not reason.strip():
        fail("Say why: --reason. It goes into the audit log.", WRONG_USE)
    of_kafka(lambda: order_mode(settings, codec_of(settings), destination, wanted, actor(), reason.strip(), at, until))


def _check_known(settings: Settings, destination: str | None) -> None:
    if destination is not None and destination not in settings.destinations:
        fail(f"The settings name no such destination; known: {', '.join(settings.destinations) or 'none'}.", WRONG_USE)
