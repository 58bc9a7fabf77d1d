"""python-hl7's asyncio client: `python_hl7.py HOST PORT TLS ANSWERS FILE…`; see `tests/foreign/clients.py`."""

import asyncio
import json
import ssl
import sys
from pathlib import Path

import hl7
from hl7.mllp import open_hl7_connection

TIMEOUT_S = 30.0
CHARSET = "iso-8859-1"
"""Takes every byte; what matters of an answer is ASCII."""


def context_of(folder: str) -> ssl.SSLContext | None:
    """With the client's certificate where the folder has one; none without a folder."""
    if folder == "-":
        return None
    context = ssl.create_default_context(cafile=str(Path(folder) / "ca.pem"))
    if (Path(folder) / "client.pem").exists():
        context.load_cert_chain(Path(folder) / "client.pem", Path(folder) / "client.key")
    return context


def said(block: bytes) -> dict[str, str]:
    """What one answer says, by the library's own parser."""
    text = block.decode(CHARSET)
    message = hl7.parse(text)
    told = {"code": message.extract_field("MSA", 1, 1), "control_id": message.extract_field("MSA", 1, 2), "hex": block.hex()}
    if "\rERR|" in text:
        told |= {"error": message.extract_field("ERR", 1, 3, 1, 1), "reason": message.extract_field("ERR", 1, 5, 1, 1)}
    return told


async def main(host: str, port: str, folder: str, answers: str, *files: str) -> None:
    reader, writer = await open_hl7_connection(host, int(port), encoding=CHARSET, ssl=context_of(folder))
    for file in files:
        writer.writeblock(Path(file).read_bytes())
        await writer.drain()
        async with asyncio.timeout(TIMEOUT_S):
            told = [said(await reader.readblock()) for _ in range(int(answers))]
        sys.stdout.write(json.dumps({"file": Path(file).name, "answers": told}) + "\n")
        sys.stdout.flush()
    writer.close()


asyncio.run(main(*sys.argv[1:]))
