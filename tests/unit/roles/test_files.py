"""Partners of the settings: what is wrong with one is said before anything runs."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.domain.file_life import Files, FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.kafka.client import Message
from pipeline.roles import files as role
from pipeline.roles.process import Refused
from pipeline.settings import Settings
from pipeline.settings_files import problems_of_partners
from tests.support.files_in import KEY, KEY_ID, NOW, PUBLIC

CODEC = Codec.shipped()


def settings(folder: Path, **said: Any) -> Settings:
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
