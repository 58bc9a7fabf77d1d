"""A Kafka that asks for TLS and a SCRAM login, for tests; certificates are made on the spot."""

import datetime as dt
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.local.broker import Broker, Ports, server_properties

USER, PASSWORD = "surgeline", "a-password-of-this-test-only"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "broker.pem", folder / "broker.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[1].chmod(0o600)
    return paths


class SecuredBroker(Broker):
    """One listener for its own controller's use in plain text, and one for clients: SASL_SSL with SCRAM-SHA-512."""

    def __init__(self, folder: Path, secured_port: int) -> None:
        super().__init__(folder)
        self.secured = f"127.0.0.1:{secured_port}"
        self.certificate, self._key = certificate(folder)

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
            "listener.name.secured.ssl.keystore.certificate.chain": _inline(self.certificate),
            "listener.name.secured.ssl.keystore.key": _inline(self._key),
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


def _inline(path: Path) -> str:
    """PEM in one line of a properties file."""
    return "\\n".join(path.read_text().splitlines())
