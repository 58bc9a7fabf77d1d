"""JSON in and out: every refusal names its place and never a value; what was written can be read again."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pipeline.domain.event import BedOccupancy, EntityType, Environment, Event, Occupancy, Provenance, content_hash_of
from pipeline.domain.identifiers import Millis
from pipeline.formats.json_events import SET_BY_US, Client, Invalid, event_to_json, parse_event
from pipeline.formats.json_shapes import ITEMS_MAX, Rule
from pipeline.formats.rfc3339 import MAX_TIME_MS, MIN_TIME_MS, date_exists, millis_of, rfc3339_of

CLIENT = Client("capacity-platform", "north", frozenset({"BEDBOARD"}))
NOW = Millis(1_790_000_000_000)
SECRET = "Canary Zzyzx"


def body(**changes: object) -> dict[str, object]:
    made: dict[str, object] = {
        "facility": "GH",
        "source_system": "BEDBOARD",
        "entity_type": "bed",
        "namespace": "GH",
        "entity_id": "ICU-12",
        "event_type": "BED_STATUS",
        "recorded_at": "2026-10-25T01:30:00.250+01:00",
        "payload": {"environment": "CLEAN", "occupancy": {"status": "VACANT"}},
    }
    return {name: value for name, value in (made | changes).items() if value is not UNSET}


def parse(obj: object, key: str = "k-1", item: int = 0, client: Client = CLIENT) -> Event | Invalid:
    return parse_event(obj, client=client, idempotency_key=key, item=item, received_at=NOW)


def event(obj: object, key: str = "k-1", item: int = 0) -> Event:
    parsed = parse(obj, key, item)
    assert isinstance(parsed, Event), parsed
    return parsed


def test_a_complete_body_becomes_a_sealed_event() -> None:
    made = event(body())
    assert made.tenant == "north"
    assert made.feed == CLIENT.name
    assert made.received_at == NOW
    assert made.recorded_at == 1_792_888_200_250
    assert made.payload.environment is Environment.CLEAN  # type: ignore[union-attr]
    assert made.payload.occupancy == BedOccupancy(Occupancy.VACANT)  # type: ignore[union-attr]
    assert made.payload.staffed is UNSET  # type: ignore[union-attr]
    assert made.content_hash == content_hash_of(made)


def test_null_clears_a_field_and_absence_does_not_speak_of_it() -> None:
    made = event(body(payload={"service": None}))
    assert made.payload.service is None  # type: ignore[union-attr]
    assert made.payload.allocation is UNSET  # type: ignore[union-attr]


def test_the_id_follows_tenant_client_key_and_item_only() -> None:
    first = event(body())
    assert event(body(payload={"environment": "DIRTY"})).event_id == first.event_id
    others = [
        event(body(), item=1),
        event(body(), key="k-2"),
        parse(body(), client=Client("other", "north", CLIENT.source_systems)),
        parse(body(), client=Client(CLIENT.name, "south", CLIENT.source_systems)),
    ]
    assert len({first.event_id} | {each.event_id for each in others if isinstance(each, Event)}) == 5


def test_an_item_with_a_key_of_its_own_keeps_its_id_in_any_request() -> None:
    alone = event(body(), key="item-7")
    assert event(body(idempotency_key="item-7"), key="batch-1", item=3).event_id == alone.event_id
    assert event(body(idempotency_key="item-7"), key="batch-2", item=0).content_hash == alone.content_hash


def test_the_same_arguments_always_make_the_same_event() -> None:
    assert event(body()) == event(body())


@pytest.mark.parametrize("name", SET_BY_US)
def test_what_the_pipeline_sets_is_refused_by_name(name: str) -> None:
    assert parse(body(**{name: SECRET})) == Invalid(f"/{name}", Rule.READ_ONLY, "remove it")


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"entity_id": UNSET}, "/entity_id", Rule.REQUIRED),
        ({"entity_id": None}, "/entity_id", Rule.WRONG_TYPE),
        ({"entity_id": ""}, "/entity_id", Rule.LENGTH),
        ({"entity_id": SECRET * 20}, "/entity_id", Rule.LENGTH),
        ({"entity_id": SECRET + "\n"}, "/entity_id", Rule.CHARACTERS),
        ({"entity_id": " " + SECRET}, "/entity_id", Rule.CHARACTERS),
        ({"entity_type": SECRET}, "/entity_type", Rule.NOT_ALLOWED),
        ({"event_type": "EXPIRED"}, "/event_type", Rule.NOT_ALLOWED),
        ({"event_type": "OVERRIDE"}, "/event_type", Rule.NOT_ALLOWED),
        ({"recorded_at": "2026-10-25T01:30:00"}, "/recorded_at", Rule.TIME),
        ({"recorded_at": "2026-02-30T01:30:00Z"}, "/recorded_at", Rule.TIME),
        ({"recorded_at": "0001-01-01T00:00:00+23:59"}, "/recorded_at", Rule.TIME),
        ({"recorded_at": 17}, "/recorded_at", Rule.WRONG_TYPE),
        ({"sequence": -1}, "/sequence", Rule.RANGE),
        ({"sequence": 2**70}, "/sequence", Rule.RANGE),
        ({"sequence": True}, "/sequence", Rule.WRONG_TYPE),
        ({"sequence": 1.5}, "/sequence", Rule.WRONG_TYPE),
        ({"sequence_basis": "SOURCE"}, "/sequence", Rule.NO_SEQUENCE),
        ({"location": {"bed": ["x"]}}, "/location/bed", Rule.WRONG_TYPE),
        ({"tenant": SECRET}, "/tenant", Rule.FOREIGN_TENANT),
        ({"source_system": SECRET}, "/source_system", Rule.FOREIGN_SOURCE),
        ({"payload": UNSET}, "/payload", Rule.REQUIRED),
        ({"payload": None}, "/payload", Rule.WRONG_TYPE),
        ({"payload": {}}, "/payload", Rule.NO_FIELDS),
        ({"payload": {"stafed": True}}, "/payload/stafed", Rule.UNKNOWN_FIELD),
        ({"payload": {"a/b~c": SECRET}}, "/payload/a~1b~0c", Rule.UNKNOWN_FIELD),
        ({"payload": {"staffed": 1}}, "/payload/staffed", Rule.WRONG_TYPE),
        ({"payload": {"occupancy": {}}}, "/payload/occupancy/status", Rule.REQUIRED),
        ({"payload": {"occupancy": {"status": None}}}, "/payload/occupancy/status", Rule.WRONG_TYPE),
        ({"payload": {"occupancy": {"status": SECRET}}}, "/payload/occupancy/status", Rule.NOT_ALLOWED),
        ({"entity_type": "staffing", "payload": {"actual": -0.5}}, "/payload/actual", Rule.RANGE),
        ({"entity_type": "staffing", "payload": {"actual": 10**400}}, "/payload/actual", Rule.RANGE),
        ({"entity_type": "patient", "payload": {"birth_date": "1950-02-30"}}, "/payload/birth_date", Rule.DATE),
        (
            {"entity_type": "patient", "payload": {"identifiers": [{"system": "M"}]}},
            "/payload/identifiers/0/value",
            Rule.REQUIRED,
        ),
        ({"entity_type": "patient", "payload": {"identifiers": [{}] * (ITEMS_MAX + 1)}}, "/payload/identifiers", Rule.COUNT),
    ],
)
def test_a_refusal_names_place_and_rule_and_no_value(changes: dict[str, object], field: str, rule: Rule) -> None:
    refused = parse(body(**changes))
    assert isinstance(refused, Invalid)
    assert (refused.field, refused.rule) == (field, rule)
    assert SECRET not in repr(refused)
    assert refused.remedy


@pytest.mark.parametrize("obj", [None, [], "x", 1, True])
def test_what_is_no_object_is_refused(obj: object) -> None:
    assert isinstance(parse(obj), Invalid)


def test_only_foreign_tenants_and_sources_are_forbidden_rather_than_invalid() -> None:
    forbidden = {str(rule) for rule in Rule if Invalid("", rule, "").forbidden}
    assert forbidden == {"foreign-tenant", "foreign-source"}


def test_the_clients_own_tenant_may_be_repeated() -> None:
    assert event(body(tenant="north")).content_hash == event(body()).content_hash


PAYLOADS_JSON: dict[str, dict[str, object]] = {
    "bed": {
        "allocation": {"status": "RESERVED", "encounter": {"namespace": "GH", "id": "V|1"}, "until": "2026-01-01T00:00:00.000Z"},
        "service": None,
        "surge": True,
    },
    "staffing": {"unit": "ICU", "required": 4.5, "shift_start": "2026-01-01T00:00:00.000Z", "actual": None},
    "diversion": {"category": "ED", "state": {"status": "CLOSED", "until": "2026-01-01T00:00:00.000Z"}},
    "transfer": {"kind": "INCOMING", "stage": {"stage": "REQUESTED"}, "destination": {"point_of_care": "ICU"}},
    "procedure": {"status": "BOOKED", "start": "2026-01-01T00:00:00.000Z"},
    "encounter": {"patient_class": "I", "status": "IN_PROGRESS", "location": {"bed": "12"}},
    "patient": {"identifiers": [{"system": "GH", "value": "1"}], "name": {"family": "A"}, "birth_date": "1950", "sex": "OTHER"},
}


@pytest.mark.parametrize("entity_type", list(EntityType))
def test_what_is_written_reads_as_the_same_event(entity_type: EntityType) -> None:
    first = event(
        body(entity_type=entity_type.value, payload=PAYLOADS_JSON[entity_type.value], sequence=7, sequence_basis="SOURCE")
    )
    written = msgspec.json.decode(msgspec.json.encode(event_to_json(first)))
    assert written["payload"] == PAYLOADS_JSON[entity_type.value]
    assert written["received_at"] == "2026-09-21T14:13:20.000Z"
    again = event({name: value for name, value in written.items() if name not in SET_BY_US})
    assert again.payload == first.payload
    assert again.recorded_at == first.recorded_at


def test_provenance_is_written() -> None:
    located = msgspec.structs.replace(event(body()), provenance=Provenance("raw.http", 3, 17))
    assert event_to_json(located)["provenance"] == {"topic": "raw.http", "partition": 3, "offset": 17}


@given(st.integers(MIN_TIME_MS, MAX_TIME_MS))
def test_every_time_survives_writing_and_reading(millis: int) -> None:
    assert millis_of(rfc3339_of(Millis(millis))) == millis


@pytest.mark.parametrize(
    ("text", "millis"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T05:45:00.9999+05:45", 999),
        ("1969-12-31T23:59:60Z", 0),
        ("1969-12-31T12:00:00-12:00", 0),
        ("1970-01-01 00:00:00Z", None),
        ("1970-01-01T24:00:00Z", None),
        ("1970-01-01T00:00:00.Z", None),
        ("1970-01-01T00:00:00+24:00", None),
        ("１970-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00", None),
    ],
)
def test_times_of_rfc_3339(text: str, millis: int | None) -> None:
    assert millis_of(text) == millis


def test_dates_exist() -> None:
    assert [date_exists(text) for text in ("2024-02-29", "2023-02-29", "2023", "2023-12", "2023-04-31")] == [
        True,
        False,
        True,
        True,
        False,
    ]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(body())), _JSON)
def test_any_json_gives_an_event_or_a_refusal(name: str, value: object) -> None:
    assert isinstance(parse(body(**{name: value})), Event | Invalid)
