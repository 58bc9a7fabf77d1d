"""`docs/canonical-model.md`, from the same descriptions as the schemas."""

from typing import Any, Final

import msgspec
from msgspec import NODEFAULT, UNSET, inspect

from pipeline.domain.event import PAYLOADS, Described
from pipeline.formats.avro.catalogue import BY_NAME, CATALOGUE, ENUM_DEFAULTS, LANDING_TOPICS, LANE_TOPICS, NAMESPACE, Entry
from pipeline.formats.avro.generate import description_of
from pipeline.formats.avro.shipped import SHIPPED_ID_BASE, Shipped, newest

_INTRODUCTION: Final = f"""\
# The canonical model

Every source is translated into these records, every stage hands them on, every destination is built from them. The text
below is rendered from the descriptions in `pipeline/domain/event.py` and `pipeline/domain/records.py`, of which the Avro
schemas in `avro_schemas/` are made too; `python -m pipeline.formats.avro.author` writes both. Do not edit it.

## Rules that hold for all records

- **Absent, cleared, set.** In the payload of an event, a field may be *absent* (the source does not speak of it),
  *cleared* (the source says that there is no value; HL7 v2 sends `""`), or set. In JSON an absent field is left out and a
  cleared one is `null`. In Avro both are null, and the payload's list `cleared` names those that are cleared.
- **Composite fields** (an allocation with its holder and end) are replaced as a whole and never mixed from two events.
- **Times** are milliseconds since 1970-01-01T00:00:00Z, `timestamp-millis` in Avro and a number in JSON.
- **Identifiers** belong to a namespace, the authority that assigned them, and to a tenant.
- **Bytes** are base64 in JSON.
- **Enums** each have a default: what a reader sees in place of a symbol that is newer than the reader.

## On the wire

A Kafka value is a zero byte, the schema's id (four bytes, big-endian) and Avro binary. Without a schema registry the ids
are those of `avro_schemas/ids.yaml` plus {SHIPPED_ID_BASE:#x}; with one they are the registry's. The base keeps the two
apart, so that each stays readable beside the other and a worker can start while the registry is away. `epochs` always
has the shipped ids: no worker starts without it. A role that keeps a table keeps the registry's ids beside it; a way in does not,
and passes over the receipts and outcomes that it can't read until it is started with the registry there.

Subjects in the registry are `<topic>-value`. What lies on a topic beside another schema is registered by record name instead,
`{NAMESPACE}.<Record>`: the events and `control` on the landing topics (`{NAMESPACE}.BedEvent`), the orders on `modes` and
`reconciliations`, the incidents on `budgets`.

Versions are semantic. Within a major version each version reads every other in both directions: a field is added with a
default or removed if it had one, an enum gains symbols freely because it has a default. A committed version never changes.

A worker older than a schema version needs the registry to read it. Where there is none, roll out in two steps: first the
new build with the old version pinned for writing (`SchemaIds.pinned`), then without.
"""

_PAYLOADS_NOTE: Final = """\
One record per entity type: the payload of an event, and the whole state in an accepted change. Every field may be absent
or cleared."""


def render(schemas: tuple[Shipped, ...]) -> str:
    """The whole document."""
    collected = _Collected()
    records = [_record_section(entry, collected) for entry in _described_entries()]
    payloads = [_struct_section(payload, f"`{payload.__name__}`", collected) for payload in PAYLOADS.values()]
    parts = [_part_section(part, collected) for part in collected]
    enums = [_enum_section(enum) for enum in sorted(collected.enums, key=lambda cls: cls.__name__)]
    blocks = [
        _INTRODUCTION,
        _schema_table(newest(schemas)),
        "## Records",
        *records,
        "## What is known of an entity",
        _PAYLOADS_NOTE,
        *payloads,
        "## Parts of records",
        *parts,
        "## Glossary of codes",
        *enums,
    ]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


class _Collected:
    """What the sections so far refer to; iterating gives each part once, also those found while iterating."""

    def __init__(self) -> None:
        self.enums: set[type[Described]] = set()
        self._parts: list[type[msgspec.Struct]] = []

    def part(self, cls: type[msgspec.Struct]) -> None:
        if cls not in self._parts and cls not in PAYLOADS.values():
            self._parts.append(cls)

    def __iter__(self) -> "Any":
        return iter(self._parts)


