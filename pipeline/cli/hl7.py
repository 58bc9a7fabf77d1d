"""HL7 v2, for those who onboard a feed."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pipeline.cli.base import WRONG_USE, AsJson, console, fail

hl7 = typer.Typer(help="HL7 v2: what a message means under a profile; trying receivers and senders.", no_args_is_help=True)


@hl7.command("explain")
def hl7_explain(
    files: Annotated[list[Path], typer.Argument(help="HL7 v2: messages or batches.", exists=True, dir_okay=False)],
    profile: Annotated[str, typer.Option(help="HL7 profile: a name under profiles/hl7, or a file.")] = "default",
    values: Annotated[bool, typer.Option(help="Show the values, which may be a patient's.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show each field that a message states: its value, where it was read, and by which rule. No broker is needed.

    Exit code 1 if a message is rejected.
    """
    from pipeline.formats.hl7v2.mapping import messages_of
    from pipeline.formats.hl7v2.origins import explain
    from pipeline.formats.hl7v2.verdict import Rejected
    from pipeline.ops.render.hl7 import as_builtins, rejection, tables_of
    from pipeline.roles.process import Refused
    from pipeline.roles.ways_in.intake import hl7_profile

    try:
        chosen = hl7_profile(profile)
    except Refused as error:
        fail("\n".join(error.problems), WRONG_USE)
    refused = False
    for file in files:
        parts = messages_of(file.read_bytes())
        if isinstance(parts, Rejected):
            refused = True
            console.print(rejection(file.name, parts))
            continue
        for part in parts:
            found = explain(part, chosen)
            refused = refused or found.rejected is not None
            if as_json:
                typer.echo(msgspec.json.encode(as_builtins(found, values)).decode())
            else:
                console.print(*tables_of(found, values), sep="\n")
    if refused:
        raise typer.Exit(1)


Certificate = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="PEM.")]


@hl7.command("send")
def hl7_send(
    files: Annotated[
        list[Path], typer.Argument(help="Messages or batches (FHS, BHS), folders of them, or - for standard input.")
    ],
    to: Annotated[str, typer.Option(help="Receiver, HOST:PORT.")],
    window: Annotated[int, typer.Option(min=1, max=1_000, help="Messages sent and not yet answered.")] = 1,
    rate: Annotated[float | None, typer.Option(min=0.01, max=100_000, help="Most messages in a second.")] = None,
    retries: Annotated[int, typer.Option(min=0, max=100, help="Times that AE, CE or no answer is tried again.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds for an answer.")] = 30.0,
    connect_timeout: Annotated[float, typer.Option(min=0.1, max=120, help="Seconds for a connection.")] = 10.0,
    tls: Annotated[bool, typer.Option(help="Speak TLS.")] = False,
    ca_file: Certificate = None,
    cert_file: Certificate = None,
    key_file: Certificate = None,
    values: Annotated[bool, typer.Option(help="Show the receiver's own words, which may hold a patient's data.")] = False,
    as_batch: Annotated[bool, typer.Option("--batch", help="All as one batch (FHS, BHS) with its counts, in one frame.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send messages to a receiver over MLLP, and show what it says to each. No broker is needed.

    Exit code 1 if one was not taken: AE, AR, CE, CR, or no answer.
    """
    import asyncio
    import sys

    from pipeline.roles.hl7.rows import acknowledgement_json, acknowledgement_row, acknowledgements_end
    from pipeline.roles.hl7.send import MAX_FILE_BYTES, Line, Said, Sending, line_to, outgoing_of
    from pipeline.roles.hl7.send_batch import send_batch
    from pipeline.roles.process import Refused

    def tell(said: Said) -> None:
        typer.echo(acknowledgement_json(said, values) if as_json else acknowledgement_row(said, values))

    tls = tls or ca_file is not None or cert_file is not None
    try:
        line = line_to(to, Line("", 0, connect_timeout, timeout, tls, ca_file, cert_file, key_file))
        messages = list(outgoing_of(files, lambda: sys.stdin.buffer.read(MAX_FILE_BYTES + 1)))

        async def run() -> list[Said]:
            if as_batch:
                answered = await send_batch(line, messages, retries)
                for each in answered:
                    tell(each)
                return answered
            return await Sending(line, window, rate, retries, tell).run(iter(messages))

        said = asyncio.run(run())
    except Refused as refused:
        fail("\n".join(refused.problems), WRONG_USE)
    if not as_json:
        typer.echo(acknowledgements_end(said))
    if not said or not all(each.is_taken for each in said):
        raise typer.Exit(1)


@hl7.command("listen")
def hl7_listen(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 2575,
    host: Annotated[str, typer.Option(help="Address; beyond this machine only with TLS.")] = "127.0.0.1",
    answer: Annotated[str, typer.Option(help="AA, AE or AR; in enhanced mode as the sender asks (CA, CE, CR).")] = "AA",
    save: Annotated[Path | None, typer.Option(help="Folder to keep messages in; without it none is kept.")] = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many messages; 0 for no end.")] = 0,
    seconds: Annotated[float, typer.Option("--for", min=0, help="End after so many seconds; 0 for no end.")] = 0.0,
    delay: Annotated[float, typer.Option(min=0, max=600, help="Seconds before each answer.")] = 0.0,
    cert_file: Certificate = None,
    key_file: Certificate = None,
    client_ca_file: Certificate = None,
    as_json: AsJson = False,
) -> None:
    """Listen for a sender's messages over MLLP, answer each as told, and show what came. No broker is needed."""
    import asyncio

    from pipeline.roles.hl7.listen import ANSWERS, Ear, Heard, Listening
    from pipeline.roles.hl7.rows import heard_row
    from pipeline.roles.process import Refused
    from pipeline.settings.rules.common import is_loopback
    from pipeline.sources.mllp.source import server_context

    said = ANSWERS.get(answer.upper())
    if said is None:
        fail("--answer is AA, AE or AR.", WRONG_USE)
    if (cert_file is None) != (key_file is None):
        fail("--cert-file and --key-file go together.", WRONG_USE)
    if cert_file is None and not is_loopback(host):
        fail(f"Patient data would reach {host} in clear text: give --cert-file and --key-file.", WRONG_USE)

    def tell(heard: Heard) -> None:
        typer.echo(msgspec.json.encode(msgspec.to_builtins(heard)).decode() if as_json else heard_row(heard))

    def listening(at: int) -> None:
        typer.echo(f"listening at {host}:{at}, answering {said}", err=True)

    async def run() -> int:
        tls = server_context(cert_file, key_file, client_ca_file) if cert_file is not None and key_file is not None else None
        return await Listening(Ear(host, port, said, save, count, seconds, delay, tls), tell).run(listening)

    try:
        typer.echo(f"{asyncio.run(run())} messages", err=True)
    except Refused as refused:
        fail("\n".join(refused.problems), WRONG_USE)
    except OSError as error:
        fail(f"The certificate can't be used: {error.strerror or type(error).__name__}.", WRONG_USE)
    except KeyboardInterrupt:
        return
