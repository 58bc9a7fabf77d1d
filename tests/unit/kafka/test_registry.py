"""The schema registry: ids for the codec, schemas that this build lacks, and life without it."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from pipeline.domain.records import Control
from pipeline.formats.avro import Codec, SchemaIds
from pipeline.formats.avro.shipped import SHIPPED_ID_BASE, newest, shipped_schemas
from pipeline.kafka.registry import ASK_AGAIN_AFTER_S, MAX_MISSES, Client, Registry, RegistryConfig, connect, subjects_of
from pipeline.kafka.registry_ids import FILE_NAME, KeptIds
from pipeline.resources import schemas_dir

NO_EXTRA = "confluent-kafka's extra `schemaregistry` is not installed: the schema registry's client is NOT tested"
needs_extra = pytest.mark.skipif(importlib.util.find_spec("authlib") is None, reason=NO_EXTRA)
CURRENT = newest(shipped_schemas())
CONTROL = msgspec.json.decode((schemas_dir() / "control" / "1.0.0.example.json").read_bytes(), type=Control)


class Refusal(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("secret text")
        self.http_status_code = status


@dataclass
class FakeRegistry:
    """Holds schemas by id; `down` and `refuses` make it fail."""

    texts: dict[int, str] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    down: bool = False

    def lookup_schema(self, subject_name: str, schema: Any) -> Any:
        raise ConnectionError("secret text") if self.down else Refusal(404)

    def register_schema(self, subject_name: str, schema: Any) -> int:
        raise ConnectionError("secret text") if self.down else Refusal(409)

    def get_schema(self, schema_id: int) -> Any:
        self.asked.append(schema_id)
        if self.down:
            raise ConnectionError("secret text")
        if schema_id not in self.texts:
            raise Refusal(404)
        return type("Answer", (), {"schema_str": self.texts[schema_id]})


@dataclass
class HandClock:
    at_s: float = 0.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def client() -> Client:
    return connect(RegistryConfig(url=f"mock://{uuid4()}"))


@needs_extra
def test_shipped_schemas_are_registered_and_their_ids_used_on_the_wire(client: Client) -> None:
    registration = Registry(client, prefix="site.", auto_register=True).registration()
    assert (registration.missing, registration.away) == ((), False)
    assert all(number < SHIPPED_ID_BASE for number in registration.ids.writes.values())
    codec = Codec(registration.ids)
    encoded = codec.encode(CONTROL)
    assert client.get_schema(int.from_bytes(encoded[1:5], "big")).schema_str == CURRENT["control"].compact
    assert codec.decode(encoded) == codec.decode(Codec.shipped().encode(CONTROL)) == CONTROL


@needs_extra
def test_registering_again_gives_the_same_ids_and_a_worker_that_only_looks_up_finds_them(client: Client) -> None:
    first = Registry(client, prefix="", auto_register=True).registration()
    assert Registry(client, prefix="", auto_register=True).registration() == first
    assert Registry(client, prefix="", auto_register=False).registration() == first


@needs_extra
def test_without_auto_register_what_the_registry_lacks_is_named_and_has_its_shipped_id(client: Client) -> None:
    registration = Registry(client, prefix="", auto_register=False).registration()
    assert registration.ids == SchemaIds.shipped()
    assert not registration.away
    assert ("outcomes-value", 404) in registration.missing
    assert ("surgeline.BedEvent", 404) in registration.missing


@needs_extra
def test_a_schema_of_another_build_is_fetched_from_the_registry(client: Client) -> None:
    registry = Registry(client, prefix="", auto_register=True)
    written = Codec(registry.registration().ids).encode(CONTROL)
    assert Codec.shipped(registry.resolve).decode(written) == CONTROL


@needs_extra
def test_a_registry_that_refuses_leaves_the_shipped_ids_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    registration = Registry(FakeRegistry(), prefix="", auto_register=True).registration()
    assert registration.ids == SchemaIds.shipped()
    assert ("surgeline.BedEvent", 409) in registration.missing
    assert {status for _, status in registration.missing} == {409}
    assert "secret text" not in caplog.text + repr(registration)


@needs_extra
@pytest.mark.parametrize("auto_register", [True, False])
def test_a_registry_that_is_away_is_asked_once_and_the_worker_goes_on(
    auto_register: bool, caplog: pytest.LogCaptureFixture
) -> None:
    registration = Registry(FakeRegistry(down=True), prefix="", auto_register=auto_register).registration()
    assert registration.away
    assert registration.ids == SchemaIds.shipped()
    assert "secret text" not in caplog.text + repr(registration)


@needs_extra
def test_no_listener_at_all_is_a_registry_that_is_away() -> None:
    nobody = connect(RegistryConfig(url="http://127.0.0.1:9"))
    assert Registry(nobody, prefix="", auto_register=True).registration().away


def test_an_unknown_id_is_asked_for_again_only_after_a_while() -> None:
    fake, clock = FakeRegistry(), HandClock()
    registry = Registry(fake, prefix="", auto_register=False, now=clock)
    assert [registry.resolve(7), registry.resolve(7), registry.resolve(8)] == [None] * 3
    assert fake.asked == [7, 8]
    fake.texts[7] = "{}"
    clock.at_s = ASK_AGAIN_AFTER_S
    assert registry.resolve(7) == "{}"


def test_a_registry_that_is_away_is_left_alone_for_every_id() -> None:
    fake, clock = FakeRegistry(texts={7: "{}"}, down=True), HandClock()
    registry = Registry(fake, prefix="", auto_register=False, now=clock)
    assert [registry.resolve(7), registry.resolve(8)] == [None, None]
    assert fake.asked == [7]
    fake.down, clock.at_s = False, ASK_AGAIN_AFTER_S
    assert registry.resolve(7) == "{}"


def test_the_number_of_ids_remembered_as_missing_is_bounded() -> None:
    fake = FakeRegistry()
    registry = Registry(fake, prefix="", auto_register=False, now=HandClock())
    for number in range(MAX_MISSES + 1):
        registry.resolve(number)
    registry.resolve(1)
    registry.resolve(0)
    assert fake.asked[MAX_MISSES + 1 :] == [0]


def test_subjects_follow_the_topics_and_landing_goes_by_record_name() -> None:
    assert subjects_of(CURRENT["outcome"], "site.") == ("site.outcomes-value",)
    assert subjects_of(CURRENT["event.bed"], "site.") == ("surgeline.BedEvent",)
    assert subjects_of(CURRENT["control"], "site.") == ("surgeline.Control",)
    assert "site.lane.critical-value" in subjects_of(CURRENT["accepted"], "site.")


def test_the_registrys_address_is_not_shown() -> None:
    assert "secret" not in repr(RegistryConfig(url="http://user:secret@registry"))


@needs_extra
def test_started_while_the_registry_is_away_a_worker_still_reads_what_was_written_with_its_ids(
    client: Client, tmp_path: Path
) -> None:
    kept = KeptIds(tmp_path / "gate", "http://registry")
    before = Registry(client, prefix="", auto_register=True, kept=kept).registration()
    again = Registry(FakeRegistry(down=True), prefix="", auto_register=True, kept=kept).registration()
    assert again.away
    assert again.ids == before.ids
    assert Codec(again.ids).decode(Codec(before.ids).encode(CONTROL)) == CONTROL


@needs_extra
def test_ids_of_another_registry_or_of_a_broken_file_are_not_taken_for_this_one_s(client: Client, tmp_path: Path) -> None:
    Registry(client, prefix="", auto_register=True, kept=KeptIds(tmp_path, "http://one")).registration()
    assert KeptIds(tmp_path, "http://one").read()
    assert KeptIds(tmp_path, "http://other").read() == {}
    (tmp_path / FILE_NAME).write_bytes(b"{")
    assert KeptIds(tmp_path, "http://one").read() == {}


def test_a_disk_that_takes_nothing_is_no_reason_not_to_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptIds(tmp_path / "file", "http://user:secret@one")
    kept.keep({1: ("control", "1.0.0")})
    assert kept.read() == {}
    assert "can not be kept" in caplog.text
    assert "secret" not in caplog.text
