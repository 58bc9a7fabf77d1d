"""Reading and writing by way of fastavro: for every schema version but the newest, and as the compiled code's judge."""

import io
import json
from collections.abc import Callable
from typing import Any, Final

import fastavro
import msgspec
from fastavro.types import Schema

from pipeline.domain.event import PAYLOADS
from pipeline.formats.avro.catalogue import CLEARED, NAMESPACE, Entry, Record

_TAGS: Final = {f"{NAMESPACE}.{payload.__name__}": entity_type.value for entity_type, payload in PAYLOADS.items()}
_RECORD_NAMES: Final = {tag: name for name, tag in _TAGS.items()}
_NOT_CODED: Final = frozenset({"doc", "logicalType"})
"""What coding has no use for. Without the logical type, fastavro leaves times the integers that they are in the structs."""


def parse(text: str) -> Schema:
    """A schema ready for coding; any exception if it is none."""
    return fastavro.parse_schema(_without_notes(json.loads(text)))


def _without_notes(part: Any) -> Any:
    match part:
        case dict():
            return {name: _without_notes(value) for name, value in part.items() if name not in _NOT_CODED}
        case list():
            return [_without_notes(value) for value in part]
        case _:
            return part


def resolving_reader(entry: Entry, writer_text: str, reader_text: str) -> Callable[[bytes, int], tuple[Record, int]]:
    """Reader of what was written with `writer_text`, as the struct of today. What it raises may hold values."""
    writer, reader = parse(writer_text), parse(reader_text)

    def read(data: bytes, at: int) -> tuple[Record, int]:
        stream = io.BytesIO(data)
        stream.seek(at)
        fields: Any = fastavro.schemaless_reader(
            stream, writer, reader, return_record_name=True, return_record_name_override=True
        )
        record: Record = msgspec.convert(_from_avro(entry, fields), entry.struct)
        return record, stream.tell()

    return read


def plain_writer(entry: Entry, text: str) -> Callable[[Record, bytearray], None]:
    """Writer of the schema `text`, which may be older than the struct. What it raises may hold values."""
    schema = parse(text)

    def write(record: Record, out: bytearray) -> None:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, _to_avro(entry, record))
        out += stream.getvalue()

    return write


def _to_avro(entry: Entry, record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(record, builtin_types=(bytes,))
    if entry.payload is not None:
        fields["payload"] = _with_cleared(fields["payload"])
    elif entry.name == "accepted":
        fields["state"] = (_RECORD_NAMES[fields["state"]["type"]], _with_cleared(fields["state"]))
    return fields


def _with_cleared(payload: dict[str, Any]) -> dict[str, Any]:
    # A tuple in a union is to fastavro the name of a branch and its value.
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in payload.items()}
    return {**plain, CLEARED: [name for name, value in payload.items() if value is None]}


def _from_avro(entry: Entry, fields: dict[str, Any]) -> dict[str, Any]:
    if entry.payload is not None:
        fields["payload"] = _without_cleared(_TAGS[f"{NAMESPACE}.{entry.payload.__name__}"], fields["payload"])
    elif entry.name == "accepted":
        name, state = fields["state"]
        fields["state"] = _without_cleared(_TAGS[name], state)
    return fields


def _without_cleared(tag: str, payload: dict[str, Any]) -> dict[str, Any]:
    cleared = payload.pop(CLEARED)
    stated = {name: value for name, value in payload.items() if value is not None}
    if any(name in stated for name in cleared):
        raise ValueError("a field is both set and cleared")
    return {**stated, **dict.fromkeys(cleared), "type": tag}
