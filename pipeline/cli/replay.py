"""`surgeline replay`: what is parked, quarantined, or changed in a span of time, sent again."""

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.cli.base import BAD_SETTINGS, WRONG_USE, AsJson, Config, actor, console, fail, now, of_kafka, settings_of
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.replay import (
    DEFAULT_LIMIT,
    DEFAULT_RATE_PER_S,
    MAX_LIMIT,
    MAX_RATE_PER_S,
    LeftOut,
    Selection,
    Window,
    millis_ago,
)
from pipeline.domain.records import Reason
from pipeline.formats.rfc3339 import millis_of
from pipeline.settings.model import Settings

if TYPE_CHECKING:
    from pipeline.formats.avro import Codec
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.repairs.replay import Plan

HELP: Final = """Send again what is parked, quarantined, or changed in a span of time.

Without --yes it only counts. Exit code: 0 done, 1 something is left that can't be replayed or waits for another run,
2 used wrongly.
"""
SUBJECT: Final = re.compile(r"[0-9a-f]{16}")

replay = typer.Typer(help=HELP, no_args_is_help=True)

Why = Annotated[str, typer.Option("--reason", help="Why it is replayed; goes into the audit log. Needed with --yes.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")]
Type = Annotated[EntityType | None, typer.Option("--entity-type", help="Only entities of this type.")]
Subject = Annotated[str | None, typer.Option("--entity", help="Only this entity: its digest, as log, audit and status show it.")]
Source = Annotated[str | None, typer.Option("--source", help="Only what this source system said.")]
Feed = Annotated[str | None, typer.Option(help="Only what came by this feed.")]
Cause = Annotated[Reason | None, typer.Option("--cause", help="Only for this reason.", metavar="REASON", show_choices=False)]
Destination = Annotated[str | None, typer.Option(help="Only what concerns this destination.")]
From = Annotated[str | None, typer.Option("--from", help="Not before, RFC 3339 with an offset: 2026-01-31T08:00:00Z.")]
To = Annotated[str | None, typer.Option("--to", help="Before, RFC 3339 with an offset.")]
Since = Annotated[str | None, typer.Option("--since", help="Not before so long ago: 90s, 30m, 2h, 7d.")]
Tenant = Annotated[str | None, typer.Option(help="Only entities of this organisation; else of all.")]
Limit = Annotated[int, typer.Option(help="At most so many.", min=1, max=MAX_LIMIT)]
Rate = Annotated[float, typer.Option(help="At most so many a second.", min=0.1, max=MAX_RATE_PER_S)]


@dataclass(frozen=True, slots=True)
class _Ways:
    """How a plan is shown and carried out."""

    reason: str
    yes: bool
    rate: float
    as_json: bool
    again: str = ""


