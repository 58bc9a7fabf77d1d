"""What settings may not say together, and why: nothing unsafe starts unless `demo` is true.

Each rule returns problems; none raises and none shows a value that could be secret.
"""

import hashlib
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel

from pipeline import topology
from pipeline.destinations.auth.bearer import is_token
from pipeline.settings.model import Settings
from pipeline.settings.rules.common import content_of, is_loopback
from pipeline.settings.rules.evidence import problems_of_audit, problems_of_tenants, problems_of_webhook
from pipeline.settings.rules.files import problems_of_partners
from pipeline.settings.rules.out import problems_between_places, problems_of_downtime, problems_of_files_out
from pipeline.settings.sections.base import DEMO_KEY, DEMO_TOKEN, read_raw_key
from pipeline.settings.sections.servers import ServerSettings
from pipeline.settings.sections.ways_in import FhirFeed, HttpClient

SECRET_SUFFIXES: Final = ("key_file", "password_file", "token_file")
"""Settings that name a file with a secret."""

KEY_REMEDIES: Final = {
    "ES384": "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out smart.key",
    "RS384": "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out smart.key",
}
"""How a key for an algorithm is made."""

MIN_DIGEST_KEY_BYTES: Final = 32
MIN_TOKEN_BYTES: Final = 24
DEMO_TOKEN_DIGEST: Final = hashlib.sha256(DEMO_TOKEN.encode()).hexdigest()

_SHARED: Final = frozenset({"kafka", "schema_registry", "digest_key_file"})
SECTIONS_OF_ROLE: Final[dict[str, frozenset[str]]] = {
    "gate": _SHARED | {"gate", "raw_encryption"},
    "writer": _SHARED | {"writers", "hl7_out", "flags_file", "raw_encryption"},
    "http": _SHARED | {"http", "raw_encryption"},
    "mllp": _SHARED | {"mllp", "raw_encryption"},
    "fhir": _SHARED | {"fhir", "raw_encryption"},
    "files": _SHARED | {"files", "raw_encryption"},
    "timers": _SHARED,
    "reconcile": _SHARED | {"reconcile", "writers"},
    "downtime": _SHARED | {"downtime"},
    "files-out": _SHARED | {"files_out"},
    "auditor": _SHARED | {"audit"},
    "budgets": _SHARED | {"budgets"},
    "topics": frozenset({"kafka", "schema_registry"}),
}
"""Sections whose secret files a role must be able to read.

A role needs no other role's secrets; `surgeline topics` needs those of the brokers alone.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """One setting that can't stay as it is: where, what is wrong, and what to write in its place."""

    setting: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.wrong}. {self.remedy}"


def check(settings: Settings, role: str | None) -> list[Problem]:
    """Each problem of settings whose single values are valid; `role` limits it to what that role reads.

    `role` is a key of SECTIONS_OF_ROLE, or `writer-NAME` for the writer of one destination.
    """
    kind, _, destination = (role or "").partition("-") if role not in SECTIONS_OF_ROLE else (role, "", "")
    sections = SECTIONS_OF_ROLE.get(kind)
    problems = [
        *_pairs(settings),
        *_kafka(settings),
        *_listeners(settings),
        *_writers(settings),
        *_hl7_out(settings),
        *_feeds(settings),
        *(Problem(*each) for each in problems_of_partners(settings.files)),
        *(Problem(*each) for each in problems_of_downtime(settings)),
        *(Problem(*each) for each in (*problems_of_files_out(settings), *problems_between_places(settings))),
        *(Problem(*each) for each in problems_of_tenants(settings)),
        *(Problem(*each) for each in (*problems_of_audit(settings, kind), *problems_of_webhook(settings))),
        *_secrets(settings),
        *_role(settings, kind),
    ]
    for setting, path in files(settings):
        if sections is None or setting.partition(".")[0] in sections:
            problems.extend(_file(setting, path))
    if sections is None:
        return problems
    others = tuple(
        f"{section}.{name}."
        for section, names in (("writers", settings.writers), ("hl7_out", settings.hl7_out))
        for name in names
        if destination not in ("", name)
    )
    return [each for each in problems if _section(each.setting) in sections and not each.setting.startswith(others)]


