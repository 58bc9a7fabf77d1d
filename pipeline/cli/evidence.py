"""`surgeline evidence`: what was sent, received and accepted, and who put it right, of one entity, event or file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.base import WRONG_USE, AsJson, Config, actor, console, fail, now, of_kafka, settings_of
from pipeline.domain.accounts.evidence import Question
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey

evidence = typer.Typer(
    help="All that is known of an entity, an event or a file, in the order in which it happened. Each look is audited.",
    no_args_is_help=True,
)

Why = Annotated[str, typer.Option("--reason", help="Why you look; goes into the audit log first. No patient data.")]
Values = Annotated[bool, typer.Option("--values", help="Show values, too: patient data. The audit log says so.")]


@evidence.command("entity")
def evidence_entity(
    entity_type: Annotated[EntityType, typer.Argument(help="What it is, e.g. bed.")],
    namespace: Annotated[str, typer.Argument(help="Assigning authority.")],
    entity_id: Annotated[str, typer.Argument(help="Identifier; - reads it from standard input, out of the shell's history.")],
    reason: Why,
    tenant: Annotated[str | None, typer.Option(help="Organisation; else tenant_default.")] = None,
    values: Values = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show an entity's whole line of time."""
    settings = settings_of(config)
    named = sys.stdin.readline().strip() if entity_id == "-" else entity_id
    key = EntityKey(tenant or settings.tenant_default, entity_type.value, namespace, named)
    _show(config, Question(key=key, values=values), reason, as_json)


@evidence.command("subject")
def evidence_subject(
    digest: Annotated[str, typer.Argument(help="The digest by which logs, status and audit name an entity.")],
    reason: Why,
    values: Values = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show the line of time of the entity that a digest stands for; reads every partition."""
    _show(config, Question(digest=digest.lower(), values=values), reason, as_json)


@evidence.command("event")
def evidence_event(
    event_id: Annotated[str, typer.Argument(help="Id of an event, 32 hexadecimal digits.")],
    reason: Why,
    values: Values = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show what became of one event."""
    _show(config, Question(event_id=event_id.lower(), values=values), reason, as_json)


@evidence.command("file")
def evidence_file(
    file: Annotated[str, typer.Argument(help="The file's id, or as much of its start as is unique.")],
    reason: Why,
    row: Annotated[int | None, typer.Option(help="Also what became of this record of it.", min=1)] = None,
    values: Values = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show a managed file's line of time: ledger, quarantined rows, releases, corrections."""
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.files.ledger import FilesReader
    from pipeline.roles.process import codec_of

    settings = settings_of(config)
    found = of_kafka(lambda: FilesReader(KafkaTopics(settings.kafka), codec_of(settings)).find(file))
    if len(found) != 1:
        fail("no file has this id" if not found else f"{len(found)} files have ids that begin so; write more of it", WRONG_USE)
    _show(config, Question(file_id=found[0].file_id, row=row, values=values), reason, as_json)


def _show(config: Path | None, question: Question, reason: str, as_json: bool) -> None:
    from pipeline.ops.logs import subject
    from pipeline.ops.render.evidence import evidence_json, render_evidence
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.accounts.evidence import EvidenceReader, audit_look
    from pipeline.roles.process import codec_of

    if not reason.strip():
        fail("Say why: --reason. It goes into the audit log before anything is shown.", WRONG_USE)
    settings = settings_of(config)
    codec, key = codec_of(settings), settings.digest_key()

    def digest_of(name: bytes) -> str:
        return subject(name, key)

    of_kafka(lambda: audit_look(settings, codec, question, digest_of, actor(), reason.strip(), now()))
    found = of_kafka(lambda: EvidenceReader(KafkaTopics(settings.kafka), codec, digest_of).read(question))
    if as_json:
        sys.stdout.buffer.write(evidence_json(found) + b"\n")
    else:
        console.print(render_evidence(found))
    raise typer.Exit(0 if found.lines else 1)
