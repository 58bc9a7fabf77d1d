"""Hypothesis strategies for every struct that has an Avro schema, from the same annotations as the schemas."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET, inspect

from pipeline.domain.event import PAYLOADS
from pipeline.formats.avro.catalogue import CATALOGUE, Entry, Record

LONGS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 1 << 50) | st.integers(1_700_000_000_000, 1_900_000_000_000)
TEXTS = st.text(max_size=12) | st.text(min_size=60, max_size=80)


def records(entry: Entry) -> st.SearchStrategy[Record]:
    """Any record of a schema; fields with a default are left out in some."""
    return _struct(entry.struct, entry.payload)


def any_record() -> st.SearchStrategy[tuple[Entry, Record]]:
    """Any record of any schema, with its entry."""
    return st.sampled_from(CATALOGUE).flatmap(lambda entry: records(entry).map(lambda record: (entry, record)))


def _struct(struct: type[Any], payload: type[Any] | None = None) -> st.SearchStrategy[Any]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    required = {field.name: _field(struct, field, payload) for field in info.fields if field.required}
    optional = {field.name: _field(struct, field, payload) for field in info.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: struct(**fields))


def _field(struct: type[Any], field: inspect.Field, payload: type[Any] | None) -> st.SearchStrategy[Any]:
    if payload is not None and field.name == "payload":
        return _struct(payload)
    value = _type(field.type)
    return value | st.just(UNSET) if struct in PAYLOADS.values() else value


def _type(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.Metadata(type=inner):
            return _type(inner)
        case inspect.UnionType(types=types):
            return st.one_of(*(_type(each) for each in types))
        case inspect.NoneType():
            return st.none()
        case inspect.VarTupleType(item_type=item):
            return st.lists(_type(item), max_size=3).map(tuple)
        case inspect.DictType(value_type=value):
            return st.dictionaries(TEXTS, _type(value), max_size=3)
        case inspect.EnumType(cls=cls):
            return st.sampled_from(list(cls))
        case inspect.StructType(cls=cls):
            return _struct(cls)
        case _:
            return _PRIMITIVES[type(kind)]


_PRIMITIVES: dict[type[inspect.Type], st.SearchStrategy[Any]] = {
    inspect.StrType: TEXTS,
    inspect.IntType: LONGS,
    inspect.FloatType: st.floats(allow_nan=False),
    inspect.BoolType: st.booleans(),
    inspect.BytesType: st.binary(max_size=80),
}


def identical(one: Any, other: Any) -> bool:
    """Equal in every field and in every field's type; `==` alone takes 1 for True."""
    if type(one) is not type(other):
        return False
    if isinstance(one, msgspec.Struct):
        return all(identical(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(identical(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