@replay.command("parked")
def replay_parked(
    reason: Why = "",
    yes: Yes = False,
    destination: Destination = None,
    cause: Cause = None,
    entity_type: Type = None,
    entity: Subject = None,
    source: Source = None,
    feed: Feed = None,
    since: Since = None,
    start: From = None,
    to: To = None,
    tenant: Tenant = None,
    limit: Limit = DEFAULT_LIMIT,
    rate: Rate = DEFAULT_RATE_PER_S,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Send the current state of every parked entity again, once what stopped it is mended.

    Times are when it was parked, --cause is why. Run it again at any time: what waits or came through is left out.
    """
    from pipeline.roles.repairs.replay import plan_parked

    ways = _Ways(_checked(reason, yes), yes, rate, as_json)
    window, subject = _window(since, start, to, now()), _subject(entity)
    settings = settings_of(config)
    meant = Selection(window, entity_type, subject, source, feed, cause, _known(settings, destination), limit, tenant)
    topics, codec, subject_of = _tools(settings)
    plan = _planned(ways, lambda: plan_parked(topics, codec, meant, settings.destinations, subject_of))
    _tell_or_do(settings, codec, plan, ways)


@replay.command("quarantined")
def replay_quarantined(
    reason: Why = "",
    yes: Yes = False,
    cause: Cause = None,
    entity_type: Type = None,
    entity: Subject = None,
    source: Source = None,
    feed: Feed = None,
    since: Since = None,
    start: From = None,
    to: To = None,
    tenant: Tenant = None,
    limit: Limit = DEFAULT_LIMIT,
    rate: Rate = DEFAULT_RATE_PER_S,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Have quarantined records judged anew: each is put back, as it was, into the log that it came from.

    Times are when it first landed, --cause is why it was quarantined. What would be quarantined again is not put back, and
    says what to do; what was judged since is left out.
    """
    from pipeline.roles.policies import load_policy
    from pipeline.roles.repairs.replay import opener_of, plan_quarantined
    from pipeline.roles.ways_in.feeds import in_force

    ways = _Ways(_checked(reason, yes), yes, rate, as_json)
    at = now()
    meant = Selection(_window(since, start, to, at), entity_type, _subject(entity), source, feed, cause, None, limit, tenant)
    settings = settings_of(config)
    topics, codec, subject_of = _tools(settings)
    policy = of_kafka(lambda: in_force(topics, load_policy()))
    try:
        opener = opener_of(settings, codec, policy, at)
    except (OSError, ValueError):
        fail("raw_encryption: a key file can't be read, and without it no quarantined record can be opened.", BAD_SETTINGS)
    plan = _planned(ways, lambda: plan_quarantined(topics, codec, meant, opener, subject_of))
    _tell_or_do(settings, codec, plan, ways)


@replay.command("range")
def replay_range(
    reason: Why = "",
    yes: Yes = False,
    since: Since = None,
    start: From = None,
    to: To = None,
    destination: Destination = None,
    cause: Cause = None,
    entity_type: Type = None,
    entity: Subject = None,
    source: Source = None,
    feed: Feed = None,
    begun: Annotated[
        str | None,
        typer.Option(help="Go on with a range that was broken off: leave out what was sent since that time, RFC 3339."),
    ] = None,
    tenant: Tenant = None,
    limit: Limit = DEFAULT_LIMIT,
    rate: Rate = DEFAULT_RATE_PER_S,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Send the current state of every entity again that changed in a span of time, e.g. after an EHR was restored from a backup.

    With --destination also what that destination confirmed in it; with --cause only what met that reason at a destination in it.
    Each goes to every destination that takes its type.
    """
    from pipeline.formats.rfc3339 import rfc3339_of
    from pipeline.roles.process import Refused
    from pipeline.roles.repairs.replay import plan_range
    from pipeline.roles.writers.profiles import types_at

    at, since_begun = now(), _time("--begun", begun)
    window = _window(since, start, to, at)
    if window.since is None:
        fail("Say from when: --from TIME or --since LENGTH.", WRONG_USE)
    window = Window(window.since, at if window.until is None else window.until)
    first, last = rfc3339_of(window.since or Millis(0)), rfc3339_of(window.until or at)
    again = f"the same with --from {first} --to {last} --begun {begun or rfc3339_of(at)}"
    ways, subject = _Ways(_checked(reason, yes), yes, rate, as_json, again), _subject(entity)
    settings = settings_of(config)
    meant = Selection(window, entity_type, subject, source, feed, cause, _known(settings, destination), limit, tenant)
    topics, codec, subject_of = _tools(settings)
    try:
        expected = {each for name, types in types_at(settings).items() if destination in (None, name) for each in types}
    except Refused as refused:
        fail("\n".join(refused.problems), BAD_SETTINGS)
    plan = _planned(ways, lambda: plan_range(topics, codec, meant, expected, subject_of, since_begun))
    _tell_or_do(settings, codec, plan, ways)


def _planned(ways: _Ways, work: Callable[[], "Plan"]) -> "Plan":
    """The plan; a long history takes a while, about 10 µs a record."""
    with console.status("Reading the history") if not ways.as_json else nullcontext():
        plan: Plan = of_kafka(work)
        return plan


def _tell_or_do(settings: Settings, codec: "Codec", plan: "Plan", ways: _Ways) -> None:
    from pipeline.ops.render.replay import plan_json, render_plan

    parts = plan.what, plan.selection, plan.size, plan.tally, plan.unreadable
    if not ways.as_json:
        console.print(render_plan(*parts))
    ordered = _do(settings, codec, plan, ways) if ways.yes and plan.size else None
    if ways.as_json:
        sys.stdout.buffer.write(plan_json(*parts, ordered) + b"\n")
    else:
        console.print(_told(plan, ordered, ways))
    raise typer.Exit(0 if plan.is_whole and ordered in (None, plan.size) else 1)


def _do(settings: Settings, codec: "Codec", plan: "Plan", ways: _Ways) -> int:
    from pipeline.roles.repairs.replay import carry_out

    columns = (TextColumn("ordered"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=ways.as_json, transient=True) as progress:
        task = progress.add_task("ordered", total=plan.size)

        def show(ordered: int) -> None:
            progress.update(task, completed=ordered)

        done = of_kafka(lambda: carry_out(settings, codec, plan, actor(), ways.reason, now, ways.rate, show))
    return int(done.ordered)


def _told(plan: "Plan", ordered: int | None, ways: _Ways) -> str:
    if not plan.size:
        return "Nothing to send again."
    if ordered is None:
        seconds = plan.size / ways.rate
        return f'Nothing was done. Add --yes --reason "why" to send {plan.size}; takes about {seconds:.0f} s.'
    if ordered < plan.size:
        return f"Broken off: {ordered} of {plan.size} are ordered. For the rest, run {ways.again or 'it again'}."
    rest = plan.tally.left_out[LeftOut.BEYOND_LIMIT]
    more = f" For the {rest} beyond --limit, run {ways.again or 'it again'}." if rest else ""
    return f"{ordered} ordered. `surgeline status` and `surgeline books --wait-s 60` show whether they came through.{more}"


def _tools(settings: Settings) -> "tuple[KafkaTopics, Codec, Callable[[bytes], str]]":
    """The topics, the codec, and what makes a digest of an entity's key."""
    from pipeline.ops.logs import subject
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    digest_key = settings.digest_key()
    return KafkaTopics(settings.kafka), codec_of(settings), lambda key: subject(key, digest_key)


def _checked(reason: str, yes: bool) -> str:
    if yes and not reason.strip():
        fail("Say why: --reason. It goes into the audit log.", WRONG_USE)
    return reason.strip()


def _known(settings: Settings, destination: str | None) -> str | None:
    if destination is not None and destination not in settings.destinations:
        fail(f"The settings name no such destination; known: {', '.join(settings.destinations) or 'none'}.", WRONG_USE)
    return destination


def _subject(entity: str | None) -> str | None:
    if entity is not None and not SUBJECT.fullmatch(entity):
        fail("--entity is a digest of 16 hexadecimal digits. One entity by its identifier: surgeline reassert.", WRONG_USE)
    return entity


def _window(since: str | None, start: str | None, to: str | None, at: Millis) -> Window:
    if since is not None and start is not None:
        fail("Either --since or --from.", WRONG_USE)
    first, last = _time("--from", start), _time("--to", to)
    if since is not None:
        length_ms = millis_ago(since)
        if length_ms is None:
            fail("--since is a number with s, m, h or d: 90s, 30m, 2h, 7d; at most 90d.", WRONG_USE)
        first = Millis(at - length_ms)
    if first is not None and last is not None and first >= last:
        fail("The span of time is empty: --to is not after its beginning.", WRONG_USE)
    return Window(first, last)


def _time(option: str, text: str | None) -> Millis | None:
    if text is None:
        return None
    at = millis_of(text)
    if at is None:
        fail(f"{option} is a time with an offset, RFC 3339: 2026-01-31T08:00:00Z or 2026-01-31T09:00:00+01:00.", WRONG_USE)
    return at
