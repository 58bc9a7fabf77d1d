"""What a cluster needs before it runs: topics, schemas, settings."""

import dataclasses
import json
from typing import Annotated

import typer

from pipeline.cli.base import AsJson, Config, actor, console, now, of_kafka, settings_of
from pipeline.settings.reading import masked

topics = typer.Typer(help="The topics of the cluster: what differs from their declarations.", no_args_is_help=True)
schemas = typer.Typer(help="The Avro schemas.", no_args_is_help=True)
config = typer.Typer(help="The settings.", no_args_is_help=True)


@topics.command("plan")
def topics_plan(config: Config = None) -> None:
    """Show what `apply` would do; change nothing."""
    from pipeline.kafka import admin
    from pipeline.roles.process import specs_of

    settings = settings_of(config, "topics")
    plan = of_kafka(lambda: admin.plan(settings.kafka, specs_of(settings)))
    for topic in plan.create:
        console.print(f"create  {topic}")
    for change in plan.change:
        console.print(f"change  {change.topic}: {change.name} {change.before} -> {change.after}")
    for problem in plan.refuse:
        console.print(f"refuse  {problem}")
    console.print(f"{len(plan.unchanged)} unchanged")
    raise typer.Exit(1 if plan.refuse else 0)


@topics.command("apply")
def topics_apply(
    config: Config = None,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="A landing topic was made anew on purpose: begin its next epoch.")
    ] = False,
) -> None:
    """Create and change topics as declared, and record the epochs of the landing topics. Safe to repeat."""
    from pipeline.kafka import admin
    from pipeline.roles.operator_log import epoch_entries
    from pipeline.roles.process import codec_of, specs_of

    settings = settings_of(config, "topics")
    codec = codec_of(settings)
    told = epoch_entries(settings, codec) if new_epoch else lambda _: []
    applied = of_kafka(
        lambda: admin.apply(settings.kafka, specs_of(settings), codec, actor(), now(), new_epoch=new_epoch, told=told)
    )
    console.print(
        f"{len(applied.plan.create)} created, {len(applied.plan.change)} changed, {len(applied.recorded)} epochs recorded"
    )
    for refused in applied.refused:
        typer.echo(f"refused: {refused}", err=True)
    raise typer.Exit(1 if applied.refused else 0)


@topics.command("check")
def topics_check(config: Config = None) -> None:
    """Say what a role would refuse to start with."""
    from pipeline.kafka import admin
    from pipeline.roles.process import codec_of, specs_of

    settings = settings_of(config, "topics")
    problems = of_kafka(lambda: admin.check(settings.kafka, specs_of(settings), codec_of(settings)))
    for problem in problems:
        typer.echo(str(problem), err=True)
    console.print(f"{len(problems)} problem(s)")
    raise typer.Exit(1 if problems else 0)


@topics.command("access")
def topics_access(
    config: Config = None,
    principal: Annotated[
        str, typer.Option("--principal", help="How the roles' logins are called; {role} stands for the role.")
    ] = "User:surgeline-{role}",
    as_json: AsJson = False,
) -> None:
    """Print the access rules that each role needs at the broker, as commands for kafka-acls.sh; asks nobody, changes nothing."""
    from pipeline.kafka.access import ROLE, access_of, commands

    if ROLE not in principal:
        raise typer.BadParameter(
            f"it needs {ROLE} in it: with one login for all, each may do what any needs", param_hint="--principal"
        )
    settings = settings_of(config, "topics")
    access = list(access_of(settings.kafka.topic_prefix, settings.destinations))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in access], indent=2))
        return
    for line in commands(access, principal, settings.kafka.bootstrap_servers):
        typer.echo(line)


@schemas.command("check")
def schemas_check() -> None:
    """Check that the committed schemas are those of the code, and compatible with every earlier version."""
    from pipeline.formats.avro.author import main as author

    raise typer.Exit(author(["--check"]))


@config.command("show")
def config_show(config: Config = None) -> None:
    """Print the settings in force; secrets are masked."""
    typer.echo(json.dumps(masked(settings_of(config)), indent=2))