def files(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Each file that the settings name, with the dotted name of its setting."""
    for name in type(section).model_fields:
        yield from _files_in(getattr(section, name), f"{prefix}{name}")


def _files_in(value: object, name: str) -> Iterator[tuple[str, Path]]:
    match value:
        case Path() if name.endswith("_file"):
            yield name, value
        case BaseModel():
            yield from files(value, f"{name}.")
        case dict():
            for key, item in value.items():
                yield from _files_in(item, f"{name}.{key}")
        case tuple():
            for index, item in enumerate(value):
                yield from _files_in(item, f"{name}.{index}")
        case _:
            return


def _section(setting: str) -> str:
    return setting.partition(".")[0]


def _file(setting: str, path: Path) -> Iterator[Problem]:
    try:
        mode = path.stat().st_mode
    except OSError:
        yield Problem(
            setting, f"there is no readable file {path}", "Name a file that exists; relative paths start at the settings file"
        )
        return
    if not stat.S_ISREG(mode):
        yield Problem(setting, f"{path} is not a file", "Name a file")
    elif setting.endswith(SECRET_SUFFIXES) and mode & stat.S_IRWXO:
        yield Problem(setting, f"everybody on this machine may open {path}", f"Write: chmod o-rwx {path}")
    elif setting == "flags_file" and mode & stat.S_IWOTH:
        yield Problem(setting, f"everybody on this machine may let writes out by {path}", f"Write: chmod o-w {path}")


def _pairs(settings: Settings) -> Iterator[Problem]:
    pairs: list[tuple[str, object, str, object]] = [
        ("kafka.cert_file", settings.kafka.cert_file, "kafka.key_file", settings.kafka.key_file),
        ("http.tls_cert_file", settings.http.tls_cert_file, "http.tls_key_file", settings.http.tls_key_file),
        ("mllp.tls_cert_file", settings.mllp.tls_cert_file, "mllp.tls_key_file", settings.mllp.tls_key_file),
        ("fhir.tls_cert_file", settings.fhir.tls_cert_file, "fhir.tls_key_file", settings.fhir.tls_key_file),
    ]
    for name, writer in settings.writers.items():
        pairs.append((f"writers.{name}.cert_file", writer.cert_file, f"writers.{name}.key_file", writer.key_file))
    for name, receiver in settings.hl7_out.items():
        pairs.append((f"hl7_out.{name}.cert_file", receiver.cert_file, f"hl7_out.{name}.key_file", receiver.key_file))
    for name, feed in settings.fhir.feeds.items():
        pairs.append((f"fhir.feeds.{name}.cert_file", feed.cert_file, f"fhir.feeds.{name}.key_file", feed.key_file))
    for first, first_value, second, second_value in pairs:
        if (first_value is None) != (second_value is None):
            missing, given = (first, second) if first_value is None else (second, first)
            yield Problem(missing, f"missing, though {given} is set", "Set both or none")


def _kafka(settings: Settings) -> Iterator[Problem]:
    kafka = settings.kafka
    remote = any(not is_loopback(server.rpartition(":")[0]) for server in kafka.servers)
    if kafka.topic_prefix and any(name.startswith(kafka.topic_prefix) for name in topology.every_topic()):
        yield Problem("kafka.topic_prefix", "a topic's own name begins like this", "Write one that ends in a dot, e.g. north.")
    if kafka.min_insync_replicas > kafka.replication_factor:
        yield Problem(
            "kafka.min_insync_replicas", "greater than kafka.replication_factor", "Write at most the replication factor"
        )
    if kafka.security_protocol.startswith("SASL"):
        for name in ("sasl_mechanism", "sasl_username", "sasl_password_file"):
            if getattr(kafka, name) is None:
                yield Problem(f"kafka.{name}", f"missing, though kafka.security_protocol is {kafka.security_protocol}", "Set it")
    if settings.demo or not remote:
        return
    if "SSL" not in kafka.security_protocol:
        yield Problem("kafka.security_protocol", "patient data would cross the network in clear text", "Write SSL or SASL_SSL")
    if kafka.replication_factor < 3 or kafka.min_insync_replicas < 2:
        yield Problem(
            "kafka.replication_factor",
            "one lost disk could lose what was acknowledged",
            "Write at least 3, min_insync_replicas at least 2",
        )


def _listeners(settings: Settings) -> Iterator[Problem]:
    """Also in a demo: whoever can reach the machine could send with the token that everybody knows, and read along."""
    if not is_loopback(settings.http.host) and settings.http.tls_cert_file is None:
        yield Problem(
            "http.tls_cert_file", f"patient data would reach {settings.http.host} in clear text", "Name a certificate and its key"
        )
    if not is_loopback(settings.fhir.host) and settings.fhir.tls_cert_file is None:
        yield Problem(
            "fhir.tls_cert_file", f"patient data would reach {settings.fhir.host} in clear text", "Name a certificate and its key"
        )
    if is_loopback(settings.mllp.host):
        return
    if settings.mllp.tls_cert_file is None:
        yield Problem(
            "mllp.tls_cert_file", f"patient data would reach {settings.mllp.host} in clear text", "Name a certificate and its key"
        )
    if settings.mllp.tls_client_ca_file is None:
        yield Problem(
            "mllp.tls_client_ca_file", "anybody who reaches the port could send", "Name who signs the senders' certificates"
        )


def _writers(settings: Settings) -> Iterator[Problem]:
    folders: dict[Path, str] = {settings.gate.data_dir: "gate.data_dir"}
    for name, writer in settings.writers.items():
        other = folders.setdefault(writer.data_dir, f"writers.{name}.data_dir")
        if other != f"writers.{name}.data_dir":
            yield Problem(
                f"writers.{name}.data_dir", f"the same folder as {other}", "Name a folder of its own: two tables would mix"
            )
        url = urlsplit(writer.base_url)
        if not settings.demo and url.scheme == "http" and not is_loopback(url.hostname or ""):
            yield Problem(
                f"writers.{name}.base_url", "patient data and the token would cross the network in clear text", "Write https://…"
            )
        yield from _access(f"writers.{name}", writer, settings.demo)


def _hl7_out(settings: Settings) -> Iterator[Problem]:
    folders = {writer.data_dir: f"writers.{name}.data_dir" for name, writer in settings.writers.items()}
    folders[settings.gate.data_dir] = "gate.data_dir"
    for name, receiver in settings.hl7_out.items():
        where = f"hl7_out.{name}"
        if name in settings.writers:
            yield Problem(where, f"writers.{name} has the same name", "Give each destination its own: outcomes are told by it")
        other = folders.setdefault(receiver.data_dir, f"{where}.data_dir")
        if other != f"{where}.data_dir":
            yield Problem(f"{where}.data_dir", f"the same folder as {other}", "Name a folder of its own: two tables would mix")
        if not receiver.tls and not is_loopback(receiver.host) and not settings.demo:
            yield Problem(f"{where}.tls", f"patient data would reach {receiver.host} in clear text", "Write true")
        if not receiver.tls and (receiver.ca_file or receiver.cert_file):
            yield Problem(f"{where}.tls", "false, though certificates are named", "Write true, or take them away")


def _access(where: str, server: ServerSettings, demo: bool) -> Iterator[Problem]:
    """How a server is to know us."""
    token = content_of(server.token_file) if server.token_file is not None else None
    if token is not None and not is_token(token.decode("latin-1")):
        yield Problem(f"{where}.token_file", f"{server.token_file} holds no token", "Write the token, and nothing else")
    smart = server.smart
    if smart is None:
        return
    if server.token_file is not None:
        yield Problem(f"{where}.smart", f"{where}.token_file is set as well", "Take one of them away: a request bears one token")
    url = urlsplit(smart.token_url or "")
    if not demo and url.scheme == "http" and not is_loopback(url.hostname or ""):
        yield Problem(f"{where}.smart.token_url", "tokens would cross the network in clear text", "Write https://…")
    if (data := content_of(smart.key_file)) is None:
        return
    # Its libraries take a tenth of a second to load; few servers want a signature.
    from pipeline.destinations.auth.key import KeyProblem, parse_signing_key

    problem = parse_signing_key(data, smart.algorithm, smart.key_id)
    if isinstance(problem, KeyProblem):
        yield Problem(f"{where}.smart.key_file", f"{smart.key_file} {problem.value}", f"Write: {KEY_REMEDIES[smart.algorithm]}")


def _feeds(settings: Settings) -> Iterator[Problem]:
    for name, feed in settings.fhir.feeds.items():
        where = f"fhir.feeds.{name}"
        if not settings.demo:
            for setting, address in (("base_url", feed.base_url), ("endpoint", feed.endpoint)):
                url = urlsplit(address)
                if url.scheme == "http" and not is_loopback(url.hostname or ""):
                    yield Problem(
                        f"{where}.{setting}",
                        "patient data and the secret would cross the network in clear text",
                        "Write https://…",
                    )
        if not feed.endpoint.endswith(f"/{name}"):
            # A subscription is known as ours by its endpoint: two feeds with one address would end each other's.
            yield Problem(f"{where}.endpoint", "doesn't end in the feed's name", f"Write an address that ends in /{name}")
        yield from _access(where, feed, settings.demo)
        yield from _feed_kind(where, feed)
        yield from _hook_token(where, feed, settings.demo)


def _feed_kind(where: str, feed: FhirFeed) -> Iterator[Problem]:
    if feed.channel == "classic":
        if feed.version == "R5":
            yield Problem(f"{where}.channel", "R5 knows subscriptions by topic only", "Write backport")
        if feed.filters:
            yield Problem(f"{where}.filters", "a classic subscription has none", "Write the search into criteria")
        if not re.fullmatch(r"[A-Z][A-Za-z]+\?\S*", feed.criteria):
            yield Problem(f"{where}.criteria", "a classic subscription has a search", "Write Type?name=value")
    elif ":" not in feed.criteria:
        yield Problem(f"{where}.criteria", "no canonical of a topic", "Write the topic's absolute address, or channel: classic")


def _hook_token(where: str, feed: FhirFeed, demo: bool) -> Iterator[Problem]:
    if (content := content_of(feed.hook_token_file)) is None:
        return
    lines = content.split(b"\n")
    if not demo and any(len(line.strip()) < MIN_TOKEN_BYTES for line in lines):
        yield Problem(
            f"{where}.hook_token_file",
            f"a secret has fewer than {MIN_TOKEN_BYTES} bytes",
            "Write: openssl rand -hex 32, one a line",
        )
    elif not all(re.fullmatch(rb"[!-~]+", line.strip()) for line in lines):
        yield Problem(f"{where}.hook_token_file", "a line is no secret", "Write: openssl rand -hex 32, one a line")


def _secrets(settings: Settings) -> Iterator[Problem]:
    yield from _digest_key(settings)
    yield from _raw_keys(settings)
    names: dict[str, int] = {}
    for index, client in enumerate(settings.http.clients):
        if names.setdefault(client.name, index) != index:
            yield Problem(
                f"http.clients.{index}.name", f"http.clients.{names[client.name]} has the same name", "Give each client its own"
            )
        yield from _client(f"http.clients.{index}", client, settings.demo and is_loopback(settings.http.host))


def _digest_key(settings: Settings) -> Iterator[Problem]:
    path = settings.digest_key_file
    if path is None:
        if not settings.demo:
            yield Problem("digest_key_file", "missing", "Write: openssl rand -hex 32 > digest.key, and name that file here")
        return
    if (data := content_of(path)) is None:
        return
    if len(data) < MIN_DIGEST_KEY_BYTES:
        yield Problem("digest_key_file", f"{path} holds fewer than {MIN_DIGEST_KEY_BYTES} bytes", "Write: openssl rand -hex 32")
    if not settings.demo and data in (DEMO_KEY, DEMO_KEY.hex().encode()):
        yield Problem("digest_key_file", "the demo's key, which everybody knows", "Write: openssl rand -hex 32")


def _raw_keys(settings: Settings) -> Iterator[Problem]:
    section = settings.raw_encryption
    if section.key_file is None and not settings.demo:
        yield Problem("raw_encryption.key_file", "missing", "Write: openssl rand -hex 32 > raw.key, and name that file here")
    named = [("raw_encryption.key_file", section.key_id, section.key_file)]
    named += [(f"raw_encryption.previous.{i}.key_file", key.key_id, key.key_file) for i, key in enumerate(section.previous)]
    seen: set[str] = set()
    for setting, key_id, path in named:
        if key_id in seen:
            yield Problem(setting.replace("key_file", "key_id"), "another key has the same id", "Give each key its own id")
        seen.add(key_id)
        if path is None or content_of(path) is None:
            continue
        try:
            key = read_raw_key(path)
        except ValueError:
            yield Problem(setting, f"{path} doesn't hold 64 hexadecimal digits", "Write: openssl rand -hex 32")
            continue
        if key == DEMO_KEY and not settings.demo:
            yield Problem(setting, "the demo's key, which everybody knows", "Write: openssl rand -hex 32")


def _client(setting: str, client: HttpClient, demo: bool) -> Iterator[Problem]:
    if (client.token_file is None) == (client.token_sha256 is None):
        yield Problem(
            setting, "needs token_sha256 or token_file, one of them", "Write: openssl rand -hex 32 > NAME.token, and token_file"
        )
        return
    if (
        client.token_file is not None
        and (token := content_of(client.token_file)) is not None
        and len(token) < MIN_TOKEN_BYTES
        and not demo
    ):
        yield Problem(f"{setting}.token_file", f"the token has fewer than {MIN_TOKEN_BYTES} bytes", "Write: openssl rand -hex 32")
    readable = client.token_file is None or content_of(client.token_file) is not None
    if not demo and readable and client.token_digest() == DEMO_TOKEN_DIGEST:
        yield Problem(setting, "the demo's token, which everybody knows", "Write: openssl rand -hex 32")


def _role(settings: Settings, role: str | None) -> Iterable[Problem]:
    if role == "http" and not settings.http.clients:
        yield Problem("http.clients", "empty: nobody could send", "Name at least one client, with a token and its source systems")
    if role == "mllp" and settings.mllp.profile is None:
        yield Problem("mllp.profile", "missing", "Name the HL7 profile of the feed")
    if role == "fhir" and not settings.fhir.feeds:
        yield Problem("fhir.feeds", "empty: there is no subscription", "Name at least one")
    if role == "files" and not settings.files.partners:
        yield Problem("files.partners", "empty: nobody could send", "Name at least one partner, with its folder and keys")
    if role == "downtime" and not settings.downtime.workstations:
        yield Problem("downtime.workstations", "empty: nobody would get a board", "Name at least one, with its folder and units")
    if role == "files-out" and not settings.files_out.receivers:
        yield Problem("files_out.receivers", "empty: nobody would get a file", "Name at least one, with its folder and keys")
    if role == "reconcile":
        unknown = [name for name in settings.reconcile.destinations if name not in settings.writers]
        if unknown:
            yield Problem("reconcile.destinations", f"{', '.join(unknown)}: not under writers", "Name FHIR destinations, or none")
        elif not settings.writers:
            yield Problem("writers", "empty: there is no FHIR destination to compare with", "Name at least one")
    if role == "writer" and not settings.destinations:
        yield Problem("writers", "empty: there is no destination", "Name at least one")
