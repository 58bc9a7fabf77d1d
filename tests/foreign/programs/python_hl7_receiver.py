"""python-hl7's asyncio server: `python_hl7_receiver.py PORT CODE`; see `tests/foreign/receivers.py`."""

import asyncio
import json
import sys
from typing import Any

from hl7.mllp import start_hl7_server

CHARSET = "iso-8859-1"
READ: dict[str, tuple[Any, ...]] = {
    "control_id": ("MSH", 1, 10),
    "event": ("MSH", 1, 9, 1, 2),
    "patient": ("PID", 1, 3, 1, 1),
    "bed": ("PV1", 1, 3, 1, 3),
}


def tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def main(port: str, code: str) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        try:
            while True:
                message = await reader.readmessage()
                tell({name: message.extract_field(*place) for name, place in READ.items()})
                writer.writemessage(message.create_ack(code))
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    server = await start_hl7_server(serve, "127.0.0.1", int(port), encoding=CHARSET)
    tell({"ready": True})
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
