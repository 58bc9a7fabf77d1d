"""Avro schemas from the structs: pure, and the same text on every machine."""

import json
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT, inspect

from pipeline.domain.event import PAYLOADS, Described
from pipeline.formats.avro.catalogue import CLEARED, ENUM_DEFAULTS, NAMESPACE, Entry

Avro = dict[str, Any] | list[Any] | str
"""A schema, or a part of one, in Avro's JSON."""

_PAYLOADS: Final = frozenset(PAYLOADS.values())
_PRIMITIVES: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: "string",
    inspect.IntType: "long",
    inspect.FloatType: "double",
    inspect.BoolType: "boolean",
    inspect.BytesType: "bytes",
}
_CLEARED_FIELD: Final = {
    "name": CLEARED,
    "type": {"type": "array", "items": "string"},
    "doc": "fields that the source cleared; a field that is null and not named here is not spoken of",
    "default": [],
}


def schema_of(entry: Entry) -> dict[str, Any]:
    """Self-contained schema of a catalogue entry; each named type is defined where it first occurs."""
    return {"namespace": NAMESPACE, **_Generator(entry).record(entry.struct, entry.record_name)}


def schema_text(entry: Entry) -> str:
    """The schema as its file holds it."""
    return json.dumps(schema_of(entry), indent=2, ensure_ascii=False) + "\n"


class _Generator:
    """Holds what one schema has defined so far."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._defined: set[str] = set()

    def record(self, struct: type[msgspec.Struct], name: str) -> dict[str, Any]:
        """Definition of a record."""
        self._defined.add(name)
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        fields = [self._field(field) for field in info.fields]
        if struct in _PAYLOADS:
            fields.append(_CLEARED_FIELD)
        return {"type": "record", "name": name, "doc": _first_line(struct), "fields": fields}

    def _field(self, field: inspect.Field) -> dict[str, Any]:
        payload = self._entry.payload
        if payload is not None and field.name == "payload":
            kind: Avro = self.record(payload, payload.__name__)
        else:
            kind = self._type(field.type, is_time=False)
        avro = {"name": field.name, "type": kind, "doc": description_of(field)}
        return avro if field.required else {**avro, "default": _default(field)}

    def _type(self, kind: inspect.Type, *, is_time: bool) -> Avro:
        match kind:
            case inspect.Metadata(type=inner, extra=extra):
                return self._type(inner, is_time=is_time or bool(extra and extra.get("time")))
            case inspect.UnionType(types=types):
                nullable = any(isinstance(each, inspect.NoneType) for each in types)
                branches = [self._type(each, is_time=is_time) for each in types if not isinstance(each, inspect.NoneType)]
                return ["null", *branches] if nullable else branches
            case inspect.VarTupleType(item_type=item):
                return {"type": "array", "items": self._type(item, is_time=False)}
            case inspect.DictType(value_type=value):
                return {"type": "map", "values": self._type(value, is_time=False)}
            case inspect.EnumType(cls=cls):
                return self._enum(cls)
            case inspect.StructType(cls=cls):
                return _reference(cls.__name__) if cls.__name__ in self._defined else self.record(cls, cls.__name__)
            case inspect.IntType() if is_time:
                return {"type": "long", "logicalType": "timestamp-millis"}
            case _:
                return _PRIMITIVES[type(kind)]

    def _enum(self, cls: type[Any]) -> Avro:
        if cls.__name__ in self._defined:
            return _reference(cls.__name__)
        self._defined.add(cls.__name__)
        assert issubclass(cls, Described)
        return {
            "type": "enum",
            "name": cls.__name__,
            "doc": "\n".join((_first_line(cls), *(f"{member.value}: {member.doc}" for member in cls))),
            "symbols": [member.value for member in cls],
            "default": ENUM_DEFAULTS[cls].value,
        }


def description_of(field: inspect.Field) -> str:
    """What the field's Meta says of it."""
    assert isinstance(field.type, inspect.Metadata)
    assert field.type.extra_json_schema is not None
    return str(field.type.extra_json_schema["description"])


def _default(field: inspect.Field) -> Any:
    """JSON of the default; a payload field, whose default is UNSET, and a field that may be absent have null."""
    if field.default is not NODEFAULT:
        return json.loads(msgspec.json.encode(field.default))
    return None if field.default_factory is NODEFAULT else field.default_factory()


def _reference(name: str) -> str:
    return f"{NAMESPACE}.{name}"


def _first_line(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]
