"""The committed schemas: made from the structs, compatible, documented, with examples that hold, readable by others."""

import copy
import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import avro.io
import avro.schema
import fastavro
import msgspec
import pytest
import yaml

from pipeline.domain.event import Described
from pipeline.formats.avro import Codec
from pipeline.formats.avro.author import document, main
from pipeline.formats.avro.catalogue import BY_NAME, CATALOGUE, ENUM_DEFAULTS, Entry
from pipeline.formats.avro.codec import HEADER_BYTES
from pipeline.formats.avro.compatibility import Change, change_of, fully_compatible, refusals
from pipeline.formats.avro.document import render
from pipeline.formats.avro.generate import schema_text
from pipeline.formats.avro.shipped import IDS_FILE, Shipped, newest, parse_version, shipped_schemas
from pipeline.resources import schemas_dir, topics_dir

FOLDER = schemas_dir()
CURRENT = newest(shipped_schemas())
CODEC = Codec.shipped()
NOT_AVRO = {"head", "pending"}
"""Values of changelogs; they have a version byte of their own."""

Schema = dict[str, Any]
each_schema = pytest.mark.parametrize("schema", shipped_schemas(), ids=lambda schema: f"{schema.name}-{schema.version}")
each_entry = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)


def example_path(schema: Shipped) -> Path:
    return FOLDER / schema.name / f"{schema.version}.example.json"


def parts_of(schema: Any, kind: str) -> list[Schema]:
    """Every definition of a kind (record, enum) anywhere in a schema."""
    match schema:
        case dict():
            here = [schema] if schema.get("type") == kind else []
            return here + [part for value in schema.values() for part in parts_of(value, kind)]
        case list():
            return [part for value in schema for part in parts_of(value, kind)]
        case _:
            return []


def broken_promises(schemas: Sequence[Shipped]) -> tuple[str, ...]:
    """Pairs of versions of one schema, of one major version, that don't read each other both ways (FULL transitive)."""
    return tuple(
        f"{one.name} {one.version} and {other.version}: {why}"
        for one, other in itertools.combinations(schemas, 2)
        if one.name == other.name and parse_version(one.version)[0] == parse_version(other.version)[0]
        for why in fully_compatible(one.text, other.text)
    )


@each_entry
def test_the_newest_committed_version_is_what_the_struct_says(entry: Entry) -> None:
    assert schema_text(entry) == CURRENT[entry.name].text


def test_the_document_is_current() -> None:
    assert document().read_text(encoding="utf-8") == render(shipped_schemas())
    assert main(["--check"]) == 0


def test_every_file_has_a_number_and_every_number_a_file() -> None:
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    named = {f"{schema.name}/{schema.version}{ending}" for schema in shipped_schemas() for ending in (".avsc", ".example.json")}
    assert files == named | {IDS_FILE}
    assert set(CURRENT) == set(BY_NAME)
    assert len({schema.id for schema in shipped_schemas()}) == len(shipped_schemas())


@each_schema
def test_every_schema_is_self_contained_and_read_by_both_libraries(schema: Shipped) -> None:
    parsed = avro.schema.parse(schema.text)
    assert parsed.fullname == BY_NAME[schema.name].full_name  # type: ignore[attr-defined]
    fastavro.parse_schema(json.loads(schema.text))


@each_schema
def test_every_field_is_described_and_every_symbol_too(schema: Shipped) -> None:
    loaded = json.loads(schema.text)
    for record in parts_of(loaded, "record"):
        assert record["doc"]
        assert all(field["doc"] for field in record["fields"]), record["name"]
    for enum in parts_of(loaded, "enum"):
        lines = enum["doc"].splitlines()[1:]
        assert [line.partition(": ")[0] for line in lines] == enum["symbols"], enum["name"]
        assert all(line.partition(": ")[2] for line in lines), enum["name"]
        assert enum["default"] in enum["symbols"], enum["name"]


def test_an_enum_that_knows_unknown_has_it_as_default() -> None:
    for enum, default in ENUM_DEFAULTS.items():
        names = {member.name for member in enum}
        assert isinstance(default, enum)
        assert "UNKNOWN" not in names or default.name == "UNKNOWN", enum.__name__


def test_times_are_timestamps_in_every_file() -> None:
    for schema in CURRENT.values():
        for record in parts_of(json.loads(schema.text), "record"):
            for field in record["fields"]:
                if field["name"] == "at" or field["name"].endswith("_at"):
                    assert "timestamp-millis" in json.dumps(field["type"]), f"{schema.name} {field['name']}"


def test_versions_of_a_major_version_all_read_each_other() -> None:
    assert broken_promises(shipped_schemas()) == ()


@each_schema
def test_an_example_decodes_round_trips_and_is_canonical_json(schema: Shipped) -> None:
    text = example_path(schema).read_bytes()
    record = msgspec.json.decode(text, type=BY_NAME[schema.name].struct)
    again = CODEC.decode(CODEC.encode(record))
    assert again == record
    if schema == CURRENT[schema.name]:
        assert msgspec.json.format(msgspec.json.encode(again), indent=2) + b"\n" == text
    assert CODEC.type_of(CODEC.encode(record)) == schema.name


def test_an_example_shows_a_cleared_field() -> None:
    record = msgspec.json.decode(example_path(CURRENT["event.bed"]).read_bytes())
    assert None in record["payload"].values()


@each_entry
def test_apache_avro_reads_what_the_codec_writes(entry: Entry) -> None:
    schema = CURRENT[entry.name]
    encoded = CODEC.encode(msgspec.json.decode(example_path(schema).read_bytes(), type=entry.struct))
    stream = io.BytesIO(encoded[HEADER_BYTES:])
    read: Any = avro.io.DatumReader(avro.schema.parse(schema.text)).read(avro.io.BinaryDecoder(stream))
    assert stream.tell() == len(encoded) - HEADER_BYTES
    assert set(read) == {field["name"] for field in json.loads(schema.text)["fields"]}


