"""Schemas at a real registry: published under its rules, read by a client that is none of ours, and life while it is away."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from pipeline.domain.event import EntityType
from pipeline.formats.avro import Codec, SchemaIds
from pipeline.formats.avro.catalogue import BY_NAME, CATALOGUE
from pipeline.formats.avro.shipped import SHIPPED_ID_BASE, newest, shipped_schemas
from pipeline.kafka.client import Message
from pipeline.kafka.reader import read_topic
from pipeline.kafka.registry import Registry, RegistryConfig, connect, subjects_of
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.standin_child import StandInChild
from pipeline.local.stack import Stack, Target, wait_for
from pipeline.resources import schemas_dir
from pipeline.roles.process import codec_of
from pipeline.topology import ACCEPTED, AUDIT, LAG, LANDING, LANE_TOPICS, MODES, OUTCOMES, RAW, RECEIPTS
from tests.registry.apicurio import Apicurio
from tests.support.stacks import ANSWER_S, post, stack_at, stopped_at_end

PREFIX: Final = "there."
CURRENT: Final = newest(shipped_schemas())
ROLES: Final = (("gate",), ("writer", "ehr"), ("http",))


def client_of(apicurio: Apicurio) -> SchemaRegistryClient:
    """As anybody makes one."""
    return SchemaRegistryClient({"url": apicurio.url})


def registered(apicurio: Apicurio, prefix: str = PREFIX, auto_register: bool = True) -> SchemaIds:
    """What a worker gets at its start."""
    registration = Registry(connect(RegistryConfig(url=apicurio.url)), prefix=prefix, auto_register=auto_register).registration()
    assert (registration.missing, registration.away) == ((), False)
    return registration.ids


@pytest.fixture(scope="module")
def ids(apicurio: Apicurio) -> SchemaIds:
    """Ids of all shipped schemas."""
    return registered(apicurio)


# -- publishing


def test_every_version_is_taken_where_each_must_read_and_be_read_by_all_before(apicurio: Apicurio) -> None:
    client = client_of(apicurio)
    client.set_compatibility(level="FULL_TRANSITIVE")
    ids = registered(apicurio)
    assert {name for name in ids.writes if ids.writes[name] >= SHIPPED_ID_BASE} == set()
    for schema in shipped_schemas():
        for subject in subjects_of(schema, PREFIX):
            found = client.lookup_schema(subject, Schema(schema.compact, "AVRO"))
            assert ids.reads[found.schema_id] == (schema.name, schema.version)


def test_a_second_worker_gets_the_same_ids_and_so_does_one_that_may_only_look(apicurio: Apicurio) -> None:
    ids = registered(apicurio)
    assert registered(apicurio) == ids == registered(apicurio, auto_register=False)


@pytest.mark.parametrize("how", ["a field that old records lack", "a field that is of another type"])
def test_a_schema_that_would_break_readers_is_refused_by_the_registry(apicurio: Apicurio, ids: SchemaIds, how: str) -> None:
    client = client_of(apicurio)
    client.set_compatibility(level="FULL_TRANSITIVE")
    broken = json.loads(CURRENT["outcome"].text)
    if how == "a field that old records lack":
        broken["fields"].append({"name": "colour", "type": "string"})
    else:
        broken["fields"] = [field | ({"type": "boolean"} if field["name"] == "attempts" else {}) for field in broken["fields"]]
    with pytest.raises(SchemaRegistryError) as refused:
        client.register_schema(f"{PREFIX}{OUTCOMES}-value", Schema(json.dumps(broken), "AVRO"))
    assert refused.value.http_status_code in (409, 422)


def test_a_later_build_s_record_is_read_by_the_schema_that_the_registry_has(apicurio: Apicurio, ids: SchemaIds) -> None:
    """As while a new version is rolled out: a worker meets an id that it was not shipped with."""
    written = Codec(ids).encode(_example("outcome"))
    registry = Registry(connect(RegistryConfig(url=apicurio.url)), prefix=PREFIX, auto_register=False)
    assert Codec.shipped(registry.resolve).decode(written) == _example("outcome")


# -- reading


@pytest.mark.parametrize("name", sorted(entry.name for entry in CATALOGUE))
def test_the_registry_s_own_client_reads_each_kind_of_record(apicurio: Apicurio, ids: SchemaIds, name: str) -> None:
    record = _example(name)
    topic = next(iter(BY_NAME[name].topics), next(iter(LANDING.values())))
    read = AvroDeserializer(client_of(apicurio))(
        Codec(ids).encode(record), SerializationContext(f"{PREFIX}{topic}", MessageField.VALUE)
    )
    said = msgspec.to_builtins(record, builtin_types=(bytes,))
    same = {field: value for field, value in said.items() if isinstance(value, str | int | bool | bytes)}
    assert same
    assert same == {field: plain(read[field]) for field in same}


def plain(value: Any) -> Any:
    """A time as we keep it: that client makes a datetime of it."""
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value


def _example(name: str) -> Any:
    version = CURRENT[name].version
    entry = BY_NAME[name]
    text = (schemas_dir() / name / f"{version}.example.json").read_bytes()
    if entry.payload is None:
        return msgspec.json.decode(text, type=entry.struct)
    return msgspec.structs.replace(
        msgspec.json.decode(text, type=entry.struct),
        payload=msgspec.json.decode(msgspec.json.encode(json.loads(text)["payload"]), type=entry.payload),
    )


# -- a pipeline with it


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInChild]:
    with StandInChild(tmp_path_factory.mktemp("standin"), singles_per_s=10_000.0) as started:
        yield started


@pytest.fixture(scope="module")
def stack(apicurio: Apicurio, broker: Broker, standin: StandInChild, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Gate, writer and way in whose codec has the registry's ids."""
    target = Target("ehr", "replica", "sekmet-replica", standin.base_url)
    overrides = {"schema_registry": {"url": apicurio.url}}
    with stopped_at_end(stack_at(tmp_path_factory.mktemp("stack"), broker.bootstrap, target, overrides=overrides)) as made:
        made.complete("policy", "apply", "--reason", "test")
        made.wait_ready(*(made.start(*role) for role in ROLES), timeout_s=ANSWER_S * 2)
        yield made


