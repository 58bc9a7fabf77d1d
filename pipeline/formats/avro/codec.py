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
from pipeline.formats.avro.shipped import SchemaIds, Shipped, newest, shipped_schemas

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

    Holds no connection and may be shared by threads. The same record always gives the same bytes, except for the order
    of a map's entries, which is kept as it is.
    """

    def __init__(self, ids: SchemaIds, resolve: Resolve | None = None) -> None:
        """`resolve` is asked for the schema of an id that `ids` doesn't hold. StaleSchemas if structs and files differ."""
        self._resolve = resolve
        self._newest = newest(shipped_schemas())
        self._compiled = _compiled()
        by_version = {(schema.name, schema.version): schema for schema in shipped_schemas()}
        self._names = {number: name for number, (name, _) in ids.reads.items()}
        self._readers: dict[int, _Read] = {number: self._reader(by_version[schema]) for number, schema in ids.reads.items()}
        self._fetched: dict[int, tuple[str, _Read]] = {}
        self._writers: dict[type, tuple[bytes, _Write]] = {}
        for entry in CATALOGUE:
            number = ids.writes[entry.name]
            header = MAGIC.to_bytes(1, "big") + number.to_bytes(4, "big")
            self._writers[entry.payload or entry.struct] = (header, self._writer(by_version[ids.reads[number]]))

    @classmethod
    def shipped(cls, resolve: Resolve | None = None) -> "Codec":
        """Codec with the ids of the committed schemas, for where there is no registry."""
        return cls(SchemaIds.shipped(), resolve)

    def encode(self, record: Record) -> bytes:
        """Kafka value of a record. Unencodable where it breaks its own type annotations."""
        kind = type(record.payload) if type(record) is Event else type(record)
        try:
            header, write = self._writers[kind]
            out = bytearray(header)
            write(record, out)
            return bytes(out)
        except Exception as error:  # noqa: BLE001  # a misfit value makes compiled code raise anything
            fault = type(error).__name__
        raise Unencodable(f"{kind.__name__}: {fault}")  # outside of the handler: the cause's text may hold a value

    def decode(self, data: bytes | None) -> Record:
        """Record of a Kafka value; raises Undecodable and nothing else, also for bytes after the record's end."""
        number = _id_of(data)
        read = self._readers.get(number) or self._fetch(number)
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

    def _reader(self, schema: Shipped) -> _Read:
        current = self._newest[schema.name]
        if schema == current:
            return self._compiled[schema.name].read
        return resolving_reader(BY_NAME[schema.name], schema.text, current.text)

    def _writer(self, schema: Shipped) -> _Write:
        if schema == self._newest[schema.name]:
            return self._compiled[schema.name].write
        return plain_writer(BY_NAME[schema.name], schema.text)

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
def _compiled() -> dict[str, Compiled]:
    """Compiled code by name, once per process; it is made from the structs and so must agree with the files."""
    current = newest(shipped_schemas())
    stale = [
        each.name for each in CATALOGUE if each.name not in current or json.loads(current[each.name].text) != schema_of(each)
    ]
    if stale:
        raise StaleSchemas(", ".join(stale))
    return {entry.name: compile_entry(entry) for entry in CATALOGUE}
