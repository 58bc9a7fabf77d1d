"""A broker behind a line that carries only so many bytes in a second towards it, for tests; what it answers comes at once."""

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Final

from pipeline.local.ports import HOST
from pipeline.local.servers.broker import Broker, Ports, server_properties

CHUNK_BYTES: Final = 4_096
START_S: Final = 10.0
KERNEL_BYTES: Final = 16_384
"""What either end of the line may hold by itself: a line that is slow holds little."""


class SlowLink:
    """Forwards connections to a port; all of them share `bytes_per_s`, which may be changed at any time (None: no bound)."""

    def __init__(self, port: int, target: int) -> None:
        self.bytes_per_s: float | None = None
        self.carried = 0
        """Bytes that went towards the target."""
        self._port, self._target = port, target
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._free_at = 0.0

    def __enter__(self) -> "SlowLink":
        self._thread.start()
        assert self._ready.wait(START_S), "the line did not begin in time"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connected, HOST, self._port, limit=KERNEL_BYTES))
        self._ready.set()
        self._loop.run_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.close()
            return
        to.transport.set_write_buffer_limits(high=KERNEL_BYTES)
        await asyncio.gather(self._carried_towards(reader, to), self._carried_back(there, writer))

    async def _carried_towards(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._turn(len(data))
                self.carried += len(data)
                to.write(data)
                await to.drain()
        to.close()

    async def _carried_back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await there.read(16 * CHUNK_BYTES):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _turn(self, size: int) -> None:
        """Connections take turns on the line."""
        if self.bytes_per_s is None:
            return
        now = self._loop.time()
        begin = max(now, self._free_at)
        self._free_at = begin + size / self.bytes_per_s
        await asyncio.sleep(self._free_at - now)


class BrokerBehindLine(Broker):
    """Its second listener is told to clients at the line's port: whoever begins there stays there."""

    def __init__(self, folder: Path, line_port: int, slow_port: int) -> None:
        super().__init__(folder)
        self.behind_line = f"{HOST}:{line_port}"
        self._slow_port = slow_port

    def properties(self, ports: Ports, data: Path) -> str:
        """The plain broker's, with the listener behind the line beside it."""
        settings = dict(line.split("=", 1) for line in server_properties(ports, data).splitlines())
        settings["listeners"] += f",SLOW://{HOST}:{self._slow_port}"
        settings["advertised.listeners"] += f",SLOW://{self.behind_line}"
        settings["listener.security.protocol.map"] += ",SLOW:PLAINTEXT"
        return "".join(f"{name}={value}\n" for name, value in settings.items())
