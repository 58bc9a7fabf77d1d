"""Every setting with its meaning, bounds and default; `settings` reads them, `settings_rules` says what may not be combined.

No setting holds a secret: those ending in `key_file`, `password_file` or `token_file` name the file that does.
Relative paths start at the folder of the YAML file.
"""

import hashlib
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

ClientConfig = dict[str, str | int | float | bool]
"""Configuration of a librdkafka client."""

BASE_FOLDER: ContextVar[Path] = ContextVar("base_folder")
"""Folder that relative paths start at while settings are being read."""

DEMO_TOKEN: Final = "surgeline-demo-token"  # noqa: S105 - published, and refused where `demo` is false
DEMO_KEY: Final = hashlib.sha256(b"surgeline demo key, known to everybody").digest()
"""Published secrets: taken where a demo names none, refused everywhere else."""

RAW_KEY_BYTES: Final = 32
RAW_BODY_LIMIT_BYTES: Final = 1_500_000
"""Greatest message that a way in may be set to take: encrypted, it still fits a record of the raw topics."""


def _resolve(path: Path) -> Path:
    return BASE_FOLDER.get(Path()) / path.expanduser()


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no zone of the IANA database") from None
    return name


def _place(text: str) -> str:
    return text if "://" in text else str(_resolve(Path(text)))


