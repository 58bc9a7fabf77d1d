"""`surgeline downtime`: opening a board needs a key and nothing else; a paper is judged before anything is landed."""

import stat
from pathlib import Path

import pyrage
import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import app


@pytest.fixture
def key(tmp_path: Path) -> Path:
    identity = pyrage.x25519.Identity.generate()
    path = tmp_path / "desk.key"
    path.write_text(f"# created\n{identity}\n")
    (tmp_path / "desk.recipients").write_text(str(identity.to_public()))
    return path


def board(folder: Path, name: str, content: bytes = b"<html>who lies where") -> Path:
    recipient = pyrage.x25519.Recipient.from_str((folder / "desk.recipients").read_text())
    path = folder / "ICU" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pyrage.encrypt(content, [recipient]))
    return path


def ask(*words: object) -> Result:
    return CliRunner().invoke(app, ["downtime", *map(str, words)])


def test_a_board_opens_with_the_workstation_s_key_for_its_user_alone(tmp_path: Path, key: Path) -> None:
    sealed = board(tmp_path, "ICU-20260105T061500Z.html.age")
    found = ask("open", sealed, "--key", key)
    assert found.exit_code == 0, found.output
    opened = sealed.with_suffix("")
    assert found.output.strip() == str(opened)
    assert opened.read_bytes() == b"<html>who lies where"
    assert stat.S_IMODE(opened.stat().st_mode) == 0o600
    assert ask("open", sealed, "--key", key).exit_code == 0, "a board may be opened again"


def test_a_folder_opens_its_newest_board_by_the_time_in_its_name(tmp_path: Path, key: Path) -> None:
    board(tmp_path, "ICU-20260105T061500Z.html.age", b"older")
    board(tmp_path, "ICU-20260104T235900Z.html.age", b"oldest")
    board(tmp_path, "ICU-20260105T063000Z.html.age", b"newest")
    found = ask("open", tmp_path, "--key", key, "--to", tmp_path / "now.html")
    assert found.exit_code == 0, found.output
    assert (tmp_path / "now.html").read_bytes() == b"newest"
    assert ask("open", key.parent / "ICU/..", "--key", key, "--to", tmp_path / "now.html").exit_code == 0


def test_another_key_a_broken_board_and_a_wrong_key_file_are_said_in_words(tmp_path: Path, key: Path) -> None:
    sealed = board(tmp_path, "ICU-20260105T061500Z.html.age")
    other = tmp_path / "other.key"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    assert ask("open", sealed, "--key", other).exit_code == 1
    sealed.write_bytes(sealed.read_bytes()[:-10])
    assert ask("open", sealed, "--key", key).exit_code == 1
    assert not sealed.with_suffix("").exists()
    assert ask("open", sealed, "--key", tmp_path / "desk.recipients").exit_code == 2
    assert ask("open", key, "--key", key).exit_code == 2
    (tmp_path / "empty").mkdir()
    assert ask("open", tmp_path / "empty", "--key", key).exit_code == 2


def test_the_form_has_the_columns_that_can_be_entered_and_replaces_nothing(tmp_path: Path) -> None:
    to = tmp_path / "paper.csv"
    assert ask("form", to).exit_code == 0
    assert to.read_text().startswith("Time,Facility,Unit,Room,Bed,Cleaning,")
    assert ask("form", to).exit_code == 2


def test_a_paper_is_only_judged_without_yes_and_broken_rows_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "s.yaml"
    settings.write_text("demo: true\n")
    monkeypatch.setenv("SURGELINE_CONFIG", str(settings))
    file = tmp_path / "paper.csv"
    file.write_text("Time,Facility,Unit,Room,Bed,Cleaning\n2001-01-01 06:15,MAIN,ICU,4,A,dirty\n,MAIN,ICU,4,A,Zzyzx\n")
    found = ask("enter", file, "--facility", "MAIN")
    assert found.exit_code == 1
    assert "row 1, line 2: Time: a change is at most 31 days old" in found.output
    assert "0 changes would be entered; --yes does it, 2 rows are broken" in found.output
    assert "Zzyzx" not in found.output
    assert ask("enter", file, "--facility", "MAIN", "--yes").exit_code == 2
    assert ask("enter", file, "--facility", "MAIN", "--time-zone", "Nowhere").exit_code == 2
    file.write_text("Unit\nICU\n")
    assert ask("enter", file, "--facility", "MAIN").exit_code == 2
