"""The codec: exact round trips, fastavro's own bytes, other versions of a schema, and broken input."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    EntityType,
    Environment,
    Event,
    EventType,
    Identifier,
    Patient,
)
from pipeline.domain.identifiers import EventId, Millis
from pipeline.domain.records import Reason
from pipeline.formats.avro import Codec, SchemaIds, StaleSchemas, Undecodable, Unencodable, codec
from pipeline.formats.avro.catalogue import BY_NAME, CATALOGUE, Entry, Record
from pipeline.formats.avro.codec import HEADER_BYTES, MAX_RESOLVED
from pipeline.formats.avro.generate import schema_of
from pipeline.formats.avro.resolving import plain_writer, resolving_reader
from pipeline.formats.avro.shipped import SHIPPED_ID_BASE, newest, shipped_schemas
from tests.support.avro_records import any_record, identical, records

CODEC = Codec.shipped()
CURRENT = newest(shipped_schemas())
ELSEWHERE = 77
"""An id that is not shipped."""
CANARY = "Zanzibar-4711"


def bed_event(payload: Bed) -> Event:
    return Event(
        event_id=EventId("00" * 16),
        tenant="lakeside",
        facility="LSG",
        source_system="capacity",
        feed="capacity-http",
        entity_type=EntityType.BED,
        namespace="LSG-BEDS",
        entity_id="ICU-12-A",
        event_type=EventType.BED_STATUS,
        recorded_at=Millis(1_763_802_000_000),
        received_at=Millis(1_763_802_000_412),
        payload=payload,
    )


def decoded_or_reason(data: bytes) -> Record | Reason:
    try:
        return CODEC.decode(data)
    except Undecodable as error:
        return error.reason


def refusal(codec_: Codec, data: bytes | None) -> Undecodable:
    with pytest.raises(Undecodable) as caught:
        codec_.decode(data)
    return caught.value


def encoded_with(schema: dict[str, Any], record: Record) -> bytes:
    out = bytearray(b"\0" + ELSEWHERE.to_bytes(4, "big"))
    plain_writer(BY_NAME["event.bed"], json.dumps(schema))(record, out)
    return bytes(out)


def knowing(schema: dict[str, Any]) -> Codec:
    return Codec.shipped(resolve=lambda number: json.dumps(schema) if number == ELSEWHERE else None)


def bed_fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    (payload,) = (field["type"] for field in schema["fields"] if field["name"] == "payload")
    fields: list[dict[str, Any]] = payload["fields"]
    return fields


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
@given(data=st.data())
def test_every_record_comes_back_exactly_as_it_was(entry: Entry, data: st.DataObject) -> None:
    record = data.draw(records(entry))
    encoded = CODEC.encode(record)
    assert identical(CODEC.decode(encoded), record)
    assert CODEC.type_of(encoded) == entry.name


@given(any_record())
def test_compiled_code_and_fastavro_agree_on_every_byte(case: tuple[Entry, Record]) -> None:
    entry, record = case
    text, out = CURRENT[entry.name].text, bytearray()
    plain_writer(entry, text)(record, out)
    assert CODEC.encode(record)[HEADER_BYTES:] == out
    again, end = resolving_reader(entry, text, text)(bytes(out), 0)
    assert identical(again, record)
    assert end == len(out)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_list_of_any_length_is_written_the_same_way_by_fastavro(count: int) -> None:
    payload = Patient(identifiers=tuple(Identifier(f"S{number}", str(number)) for number in range(count)))
    record, out = msgspec.structs.replace(bed_event(Bed()), payload=payload), bytearray()
    plain_writer(BY_NAME["event.patient"], CURRENT["event.patient"].text)(record, out)
    assert CODEC.encode(record)[HEADER_BYTES:] == out


@given(any_record(), st.data())
def test_a_record_cut_off_anywhere_is_undecodable(case: tuple[Entry, Record], data: st.DataObject) -> None:
    encoded = CODEC.encode(case[1])
    end = data.draw(st.integers(0, len(encoded) - 1))
    assert refusal(CODEC, encoded[:end]).reason is Reason.UNDECODABLE


@given(any_record(), st.binary(min_size=1, max_size=4))
def test_bytes_after_the_end_are_undecodable(case: tuple[Entry, Record], extra: bytes) -> None:
    assert refusal(CODEC, CODEC.encode(case[1]) + extra).reason is Reason.UNDECODABLE


@given(any_record(), st.data())
def test_damaged_bytes_raise_undecodable_or_give_a_sound_record(case: tuple[Entry, Record], data: st.DataObject) -> None:
    damaged = bytearray(CODEC.encode(case[1]))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(HEADER_BYTES, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    found = decoded_or_reason(bytes(damaged))
    assert found is Reason.UNDECODABLE or not isinstance(found, Reason)
    assert isinstance(found, Reason) or identical(CODEC.decode(CODEC.encode(found)), found)


@given(st.binary(max_size=200), st.sampled_from(sorted(SchemaIds.shipped().reads)))
def test_noise_behind_a_known_id_raises_nothing_but_undecodable(noise: bytes, number: int) -> None:
    found = decoded_or_reason(b"\0" + number.to_bytes(4, "big") + noise)
    assert found is Reason.UNDECODABLE or not isinstance(found, Reason)


def test_a_great_count_in_few_bytes_is_refused_at_once() -> None:
    record = bed_event(Bed(environment=Environment.CLEAN))
    encoded = CODEC.encode(record)
    assert encoded.endswith(b"\0\0\0")  # no cleared fields, an empty content hash, no provenance
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2**63 - 1
    assert refusal(CODEC, encoded[:-3] + huge + encoded[-2:]).reason is Reason.UNDECODABLE


def test_absent_cleared_and_set_are_told_apart() -> None:
    sent = Bed(environment=None, allocation=Allocation(AllocationStatus.NONE))
    record = CODEC.decode(CODEC.encode(bed_event(sent)))
    assert isinstance(record, Event)
    assert isinstance(record.payload, Bed)
    assert record.payload.environment is None
    assert record.payload.allocation == Allocation(AllocationStatus.NONE)
    assert record.payload.service is UNSET


def test_no_value_no_header_and_unknown_id_have_their_own_reasons() -> None:
    assert refusal(CODEC, None).reason is Reason.NULL_VALUE
    assert refusal(CODEC, b"").reason is Reason.UNDECODABLE
    assert refusal(CODEC, b'{"a": 1}').reason is Reason.UNDECODABLE
    assert refusal(CODEC, b"\0\0\0\0\x4dabc").reason is Reason.UNKNOWN_SCHEMA


def test_type_of_never_asks_the_registry_and_never_raises() -> None:
    def resolve(number: int) -> str | None:
        raise AssertionError("asked")

    asking = Codec.shipped(resolve)
    assert [asking.type_of(data) for data in (None, b"", b"\0\0\0", b"\x01\0\0\0\x01", b"\0\0\0\0\x4d")] == [None] * 5


def test_a_shipped_id_never_means_what_a_registry_numbers() -> None:
    assert min(SchemaIds.shipped().reads) > SHIPPED_ID_BASE > 1_000_000_000
    assert max(SchemaIds.shipped().reads) < 1 << 31


def test_an_older_writer_lacking_a_field_and_a_symbol_is_read_with_the_newest_schema() -> None:
    older = schema_of(BY_NAME["event.bed"])
    bed_fields(older)[:] = [field for field in bed_fields(older) if field["name"] != "telemetry"]
    encoded = encoded_with(older, bed_event(Bed(environment=Environment.DIRTY, licensed=None)))
    record = knowing(older).decode(encoded)
    assert record == bed_event(Bed(environment=Environment.DIRTY, licensed=None))


def test_a_newer_symbol_reads_as_the_enums_default_and_a_newer_field_is_nothing_to_us() -> None:
    newer = schema_of(BY_NAME["event.bed"])
    bed_fields(newer).insert(0, {"name": "oxygen", "type": ["null", "boolean"], "default": None})
    (environment,) = (field["type"][1] for field in bed_fields(newer) if field["name"] == "environment")
    environment["symbols"] = ["CLEAN_AND_SEALED" if symbol == "CLEAN" else symbol for symbol in environment["symbols"]]
    out = encoded_with(schema_of(BY_NAME["event.bed"]), bed_event(Bed(environment=Environment.CLEAN)))
    before, found, after = out.rpartition(b"\0\2\0")  # occupancy absent, environment present, its first symbol
    record = knowing(newer).decode(before + b"\0" + found + after)
    assert record == bed_event(Bed(environment=Environment.UNKNOWN))


def test_a_field_that_only_a_newer_version_clears_is_ignored() -> None:
    encoded = CODEC.encode(bed_event(Bed(surge=None)))
    assert encoded.count(b"\x0asurge") == 1
    assert CODEC.decode(encoded.replace(b"\x0asurge", b"\x0aother")) == bed_event(Bed())


def test_a_field_both_set_and_cleared_is_undecodable() -> None:
    encoded = CODEC.encode(bed_event(Bed(surge=None, staffed=True)))
    assert refusal(CODEC, encoded.replace(b"\x0asurge", b"\x0estaffed")).reason is Reason.UNDECODABLE


def test_a_fetched_schema_is_asked_for_once_and_the_number_kept_is_bounded() -> None:
    asked: list[int] = []
    text = json.dumps(schema_of(BY_NAME["event.bed"]))

    def resolve(number: int) -> str | None:
        asked.append(number)
        return text

    asking = Codec.shipped(resolve)
    body = CODEC.encode(bed_event(Bed()))[HEADER_BYTES:]
    for number in [*range(MAX_RESOLVED + 1), MAX_RESOLVED]:
        assert asking.decode(b"\0" + number.to_bytes(4, "big") + body) == bed_event(Bed())
    assert asked == list(range(MAX_RESOLVED + 1))
    assert (asking.type_of(b"\0\0\0\0\0"), asking.type_of(b"\0\0\0\0\x01")) == (None, "event.bed")


@pytest.mark.parametrize("text", ["", "{", '"string"', '{"type": "record", "name": "Other", "fields": []}', "[]", "null"])
def test_a_foreign_schema_is_unknown(text: str) -> None:
    assert refusal(Codec.shipped(lambda _: text), b"\0\0\0\0\x4dabc").reason is Reason.UNKNOWN_SCHEMA


def test_a_schema_of_our_name_that_cannot_be_resolved_is_undecodable() -> None:
    changed = schema_of(BY_NAME["event.bed"])
    (tenant,) = (field for field in changed["fields"] if field["name"] == "tenant")
    tenant["type"] = "boolean"
    data = CODEC.encode(bed_event(Bed()))[HEADER_BYTES:]
    refused = refusal(knowing(changed), b"\0" + ELSEWHERE.to_bytes(4, "big") + data)
    assert refused.reason is Reason.UNDECODABLE


def test_a_registrys_id_is_written_and_the_shipped_one_still_read() -> None:
    registered = Codec(SchemaIds.shipped().with_registered({5: ("event.bed", CURRENT["event.bed"].version)}))
    record = bed_event(Bed(surge=True))
    assert registered.encode(record)[:HEADER_BYTES] == b"\0\0\0\0\x05"
    assert registered.decode(registered.encode(record)) == registered.decode(CODEC.encode(record)) == record


def test_pinning_an_unshipped_version_is_refused() -> None:
    current = CURRENT["event.bed"]
    assert SchemaIds.shipped().pinned({"event.bed": current.version}).writes["event.bed"] == current.id
    assert SchemaIds.shipped().pinned({"event.bed": "1.0.0"}).writes["event.bed"] != current.id
    with pytest.raises(KeyError):
        SchemaIds.shipped().pinned({"event.bed": "0.9.0"})


@pytest.mark.parametrize(
    "payload",
    [
        Bed(level_of_care=4711),  # type: ignore[arg-type]
        Bed(environment=CANARY),  # type: ignore[arg-type]
        Patient(birth_date=f"{CANARY}\ud800"),
        Patient(name=CANARY),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_written_is_refused_without_showing_a_value(payload: Bed | Patient) -> None:
    with pytest.raises(Unencodable) as caught:
        CODEC.encode(bed_event(payload))  # type: ignore[arg-type]
    shown = f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"
    assert CANARY not in shown
    assert caught.value.__context__ is None


def test_what_cannot_be_read_is_refused_without_showing_a_value() -> None:
    encoded = CODEC.encode(bed_event(Bed(level_of_care=CANARY)))
    damaged = encoded.replace(CANARY.encode(), CANARY.encode()[:-1] + b"\xff")
    refused = refusal(CODEC, damaged)
    assert CANARY[:-1] not in f"{refused!r} {refused.detail} {refused.__context__!r}"
    assert refused.__context__ is None


def test_structs_that_differ_from_the_committed_schemas_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "shipped_schemas", lambda: tuple(each for each in shipped_schemas() if each.name != "audit"))
    with pytest.raises(StaleSchemas, match="audit"):
        codec.refuse_stale.__wrapped__()
