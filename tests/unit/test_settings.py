"""Settings: what may start, what may not, and that a newcomer is told everything at once."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import BaseModel

from pipeline.settings.model import Settings
from pipeline.settings.reading import SettingsError, load, masked
from pipeline.settings.rules import check as settings_rules
from pipeline.settings.sections.base import DEMO_KEY, DEMO_TOKEN
from tests.support.secrets import secret_content
from tests.support.token_server import ec_key, jwk, pem, rsa_key

REPOSITORY: Final = Path(__file__).resolve().parents[2]
EXAMPLE: Final = REPOSITORY / "surgeline.example.yaml"
KEY: Final = "0123456789abcdef" * 4
SMART_KEY: Final = pem(ec_key()).decode().strip()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("SURGELINE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def write(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "surgeline.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def secret(folder: Path, name: str, content: str = KEY) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n")
    path.chmod(0o600)
    return name


def safe(folder: Path) -> dict[str, Any]:
    """The least that starts without `demo`."""
    return {"digest_key_file": secret(folder, "digest.key"), "raw_encryption": {"key_file": secret(folder, "raw.key")}}


def problems(path: Path | None, role: str | None = None) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(path, role=role)
    return {problem.setting: str(problem) for problem in caught.value.problems}


def feed(**change: Any) -> dict[str, Any]:
    """The least that a FHIR feed needs, under the name `f`."""
    least = {
        "base_url": "https://e.example.org/fhir",
        "server": "EHR",
        "facility": "MAIN",
        "profile": "p",
        "criteria": "urn:topic",
        "searches": ["Encounter"],
        "endpoint": "https://s.example.org/fhir/f",
        "hook_token_file": "digest.key",
    }
    return {"fhir": {"feeds": {"f": least | change}}}


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        here = f"{prefix}{field.alias or name}"
        yield from [here] if section is None else settings_of(section, f"{here}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section(part))), None)


NAMED_BY_OPERATORS = ("writers", "feeds", "hl7_out", "partners", "receivers", "workstations", "tenants")


def names_in(value: Any, prefix: str, inside_writers: bool = False) -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from names_in(item, prefix)
    elif isinstance(value, dict):
        for name, inner in value.items():
            here = prefix if inside_writers else f"{prefix}.{name}" if prefix else name
            yield from names_in(inner, here, name in NAMED_BY_OPERATORS)
    else:
        yield prefix


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The shipped example, with every file that it names."""
    for _, file in settings_rules.files(Settings.model_validate(yaml.safe_load(EXAMPLE.read_text()))):
        content = SMART_KEY if file.name == "smart.key" else secret_content(file.name)
        secret(tmp_path, str(file), content)
    path = tmp_path / "surgeline.yaml"
    path.write_text(EXAMPLE.read_text())
    return path


def test_the_example_is_a_safe_production_configuration(example: Path) -> None:
    settings = load(example)
    assert not settings.demo
    assert settings.writers["ehr"].deadlines_s.critical == 30
    assert settings.gate.data_dir == example.parent / "data/gate"


def test_every_setting_stands_in_the_example_and_nothing_else_does() -> None:
    written = set(names_in(yaml.safe_load(EXAMPLE.read_text()), ""))
    assert written == set(settings_of(Settings))


def test_the_example_shows_the_defaults_of_what_has_a_safe_default(example: Path) -> None:
    shown, defaults = load(example), Settings()
    assert shown.worker == defaults.worker
    assert shown.health == defaults.health
    assert shown.logging == defaults.logging
    assert shown.gate.model_copy(update={"data_dir": Path()}) == defaults.gate.model_copy(update={"data_dir": Path()})


