"""`surgeline downtime`: opening a board needs a key and nothing else; a paper is judged before anything is landed."""

import stat
from pathlib import Path

import pyrage
import pytest
from joserfc.jwk import OKPKey
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.domain.identifiers import Millis
from pipeline.formats.boards.signature import sign_board


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
    assert found.stdout.strip() == str(opened)
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


def signed(folder: Path, name: str = "ICU-20260105T061500Z.html.age", key_id: str = "boards") -> tuple[Path, Path]:
    """A board with its signature, and the file with its signer's public key."""
    sealed, signer = board(folder, name), OKPKey.generate_key("Ed25519")
    signature = sign_board(name, sealed.read_bytes(), Millis(1_767_593_700_000), Millis(1_767_593_640_000), signer, key_id)
    sealed.with_name(f"{name}.jws").write_bytes(signature)
    public = folder / "boards.pub"
    public.write_bytes(signer.as_pem(private=False))
    return sealed, public


def test_a_signed_board_says_who_wrote_it_and_how_old_it_is(tmp_path: Path, key: Path) -> None:
    sealed, public = signed(tmp_path)
    found = ask("open", tmp_path / "ICU", "--key", key, "--signer", f"boards={public}")
    assert found.exit_code == 0, found.output
    assert found.stdout.strip() == str(sealed.with_suffix(""))
    assert found.stderr.startswith("signed by boards; written 2026-01-05T06:15:00")
    assert "complete as of 2026-01-05T06:14:00" in found.stderr
    assert "min ago" in found.stderr


def test_a_board_whose_signature_does_not_hold_is_not_opened(tmp_path: Path, key: Path) -> None:
    sealed, public = signed(tmp_path)
    opened, asked = sealed.with_suffix(""), ("--key", key, "--signer", f"boards={public}")
    right = sealed.read_bytes()
    sealed.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    changed = ask("open", sealed, *asked)
    assert (changed.exit_code, "changed after it was signed" in changed.output) == (1, True)
    sealed.write_bytes(right)
    newer = sealed.with_name("ICU-20260105T064500Z.html.age")
    newer.write_bytes(right)
    newer.with_name(f"{newer.name}.jws").write_bytes(sealed.with_name(f"{sealed.name}.jws").read_bytes())
    renamed = ask("open", newer, *asked)
    assert (renamed.exit_code, "another name" in renamed.output) == (1, True)
    assert ask("open", sealed, "--key", key, "--signer", f"other={public}").exit_code == 1
    sealed.with_name(f"{sealed.name}.jws").unlink()
    assert ask("open", sealed, *asked).exit_code == 1, "what was signed and is not any more is nobody's"
    assert not opened.exists()
    assert not newer.with_suffix("").exists()


def test_who_wrote_a_signed_board_is_looked_at_or_waived_by_name(tmp_path: Path, key: Path) -> None:
    sealed, _ = signed(tmp_path)
    assert ask("open", sealed, "--key", key).exit_code == 2
    waived = ask("open", sealed, "--key", key, "--unverified")
    assert (waived.exit_code, "NOT VERIFIED" in waived.stderr) == (0, True)
    assert ask("open", sealed, "--key", key, "--signer", f"boards={key}").exit_code == 2
    assert ask("open", sealed, "--key", key, "--signer", "boards").exit_code == 2


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