def bed(name: str, environment: str) -> dict[str, Any]:
    """An event as a capacity system sends it."""
    moment = time.time_ns() // 1_000_000
    return {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": name,
        "event_type": "BED_STATUS",
        "recorded_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment / 1000)) + f".{moment % 1000:03d}Z",
        "payload": {"environment": environment},
    }


def shown(standin: StandInChild) -> int:
    """Versions that the EHR has shown of all resources."""
    return sum(len(versions) for versions in standin.witness().shown.values())


def sent(stack: Stack, standin: StandInChild, name: str) -> None:
    """One event, from the way in to the EHR."""
    before = shown(standin)
    assert post(stack, bed(name, "DIRTY"), f"registry-{name}")[0] == 202
    wait_for(lambda: shown(standin) > before, ANSWER_S, f"{name} at the EHR")


def log_of(stack: Stack, name: str) -> str:
    """A role's log."""
    return (stack.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")


def values(stack: Stack, topic: str) -> list[Message]:
    """Every record of a topic that has a value."""
    return [message for message in read_topic(stack.settings.kafka, topic) if message.value]


def test_every_topic_is_read_by_the_registry_s_own_client(apicurio: Apicurio, stack: Stack, standin: StandInChild) -> None:
    sent(stack, standin, "R-1")
    wait_for(lambda: bool(values(stack, OUTCOMES)), ANSWER_S, "an outcome")
    read = AvroDeserializer(client_of(apicurio))
    written = (LANDING[EntityType.BED], RAW["http"], RECEIPTS, ACCEPTED, *LANE_TOPICS.values(), OUTCOMES, AUDIT, LAG, MODES)
    seen = set()
    for topic in written:
        for message in values(stack, topic):
            assert message.value is not None
            number = int.from_bytes(message.value[1:5], "big")
            if number >= SHIPPED_ID_BASE:
                continue  # by a command that ran to its end before the registry was asked
            assert read(message.value, SerializationContext(stack.prefix + topic, MessageField.VALUE))
            seen.add(topic)
    assert seen >= {LANDING[EntityType.BED], RAW["http"], RECEIPTS, ACCEPTED, OUTCOMES, AUDIT, LAG}


def test_work_goes_on_while_the_registry_is_away_and_a_start_without_it_says_so(
    apicurio: Apicurio, stack: Stack, standin: StandInChild
) -> None:
    sent(stack, standin, "R-2")
    apicurio.kill()
    try:
        sent(stack, standin, "R-3")
        for role in ROLES:
            name = "-".join((*role, "0"))
            stack.stop(name)
            stack.wait_ready(stack.start(*role), timeout_s=ANSWER_S * 2)
            assert '"event": "registry.away"' in log_of(stack, name)
        sent(stack, standin, "R-4")
    finally:
        apicurio.start()


def test_what_was_written_with_the_registry_s_ids_and_without_is_one_history_to_whoever_comes_later(
    apicurio: Apicurio, stack: Stack
) -> None:
    codec = codec_of(stack.settings)
    landed = values(stack, LANDING[EntityType.BED])
    shipped = [int.from_bytes((message.value or b"")[1:5], "big") >= SHIPPED_ID_BASE for message in landed]
    assert True in shipped  # by the way in, which keeps no ids
    assert False in shipped
    assert all(codec.decode(message.value) for message in (*landed, *values(stack, ACCEPTED)))


def test_the_password_stays_in_its_file(tmp_path: Path, apicurio: Apicurio) -> None:
    secret = tmp_path / "password"
    secret.write_text("do-not-show")
    config = RegistryConfig(url=apicurio.url, username="surgeline", password_file=secret)
    assert "do-not-show" not in repr(config) + repr(Registry(connect(config), prefix=PREFIX, auto_register=False))
