"""A real broker, the MLLP way in on it, in clear and behind TLS, and the clients that are not ours.

What a client needs is fetched from the package registries on first use; a client that can't be had is skipped, loudly, and
fails where SURGELINE_FOREIGN=required.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

from pipeline.local.errors import LocalPlatformError
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack
from tests.foreign import clients
from tests.foreign.clients import NO_CLIENT, PASSWORD, REQUIRED, Client, Missing
from tests.support.certificates import Authority
from tests.support.stacks import stack_at, stopped_at_end

TIMEOUT_S: Final = 280
"""Of the test that first asks for a client: it is fetched within it."""
NAMES: Final = ("python-hl7", "node-hl7-client", "hapi-hl7v2", "camel-mllp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.integration)
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_CLIENT in str(report.longrepr)]
    if skipped:
        terminalreporter.section(f"{len(skipped)} TESTS SKIPPED: {NO_CLIENT}", sep="!", red=True)
        for report in skipped:
            terminalreporter.line(f"{report.nodeid}: {report.longrepr[-1]}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `server`, `known` (a client with a certificate of the right authority) and `unknown` (one without any)."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    for name in ("server", "known", "unknown"):
        (folder / name).mkdir()
        (folder / name / "ca.pem").write_bytes(authority.certificate)
        trusted = pkcs12.PKCS12Certificate(x509.load_pem_x509_certificate(authority.certificate), b"authority")
        store = pkcs12.serialize_java_truststore([trusted], BestAvailableEncryption(PASSWORD.encode()))
        (folder / name / "trust.p12").write_bytes(store)
    authority.issue("localhost").put(folder / "server", "server")
    issued = authority.issue("sender")
    issued.put(folder / "known", "client")
    key = load_pem_private_key(issued.key, None)
    assert isinstance(key, pkcs12.ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    sealed = pkcs12.serialize_key_and_certificates(b"client", key, certificate, None, BestAvailableEncryption(PASSWORD.encode()))
    (folder / "known" / "client.p12").write_bytes(sealed)
    return folder


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all."""
    with Broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="session")
def way_in(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`surgeline run mllp`, in clear."""
    with stopped_at_end(stack_at(tmp_path_factory.mktemp("clear"), broker.bootstrap)) as stack:
        stack.wait_ready(stack.start("mllp"))
        yield stack


@pytest.fixture(scope="session")
def secured(broker: Broker, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`surgeline run mllp` behind TLS, for clients that have a certificate of the authority."""
    server = certificates / "server"
    tls = {
        "tls_cert_file": str(server / "server.pem"),
        "tls_key_file": str(server / "server.key"),
        "tls_client_ca_file": str(server / "ca.pem"),
    }
    with stopped_at_end(stack_at(tmp_path_factory.mktemp("tls"), broker.bootstrap, overrides={"mllp": tls})) as stack:
        stack.wait_ready(stack.start("mllp"))
        yield stack


def had(make: Callable[[], Client]) -> Client:
    """The client, or the test is skipped."""
    try:
        return make()
    except (Missing, LocalPlatformError) as missing:
        if REQUIRED:
            raise
        pytest.skip(f"{NO_CLIENT}: {missing}")


@pytest.fixture(scope="session", params=NAMES)
def client(request: pytest.FixtureRequest, certificates: Path) -> Client:
    """Each of them in turn."""
    return made(request.param, certificates / "known")


@pytest.fixture(scope="session", params=NAMES)
def stranger(request: pytest.FixtureRequest, certificates: Path) -> Client:
    """Each of them without a certificate of its own."""
    return made(request.param, certificates / "unknown")


def made(name: str, stores: Path) -> Client:
    """A client by its name; `stores` are the key stores of one that takes the machine's."""
    makers: dict[str, Callable[[], Client]] = {
        "python-hl7": clients.python_hl7,
        "node-hl7-client": clients.node_hl7_client,
        "hapi-hl7v2": lambda: clients.hapi(stores),
        "camel-mllp": clients.camel,
    }
    return had(makers[name])
