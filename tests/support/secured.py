"""A Kafka that asks for TLS and a SCRAM login, for tests; certificates are made on the spot."""

from pathlib import Path

from pipeline.local.servers.broker import Broker, Ports, server_properties
from tests.support.certificates import Authority

USER, PASSWORD = "surgeline", "a-password-of-this-test-only"


class SecuredBroker(Broker):
    """One listener for its own controller's use in plain text, and one for clients: SASL_SSL with SCRAM-SHA-512."""

    def __init__(self, folder: Path, secured_port: int) -> None:
        super().__init__(folder)
        self.secured = f"127.0.0.1:{secured_port}"
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority()
        self.authority = folder / "ca.pem"
        self.authority.write_bytes(authority.certificate)
        self._certificate, self._key = authority.issue("localhost").put(folder, "broker")

    def properties(self, ports: Ports, data: Path) -> str:
        """The plain broker's, with the secured listener beside it."""
        lines = server_properties(ports, data).splitlines()
        settings = dict(line.split("=", 1) for line in lines)
        settings["listeners"] += f",SECURED://{self.secured}"
        settings["advertised.listeners"] += f",SECURED://{self.secured}"
        settings["listener.security.protocol.map"] += ",SECURED:SASL_SSL"
        settings |= {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secured.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.secured.ssl.keystore.type": "PEM",
            "listener.name.secured.ssl.keystore.certificate.chain": _inline(self._certificate),
            "listener.name.secured.ssl.keystore.key": _inline(self._key),
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


def _inline(path: Path) -> str:
    """PEM in one line of a properties file."""
    return "\\n".join(path.read_text().splitlines())
