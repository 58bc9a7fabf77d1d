"""TLS with certificates of both sides, rotated while requests are under way."""

import asyncio
import os
import pty
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.auth.credentials import Authorised, News, NoToken
from pipeline.destinations.auth.files import LOOK_EVERY_S
from pipeline.destinations.auth.smart import KeyFile, SmartBackend
from pipeline.destinations.auth.tls import TlsFiles, TlsUnusable
from pipeline.destinations.auth.token_endpoint import Grant, TokenEndpoint
from pipeline.destinations.fhir_http import Answer, Exchange, FhirHttp, NoAnswer, NotSent, system_clock
from pipeline.domain.records import Reason
from tests.support.certificates import Authority, server_context
from tests.support.token_server import CLIENT, SCOPE, HandClock, ec_key, pem, write

SOON_S = 10.0


@dataclass
class Lab:
    """A server that wants to know who asks, and our files for it."""

    folder: Path
    servers: Authority
    clients: Authority
    context: ssl.SSLContext
    clock: HandClock = field(default_factory=HandClock)
    news: list[News] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    opened: list[FhirHttp] = field(default_factory=list)

    def files(self) -> TlsFiles:
        return TlsFiles(self.ca_file, *self.ours(), self.news.append, self.clock)

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def ours(self) -> tuple[Path, Path]:
        return self.folder / "client.pem", self.folder / "client.key"

    def issue(self, name: str) -> None:
        """Our next certificate and key."""
        self.clients.issue(name).put(self.folder, "client")
        self.clock.now_s += LOOK_EVERY_S

    def http(self) -> FhirHttp:
        self.opened.append(FhirHttp(self.url, {}, None, system_clock, self.files().context))
        return self.opened[-1]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        subject: Any = request.transport.get_extra_info("peercert")["subject"]
        self.seen.append(subject[0][0][1])
        if request.path.endswith("/slow"):
            await self.gate.wait()
        if request.path == "/token":
            return web.json_response({"access_token": "t", "token_type": "bearer", "expires_in": 60})
        return web.json_response({"token_endpoint": self.url.replace("/fhir", "/token")})


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    servers, clients = Authority("servers"), Authority("clients")
    context = server_context(*servers.issue("server").put(tmp_path, "server"), clients.certificate)
    made = Lab(tmp_path, servers, clients, context)
    write(made.ca_file, servers.certificate)
    made.issue("first")
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    made.url = str(server.make_url("/fhir"))
    yield made
    made.gate.set()
    for http in made.opened:
        await http.close()
    await server.close()


async def ask(http: FhirHttp, target: str = "Location/1") -> Exchange:
    return await http.exchange("PUT", target, (), b"{}", SOON_S)


async def test_the_server_sees_our_certificate(lab: Lab) -> None:
    assert isinstance(await ask(lab.http()), Answer)
    assert lab.seen == ["first"]


async def test_a_rotated_certificate_serves_new_requests_and_what_is_under_way_ends_with_the_old_one(lab: Lab) -> None:
    http = lab.http()
    assert isinstance(await ask(http), Answer)
    slow = asyncio.create_task(ask(http, "slow"))
    async with asyncio.timeout(SOON_S):
        while len(lab.seen) < 2:
            await asyncio.sleep(0.005)
    lab.issue("second")
    assert isinstance(await ask(http), Answer)
    lab.gate.set()
    assert isinstance(await slow, Answer)
    assert lab.seen == ["first", "first", "second"]
    assert lab.news == [News.TLS_ROTATED]


async def test_an_authority_that_is_no_longer_trusted_is_not_spoken_to_over_a_kept_connection_either(lab: Lab) -> None:
    http = lab.http()
    assert isinstance(await ask(http), Answer)
    write(lab.ca_file, Authority("servers").certificate)
    lab.clock.now_s += LOOK_EVERY_S
    assert await ask(http) == NotSent(Reason.CONNECTION)
    assert len(lab.seen) == 1


