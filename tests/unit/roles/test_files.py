"""Partners of the settings: what is wrong with one is said before anything runs."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.domain.files.life import Files, FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.kafka.client import Message
from pipeline.roles.process import Refused
from pipeline.roles.ways_in import files as role
from pipeline.settings.model import Settings
from pipeline.settings.rules.files import problems_of_partners
from tests.support.files_in import KEY, KEY_ID, NOW, PUBLIC
from tests.support.sftp_server import HOST_KEY, USER_KEY

CODEC = Codec.shipped()


def settings(folder: Path, /, **said: Any) -> Settings:
    (folder / "k.pub").write_bytes(PUBLIC.as_pem(private=False))
    partner = {
        "folder": str(folder / "epic"),
        "facility": "MAIN",
        "source_systems": ["ehr-main"],
        "profiles": ["census-snapshot"],
        "signers": [{"key_id": KEY_ID, "public_file": str(folder / "k.pub")}],
        **said,
    }
    return Settings.model_validate(
        {"demo": True, "files": {"data_dir": str(folder / "copies"), "partners": {"epic": partner, **said.pop("others", {})}}}
    )


def test_a_partner_is_made_of_its_settings(tmp_path: Path) -> None:
    (partner,) = role.partners_of(settings(tmp_path, patience_s=60))
    assert (partner.name, partner.tenant, partner.sources) == ("epic", "default", frozenset({"ehr-main"}))
    assert partner.waits.patience_ms == 60_000
    assert partner.kind_of("census-20260105.csv") is not None
    assert partner.kind_of("beds-20260105.csv") is None
    assert list(partner.keys()) == [KEY_ID]


def test_a_partner_may_send_resources_of_its_server(tmp_path: Path) -> None:
    (partner,) = role.partners_of(settings(tmp_path, profiles=["fhir-resources"]))
    found = partner.kind_of("fhir-20260105.ndjson")
    assert found is not None
    assert found.reader() is not found.reader(), "each file has a reader of its own"


def test_a_digest_of_a_name_is_keyed_and_takes_any_name(tmp_path: Path) -> None:
    (partner,) = role.partners_of(settings(tmp_path))
    assert len(partner.digest("\udcff\n")) == 16
    assert partner.digest("a") != partner.digest("b")


@pytest.mark.parametrize("content", [KEY.as_pem(private=True), b"", b"no key"], ids=["private", "empty", "text"])
def test_a_file_that_holds_no_public_key_stops_the_start(tmp_path: Path, content: bytes) -> None:
    made = settings(tmp_path)
    (tmp_path / "k.pub").write_bytes(content)
    with pytest.raises(Refused, match="holds no public Ed25519 key"):
        role.partners_of(made)


def test_a_profile_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no profile of files cencus; known: .*census-snapshot"):
        role.partners_of(settings(tmp_path, profiles=["cencus"]))
    with pytest.raises(Refused, match="nobody may send"):
        role.partners_of(Settings.model_validate({"demo": True}))


def test_a_batch_of_messages_speaks_for_a_source_system_that_is_the_partners(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="which is none of the partner's source_systems"):
        role.partners_of(settings(tmp_path, profiles=["hl7-batch"]))
    source = role.hl7_profile("default").source_system
    (partner,) = role.partners_of(settings(tmp_path, profiles=["hl7-batch"], source_systems=[source]))
    assert partner.kind_of("hl7-20260105.hl7") is not None


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ({"must_encrypt": True}, "decrypt_keys"),
        ({"give_up_s": 10, "patience_s": 20}, "give_up_s"),
        ({"signers": [{"key_id": "k", "public_file": "a"}, {"key_id": "k", "public_file": "b"}]}, "signers"),
    ],
)
def test_what_a_partner_may_not_say_together_is_named(tmp_path: Path, said: dict[str, Any], setting: str) -> None:
    found = list(problems_of_partners(settings(tmp_path, **said).files))
    assert [where for where, _, _ in found] == [f"files.partners.epic.{setting}"]


@pytest.mark.parametrize("inner", ["epic", "epic/incoming", "."])
def test_no_partner_sees_another_s_folder_or_our_copies(tmp_path: Path, inner: str) -> None:
    made = settings(tmp_path)
    other = made.files.partners["epic"].model_copy(update={"folder": str(tmp_path / inner)})
    both = made.files.model_copy(update={"partners": {**made.files.partners, "other": other}})
    assert {where for where, _, _ in problems_of_partners(both)} == {"files.partners.other.folder"}


def state(**said: Any) -> FileState:
    plain: dict[str, Any] = {
        "tenant": "north",
        "partner": "epic",
        "file_id": "f1",
        "name": "n",
        "name_digest": "d",
        "profile": "census-snapshot",
        "status": FileStatus.LANDING,
        "since": NOW,
        "at": NOW,
    }
    return FileState(**{**plain, **said})


def message(value: bytes | None, key: bytes = b"north|epic|f1") -> Message:
    return Message("files", 0, 0, Millis(NOW), key, value, ())


def test_the_ledger_is_read_back_in_any_order_and_forgets_what_was_dropped() -> None:
    known: dict[str, Files] = {}

    def of(partner: str) -> Files:
        return known.setdefault(partner, Files())

    taken = replace(state(), status=FileStatus.TAKEN, version=2)
    for value in (CODEC.encode(taken), CODEC.encode(state()), b"no record"):
        role.apply(message(value), CODEC, of)
    assert of("epic").get("f1") == taken
    role.apply(message(None, b"odd"), CODEC, of)
    role.apply(message(None), CODEC, of)
    assert of("epic").get("f1") is None
    assert role.key_of(taken) == b"north|epic|f1"


SFTP = {"host_keys": [HOST_KEY.export_public_key().decode().strip()]}
OBJECTS = {"access_key_id": "north", "endpoint": "https://s3.example"}


def at_a_server(folder: Path, address: str, **access: Any) -> Settings:
    """A partner whose place is elsewhere; keys of ours lie in the folder."""
    (folder / "ssh.key").write_bytes(USER_KEY.export_private_key())
    (folder / "s3.key").write_text("secret")
    said: dict[str, Any] = {"folder": address}
    if "sftp" in access:
        said["sftp"] = {"key_file": str(folder / "ssh.key"), **access["sftp"]}
    if "objects" in access:
        said["objects"] = {"secret_key_file": str(folder / "s3.key"), **access["objects"]}
    return settings(folder, **said)


@pytest.mark.parametrize(
    ("address", "access", "setting"),
    [
        ("sftp://u@h/p", {}, "sftp"),
        ("sftp://u@h/p", {"sftp": SFTP, "objects": OBJECTS}, "objects"),
        ("sftp://u:secret@h/p", {"sftp": SFTP}, "folder"),
        ("sftp://h/p", {"sftp": SFTP}, "folder"),
        ("sftp://u@h", {"sftp": SFTP}, "folder"),
        ("sftp://u@h/p/../q", {"sftp": SFTP}, "folder"),
        ("sftp://u@h:99999/p", {"sftp": SFTP}, "folder"),
        ("sftp://u@h/p", {"sftp": {"host_keys": ["h ssh-ed25519 AAAA"]}}, "sftp.host_keys.0"),
        ("s3://bucket/p", {}, "objects"),
        ("s3://bucket", {"objects": OBJECTS}, "folder"),
        ("s3://u@bucket/p", {"objects": OBJECTS}, "folder"),
        ("s3://bucket/p", {"objects": {**OBJECTS, "endpoint": "http://s3.example"}}, "objects.endpoint"),
        ("ftp://h/p", {}, "folder"),
        ("/tmp/p", {"sftp": SFTP}, "sftp"),
    ],
)
def test_what_a_place_may_not_say_is_named_and_shows_no_secret(
    tmp_path: Path, address: str, access: dict[str, Any], setting: str
) -> None:
    found = list(problems_of_partners(at_a_server(tmp_path, address, **access).files))
    assert [where for where, _, _ in found] == [f"files.partners.epic.{setting}"]
    assert "secret" not in "".join(wrong + remedy for _, wrong, remedy in found)


@pytest.mark.parametrize(
    ("address", "access"),
    [
        ("sftp://u@h:2222/p", {"sftp": SFTP}),
        ("s3://bucket/p", {"objects": OBJECTS}),
        ("s3://bucket/p", {"objects": {**OBJECTS, "endpoint": "http://127.0.0.1:9000"}}),
    ],
)
def test_a_place_elsewhere_gets_its_carrier_without_asking_it(tmp_path: Path, address: str, access: dict[str, Any]) -> None:
    made = at_a_server(tmp_path, address, **access)
    assert list(problems_of_partners(made.files)) == []
    assert role.place_of(made, "epic").scheme == address.partition(":")[0]


@pytest.mark.parametrize("wrong", [{"host_keys": ["ssh-ed25519 AAAA"]}, {"key_file": "/dev/null"}], ids=["host", "ours"])
def test_a_key_that_is_none_stops_the_start(tmp_path: Path, wrong: dict[str, Any]) -> None:
    made = at_a_server(tmp_path, "sftp://u@h/p", sftp={**SFTP, **wrong})
    with pytest.raises(Refused, match=r"files\.partners\.epic\.sftp\."):
        role.place_of(made, "epic")


@pytest.mark.parametrize("pair", [("sftp://a@h/p", "sftp://b@H/p/q"), ("s3://bucket/p", "s3://bucket/p/")])
def test_no_partner_sees_another_s_place_at_a_server(tmp_path: Path, pair: tuple[str, str]) -> None:
    access = {"sftp": SFTP} if pair[0].startswith("sftp") else {"objects": OBJECTS}
    made = at_a_server(tmp_path, pair[0], **access)
    other = made.files.partners["epic"].model_copy(update={"folder": pair[1]})
    both = made.files.model_copy(update={"partners": {**made.files.partners, "other": other}})
    assert {where for where, _, _ in problems_of_partners(both)} == {"files.partners.other.folder"}


def test_until_when_keys_are_taken_is_told(tmp_path: Path) -> None:
    signer = {"key_id": KEY_ID, "public_file": str(tmp_path / "k.pub"), "valid_until": "2027-01-01T00:00:00Z"}
    made = settings(tmp_path, signers=[signer])
    (partner,) = role.partners_of(made)
    assert partner.valid_until == role.expiries_of(made.files.partners["epic"]) == {KEY_ID: Millis(1_798_761_600_000)}
    access = {**SFTP, "valid_until": "2027-01-01T00:00:00Z"}
    elsewhere = at_a_server(tmp_path, "sftp://u@h/p", sftp=access)
    assert role.expiries_of(elsewhere.files.partners["epic"]) == {"place": Millis(1_798_761_600_000)}
