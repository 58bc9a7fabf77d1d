"""Rules that operators put into force: policies, live feeds, flags."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pipeline.cli.base import AsJson, Config, actor, console, fail, now, of_kafka, settings_of

policy = typer.Typer(help="Who may say what, and which lane a change takes.", no_args_is_help=True)
feeds = typer.Typer(help="Two feeds of one source: how they compare, and which is live.", no_args_is_help=True)
shadow = typer.Typer(help="Writes that flags let only be compared.", no_args_is_help=True)


@policy.command("show")
def policy_show(
    folder: Annotated[Path | None, typer.Option(help="Folder with ownership.yaml and lanes.yaml; else the shipped ones.")] = None,
) -> None:
    """Check a policy and print its version."""
    from pipeline.domain.judging.policy import BadPolicy
    from pipeline.roles.policies import load_policy

    try:
        console.print(load_policy(folder).version)
    except BadPolicy as error:
        fail("\n".join(error.problems))


@policy.command("apply")
def policy_apply(
    reason: Annotated[str, typer.Option(help="Why; goes into the record.")],
    folder: Annotated[Path | None, typer.Option(help="Folder with ownership.yaml and lanes.yaml; else the shipped ones.")] = None,
    config: Config = None,
) -> None:
    """Put a policy into force from now on, in every partition of every landing topic."""
    from pipeline.domain.judging.policy import BadPolicy
    from pipeline.roles.policies import apply_policy, load_policy
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    try:
        chosen = load_policy(folder)
    except BadPolicy as error:
        fail("\n".join(error.problems))
    told = of_kafka(lambda: apply_policy(settings, codec_of(settings), chosen, actor(), reason, now()))
    console.print(f"{chosen.version}: in force from the next record on, in {told} partitions")


@feeds.command("compare")
def feeds_compare(
    source_system: Annotated[str, typer.Argument(help="The source that both feeds speak for.")],
    first: Annotated[str, typer.Argument(help="Feed to compare with, e.g. the HL7 v2 one.")],
    second: Annotated[str, typer.Argument(help="Feed that is to agree with it, e.g. the FHIR one.")],
    hours: Annotated[float, typer.Option(help="How far back to look.", min=0.01, max=336)] = 24.0,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare what two feeds of one source said: agreement and delay per field, and where they end apart."""

    from pipeline.domain.identifiers import Millis
    from pipeline.ops.logs import subject
    from pipeline.ops.render.feeds import feeds_table
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of
    from pipeline.roles.ways_in.feeds import compare

    settings = settings_of(config)
    until = now()
    since = Millis(until - int(hours * 3_600_000))
    topics = KafkaTopics(settings.kafka)
    found = of_kafka(lambda: compare(topics, codec_of(settings), source_system, (first, second), since, until))
    digest_key = settings.digest_key()
    if as_json:
        shown = msgspec.structs.replace(found, different=tuple(subject(key.encode(), digest_key) for key in found.different))
        typer.echo(msgspec.json.encode(shown).decode())
    else:
        console.print(feeds_table(found, lambda key: subject(key.encode(), digest_key)))


@feeds.command("live")
def feeds_live(
    source_system: Annotated[str, typer.Argument(help="The source.")],
    feed: Annotated[str, typer.Argument(help="Its feed that is applied from now on; its others are only compared.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the audit log.")],
    facility: Annotated[str | None, typer.Option(help="Only at this facility; else wherever none has its own.")] = None,
    hours: Annotated[
        float, typer.Option(help="What it said so far back, while it was not live, is judged again.", min=0.01, max=336)
    ] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")] = False,
    config: Config = None,
) -> None:
    """Name the live feed of a source. Naming the former one again rolls back."""
    from pipeline.domain.identifiers import Millis
    from pipeline.domain.judging.policy import Live
    from pipeline.roles.process import codec_of
    from pipeline.roles.ways_in.feeds import go_live

    settings = settings_of(config)
    place = facility or "every facility without its own"
    if not yes:
        console.print(f"Would make {feed} the live feed of {source_system} at {place}. Add --yes to do it.")
        return
    live = Live(source_system, feed, facility)
    at = now()
    since = Millis(at - int(hours * 3_600_000))
    done = of_kafka(lambda: go_live(settings, codec_of(settings), live, actor(), reason, at, since))
    console.print(f"{feed} is live for {source_system} at {place}, by policy {done.policy.version}.")
    console.print(f"Events that it told before, judged again: {done.again}.")
    back = f"surgeline feeds live {source_system} {done.before}" if done.before else "surgeline policy apply, without this rule"
    console.print(f"Before: {done.before or 'all feeds were applied'}. To go back: {back}")


@shadow.command("report")
def shadow_report(
    config: Config = None,
    as_json: AsJson = False,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
) -> None:
    """Say what the writes that were only compared would have changed: counts by destination, entity type and field."""
    from pipeline.ops.shadow import read_shadows, render_shadows, shadows_json
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    found = of_kafka(lambda: read_shadows(KafkaTopics(settings.kafka), codec_of(settings), destination))
    if as_json:
        sys.stdout.buffer.write(shadows_json(found) + b"\n")
    else:
        console.print(render_shadows(found, now()))


@shadow.command("check")
def shadow_check(
    file: Annotated[Path | None, typer.Argument(help="Flags file; else flags_file of the settings.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Organisation; else tenant_default.")] = None,
    config: Config = None,
) -> None:
    """Say what a flags file lets be written at each destination, or what is wrong with it. Exit code 1 if it is."""
    from pipeline.ops.shadow import render_rules
    from pipeline.roles.process import Refused
    from pipeline.roles.writers.flags import rules_of

    settings = settings_of(config)
    who = tenant or settings.tenant_default
    try:
        rules = rules_of(settings, file or settings.flags_file, who)
    except Refused as refused:
        fail("\n".join(refused.problems))
    console.print(render_rules(rules, who))
