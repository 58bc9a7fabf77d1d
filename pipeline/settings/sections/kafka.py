"""Settings of Kafka and of the schema registry."""

import ssl
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.sections.base import ClientConfig, File, Section


@dataclass(frozen=True, slots=True, repr=False)
class SaslMaterial:
    """User and password for the broker; the representation shows neither."""

    mechanism: str
    username: str
    password: str


class KafkaSettings(Section):
    """The broker, and how records are kept there."""

    bootstrap_servers: Annotated[str, Field(description="brokers, host:port, with commas between", min_length=3)] = (
        "127.0.0.1:9092"
    )
    topic_prefix: Annotated[str, Field(description="put before each topic and group", pattern=r"^[A-Za-z0-9._-]{0,60}$")] = ""
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT"], Field(description="how to speak to the brokers")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, Field(description="how to log in at the brokers")
    ] = None
    sasl_username: Annotated[str | None, Field(description="user at the brokers")] = None
    sasl_password_file: Annotated[File | None, Field(description="file with the user's password")] = None
    ca_file: Annotated[File | None, Field(description="certificates of who signed the brokers' certificates, PEM")] = None
    cert_file: Annotated[File | None, Field(description="our certificate for the brokers, PEM")] = None
    key_file: Annotated[File | None, Field(description="key of our certificate, PEM")] = None
    replication_factor: Annotated[int, Field(description="copies of each record", ge=1, le=15)] = 3
    min_insync_replicas: Annotated[int, Field(description="copies that exist before a record counts as taken", ge=1, le=15)] = 2
    delivery_timeout_s: Annotated[float, Field(description="time to get a record acknowledged", ge=1, le=600)] = 30.0

    @property
    def servers(self) -> tuple[str, ...]:
        """Brokers as host:port."""
        return tuple(server.strip() for server in self.bootstrap_servers.split(",") if server.strip())

    def client_config(self) -> ClientConfig:
        """Connection and credentials for any confluent-kafka client; reads the password file."""
        config: ClientConfig = {"bootstrap.servers": ",".join(self.servers), "security.protocol": self.security_protocol}
        for name, path in (("ca", self.ca_file), ("certificate", self.cert_file), ("key", self.key_file)):
            if path is not None:
                config[f"ssl.{name}.location"] = str(path)
        if (sasl := self.sasl()) is not None:
            config |= {"sasl.mechanism": sasl.mechanism, "sasl.username": sasl.username, "sasl.password": sasl.password}
        return config

    def producer_config(self) -> ClientConfig:
        """For every confluent-kafka producer: idempotent, all replicas, Kafka's own partitioner.

        librdkafka's own default partitioner is another one: a key would land in another partition than Faust expects.
        """
        return self.client_config() | {
            "partitioner": "murmur2_random",
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": round(self.delivery_timeout_s * 1000),
        }

    def faust_broker_url(self) -> str:
        """Brokers as Faust's `broker` wants them."""
        return ";".join(f"kafka://{server}" for server in self.servers)

    def ssl_context(self) -> ssl.SSLContext | None:
        """For aiokafka and Faust; None where the protocol has no TLS."""
        if "SSL" not in self.security_protocol:
            return None
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def sasl(self) -> SaslMaterial | None:
        """For aiokafka and Faust; None where the protocol has no SASL. Reads the password file."""
        if not self.security_protocol.startswith("SASL") or self.sasl_password_file is None:
            return None
        password = self.sasl_password_file.read_text().strip()
        return SaslMaterial(self.sasl_mechanism or "", self.sasl_username or "", password)


class SchemaRegistry(Section):
    """A registry that schemas are published to; nothing asks it while records flow."""

    url: Annotated[str | None, Field(description="Confluent-compatible registry; none if left out")] = None
    username: Annotated[str | None, Field(description="user at the registry")] = None
    password_file: Annotated[File | None, Field(description="file with the user's password")] = None
    ca_file: Annotated[File | None, Field(description="certificates of who signed the registry's certificate, PEM")] = None