def test_every_setting_says_what_it_is() -> None:
    def undocumented(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            section = _section(field.annotation)
            if section is not None:
                yield from undocumented(section)
            elif not field.description:
                yield f"{model.__name__}.{name}"

    assert list(undocumented(Settings)) == []


def test_nothing_unsafe_starts_by_default() -> None:
    found = problems(None)
    assert set(found) == {"digest_key_file", "raw_encryption.key_file"}
    assert all("openssl rand -hex 32" in text for text in found.values())


def test_a_demo_starts_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGELINE_DEMO", "true")
    settings = load(None)
    assert settings.digest_key() == DEMO_KEY
    assert settings.raw_keys() == {"key-1": DEMO_KEY}


def test_all_problems_are_told_at_once_those_of_single_values_and_those_of_combinations(tmp_path: Path) -> None:
    document = {
        "kafka": {"bootstrap_servers": "broker.example.org:9092", "delivery_timeout_s": "soon", "retries": 3},
        "http": {"host": "0.0.0.0", "port": 70_000},
        "writers": {"ehr": {"base_url": "http://ehr.example.org/fhir", "role": "boss", "profile": "x", "data_dir": "d"}},
    }
    found = problems(write(tmp_path, document))
    assert set(found) == {
        "kafka.delivery_timeout_s",
        "kafka.retries",
        "kafka.security_protocol",
        "http.port",
        "http.tls_cert_file",
        "writers.ehr.role",
        "digest_key_file",
        "raw_encryption.key_file",
    }
    assert "'owner' or 'replica'" in found["writers.ehr.role"]


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"kafka": {"bootstrap_servers": "10.0.0.5:9092"}}, "kafka.security_protocol"),
        ({"kafka": {"bootstrap_servers": "127.0.0.1:9092,b.example.org:9092"}}, "kafka.security_protocol"),
        (
            {"kafka": {"bootstrap_servers": "10.0.0.5:9092", "security_protocol": "SSL", "min_insync_replicas": 1}},
            "kafka.replication_factor",
        ),
        ({"kafka": {"topic_prefix": "lane."}}, "kafka.topic_prefix"),
        ({"kafka": {"replication_factor": 1}}, "kafka.min_insync_replicas"),
        ({"kafka": {"security_protocol": "SASL_SSL"}}, "kafka.sasl_password_file"),
        ({"http": {"host": "::"}}, "http.tls_cert_file"),
        ({"mllp": {"host": "10.0.0.5"}}, "mllp.tls_cert_file"),
        ({"mllp": {"host": "10.0.0.5"}}, "mllp.tls_client_ca_file"),
        ({"http": {"tls_cert_file": "digest.key"}}, "http.tls_key_file"),
        ({"http": {"clients": [{"name": "a", "tenant": "t", "source_systems": ["S"]}]}}, "http.clients.0"),
        (
            {"writers": {"e": {"base_url": "http://e.example.org", "role": "owner", "profile": "p", "data_dir": "d"}}},
            "writers.e.base_url",
        ),
        (
            {"writers": {"e": {"base_url": "http://127.0.0.1/", "role": "owner", "profile": "p", "data_dir": ".surgeline/gate"}}},
            "writers.e.data_dir",
        ),
        ({"fhir": {"host": "0.0.0.0"}}, "fhir.tls_cert_file"),
        (feed(base_url="http://e.example.org"), "fhir.feeds.f.base_url"),
        (feed(endpoint="http://s.example.org/f"), "fhir.feeds.f.endpoint"),
        (feed(endpoint="https://s.example.org/g"), "fhir.feeds.f.endpoint"),
        (feed(channel="classic"), "fhir.feeds.f.criteria"),
        (feed(channel="classic", criteria="Encounter?class=IMP", version="R5"), "fhir.feeds.f.channel"),
        (feed(channel="classic", criteria="Encounter?class=IMP", filters=["Encounter?class=IMP"]), "fhir.feeds.f.filters"),
        (feed(criteria="Encounter?class=IMP"), "fhir.feeds.f.criteria"),
        (feed(cert_file="digest.key"), "fhir.feeds.f.key_file"),
    ],
)
def test_what_is_unsafe_refuses_to_start(tmp_path: Path, change: dict[str, Any], setting: str) -> None:
    assert setting in problems(write(tmp_path, safe(tmp_path) | change))


def test_a_demo_listens_in_plain_text_and_with_its_known_token_on_loopback_only(tmp_path: Path) -> None:
    token = hashlib.sha256(DEMO_TOKEN.encode()).hexdigest()
    client = {"name": "a", "tenant": "t", "source_systems": ["S"], "token_sha256": token}
    document = {"demo": True, "http": {"clients": [client]}, "kafka": {"bootstrap_servers": "10.0.0.5:9092"}}
    assert load(write(tmp_path, document)).http.host == "127.0.0.1"
    told = problems(write(tmp_path, document | {"http": {"host": "0.0.0.0", "clients": [client]}, "mllp": {"host": "0.0.0.0"}}))
    assert {"http.tls_cert_file", "mllp.tls_cert_file", "http.clients.0"} <= set(told)


