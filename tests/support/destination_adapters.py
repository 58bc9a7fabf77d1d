"""How the conformance suite drives each way out: a server that works, a destination, and how its protocol goes wrong."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Destination
from tests.support.fhir_lab import DIGEST_KEY, FakeFhir

ATTEMPT_S: Final = 1.0
"""Bound of one exchange; a server that says nothing is given up then."""


class Server(Protocol):
    """A server that works."""

    address: str

    def writes(self) -> int:
        """Writes that it has done."""
        ...

    def lose_next_answer(self) -> None:
        """Do the next write, then end the connection without an answer."""
        ...

    def seen_in_the_open(self) -> str:
        """What a log of requests would show: addresses, without bodies."""
        ...


class Adapter(Protocol):
    """How one destination is driven."""

    roles: tuple[str, ...]
    faults: Mapping[str, bytes]
    """Answers of a broken server, by name: each is sent to whatever comes, then the connection is closed."""

    def serve(self) -> AbstractAsyncContextManager[Server]: ...

    def destination(self, role: str, address: str) -> Destination:
        """A destination with attempts of ATTEMPT_S at most."""
        ...


class FhirServer:
    def __init__(self, fake: FakeFhir, address: str) -> None:
        self._fake, self.address = fake, address

    def writes(self) -> int:
        return self._fake.writes

    def lose_next_answer(self) -> None:
        self._fake.lose_answers = 1

    def seen_in_the_open(self) -> str:
        return "\n".join(self._fake.urls)


class FhirAdapter:
    roles: tuple[str, ...] = ("owner", "replica")
    faults: Mapping[str, bytes] = {
        "no HTTP": b"\x00\xffgarbage that is no HTTP\r\n\r\n",
        "half a header": b"HTTP/1.1 200 OK\r\nContent-Ty",
        "half a body": b'HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: 900\r\n\r\n{"resourceType": "',
        "200 without JSON": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 12\r\n\r\n<html>login<",
        "200 with other JSON": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
        "500": b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
        "502": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        "503": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
        "429": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: nonsense\r\nContent-Length: 0\r\n\r\n",
        "504": b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
    }

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Server]:
        fake = FakeFhir()
        async with fake.serve() as address:
            yield FhirServer(fake, address)

    def destination(self, role: str, address: str) -> Destination:
        return FhirDestination("lab", address, load_profile(f"sekmet-{role}"), DIGEST_KEY, attempt_timeout_s=ATTEMPT_S)


ADAPTERS: Final[dict[str, Adapter]] = {"fhir": FhirAdapter()}
