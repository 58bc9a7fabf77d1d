"""Putting right what did not come through."""

from typing import Annotated

import typer

from pipeline.cli.base import Config, actor, app, console, fail, now, of_kafka, settings_of
from pipeline.domain.event import EntityType


@app.command()
def reassert(
    entity_type: Annotated[EntityType, typer.Argument(help="What it is, e.g. bed.")],
    namespace: Annotated[str, typer.Argument(help="Assigning authority.")],
    entity_id: Annotated[str, typer.Argument(help="Identifier, e.g. ICU/12/A.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the audit log.")],
    tenant: Annotated[str | None, typer.Option(help="Organisation; else tenant_default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")] = False,
    config: Config = None,
) -> None:
    """Send one entity's current state to every destination again; frees a parked one.

    Carries no value: the gate sends what it holds, and nothing if something newer was accepted meanwhile.
    """
    from pipeline.domain.identifiers import EntityKey, show_revision
    from pipeline.roles.process import codec_of
    from pipeline.roles.repairs.reassert import find
    from pipeline.roles.repairs.reassert import reassert as order

    settings = settings_of(config)
    codec = codec_of(settings)
    key = EntityKey(tenant or settings.tenant_default, entity_type.value, namespace, entity_id)
    found = of_kafka(lambda: find(settings, codec, key))
    if not found.revision:
        fail("Nothing is known of this entity in the history. Check type, namespace, identifier and tenant.")
    told = f"revision {show_revision(found.revision)}, the newest of {found.revisions}"
    if not yes:
        console.print(f"Would send {told} again. Add --yes to do it.")
        return
    of_kafka(lambda: order(settings, codec, key, found.revision, actor(), reason, now()))
    console.print(f"Ordered: {told}. `surgeline audit show --action reassert` shows it.")
