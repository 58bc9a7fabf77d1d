"""Stands between a writer and its EHR: passes on, refuses with what was sent, or is away; keeps the addresses asked for."""

from types import TracebackType
from typing import Final, Literal, Self

import aiohttp
from aiohttp import web
from yarl import URL

from pipeline.local.ports import HOST, free_port

PASSED_ON: Final = frozenset({"accept", "content-type", "if-match", "if-none-match", "if-none-exist", "prefer", "cache-control"})
SENT_BACK: Final = frozenset({"content-type", "etag", "location", "last-modified", "retry-after"})

Mood = Literal["pass", "refuse", "away"]


class Between:
    """An HTTP server in this process. What it refuses it repeats in its answer, as some servers do: nothing of that may show."""

    def __init__(self, target: str) -> None:
        self.mood: Mood = "pass"
        self.addresses: list[str] = []
        self.refused = 0
        self._target = URL(target)
        self._port = free_port()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}{self._target.path}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.addresses.append(f"{request.method} {request.raw_path} {dict(request.headers)}")
        body = await request.read()
        if self.mood == "away":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if self.mood == "refuse" and request.method in ("PUT", "POST") and not request.path.endswith("_search"):
            self.refused += 1
            issue = {"severity": "error", "code": "invalid", "diagnostics": body.decode(errors="replace")}
            outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
            return web.json_response(
                outcome, status=400, headers={"X-Echo": body[:200].decode("latin-1").translate({10: 32, 13: 32})}
            )
        assert self._session is not None
        url = self._target.origin().join(URL(request.raw_path, encoded=True))
        headers = {name: value for name, value in request.headers.items() if name.lower() in PASSED_ON}
        async with self._session.request(request.method, url, headers=headers, data=body or None, allow_redirects=False) as got:
            kept = {name: value for name, value in got.headers.items() if name.lower() in SENT_BACK}
            return web.Response(status=got.status, headers=kept, body=await got.read())
