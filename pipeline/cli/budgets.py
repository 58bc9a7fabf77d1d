"""`surgeline budgets`: how much of each error budget is used, and which incidents are open."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.base import WRONG_USE, AsJson, Config, console, fail, now, of_kafka, settings_of

budgets = typer.Typer(help="Error budgets: what is used, what burns, which incidents are open.", no_args_is_help=True)


@budgets.command("show")
def budgets_show(config: Config = None, as_json: AsJson = False) -> None:
    """Show each objective with what is used of its budget and how fast it burns. Exit code 1 while an incident is open."""
    from pipeline.ops.render.budgets import budgets_json, render_budgets
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.accounts.budgets import policy_of, read_budgets
    from pipeline.roles.process import Refused, codec_of

    settings = settings_of(config)
    try:
        policy = policy_of(settings)
    except Refused as refused:
        fail("\n".join(refused.problems), WRONG_USE)
    states, incidents = of_kafka(lambda: read_budgets(KafkaTopics(settings.kafka), codec_of(settings)))
    if as_json:
        sys.stdout.buffer.write(budgets_json(policy, states, incidents, now()) + b"\n")
    else:
        console.print(render_budgets(policy, states, incidents, now()))
    raise typer.Exit(1 if any(each.closed_at is None for each in incidents) else 0)


@budgets.command("check")
def budgets_check(file: Annotated[Path | None, typer.Argument(help="Policy of budgets; else the shipped one.")] = None) -> None:
    """Check a policy of budgets. Exit code 1, and all that is wrong, if it can't be used."""
    from pipeline.domain.judging.policy import BadPolicy
    from pipeline.roles.policies import load_budgets

    try:
        policy = load_budgets(file)
    except BadPolicy as bad:
        fail("\n".join(bad.problems))
    console.print(f"version {policy.version}: good")