File = Annotated[Path, AfterValidator(_resolve)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


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
        """For every confluent-kafka producer: idempotent, all replicas, Kafka's own partitioner (rule 4 of the design).

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


class HttpClient(Section):
    """Who may send by HTTP, and for which source systems it may speak."""

    name: Annotated[Name, Field(description="client; part of the identity of what it sends")]
    tenant: Annotated[Name, Field(description="organisation that all its events belong to")]
    token_sha256: Annotated[
        str | None, Field(description="SHA-256 of its token, 64 hex digits", pattern="^[0-9a-f]{64}$", repr=False)
    ] = None
    token_file: Annotated[File | None, Field(description="file with its token, in place of the digest")] = None
    source_systems: Annotated[tuple[str, ...], Field(description="source systems that it may speak for", min_length=1)]

    def token_digest(self) -> str:
        """SHA-256 of the token, 64 hexadecimal digits; reads the file if one is named."""
        if self.token_sha256 is not None or self.token_file is None:
            return self.token_sha256 or ""
        return hashlib.sha256(self.token_file.read_text().strip().encode()).hexdigest()


class HttpSettings(Section):
    """The HTTP way in."""

    host: Annotated[str, Field(description="address to listen at")] = "127.0.0.1"
    port: Annotated[Port, Field(description="port to listen at; 0 takes a free one")] = 8080
    tls_cert_file: Annotated[File | None, Field(description="the server's certificate, PEM")] = None
    tls_key_file: Annotated[File | None, Field(description="key of the certificate, PEM")] = None
    clients: Annotated[tuple[HttpClient, ...], Field(description="who may send")] = ()
    max_body_bytes: Annotated[int, Field(description="greatest body", ge=1_000, le=RAW_BODY_LIMIT_BYTES)] = 1_000_000
    max_batch_items: Annotated[Count, Field(description="most events in one request", le=10_000)] = 500
    max_requests: Annotated[Count, Field(description="most requests served at once", le=100_000)] = 1_000
    max_bytes_in_flight: Annotated[int, Field(description="most bytes of bodies held at once", ge=RAW_BODY_LIMIT_BYTES)] = (
        16 * 1024 * 1024
    )
    max_connections: Annotated[Count, Field(description="most connections at once; others wait", le=100_000)] = 4_096


class MllpSettings(Section):
    """The HL7 v2 way in."""

    host: Annotated[str, Field(description="address to listen at")] = "127.0.0.1"
    port: Annotated[Port, Field(description="port to listen at; 0 takes a free one")] = 2575
    share_port: Annotated[
        bool, Field(description="several processes of this role on one machine share the port; the kernel spreads senders")
    ] = False
    tls_cert_file: Annotated[File | None, Field(description="the server's certificate, PEM")] = None
    tls_key_file: Annotated[File | None, Field(description="key of the certificate, PEM")] = None
    tls_client_ca_file: Annotated[File | None, Field(description="certificates of who signs senders' certificates, PEM")] = None
    max_frame_bytes: Annotated[int, Field(description="greatest message", ge=1_000, le=RAW_BODY_LIMIT_BYTES)] = 1_000_000
    max_connections: Annotated[Count, Field(description="most connections at once", le=10_000)] = 100
    max_long_frames: Annotated[
        Count, Field(description="most messages above 64 KiB that are held at once; others wait unread", le=10_000)
    ] = 16
    idle_timeout_s: Annotated[Seconds, Field(description="close a connection that is silent for so long")] = 3_600.0
    ack_timeout_s: Annotated[Seconds, Field(description="answer AE or CE when the broker hasn't taken a message by then")] = 10.0
    profile: Annotated[str | None, Field(description="HL7 profile of the feed: a name under profiles/hl7, or a file")] = None
    tenant: Annotated[Name | None, Field(description="organisation of the feed; tenant_default if left out")] = None
    facility: Annotated[str | None, Field(description="site of the feed, where a message doesn't say")] = None


class SmartSettings(Section):
    """SMART Backend Services: short-lived tokens for assertions that our key signs."""

    client_id: Annotated[str, Field(description="our name at the token endpoint", pattern=r"^[\x21-\x7e]{1,255}$")]
    key_file: Annotated[File, Field(description="file with the private key, PEM or JWK, without a pass phrase")]
    key_id: Annotated[
        str | None,
        Field(
            description="the key's id at the endpoint; if left out the JWK's own, else its thumbprint",
            pattern=r"^[\x21-\x7e]{1,255}$",
        ),
    ] = None
    algorithm: Annotated[
        Literal["ES384", "RS384"], Field(description="how the key signs: ES384 by a P-384 key, RS384 by an RSA key")
    ] = "ES384"
    scope: Annotated[
        str,
        Field(
            description="rights that we ask for, with spaces between", pattern=r"^[\x21-\x7e]+( [\x21-\x7e]+)*$", max_length=2_000
        ),
    ]
    token_url: Annotated[
        str | None,
        Field(
            description="token endpoint; if left out, the one that the server names in .well-known/smart-configuration",
            pattern=r"^https?://[^@\s#]+$",
        ),
    ] = None


class ServerSettings(Section):
    """Where a FHIR server is, how we know that it is the one, and how it knows us."""

    base_url: Annotated[str, Field(description="FHIR base address, without user or password", pattern=r"^https?://[^@\s?#]+$")]
    token_file: Annotated[File | None, Field(description="file with the bearer token for the server")] = None
    smart: Annotated[SmartSettings | None, Field(description="tokens of a token endpoint, in place of token_file")] = None
    ca_file: Annotated[File | None, Field(description="certificates of who signed the server's certificate, PEM")] = None
    cert_file: Annotated[File | None, Field(description="our certificate for the server, PEM")] = None
    key_file: Annotated[File | None, Field(description="key of our certificate, PEM")] = None


class FhirFeed(ServerSettings):
    """One FHIR subscription at one server."""

    server: Annotated[Name, Field(description="name of the server: source system of its events, and part of their identity")]
    tenant: Annotated[Name | None, Field(description="organisation of the feed; tenant_default if left out")] = None
    facility: Annotated[str, Field(description="site that the feed is about", min_length=1, max_length=80)]
    profile: Annotated[str, Field(description="profile of the server, a name under profiles/ehr")]
    version: Annotated[Literal["R4", "R4B", "R5"], Field(description="FHIR version of the server")] = "R4"
    channel: Annotated[
        Literal["backport", "classic"],
        Field(description="backport: by topic (in R5 the only kind); classic: by a search, R4's own rest-hook"),
    ] = "backport"
    criteria: Annotated[str, Field(description="canonical of the topic; for classic a search, Type?name=value", min_length=1)]
    filters: Annotated[tuple[str, ...], Field(description="filters that the topic allows, Type?name=value")] = ()
    searches: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z]+(\?[^?#\s]+)?$", max_length=500)], ...],
        Field(description="what is read again after a gap: Type or Type?name=value, as narrow as the subscription", min_length=1),
    ]
    content: Annotated[
        Literal["empty", "id-only", "full-resource"], Field(description="how much of a resource a notification holds")
    ] = "id-only"
    endpoint: Annotated[
        str, Field(description="our address as the server reaches it; ends in the feed's name", pattern=r"^https?://[^@\s?#]+$")
    ]
    hook_token_file: Annotated[
        File, Field(description="file with the secret that notifications bear; its first line is given out, each is known")
    ]
    heartbeat_s: Annotated[
        int | None, Field(description="how often the server is to be heard; null for one without heartbeats", ge=5, le=86_400)
    ] = 60
    unique_numbers: Annotated[bool, Field(description="no two events of the server have one number (HAPI repeats them)")] = True
    sweep_s: Annotated[Seconds, Field(description="read what changed when nothing proved for so long that all was heard")] = 600.0
    audit_s: Annotated[Seconds, Field(description="read what changed so often, whatever the numbers say")] = 3_600.0
    poll_s: Annotated[Seconds, Field(description="while there is no subscription, what changed is read so often")] = 30.0
    request_timeout_s: Annotated[Seconds, Field(description="time for one request to the server")] = 10.0


class FhirSettings(Section):
    """The FHIR way in: subscriptions at servers, and where their notifications arrive."""

    host: Annotated[str, Field(description="address to listen at")] = "127.0.0.1"
    port: Annotated[Port, Field(description="port to listen at; 0 takes a free one")] = 8082
    tls_cert_file: Annotated[File | None, Field(description="the server's certificate, PEM")] = None
    tls_key_file: Annotated[File | None, Field(description="key of the certificate, PEM")] = None
    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    max_body_bytes: Annotated[int, Field(description="greatest notification", ge=1_000, le=RAW_BODY_LIMIT_BYTES)] = 1_000_000
    max_requests: Annotated[Count, Field(description="most notifications taken at once", le=10_000)] = 64
    max_bytes_in_flight: Annotated[
        int, Field(description="most bytes of notifications held at once", ge=RAW_BODY_LIMIT_BYTES)
    ] = 16 * 1024 * 1024
    max_connections: Annotated[Count, Field(description="most connections at once", le=10_000)] = 256
    answer_s: Annotated[Seconds, Field(description="answer 503 when a notification isn't durable by then")] = 10.0
    feeds: Annotated[dict[Name, FhirFeed], Field(description="subscriptions by name")] = {}


ValidUntil = Annotated[
    AwareDatetime | None, Field(description="until when it is taken; a metric says how long that is, afterwards it is refused")
]


class FileSigner(Section):
    """A key that a partner signs its manifests with. Several at once: one is brought in before another is given up."""

    key_id: Annotated[Name, Field(description="what a manifest calls it")]
    public_file: Annotated[File, Field(description="file with the public key, Ed25519, PEM")]


class PartnerSigner(FileSigner):
    """A key of a partner, for a time: what came by then counts, whenever we looked."""

    valid_until: ValidUntil = None


class FileKey(Section):
    """A key of ours that a partner encrypts its files to."""

    key_file: Annotated[File, Field(description="file with the age identity: age-keygen -o files.key")]


class SftpAccess(Section):
    """How an SFTP server is entered: by a key alone."""

    host_keys: Annotated[
        tuple[str, ...], Field(description="the server's public keys, as ssh-keyscan prints them without the host", min_length=1)
    ]
    key_file: Annotated[File, Field(description="file with our private key, as ssh-keygen writes it, without a pass phrase")]
    valid_until: ValidUntil = None


class ObjectAccess(Section):
    """How object storage is entered: S3, with credentials of this place alone."""

    endpoint: Annotated[str | None, Field(description="address of the service; AWS by its region if left out")] = None
    region: Annotated[str, Field(description="region", min_length=1, max_length=64)] = "us-east-1"
    access_key_id: Annotated[str, Field(description="id of the access key", min_length=1, max_length=128)]
    secret_key_file: Annotated[File, Field(description="file with the secret of the access key")]
    token_file: Annotated[File | None, Field(description="file with the session token, where the key is a temporary one")] = None
    valid_until: ValidUntil = None


class FilePlace(Section):
    """A place of files that belongs to one partner."""

    folder: Annotated[
        str, Field(description="a folder's path, sftp://USER@HOST:PORT/PATH or s3://BUCKET/PREFIX"), AfterValidator(_place)
    ]
    sftp: Annotated[SftpAccess | None, Field(description="how to enter it, where it is sftp://")] = None
    objects: Annotated[ObjectAccess | None, Field(description="how to enter it, where it is s3://")] = None

    @property
    def address(self) -> SplitResult | None:
        """Where it is; None of a folder of this machine."""
        return urlsplit(self.folder) if "://" in self.folder else None

    @property
    def path(self) -> Path | None:
        """The folder of this machine; None where it is elsewhere."""
        return None if "://" in self.folder else Path(self.folder)


class FilePartner(FilePlace):
    """One partner that sends files; of its folder only incoming/ need be writable to it."""

    tenant: Annotated[Name | None, Field(description="organisation of its events; tenant_default if left out")] = None
    facility: Annotated[str, Field(description="site, where neither row nor profile names one", min_length=1, max_length=64)]
    source_systems: Annotated[tuple[str, ...], Field(description="source systems that it may speak for", min_length=1)]
    profiles: Annotated[tuple[str, ...], Field(description="its kinds of files, names under profiles/files", min_length=1)]
    signers: Annotated[tuple[PartnerSigner, ...], Field(description="keys that its manifests are signed with", min_length=1)]
    decrypt_keys: Annotated[tuple[FileKey, ...], Field(description="keys of ours that it may encrypt to, old ones too")] = ()
    must_encrypt: Annotated[bool, Field(description="refuse a file that is not encrypted")] = False
    patience_s: Annotated[Seconds, Field(description="what waits longer for its other parts is told")] = 900.0
    give_up_s: Annotated[Seconds, Field(description="what waits longer is refused")] = 86_400.0


class FilesSettings(Section):
    """The way in of managed files."""

    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    data_dir: Annotated[File, Field(description="folder for copies of files in hand, on an encrypted disk")] = Path(
        ".surgeline/files"
    )
    poll_s: Annotated[float, Field(description="how often folders are looked at", ge=0.05, le=3_600)] = 1.0
    rows_per_s: Annotated[
        float, Field(description="most rows a second of one partner: they stand before live events in the same log", ge=1, le=1e6)
    ] = 2_000.0
    partners: Annotated[dict[Name, FilePartner], Field(description="partners by name")] = {}


Zone = Annotated[str, AfterValidator(_zone), Field(description="time zone of the wall clocks there, IANA, e.g. Europe/Berlin")]


class DowntimeWorkstation(Section):
    """One workstation that shows boards when everything else is down."""

    folder: Annotated[File, Field(description="folder that it reads, of its own")]
    tenant: Annotated[Name | None, Field(description="organisation; tenant_default if left out")] = None
    facility: Annotated[str, Field(description="site of its units", min_length=1, max_length=64)]
    units: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,40}$")], ...],
        Field(description="codes of the units whose boards it gets, and no others", min_length=1, max_length=200),
    ]
    recipients_file: Annotated[
        File | None,
        Field(description="file with its public keys, age, one a line; left out only in a demo: clear text"),
    ] = None
    time_zone: Zone = "UTC"


class DowntimeSettings(Section):
    """Bed boards and census for times when nothing else works."""

    every_s: Annotated[float, Field(description="time between two boards", ge=1, le=86_400)] = 900.0
    keep: Annotated[Count, Field(description="newest boards of each unit that stay", le=10_000)] = 8
    workstations: Annotated[dict[Name, DowntimeWorkstation], Field(description="workstations by name")] = {}


class FileReceiver(FilePlace):
    """One partner that files are sent to; of its folder only acks/ need be writable to it."""

    tenant: Annotated[Name | None, Field(description="organisation that the files are about; tenant_default if left out")] = None
    region: Annotated[Name | None, Field(description="region that it is in; needed once there are rules of tenants")] = None
    purpose: Annotated[Name | None, Field(description="what it gets data for; needed once there are rules of tenants")] = None
    facilities: Annotated[tuple[str, ...], Field(description="sites that it is told of", min_length=1, max_length=100)]
    sends: Annotated[
        tuple[Literal["capacity", "audit", "safr"], ...],
        Field(description="what it gets: capacity extract, audit export, SAFR bed capacity report", min_length=1),
    ]
    every_s: Annotated[float, Field(description="time between two files of a kind", ge=1, le=86_400)] = 900.0
    source_system: Annotated[Name, Field(description="our name in manifests")] = "surgeline"
    key_id: Annotated[Name, Field(description="what the receiver calls the key that signs our manifests")]
    key_file: Annotated[File, Field(description="file with that private key: openssl genpkey -algorithm ed25519")]
    recipients_file: Annotated[
        File | None, Field(description="file with its public keys, age, one a line; left out only in a demo: clear text")
    ] = None
    patience_s: Annotated[Seconds, Field(description="an acknowledgement that takes longer is told, and the file sent again")] = (
        3_600.0
    )
    max_sends: Annotated[
        Count, Field(description="a file that was sent so often is not sent again: it stays overdue", le=100)
    ] = 5


class FilesOutSettings(Section):
    """The way out of managed files."""

    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    data_dir: Annotated[File, Field(description="folder for files that are not acknowledged yet, encrypted as they are sent")] = (
        Path(".surgeline/files-out")
    )
    poll_s: Annotated[float, Field(description="how often acknowledgements are looked for", ge=0.05, le=3_600)] = 5.0
    receivers: Annotated[dict[Name, FileReceiver], Field(description="receivers by name")] = {}


class ReconcileSettings(Section):
    """Comparing what we hold with what destinations show, and repairing it."""

    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    destinations: Annotated[tuple[Name, ...], Field(description="FHIR destinations that are compared; all if left out")] = ()
    every_s: Annotated[Seconds, Field(description="how often what changed is compared")] = 900.0
    nightly_at: Annotated[
        str,
        Field(description="when everything is compared, UTC", pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"),
    ] = "02:30"
    page_count: Annotated[int, Field(description="resources asked for in one page", ge=10, le=1_000)] = 200
    requests_at_once: Annotated[int, Field(description="most requests to one destination at once", ge=1, le=64)] = 4
    request_timeout_s: Annotated[Seconds, Field(description="time for one request")] = 30.0
    settle_s: Annotated[Seconds, Field(description="a change that its writer has not heard of by then was lost on its way")] = (
        900.0
    )
    repairs_per_s: Annotated[float, Field(description="most repairs in a second", gt=0, le=2_000)] = 10.0
    max_repairs: Annotated[Count, Field(description="most repairs of one run; the rest is left for the next", le=10_000)] = 5_000
    repairs_of_one: Annotated[
        int, Field(description="one entity is repaired so often in repairs_window_s; then somebody is told instead", ge=1, le=100)
    ] = 3
    repairs_window_s: Annotated[Seconds, Field(description="window of repairs_of_one")] = 86_400.0
    snapshots_s: Annotated[Seconds, Field(description="sources' snapshots are compared that are no older")] = 86_400.0
    sign_key_id: Annotated[Name, Field(description="name of the key that signs the reports of full runs")] = "reconcile-1"
    sign_key_file: Annotated[
        File | None, Field(description="file with that key, Ed25519, PEM: openssl genpkey -algorithm ed25519; none: not signed")
    ] = None


class RawKey(Section):
    """A key that raw bytes were encrypted with before."""

    key_id: Annotated[Name, Field(description="its name in each record that it encrypted")]
    key_file: Annotated[File, Field(description="file with the key, 64 hexadecimal digits")]


class RawEncryption(Section):
    """Encryption of original bytes and quarantined records, AES-256-GCM."""

    key_id: Annotated[Name, Field(description="name of the key, kept in each record")] = "key-1"
    key_file: Annotated[File | None, Field(description="file with the key, 64 hexadecimal digits: openssl rand -hex 32")] = None
    previous: Annotated[tuple[RawKey, ...], Field(description="keys of before, to read what they encrypted")] = ()


class SchemaRegistry(Section):
    """A registry that schemas are published to; nothing asks it while records flow."""

    url: Annotated[str | None, Field(description="Confluent-compatible registry; none if left out")] = None
    username: Annotated[str | None, Field(description="user at the registry")] = None
    password_file: Annotated[File | None, Field(description="file with the user's password")] = None
    ca_file: Annotated[File | None, Field(description="certificates of who signed the registry's certificate, PEM")] = None


class GateSettings(Section):
    """The gate."""

    data_dir: Annotated[File, Field(description="folder for its table; one for each instance", validate_default=True)] = Path(
        ".surgeline/gate"
    )
    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    max_record_bytes: Annotated[int, Field(description="greatest landing record that is judged", ge=1_000, le=1_000_000)] = (
        900_000
    )
    within_s: Annotated[float, Field(description="time to gather a cycle", gt=0, le=1)] = 0.002
    fetch_max_records: Annotated[Count, Field(description="most records of one partition in one poll")] = 500
    buffer_max_messages: Annotated[Count, Field(description="most messages that wait for a cycle")] = 64
    one_by_one: Annotated[
        bool, Field(description="judge one record at a time, as Faust's guide has it: the same output, slowly, to find faults")
    ] = False


class LaneSeconds(Section):
    """A time for each lane."""

    critical: Annotated[Seconds, Field(description="critical lane")] = 30.0
    urgent: Annotated[Seconds, Field(description="urgent lane")] = 120.0
    routine: Annotated[Seconds, Field(description="routine lane")] = 900.0
    bulk: Annotated[Seconds, Field(description="bulk lane")] = 3_600.0


class WriterSettings(ServerSettings):
    """One destination and its writer."""

    profile: Annotated[str, Field(description="profile of the destination, a name under profiles/ehr")]
    role: Annotated[
        Literal["owner", "replica"], Field(description="owner (of fields that are never written) or replica (is fed all)")
    ]
    data_dir: Annotated[File, Field(description="folder for its table; one for each instance")]
    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    concurrency: Annotated[int, Field(description="most requests at once; a bundle is one", ge=1, le=1_000)] = 16
    rate_per_s: Annotated[
        float, Field(description="most reads and writes in a second; each entry of a bundle is one", gt=0, le=100_000)
    ] = 200.0
    attempt_timeout_s: Annotated[Seconds, Field(description="time for one attempt, reads included")] = 10.0
    deadlines_s: Annotated[LaneSeconds, Field(description="time until a change counts as stuck, per lane")] = LaneSeconds()
    max_attempts: Annotated[Count, Field(description="attempts after which a change is parked", le=1_000)] = 10
    merge_hold_s: Annotated[
        Seconds, Field(description="a survivor of a merge that waits longer for what was merged into it shows as stuck")
    ] = 60.0
    region: Annotated[Name | None, Field(description="region that it is in; needed once there are rules of tenants")] = None
    purpose: Annotated[Name | None, Field(description="what it gets data for; needed once there are rules of tenants")] = None
    tenants: Annotated[tuple[Name, ...], Field(description="tenants whose data it gets; all that have rules if left out")] = ()
    modes_file: Annotated[
        File | None, Field(description="policy of its modes, what each freezes (modes.md); the shipped one if left out")
    ] = None


class Hl7OutSettings(Section):
    """One receiver of HL7 v2 over MLLP and its writer."""

    host: Annotated[str, Field(description="where it listens: a name or an address", min_length=1, max_length=255)]
    port: Annotated[int, Field(description="port that it listens at", ge=1, le=65535)]
    profile: Annotated[str, Field(description="profile of the receiver, a name under profiles/hl7-out")]
    role: Annotated[
        Literal["owner", "replica"], Field(description="owner (is told of beds only) or replica (is told what its profile lists)")
    ]
    data_dir: Annotated[File, Field(description="folder for its table; one for each instance")]
    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    tls: Annotated[bool, Field(description="speak TLS; without it only to this machine")] = False
    ca_file: Annotated[File | None, Field(description="certificates of who signed the receiver's certificate, PEM")] = None
    cert_file: Annotated[File | None, Field(description="our certificate for the receiver, PEM")] = None
    key_file: Annotated[File | None, Field(description="key of our certificate, PEM")] = None
    rate_per_s: Annotated[float, Field(description="most messages in a second", gt=0, le=100_000)] = 200.0
    region: Annotated[Name | None, Field(description="region that it is in; needed once there are rules of tenants")] = None
    purpose: Annotated[Name | None, Field(description="what it gets data for; needed once there are rules of tenants")] = None
    tenants: Annotated[tuple[Name, ...], Field(description="tenants whose data it gets; all that have rules if left out")] = ()
    modes_file: Annotated[
        File | None, Field(description="policy of its modes (modes.md); it freezes nothing here; the shipped one if left out")
    ] = None


class AuditSettings(Section):
    """Signed checkpoints of the audit log."""

    instance: Annotated[Name, Field(description="stable name of the auditor's instance")] = "0"
    checkpoint_s: Annotated[float, Field(description="a checkpoint is signed so often, and at a stop", ge=1, le=86_400)] = 900.0
    key_id: Annotated[Name, Field(description="name of the key that checkpoints are signed with")] = "audit-1"
    key_file: Annotated[
        File | None,
        Field(description="file with that key, Ed25519, PEM, for the auditor alone: openssl genpkey -algorithm ed25519"),
    ] = None
    keys: Annotated[tuple[FileSigner, ...], Field(description="public keys that checkpoints were signed with, old ones too")] = ()


class WebhookSettings(Section):
    """Who is told of incidents."""

    url: Annotated[str, Field(description="where it takes a POST, without a query", pattern=r"^https?://[^@\s?#]+$")]
    key_file: Annotated[File, Field(description="file with the key that signs each message, at least 32 bytes")]
    ca_file: Annotated[File | None, Field(description="certificates of who signed the server's certificate, PEM")] = None
    timeout_s: Annotated[Seconds, Field(description="time for one attempt", le=60)] = 10.0


class BudgetsSettings(Section):
    """Error budgets."""

    instance: Annotated[Name, Field(description="stable name of this instance")] = "0"
    policy_file: Annotated[
        File | None, Field(description="policy of budgets (error-budgets.md); the shipped one if left out")
    ] = None
    webhook: Annotated[WebhookSettings | None, Field(description="who is told when an incident begins and ends")] = None


class TenantRules(Section):
    """Where the data of a tenant may go, and what for."""

    regions: Annotated[tuple[Name, ...], Field(description="regions that its data may be in", min_length=1)]
    purposes: Annotated[tuple[Name, ...], Field(description="purposes that it agrees to, e.g. treatment", min_length=1)]


class RetentionSettings(Section):
    """How long raw artefacts are kept, by class; what `topics/` declares where left out. `surgeline topics apply` makes it so."""

    raw_days: Annotated[int | None, Field(description="original bytes: raw.*", ge=1, le=3_650)] = None
    quarantine_days: Annotated[int | None, Field(description="records that could not be judged", ge=1, le=3_650)] = None


class WorkerSettings(Section):
    """What the gate and the writers share as members of a Kafka group."""

    session_timeout_s: Annotated[Seconds, Field(description="a silent worker's partitions go to others after this")] = 20.0
    heartbeat_s: Annotated[Seconds, Field(description="time between signs of life")] = 3.0
    rebalance_timeout_s: Annotated[Seconds, Field(description="time to hand partitions over")] = 60.0
    commit_interval_s: Annotated[Seconds, Field(description="time between commits")] = 1.0
    drain_s: Annotated[Seconds, Field(description="time to finish what was begun when asked to stop")] = 20.0
    start_timeout_s: Annotated[Seconds, Field(description="a start that takes longer ends the process")] = 120.0
    stall_timeout_s: Annotated[Seconds, Field(description="an event loop that stands still for so long ends the process")] = 15.0
    standby_replicas: Annotated[int, Field(description="further copies of each table, at other workers", ge=0, le=5)] = 1


class HealthSettings(Section):
    """Health and metrics, without patient data."""

    host: Annotated[str, Field(description="address to listen at")] = "127.0.0.1"
    base_port: Annotated[Port, Field(description="first port; roles on one machine take the next free ones")] = 9400


class LoggingSettings(Section):
    """Log lines, without patient data."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="least severe line that is shown")] = "INFO"
    as_json: Annotated[bool, Field(alias="json", description="JSON lines; else text for people")] = True


class Settings(Section):
    """All settings."""

    demo: Annotated[bool, Field(description="allows what is unsafe, for a demo on one machine")] = False
    tenant_default: Annotated[Name, Field(description="organisation where nothing else says so")] = "default"
    digest_key_file: Annotated[
        File | None, Field(description="file with the key (at least 32 bytes) for digests of entity ids in logs and audit")
    ] = None
    flags_file: Annotated[
        File | None, Field(description="file with flags that limit what is written (rollout.md); everything is, without it")
    ] = None
    kafka: KafkaSettings = KafkaSettings()
    http: HttpSettings = HttpSettings()
    mllp: MllpSettings = MllpSettings()
    fhir: FhirSettings = FhirSettings()
    files: FilesSettings = Field(default_factory=FilesSettings)
    reconcile: ReconcileSettings = ReconcileSettings()
    files_out: FilesOutSettings = Field(default_factory=FilesOutSettings)
    downtime: DowntimeSettings = DowntimeSettings()
    raw_encryption: RawEncryption = RawEncryption()
    schema_registry: SchemaRegistry = SchemaRegistry()
    gate: GateSettings = Field(default_factory=GateSettings)
    writers: Annotated[dict[Name, WriterSettings], Field(description="destinations by name")] = {}
    hl7_out: Annotated[dict[Name, Hl7OutSettings], Field(description="receivers of HL7 v2 by name, told of each change")] = {}
    audit: AuditSettings = AuditSettings()
    budgets: BudgetsSettings = BudgetsSettings()
    retention: RetentionSettings = RetentionSettings()
    tenants: Annotated[
        dict[Name, TenantRules], Field(description="rules of tenants; once there are any, data of a tenant without goes nowhere")
    ] = {}
    worker: WorkerSettings = WorkerSettings()
    health: HealthSettings = HealthSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def destinations(self) -> tuple[str, ...]:
        """Names of all destinations, in order."""
        return tuple(sorted((*self.writers, *self.hl7_out)))

    def digest_key(self) -> bytes:
        """Key for digests of entity ids; reads the file, which `load` has checked. The demo's own where a demo names none."""
        return DEMO_KEY if self.digest_key_file is None else self.digest_key_file.read_bytes().strip()

    def raw_key(self) -> tuple[str, bytes]:
        """Id and the 32 bytes of the key that encrypts now; the demo's own where a demo names none."""
        section = self.raw_encryption
        return section.key_id, DEMO_KEY if section.key_file is None else read_raw_key(section.key_file)

    def raw_keys(self) -> dict[str, bytes]:
        """Each key that raw bytes may be encrypted with, by id."""
        return {key.key_id: read_raw_key(key.key_file) for key in self.raw_encryption.previous} | dict((self.raw_key(),))


def read_raw_key(path: Path) -> bytes:
    """The 32 bytes that the file writes as 64 hexadecimal digits; ValueError where it doesn't."""
    key = bytes.fromhex(path.read_text().strip())
    if len(key) != RAW_KEY_BYTES:
        raise ValueError("a key has 64 hexadecimal digits")
    return key