def test_keys_and_tokens_of_the_demo_open_nothing_else(tmp_path: Path) -> None:
    document = {
        "digest_key_file": secret(tmp_path, "digest.key", DEMO_KEY.hex()),
        "raw_encryption": {"key_file": secret(tmp_path, "raw.key", DEMO_KEY.hex())},
        "http": {
            "clients": [
                {
                    "name": "a",
                    "tenant": "t",
                    "source_systems": ["S"],
                    "token_sha256": hashlib.sha256(DEMO_TOKEN.encode()).hexdigest(),
                },
                {
                    "name": "b",
                    "tenant": "t",
                    "source_systems": ["S"],
                    "token_file": secret(tmp_path, "token", DEMO_TOKEN + " " * 9),
                },
            ]
        },
    }
    assert {"digest_key_file", "raw_encryption.key_file", "http.clients.0", "http.clients.1.token_file"} <= set(
        problems(write(tmp_path, document))
    )


def test_a_secret_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, safe(tmp_path))
    (tmp_path / "raw.key").chmod(0o644)
    assert "chmod o-rwx" in problems(path)["raw_encryption.key_file"]
    (tmp_path / "raw.key").chmod(0o640)
    assert load(path).raw_key() == ("key-1", bytes.fromhex(KEY))


def test_flags_that_everybody_may_change_are_refused(tmp_path: Path) -> None:
    flags = tmp_path / "flags.yaml"
    flags.write_text("flags: {}")
    path = write(tmp_path, safe(tmp_path) | {"flags_file": "flags.yaml"})
    flags.chmod(0o646)
    assert "chmod o-w" in problems(path)["flags_file"]
    flags.chmod(0o644)
    assert load(path).flags_file == flags


@pytest.mark.parametrize("content", ["", "short", "zz" * 32, KEY[:-2]])
def test_a_raw_key_that_is_none_is_refused_without_being_shown(tmp_path: Path, content: str) -> None:
    document = safe(tmp_path) | {"raw_encryption": {"key_file": secret(tmp_path, "raw.key", content)}}
    text = problems(write(tmp_path, document))["raw_encryption.key_file"]
    assert not content or content not in text


def test_a_short_digest_key_is_refused(tmp_path: Path) -> None:
    document = safe(tmp_path) | {"digest_key_file": secret(tmp_path, "digest.key", "too short")}
    assert "32 bytes" in problems(write(tmp_path, document))["digest_key_file"]


def test_a_role_needs_only_its_own_secrets(tmp_path: Path) -> None:
    document = safe(tmp_path) | {
        "writers": {
            "e": {"base_url": "https://e.example.org", "role": "owner", "profile": "p", "data_dir": "d", "token_file": "none"}
        }
    }
    path = write(tmp_path, document)
    assert load(path, role="gate").writers["e"].role == "owner"
    assert set(problems(path, "writer")) == {"writers.e.token_file"}
    assert load(path, role="topics").writers["e"].role == "owner"


def test_a_writer_needs_no_other_destinations_secrets(tmp_path: Path) -> None:
    ours = {"base_url": "https://e.example.org", "role": "owner", "profile": "p", "data_dir": "d", "token_file": "none"}
    document = safe(tmp_path) | {"writers": {"e": ours, "ee": {**ours, "data_dir": "dd"}}}
    path = write(tmp_path, document)
    assert set(problems(path, "writer-e")) == {"writers.e.token_file"}
    assert set(problems(path, "writer-ee")) == {"writers.ee.token_file"}
    assert len(problems(path, "writer")) == 2


def test_the_topics_command_needs_the_brokers_secrets_and_nobody_elses(tmp_path: Path) -> None:
    document = safe(tmp_path) | {"digest_key_file": "none", "raw_encryption": {"key_file": "none"}}
    document["kafka"] = {**document.get("kafka", {}), "ca_file": "none"}
    assert set(problems(write(tmp_path, document), "topics")) == {"kafka.ca_file"}


def writer_with_smart(folder: Path, key: str = SMART_KEY, **smart: Any) -> dict[str, Any]:
    given = {"client_id": "us", "key_file": secret(folder, "smart.key", key), "scope": "system/Location.rs"} | smart
    return {"base_url": "https://e.example.org", "role": "owner", "profile": "p", "data_dir": "d", "smart": given}


