"""Records to bytes and back, in the Confluent wire format: a zero byte, the schema's id (four bytes, big-endian), Avro binary."""

import json
from collections.abc import Callable
from functools import cache
from typing import Final

from pipeline.domain.event import Event
from pipeline.domain.records import Reason
from pipeline.formats.avro.catalogue import BY_FULL_NAME, BY_NAME, CATALOGUE, Entry, Record
from pipeline.formats.avro.compiled import Compiled, compile_entry
from pipeline.formats.avro.generate import schema_of
from pipeline.formats.avro.resolving import plain_writer, resolving_reader
from pipeline.formats.avro.shipped import SchemaIds, newest, shipped_schemas

MAGIC: Final = 0
HEADER_BYTES: Final = 5
MAX_RESOLVED: Final = 256
"""Schemas fetched by id that are kept; the one fetched first goes first."""

Resolve = Callable[[int], str | None]
"""Schema JSON of an id, or None where it can't be had. Never raises; keeps its own count of what it failed to find."""

_Read = Callable[[bytes, int], tuple[Record, int]]
_Write = Callable[[Record, bytearray], None]


class Undecodable(Exception):
    """Bytes that are no record: UNDECODABLE, UNKNOWN_SCHEMA or NULL_VALUE. `detail` holds no value of the record."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason.value, detail)
        self.reason = reason
        self.detail = detail


class Unencodable(Exception):
    """A record with a value that its schema has no place for: a fault of the caller. The text holds no value of it."""


class StaleSchemas(Exception):
    """The committed schemas are not those of the structs; `python -m pipeline.formats.avro.author` makes them so."""


class Codec:
    """Encodes with the newest schemas, decodes every version that it knows or can fetch.

    Holds no connection and may be shared by threads. What reads or writes a schema is made when it is first met: a role meets
    few, and making all would take a fifth of its start. The same record always gives the same bytes, except for the order
    of a map's entries, which is kept as it is.
    """

    def __init__(self, ids: SchemaIds, resolve: Resolve | None = None) -> None:
        """`resolve` is asked for the schema of an id that `ids` doesn't hold. StaleSchemas if structs and files differ."""
        self._resolve = resolve
        self._newest = newest(shipped_schemas())
        refuse_stale()
        by_version = {(schema.name, schema.version): schema for schema in shipped_schemas()}
        self._names = {number: name for number, (name, _) in ids.reads.items()}
        self._reads = {number: by_version[schema] for number, schema in ids.reads.items()}
        self._readers: dict[int, _Read] = {}
        self._fetched: dict[int, tuple[str, _Read]] = {}
        self._writes = {entry.payload or entry.struct: (entry, ids.writes[entry.name]) for entry in CATALOGUE}
        self._writers: dict[type, tuple[bytes, _Write]] = {}

    @classmethod
    def shipped(cls, resolve: Resolve | None = None) -> "Codec":
        """Codec with the ids of the committed schemas, for where there is no registry."""
        return cls(SchemaIds.shipped(), resolve)

    def encode(self, record: Record) -> bytes:
        """Kafka value of a record. Unencodable where it breaks its own type annotations."""
        kind = type(record.payload) if type(record) is Event else type(record)
        try:
            header, write = self._writers.get(kind) or self._make_writer(kind)
            out = bytearray(header)
            write(record, out)
            return bytes(out)
        except Exception as error:  # noqa: BLE001  # a misfit value makes compiled code raise anything
            fault = type(error).__name__
        raise Unencodable(f"{kind.__name__}: {fault}")  # outside of the handler: the cause's text may hold a value

    def decode(self, data: bytes | None) -> Record:
        """Record of a Kafka value; raises Undecodable and nothing else, also for bytes after the record's end."""
        number = _id_of(data)
        read = self._readers.get(number) or self._make_reader(number)
        assert data is not None
        try:
            record, end = read(data, HEADER_BYTES)
            if end == len(data):
                return record
            fault = "bytes after the end" if end < len(data) else "cut off"
        except Exception as error:  # noqa: BLE001  # broken bytes make compiled code and fastavro raise anything
            fault = type(error).__name__
        raise Undecodable(Reason.UNDECODABLE, f"{self._name_of(number)}: {fault}")

    def type_of(self, data: bytes | None) -> str | None:
        """Schema name by the id in the header; None for what has none, or an id not met yet. Does not look further."""
        if data is None or len(data) < HEADER_BYTES or data[0] != MAGIC:
            return None
        return self._name_of(int.from_bytes(data[1:HEADER_BYTES], "big"))

    def _name_of(self, number: int) -> str | None:
        name = self._names.get(number)
        if name is None and (fetched := self._fetched.get(number)) is not None:
            return fetched[0]
        return name

    def _make_reader(self, number: int) -> _Read:
        schema = self._reads.get(number)
        if schema is None:
            return self._fetch(number)
        entry, current = BY_NAME[schema.name], self._newest[schema.name]
        made = _compiled(entry).read if schema == current else resolving_reader(entry, schema.text, current.text)
        self._readers[number] = made
        return made

    def _make_writer(self, kind: type) -> tuple[bytes, _Write]:
        entry, number = self._writes[kind]
        schema = self._reads[number]
        write = _compiled(entry).write if schema == self._newest[schema.name] else plain_writer(entry, schema.text)
        made = MAGIC.to_bytes(1, "big") + number.to_bytes(4, "big"), write
        self._writers[kind] = made
        return made

    def _fetch(self, number: int) -> _Read:
        known = self._fetched.get(number)
        if known is None:
            text = self._resolve(number) if self._resolve is not None else None
            if text is None:
                raise Undecodable(Reason.UNKNOWN_SCHEMA, f"schema id {number}")
            known = self._foreign(number, text)
            while len(self._fetched) >= MAX_RESOLVED:
                self._fetched.pop(next(iter(self._fetched)), None)
            self._fetched[number] = known
        return known[1]

    def _foreign(self, number: int, text: str) -> tuple[str, _Read]:
        """Reader of a schema that this build doesn't ship: a later or a lost version of one that it does."""
        try:
            entry = _entry_of(text)
            return entry.name, resolving_reader(entry, text, self._newest[entry.name].text)
        except Exception as error:  # noqa: BLE001  # a foreign schema makes fastavro raise anything
            fault = type(error).__name__
        raise Undecodable(Reason.UNKNOWN_SCHEMA, f"schema id {number}: {fault}")


def _id_of(data: bytes | None) -> int:
    if data is None:
        raise Undecodable(Reason.NULL_VALUE, "no value")
    if len(data) < HEADER_BYTES or data[0] != MAGIC:
        raise Undecodable(Reason.UNDECODABLE, "no schema id in front")
    return int.from_bytes(data[1:HEADER_BYTES], "big")


def _entry_of(text: str) -> Entry:
    schema = json.loads(text)
    name = schema["name"]
    return BY_FULL_NAME[name if "." in name else f"{schema.get('namespace', '')}.{name}"]


@cache
def refuse_stale() -> None:
    """StaleSchemas unless structs and files agree: compiled code is made from the structs. Looks once per process."""
    current = newest(shipped_schemas())
    stale = [
        each.name for each in CATALOGUE if each.name not in current or json.loads(current[each.name].text) != schema_of(each)
    ]
    if stale:
        raise StaleSchemas(", ".join(stale))


@cache
def _compiled(entry: Entry) -> Compiled:
    """Compiled code of an entry, once per process."""
    return compile_entry(entry)