def field_named(schema: Schema, record: str, name: str) -> Schema:
    (found,) = (part for part in parts_of(schema, "record") if part["name"] == record)
    fields: list[Schema] = found["fields"]
    (field,) = (each for each in fields if each["name"] == name)
    return field


def enum_named(schema: Schema, name: str) -> Schema:
    (found,) = (part for part in parts_of(schema, "enum") if part["name"] == name)
    return found


def add_field(schema: Schema) -> None:
    schema["fields"].append({"name": "added", "type": "string", "default": ""})


def add_field_without_default(schema: Schema) -> None:
    schema["fields"].append({"name": "added", "type": "string"})


def remove_optional_field(schema: Schema) -> None:
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "priority"]


def remove_required_field(schema: Schema) -> None:
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "tenant"]


def add_symbol(schema: Schema) -> None:
    enum_named(schema, "Environment")["symbols"].append("STERILE")


def remove_symbol(schema: Schema) -> None:
    enum_named(schema, "Environment")["symbols"].remove("CONTAMINATED")


def add_symbol_and_drop_the_default(schema: Schema) -> None:
    add_symbol(schema)
    del enum_named(schema, "Environment")["default"]


def remove_symbol_and_the_default(schema: Schema) -> None:
    remove_symbol(schema)
    del enum_named(schema, "Environment")["default"]


def change_type(schema: Schema) -> None:
    field_named(schema, "BedEvent", "tenant")["type"] = "long"


def change_type_deep_inside(schema: Schema) -> None:
    field_named(schema, "Service", "reason")["type"] = ["null", "boolean"]


def require_what_could_be_absent(schema: Schema) -> None:
    field = field_named(schema, "BedEvent", "control_id")
    field["type"] = "string"
    del field["default"]


def rename_payload(schema: Schema) -> None:
    field_named(schema, "BedEvent", "payload")["type"]["name"] = "Cot"


def changed(change: Callable[[Schema], None], name: str = "event.bed") -> str:
    schema = copy.deepcopy(json.loads(CURRENT[name].text))
    change(schema)
    return json.dumps(schema)


@pytest.mark.parametrize("change", [add_field, remove_optional_field, add_symbol, remove_symbol])
def test_a_compatible_change_is_a_minor_one(change: Callable[[Schema], None]) -> None:
    before = CURRENT["event.bed"].text
    assert fully_compatible(before, changed(change)) == ()
    assert change_of(before, changed(change)) is Change.MINOR


@pytest.mark.parametrize(
    "change",
    [
        add_field_without_default,
        remove_required_field,
        remove_symbol_and_the_default,
        change_type,
        change_type_deep_inside,
        require_what_could_be_absent,
        rename_payload,
    ],
)
def test_an_incompatible_change_is_refused(change: Callable[[Schema], None]) -> None:
    before = CURRENT["event.bed"]
    after = Shipped(before.name, "1.99.0", before.id + 1, changed(change))
    assert fully_compatible(before.text, after.text) != ()
    assert change_of(before.text, after.text) is Change.MAJOR
    assert broken_promises((*shipped_schemas(), after)) != ()
    assert broken_promises((*shipped_schemas(), Shipped(after.name, "2.0.0", after.id, after.text))) == ()


def test_a_removed_default_is_refused_by_the_first_version_without_the_field() -> None:
    """Removing a default changes nothing between two versions that both have the field; every earlier one is asked too."""

    def drop_default(schema: Schema) -> None:
        del field_named(schema, "BedEvent", "priority")["default"]

    without, current, bare = changed(remove_optional_field), CURRENT["event.bed"].text, changed(drop_default)
    assert fully_compatible(current, bare) == ()
    assert refusals(bare, without) != ()
    versions = [Shipped("event.bed", f"1.{minor}.0", minor, text) for minor, text in enumerate((without, current, bare))]
    assert broken_promises(versions[:2]) == ()
    assert broken_promises(versions) != ()


def test_an_enum_default_taken_away_is_refused_once_a_symbol_is_new() -> None:
    bare = changed(lambda schema: enum_named(schema, "Environment").pop("default"))
    assert refusals(bare, changed(add_symbol)) != ()


def test_other_words_are_a_patch() -> None:
    before = CURRENT["event.bed"].text
    assert change_of(before, changed(lambda schema: schema.update(doc="other words"))) is Change.PATCH
    assert change_of(before, before) is Change.NONE


def test_every_topic_names_schemas_that_exist_and_every_schema_is_on_its_topics() -> None:
    declared: dict[str, list[str]] = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["schema"] for path in sorted(topics_dir().glob("*.yaml"))
    }
    assert {name for names in declared.values() for name in names} - NOT_AVRO == set(BY_NAME)
    for entry in CATALOGUE:
        assert {topic for topic, names in declared.items() if entry.name in names} == {*entry.topics, *entry.shares}, entry.name
        assert all(len(declared[topic]) > 1 for topic in entry.shares), entry.name


def test_every_described_enum_has_a_default_of_its_own() -> None:
    used = {enum["name"] for schema in CURRENT.values() for enum in parts_of(json.loads(schema.text), "enum")}
    assert used == {enum.__name__ for enum in ENUM_DEFAULTS}
    assert all(issubclass(enum, Described) for enum in ENUM_DEFAULTS)


def test_versions_are_of_three_numbers() -> None:
    assert all(".".join(map(str, parse_version(schema.version))) == schema.version for schema in shipped_schemas())