def test_smart_takes_a_key_in_either_form_and_needs_neither_endpoint_nor_key_id(tmp_path: Path) -> None:
    for key, algorithm in ((SMART_KEY, "ES384"), (json.dumps(jwk(ec_key())), "ES384"), (pem(rsa_key()).decode(), "RS384")):
        writer = writer_with_smart(tmp_path, key, algorithm=algorithm)
        smart = load(write(tmp_path, safe(tmp_path) | {"writers": {"e": writer}})).writers["e"].smart
        assert smart is not None
        assert (smart.token_url, smart.key_id) == (None, None)


@pytest.mark.parametrize(
    ("key", "smart", "setting", "word"),
    [
        ("no key at all", {}, "smart.key_file", "curve:P-384"),
        (pem(rsa_key()).decode(), {}, "smart.key_file", "P-384"),
        (SMART_KEY, {"algorithm": "RS384"}, "smart.key_file", "rsa_keygen_bits"),
        (json.dumps(jwk(ec_key(), private=False)), {}, "smart.key_file", "public key only"),
        (SMART_KEY, {"algorithm": "none"}, "smart.algorithm", "ES384"),
        (SMART_KEY, {"scope": ""}, "smart.scope", "scope"),
        (SMART_KEY, {"client_id": "a\nb"}, "smart.client_id", "client_id"),
        (SMART_KEY, {"token_url": "http://e.example.org/token"}, "smart.token_url", "https"),
        (SMART_KEY, {"token_url": "https://user:word@e.example.org/token"}, "smart.token_url", "token_url"),
    ],
)
def test_a_grant_that_could_not_work_or_is_unsafe_refuses_to_start_without_showing_the_key(
    tmp_path: Path, key: str, smart: dict[str, Any], setting: str, word: str
) -> None:
    told = problems(write(tmp_path, safe(tmp_path) | {"writers": {"e": writer_with_smart(tmp_path, key, **smart)}}))
    assert set(told) == {f"writers.e.{setting}"}
    assert word in told[f"writers.e.{setting}"]
    assert key not in told[f"writers.e.{setting}"]


def test_a_server_knows_us_by_one_token_only_and_by_one_that_is_there(tmp_path: Path) -> None:
    both = writer_with_smart(tmp_path) | {"token_file": secret(tmp_path, "ehr.token")}
    assert set(problems(write(tmp_path, safe(tmp_path) | {"writers": {"e": both}}))) == {"writers.e.smart"}
    none = {name: value for name, value in both.items() if name != "smart"} | {"token_file": secret(tmp_path, "none", "")}
    assert set(problems(write(tmp_path, safe(tmp_path) | {"writers": {"e": none}}))) == {"writers.e.token_file"}


def test_a_key_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, safe(tmp_path) | {"writers": {"e": writer_with_smart(tmp_path)}})
    (tmp_path / "smart.key").chmod(0o644)
    assert "chmod o-rwx" in problems(path)["writers.e.smart.key_file"]


def test_a_way_in_that_nobody_could_use_does_not_start(tmp_path: Path) -> None:
    path = write(tmp_path, safe(tmp_path))
    assert "http.clients" in problems(path, "http")
    assert "mllp.profile" in problems(path, "mllp")
    assert "fhir.feeds" in problems(path, "fhir")


@pytest.mark.parametrize("content", ["short", "", f"{KEY}\nshort", f"{KEY}\n\n{KEY}", f"{KEY} with blanks"])
def test_a_secret_of_a_feed_that_could_be_guessed_or_not_be_sent_is_refused(tmp_path: Path, content: str) -> None:
    document = safe(tmp_path) | feed(hook_token_file=secret(tmp_path, "hook.token", content))
    assert "fhir.feeds.f.hook_token_file" in problems(write(tmp_path, document), "fhir")


def test_a_feed_may_know_two_secrets_while_one_is_rotated(tmp_path: Path) -> None:
    document = safe(tmp_path) | feed(hook_token_file=secret(tmp_path, "hook.token", f"{KEY}\n{KEY[::-1]}"))
    assert load(write(tmp_path, document), role="fhir").fhir.feeds["f"].content == "id-only"