def _described_entries() -> list[Entry]:
    """One entry per struct: the event schemas differ in their payload only."""
    events = [entry for entry in CATALOGUE if entry.payload is not None]
    return [events[0], *(entry for entry in CATALOGUE if entry.payload is None)]


def _schema_table(current: dict[str, Shipped]) -> str:
    rows = ["## Schemas", "", "| Schema | Record | Version | Number | Topics |", "|---|---|---|---|---|"]
    for name, schema in current.items():
        entry = BY_NAME[name]
        rows.append(f"| `{name}` | `{entry.full_name}` | {schema.version} | {schema.id - SHIPPED_ID_BASE} | {_topics(entry)} |")
    return "\n".join(rows)


def _topics(entry: Entry) -> str:
    rest, shown = [*entry.topics, *entry.shares], []
    for family, members in (("landing.*", LANDING_TOPICS), ("lane.*", LANE_TOPICS)):
        if set(members) <= set(rest):
            shown.append(family)
            rest = [topic for topic in rest if topic not in members]
    return ", ".join(f"`{topic}`" for topic in (*rest, *shown))


def _record_section(entry: Entry, collected: _Collected) -> str:
    return _struct_section(entry.struct, "`event.*`" if entry.payload is not None else f"`{entry.name}`", collected)


def _part_section(part: type[msgspec.Struct], collected: _Collected) -> str:
    return _struct_section(part, f"`{part.__name__}`", collected)


def _struct_section(struct: type[msgspec.Struct], title: str, collected: _Collected) -> str:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    rows = [f"### {title}", "", _cell_free(struct), "", "| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    for field in info.fields:
        kind = _type(field.type, collected, is_time=False)
        rows.append(f"| `{field.name}` | {kind} | {_default(struct, field)} | {_cell(description_of(field))} |")
    return "\n".join(rows)


def _type(kind: inspect.Type, collected: _Collected, *, is_time: bool) -> str:
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            return _type(inner, collected, is_time=is_time or bool(extra and extra.get("time")))
        case inspect.UnionType(types=types):
            branches = [each for each in types if not isinstance(each, inspect.NoneType)]
            if len(branches) > 1:
                return "one record of its entity type"
            return _type(branches[0], collected, is_time=is_time) + (", or none" if len(branches) < len(types) else "")
        case inspect.VarTupleType(item_type=item):
            return f"list of {_type(item, collected, is_time=False)}"
        case inspect.DictType(value_type=value):
            return f"map of {_type(value, collected, is_time=False)}"
        case inspect.EnumType(cls=cls):
            assert issubclass(cls, Described)
            collected.enums.add(cls)
            return _link(cls)
        case inspect.StructType(cls=cls):
            collected.part(cls)
            return _link(cls)
        case _:
            return "time" if is_time else _PLAIN[type(kind)]


_PLAIN: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: "text",
    inspect.IntType: "whole number",
    inspect.FloatType: "number",
    inspect.BoolType: "yes or no",
    inspect.BytesType: "bytes",
}


def _default(struct: type[msgspec.Struct], field: inspect.Field) -> str:
    if field.required:
        return "required"
    if struct in PAYLOADS.values():
        return "absent"
    value = field.default if field.default is not NODEFAULT else None
    return "none" if value in (None, UNSET) else "empty" if value in ((), "") else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    return msgspec.json.encode(value).decode().strip('"')


def _enum_section(cls: type[Described]) -> str:
    rows = [f"### `{cls.__name__}`", "", _cell_free(cls), "", "| Symbol | Meaning |", "|---|---|"]
    for member in cls:
        mark = " *(seen in place of a newer symbol)*" if member is ENUM_DEFAULTS[cls] else ""
        rows.append(f"| `{member.value}` | {_cell(member.doc)}{mark} |")
    return "\n".join(rows)


def _link(cls: type[Any]) -> str:
    return f"[{cls.__name__}](#{cls.__name__.lower()})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _cell_free(cls: type[Any]) -> str:
    return " ".join(line.strip() for line in (cls.__doc__ or "").strip().splitlines() if line.strip())
