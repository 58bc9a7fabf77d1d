"""A token endpoint of a hundred lines that does what it is told to do wrong, and keys and clocks for its clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from pipeline.destinations.auth.key import Private

CLIENT: Final = "surgeline-tests"
SCOPE: Final = "system/Location.rs system/Location.cu"
WORDS: Final = "CANARY Zanzibar-4711 is not welcome"
"""What the endpoint says in its own words; must go nowhere."""

NOW_S: Final = 1_700_000_000

Answer = tuple[int, object, dict[str, str]]


class HandClock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem(key: Private, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def jwk(key: Private, private: bool = True, **members: object) -> dict[str, Any]:
    made = ECKey.import_key(key) if isinstance(key, ec.EllipticCurvePrivateKey) else RSAKey.import_key(key)
    return {**made.as_dict(private=private), **members}


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


class TokenServer:
    """Issues `token-1`, `token-2` … for assertions of the keys it knows, and remembers what it was asked.

    `answer` may answer in its place; `gate` holds answers back while it is clear. It counts what it serves at once.
    """

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[Private] = []
        self.lifetime: object = 300
        self.forms: list[dict[str, str]] = []
        self.claims: list[dict[str, Any]] = []
        self.headers: list[dict[str, Any]] = []
        self.discoveries = 0
        self.document: Callable[[], Answer] = lambda: (200, {"token_endpoint": self.url}, {})
        self.answer: Callable[[], Answer | None] = lambda: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0

    @property
    def issued(self) -> int:
        return len(self.claims)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["TokenServer"]:
        app = web.Application()
        app.router.add_get("/fhir/.well-known/smart-configuration", self._describe)
        app.router.add_post("/token", self._token)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/token"))
            self.base_url = str(server.make_url("/fhir"))
            yield self

    async def _describe(self, request: web.Request) -> web.Response:
        self.discoveries += 1
        return _response(self.document())

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        if (wrong := self.answer()) is not None:
            return _response(wrong)
        if not self._is_known(form["client_assertion"]):
            return _response(refusal("invalid_client"))
        answer = {"access_token": f"token-{self.issued}", "token_type": "Bearer", "expires_in": self.lifetime}
        if self.lifetime is None:
            del answer["expires_in"]
        return _response((200, answer, {}))

    def _is_known(self, assertion: str) -> bool:
        for key in self.keys:
            public = ECKey if isinstance(key, ec.EllipticCurvePrivateKey) else RSAKey
            try:
                token = jwt.decode(assertion, public.import_key(key.public_key()), algorithms=["ES384", "RS384"])
            except ValueError:
                continue
            self.claims.append(token.claims)
            self.headers.append(token.header)
            return True
        return False


def refusal(error: str, status: int = 400, **headers: str) -> Answer:
    """RFC 6749, 5.2."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": error, "error_description": WORDS}, named


def _response(answer: Answer) -> web.Response:
    status, body, headers = answer
    text = body if isinstance(body, str) else json.dumps(body)
    return web.Response(status=status, text=text, headers=headers, content_type="application/json")
