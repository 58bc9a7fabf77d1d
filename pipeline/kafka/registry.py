"""The schema registry: publishes the shipped schemas, gives the codec their ids, fetches schemas that this build doesn't have.

A worker never waits long for it and never depends on it: what the registry doesn't give has the shipped id, which every
worker reads (`pipeline/formats/avro/shipped.py`). Needs confluent-kafka's extra `schemaregistry`, and imports it only
when a registry is configured.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from pipeline.formats.avro import SchemaIds
from pipeline.formats.avro.catalogue import BY_NAME
from pipeline.formats.avro.shipped import Shipped, shipped_schemas
from pipeline.kafka.registry_ids import KeptIds

LOG: Final = logging.getLogger("surgeline.registry")

REQUEST_TIMEOUT_S: Final = 2.0
"""Time for one question; a fetch stops the worker for so long at most, once in `ASK_AGAIN_AFTER_S`."""
MAX_RETRIES: Final = 0
ASK_AGAIN_AFTER_S: Final = 30.0
"""How long an id that was not found, or a registry that did not answer, is left alone."""
MAX_MISSES: Final = 1024
"""Ids not found that are remembered; the oldest goes first."""


class Client(Protocol):
    """What is used of confluent_kafka.schema_registry.SchemaRegistryClient. Blocks; may be called from any thread."""

    def lookup_schema(self, subject_name: str, schema: Any) -> Any:
        """The registered schema, with its `schema_id`."""
        ...

    def register_schema(self, subject_name: str, schema: Any) -> int:
        """Id of the schema, registered before or now."""
        ...

    def get_schema(self, schema_id: int) -> Any:
        """The schema, with its `schema_str`."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Where the registry is. `password_file` is read when the client is made; `auto_register` lets the worker publish."""

    url: str = field(repr=False)  # may hold a password
    auto_register: bool = True
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """What came of asking. `missing` are the subjects that the registry does not have or refused, with its HTTP status;
    `away` says that it stopped answering, so that the rest was not asked."""

    ids: SchemaIds
    missing: tuple[tuple[str, int], ...] = ()
    away: bool = False


def subjects_of(schema: Shipped, prefix: str) -> tuple[str, ...]:
    """Subjects of a schema: `<topic>-value` for each topic that is its own, else its record name (RecordNameStrategy): a landing
    topic holds the event and control, `modes` the change and the order."""
    entry = BY_NAME[schema.name]
    return tuple(f"{prefix}{topic}-value" for topic in entry.topics) or (entry.full_name,)


def connect(config: RegistryConfig) -> Client:
    """A client; nothing is asked yet. ModuleNotFoundError without the extra, ValueError for an impossible configuration."""
    from confluent_kafka.schema_registry import SchemaRegistryClient

    options: dict[str, Any] = {"url": config.url, "timeout": REQUEST_TIMEOUT_S, "max.retries": MAX_RETRIES}
    if config.username is not None:
        password = config.password_file.read_text(encoding="utf-8").strip() if config.password_file is not None else ""
        options["basic.auth.user.info"] = f"{config.username}:{password}"
    if config.ca_file is not None:
        options["ssl.ca.location"] = str(config.ca_file)
    client: Client = SchemaRegistryClient.new_client(options)
    return client


class Registry:
    """One worker's view of the registry. Blocking: call `registration` from a thread at start; `resolve` is the codec's."""

    def __init__(
        self,
        client: Client,
        *,
        prefix: str,
        auto_register: bool,
        now: Callable[[], float] = time.monotonic,
        kept: KeptIds | None = None,
    ) -> None:
        """`prefix` is that of the topics; `now` is in seconds and only ever compared with itself; `kept`: where the ids are kept
        for a start while the registry is away."""
        self._client = client
        self._prefix = prefix
        self._auto_register = auto_register
        self._now = now
        self._kept = kept
        self._misses: dict[int, float] = {}
        self._away_until = float("-inf")

    def registration(self) -> Registration:
        """Look up or register every shipped version, oldest first. Idempotent; never raises for what a registry does."""
        registered: dict[int, tuple[str, str]] = {}
        missing: list[tuple[str, int]] = []
        away = False
        for schema, subject in ((each, name) for each in shipped_schemas() for name in subjects_of(each, self._prefix)):
            match self._asked(partial(self._id_of, subject, schema)):
                case _Status(code=0):
                    away = True
                    break
                case _Status(code=code):
                    missing.append((subject, code))
                case int(number):
                    registered.setdefault(number, (schema.name, schema.version))
        if self._kept is not None and away:
            registered = {**self._kept.read(), **registered}
        elif self._kept is not None:
            self._kept.keep(registered)
        return Registration(SchemaIds.shipped().with_registered(registered), tuple(missing), away)

    def resolve(self, number: int) -> str | None:
        """Schema JSON of an id; None if the registry lacks it or doesn't answer, then not asked again for a while."""
        now = self._now()
        if now < max(self._away_until, self._misses.get(number, self._away_until)):
            return None
        self._misses.pop(number, None)
        found = self._asked(lambda: self._client.get_schema(number).schema_str)
        if isinstance(found, str):
            return found
        if isinstance(found, _Status) and found.code == 0:
            self._away_until = now + ASK_AGAIN_AFTER_S
            LOG.warning("schema registry does not answer")
            return None
        while len(self._misses) >= MAX_MISSES:
            del self._misses[next(iter(self._misses))]
        self._misses[number] = now + ASK_AGAIN_AFTER_S
        return None

    def _id_of(self, subject: str, schema: Shipped) -> int:
        from confluent_kafka.schema_registry import Schema

        published = Schema(schema.compact, "AVRO")
        if self._auto_register:
            return int(self._client.register_schema(subject, published))
        return int(self._client.lookup_schema(subject, published).schema_id)

    def _asked(self, ask: Callable[[], int | str | None]) -> "int | str | _Status | None":
        """The answer, or why there is none. Of what the client raises only the HTTP status is kept."""
        try:
            return ask()
        except Exception as error:  # noqa: BLE001  # the client raises its transport's own errors, which it does not declare
            code = getattr(error, "http_status_code", 0)
            return _Status(code if isinstance(code, int) and 400 <= code < 500 else 0)


@dataclass(frozen=True, slots=True)
class _Status:
    """No answer: the HTTP status of a refusal (4xx), 0 for anything that may pass."""

    code: int
