"""Settings of the ways in that listen or ask: HTTP, MLLP, FHIR subscriptions, and the encryption of what they took."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pipeline.settings.sections.base import RAW_BODY_LIMIT_BYTES, Count, File, Name, Port, Seconds, Section
from pipeline.settings.sections.servers import ServerSettings


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


class RawKey(Section):
    """A key that raw bytes were encrypted with before."""

    key_id: Annotated[Name, Field(description="its name in each record that it encrypted")]
    key_file: Annotated[File, Field(description="file with the key, 64 hexadecimal digits")]


class RawEncryption(Section):
    """Encryption of original bytes and quarantined records, AES-256-GCM."""

    key_id: Annotated[Name, Field(description="name of the key, kept in each record")] = "key-1"
    key_file: Annotated[File | None, Field(description="file with the key, 64 hexadecimal digits: openssl rand -hex 32")] = None
    previous: Annotated[tuple[RawKey, ...], Field(description="keys of before, to read what they encrypted")] = ()