async def test_a_servers_new_authority_is_trusted_as_soon_as_our_file_names_it(lab: Lab) -> None:
    http, others = lab.http(), Authority("others")
    lab.context.load_cert_chain(*others.issue("server").put(lab.folder, "server"))
    assert await ask(http) == NotSent(Reason.CONNECTION)
    write(lab.ca_file, lab.servers.certificate + others.certificate)
    lab.clock.now_s += LOOK_EVERY_S
    assert isinstance(await ask(http), Answer)


async def test_half_a_rotation_leaves_the_old_certificate_in_use(lab: Lab) -> None:
    http, (certificate, key) = lab.http(), lab.ours()
    second = lab.clients.issue("second")
    for _ in range(3):
        write(certificate, second.certificate)
        lab.clock.now_s += LOOK_EVERY_S
        assert isinstance(await ask(http), Answer)
    write(key, second.key)
    lab.clock.now_s += LOOK_EVERY_S
    assert isinstance(await ask(http), Answer)
    assert lab.seen == ["first"] * 3 + ["second"]
    assert lab.news == [News.TLS_UNUSABLE, News.TLS_ROTATED]


async def test_a_file_that_goes_away_leaves_the_old_certificate_in_use(lab: Lab) -> None:
    http = lab.http()
    lab.ours()[1].unlink()
    lab.clock.now_s += LOOK_EVERY_S
    assert isinstance(await ask(http), Answer)
    assert lab.news == [News.TLS_UNUSABLE]


async def test_files_that_change_while_they_are_read_are_read_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    files, third = lab.files(), lab.clients.issue("third")
    lab.issue("second")
    made = files._made

    def made_and_changed() -> tuple[ssl.SSLContext, float | None] | None:
        context = made()
        third.put(lab.folder, "client")
        return context

    old = files.context()
    lab.news.clear()
    lab.issue("second")
    monkeypatch.setattr(files, "_made", made_and_changed)
    assert files.context() is old
    monkeypatch.setattr(files, "_made", made)
    assert files.context() is not old
    assert lab.news == [News.TLS_ROTATED]


async def test_a_certificate_that_the_server_refuses_means_no_answer_and_nothing_done(lab: Lab) -> None:
    Authority("strangers").issue("stranger").put(lab.folder, "client")
    assert isinstance(await ask(lab.http()), NotSent | NoAnswer)
    assert lab.seen == []


@pytest.mark.parametrize("pass_phrase", [b"secret", None])
async def test_files_that_are_unusable_from_the_first_are_told_and_nobody_is_asked_for_a_pass_phrase(
    lab: Lab, pass_phrase: bytes | None
) -> None:
    issued = lab.clients.issue("first", pass_phrase)
    write(lab.ours()[1], issued.key)  # encrypted, or not the certificate's
    with pytest.raises(TlsUnusable) as caught:
        lab.files()
    assert str(lab.folder) not in str(caught.value)


PROMPTED: Final = """
import os, pathlib, sys
from pipeline.destinations.auth.tls import TlsFiles, TlsUnusable
os.open(os.ttyname(0), os.O_RDWR)  # now it is the terminal that OpenSSL would ask
try:
    TlsFiles(None, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), print)
except TlsUnusable:
    sys.exit(7)
"""


def test_nobody_is_asked_at_a_terminal_for_the_pass_phrase_of_a_key(tmp_path: Path) -> None:
    files = Authority().issue("us", b"secret").put(tmp_path, "client")
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-c", PROMPTED, *map(str, files)]
        done = subprocess.run(command, stdin=theirs, start_new_session=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 7


async def test_the_token_endpoint_is_asked_with_our_certificate_too(lab: Lab) -> None:
    tls = lab.files()
    grant = Grant(CLIENT, SCOPE, lab.url, None)
    keys = KeyFile(write(lab.folder / "smart.key", pem(ec_key())), "ES384", None, lab.news.append, lab.clock)
    client = SmartBackend(TokenEndpoint(grant, system_clock, tls.context), keys, lab.news.append, lambda: 0.5, lab.clock)
    assert await client.authorise(SOON_S) == Authorised("Bearer t")
    assert lab.seen == ["first", "first"]
    lab.clock.now_s += 60
    lab.issue("second")
    assert not isinstance(await client.authorise(SOON_S), NoToken)
    assert lab.seen[-1] == "second"
    await client.close()
