"""Places that settings name: no two of them lie within each other, whatever they are for and whatever way leads there."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.settings.model import Settings
from pipeline.settings.rules.out import problems_between_places, problems_of_files_out

SFTP = {"host_keys": ["ssh-ed25519 AAAA"], "key_file": "k"}
PARTNER: dict[str, Any] = {
    "facility": "MAIN",
    "source_systems": ["s"],
    "profiles": ["p"],
    "signers": [{"key_id": "k", "public_file": "k.pem"}],
}
RECEIVER: dict[str, Any] = {"facilities": ["MAIN"], "sends": ["capacity"], "key_id": "k", "key_file": "k.pem"}


def settings(partner: str, receiver: str, desk: str, **more: Any) -> Settings:
    def place(folder: str) -> dict[str, Any]:
        return {"folder": folder} | ({"sftp": SFTP} if folder.startswith("sftp") else {})

    return Settings.model_validate(
        {
            "files": {"partners": {"epic": PARTNER | place(partner)}},
            "files_out": {"receivers": {"state": RECEIVER | place(receiver)}},
            "downtime": {"workstations": {"desk": {"folder": desk, "facility": "MAIN", "units": ["ICU"]}}},
        }
        | more
    )


def told(made: Settings) -> set[tuple[str, str]]:
    """Each pair of settings that a problem names."""
    return {(where, what.split()[2]) for where, what, _ in problems_between_places(made)}


PARTNERS, RECEIVERS = "files.partners.epic.folder", "files_out.receivers.state.folder"
DESK = "downtime.workstations.desk.folder"


def test_places_apart_are_no_problem(tmp_path: Path) -> None:
    assert not told(settings(str(tmp_path / "in"), str(tmp_path / "out"), str(tmp_path / "desk")))


@pytest.mark.parametrize(
    ("folders", "pair"),
    [
        (("x", "x", "desk"), (RECEIVERS, PARTNERS)),
        (("x", "x/incoming", "desk"), (RECEIVERS, PARTNERS)),
        (("x/y/z", "x", "desk"), (RECEIVERS, PARTNERS)),
        (("x", "out", "x/desk"), (DESK, PARTNERS)),
        (("in", "x", "x/../x"), (DESK, RECEIVERS)),
        (("in", "x/outgoing", "x"), (DESK, RECEIVERS)),
    ],
)
def test_who_sends_who_gets_and_the_workstations_share_no_place(
    tmp_path: Path, folders: tuple[str, str, str], pair: tuple[str, str]
) -> None:
    partner, receiver, desk = (str(tmp_path / each) for each in folders)
    assert told(settings(partner, receiver, desk)) == {pair}


def test_a_link_to_a_place_is_that_place(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert told(settings(str(tmp_path / "in"), str(tmp_path / "link"), str(tmp_path / "desk"))) == {(RECEIVERS, PARTNERS)}


def test_a_place_at_a_server_is_the_same_for_each_user_and_by_its_port(tmp_path: Path) -> None:
    desk = str(tmp_path / "desk")
    assert told(settings("sftp://a@host/x", "sftp://b@HOST:22/x/y", desk)) == {(RECEIVERS, PARTNERS)}
    assert not told(settings("sftp://a@host/x", "sftp://a@host/y", desk))
    assert not told(settings("sftp://a@host/x", "sftp://a@host:2222/x", desk))


def test_our_own_copies_are_nobody_s_place(tmp_path: Path) -> None:
    made = settings(str(tmp_path / "in"), str(tmp_path / "out"), str(tmp_path / "desk"))
    files = made.files.model_copy(update={"data_dir": tmp_path / "out" / "copies"})
    assert told(made.model_copy(update={"files": files})) == {(RECEIVERS, "files.data_dir")}


def test_two_receivers_at_one_server_have_each_their_own_place(tmp_path: Path) -> None:
    at = RECEIVER | {"sftp": SFTP, "recipients_file": "r"}
    both = {"a": at | {"folder": "sftp://u@host/x"}, "b": at | {"folder": "sftp://u@host/x"}}
    made = Settings.model_validate({"files_out": {"receivers": both}})
    assert "files_out.receivers.b.folder" in {where for where, _, _ in problems_of_files_out(made)}
