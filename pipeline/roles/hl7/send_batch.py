"""`surgeline hl7 send --batch`: messages as one file of one batch in one MLLP frame, and what is said to each of them."""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Sequence
from typing import Final

from pipeline.destinations.hl7v2.mllp_client import COMMIT_TAKEN, Acknowledged, acknowledged_of
from pipeline.formats.hl7v2 import batch
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.framing import Block, Deframer, frame
from pipeline.roles.hl7.send import AGAIN, NO_ANSWER, NOT_SENT, RETRY_S, Line, Outgoing, Said, tls_of
from pipeline.roles.process import Refused

MAX_ANSWER_BYTES: Final = 64 << 20
"""Of the batch of answers."""
MAX_GARBAGE_BYTES: Final = 4 << 10
READ_BYTES: Final = 64 << 10

Answers = dict[str, list[Acknowledged]]
"""What was said of each control id, in order."""


async def send_batch(line: Line, outgoing: Sequence[Outgoing], retries: int) -> list[Said]:
    """Send all as one batch, and again while it is not answered or one of them is asked for again: a receiver that keeps
    control ids does nothing the second time. Refused where they make no batch.
    """
    whole, tls = _whole(outgoing), tls_of(line)
    began = time.monotonic()
    for tries in range(1, retries + 2):
        found = await _exchange(line, tls, whole)
        took_ms = (time.monotonic() - began) * 1000
        said = _told(outgoing, found, tries, took_ms)
        if tries > retries or not any(each.code in AGAIN or each.code in (NO_ANSWER, NOT_SENT) for each in said):
            return said
        await asyncio.sleep(RETRY_S)
    raise AssertionError("there is at least one try")


def _whole(outgoing: Sequence[Outgoing]) -> bytes:
    wrong = [f"{each.source} {each.number}: {each.wrong}" for each in outgoing if each.wrong]
    if wrong:
        raise Refused(wrong)
    messages = [each.data for each in outgoing]
    digest = hashlib.sha256(b"".join(messages)).hexdigest()
    try:
        return batch.file_of(messages, digest[:20].upper())
    except ValueError as error:
        raise Refused([str(error)]) from None


async def _exchange(line: Line, tls: ssl.SSLContext | None, whole: bytes) -> Answers | str:
    """What was said of whom; NOT_SENT, or NO_ANSWER where it may have been taken."""
    try:
        async with asyncio.timeout(line.connect_s):
            reader, writer = await asyncio.open_connection(
                line.host, line.port, ssl=tls, server_hostname=line.host if tls is not None else None
            )
    except (OSError, ssl.CertificateError, UnicodeError):
        return NOT_SENT
    try:
        async with asyncio.timeout(line.answer_s):
            writer.write(frame(whole))
            await writer.drain()
            answer = await _answer(reader)
    except OSError:  # no answer in time is one
        return NO_ANSWER
    finally:
        writer.transport.abort()
    return NO_ANSWER if answer is None else _answers_of(answer)


async def _answer(reader: asyncio.StreamReader) -> bytes | None:
    """The first frame that is no transport acknowledgement; None at the end, or for what is no frame."""
    deframer = Deframer(MAX_ANSWER_BYTES, MAX_GARBAGE_BYTES)
    while data := await reader.read(READ_BYTES):
        deframer.feed(data)
        while (found := deframer.next()) is not None:
            if not isinstance(found, Block):
                return None
            if found.body != COMMIT_TAKEN:
                return found.body
    return None


def _answers_of(body: bytes) -> Answers | str:
    """By control id. One answer alone, not in a batch, is about the whole: it stands under the empty control id."""
    whole = batch.read(body) if batch.is_batch(body) else None
    if whole is not None and not isinstance(whole, batch.Batches):
        return NO_ANSWER
    found: Answers = {}
    for data in whole.messages if whole is not None else (body,):
        message = parse(data, max_bytes=MAX_ANSWER_BYTES)
        told = acknowledged_of(message) if isinstance(message, Message) else None
        if told is not None:
            found.setdefault(told[0] if whole is not None else "", []).append(told[1])
    return found or NO_ANSWER


def _told(outgoing: Sequence[Outgoing], found: Answers | str, tries: int, took_ms: float) -> list[Said]:
    if isinstance(found, str):
        text = "nobody takes the connection" if found == NOT_SENT else ""
        return [Said(each, found, text=text, tries=tries, took_ms=took_ms) for each in outgoing]
    whole = found.get("")
    said = []
    for each in outgoing:
        own = found.get(each.control_id)
        answer = whole[0] if whole else own.pop(0) if own else None
        if answer is None:
            said.append(Said(each, NO_ANSWER, tries=tries, took_ms=took_ms))
        else:
            said.append(Said(each, answer.code.value, answer.errors, answer.text, tries, took_ms))
    return said