def test_the_environment_wins_over_the_file_and_nests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, safe(tmp_path) | {"http": {"port": 1, "max_batch_items": 7}})
    monkeypatch.setenv("SURGELINE_CONFIG", str(path))
    monkeypatch.setenv("SURGELINE_HTTP__PORT", "8443")
    monkeypatch.setenv("SURGELINE_WRITERS__EHR__BASE_URL", "https://ehr.example.org")
    monkeypatch.setenv("SURGELINE_WRITERS__EHR__ROLE", "replica")
    monkeypatch.setenv("SURGELINE_WRITERS__EHR__PROFILE", "p")
    monkeypatch.setenv("SURGELINE_WRITERS__EHR__DATA_DIR", "d")
    settings = load(None)
    assert (settings.http.port, settings.http.max_batch_items) == (8443, 7)
    assert settings.writers["ehr"].role == "replica"


def test_a_misspelt_variable_is_told_and_a_cluster_s_own_variables_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, safe(tmp_path))
    monkeypatch.setenv("SURGELINE_HTTP_PORT", "tcp://10.0.0.1:8080")
    assert load(path).http.port == 8080
    monkeypatch.setenv("SURGELINE_KAFAK__TOPIC_PREFIX", "x")
    monkeypatch.setenv("SURGELINE_KAFKA__TOPIC_PREFIXX", "x")
    assert set(problems(path)) == {"SURGELINE_KAFAK__TOPIC_PREFIX", "kafka.topic_prefixx"}


def test_a_list_in_a_variable_is_json_and_a_wrong_one_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGELINE_DEMO", "true")
    monkeypatch.setenv("SURGELINE_LOGGING__JSON", "false")
    client = {"name": "a", "tenant": "t", "token_sha256": "0" * 64, "source_systems": ["S"]}
    monkeypatch.setenv("SURGELINE_HTTP__CLIENTS", json.dumps([client]))
    settings = load(None)
    assert settings.http.clients[0].source_systems == ("S",)
    assert not settings.logging.as_json
    monkeypatch.setenv("SURGELINE_HTTP__CLIENTS", "[oops")
    assert set(problems(None)) == {"SURGELINE_HTTP__CLIENTS"}
    monkeypatch.setenv("SURGELINE_HTTP__CLIENTS", "oops")
    assert len(problems(None)) == 1


def test_the_example_names_profiles_that_are_shipped(example: Path) -> None:
    settings = load(example)
    profiles = REPOSITORY / "pipeline" / "profiles"
    assert (profiles / "hl7" / f"{settings.mllp.profile}.yaml").is_file()
    assert (profiles / "ehr" / f"{settings.writers['ehr'].profile}.yaml").is_file()


@pytest.mark.parametrize("text", ["kafka: [", "- a\n- b\n", "\x00"])
def test_a_file_that_is_no_settings_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "surgeline.yaml"
    path.write_text(text)
    assert str(path) in problems(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "--config" in problems(tmp_path / "none.yaml")


def test_no_secret_is_ever_shown(example: Path) -> None:
    settings = load(example)
    contents = [path.read_text().strip() for _, path in settings_rules.files(settings)]
    shown = repr(masked(settings)) + repr(settings)
    assert not [content for content in contents if content in shown]
    assert [client["token_sha256"] for client in masked(settings)["http"]["clients"]] == ["<set>", None]
    assert "secrets/registry.token" in repr(masked(settings))


def test_a_wrong_value_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    document = safe(tmp_path) | {
        "http": {"clients": [{"name": "a", "tenant": "t", "source_systems": ["S"], "token_sha256": "hunter2"}]}
    }
    assert "hunter2" not in " ".join(problems(write(tmp_path, document)).values())


def test_clients_of_kafka_get_credentials_and_producers_kafkas_own_partitioner(example: Path) -> None:
    kafka = load(example).kafka
    config = kafka.client_config()
    assert config["security.protocol"] == "SASL_SSL"
    assert config["sasl.password"] == (example.parent / "secrets/kafka.password").read_text().strip()
    assert "sasl.password" not in repr(kafka.sasl())
    assert kafka.producer_config()["partitioner"] == "murmur2_random"
    assert kafka.producer_config()["enable.idempotence"] is True
    assert kafka.faust_broker_url().count("kafka://") == 3


def test_a_token_is_known_by_its_digest_wherever_it_comes_from(example: Path) -> None:
    clients = load(example).http.clients
    assert clients[0].token_digest() == "0" * 63 + "1"
    token = (example.parent / "secrets/housekeeping.token").read_text().strip()
    assert clients[1].token_digest() == hashlib.sha256(token.encode()).hexdigest()
