"""Authoring schema versions: nothing committed is ever written again."""

import json
from pathlib import Path

import pytest

from pipeline.formats.avro.author import NewVersion, TooSmall, next_version, plan, write
from pipeline.formats.avro.compatibility import Change
from pipeline.formats.avro.shipped import newest, read_folder, read_numbers

ONE = '{"type": "record", "name": "surgeline.R", "doc": "a", "fields": [{"name": "x", "type": "string"}]}'
REWORDED = ONE.replace('"a"', '"b"')
EXTENDED = ONE.replace("]}", ', {"name": "y", "type": "long", "default": 0}]}')
BROKEN = ONE.replace('"string"', '"boolean"')


def authored(folder: Path, *versions: NewVersion) -> None:
    for version in versions:
        write(folder, [version])
        (folder / version.name / f"{version.version}.example.json").write_text(json.dumps({"of": version.version}))


def test_a_schema_without_a_version_becomes_the_first(tmp_path: Path) -> None:
    steps = plan(newest(read_folder(tmp_path)), {"r": ONE}, Change.NONE)
    assert steps == [NewVersion("r", "1.0.0", ONE)]
    authored(tmp_path, NewVersion("r", "1.0.0", ONE))
    assert plan(newest(read_folder(tmp_path)), {"r": ONE}, Change.NONE) == []


@pytest.mark.parametrize(("text", "needed"), [(REWORDED, Change.PATCH), (EXTENDED, Change.MINOR), (BROKEN, Change.MAJOR)])
def test_a_changed_schema_needs_a_bump_as_great_as_its_change(tmp_path: Path, text: str, needed: Change) -> None:
    authored(tmp_path, NewVersion("r", "1.0.0", ONE))
    current = newest(read_folder(tmp_path))
    for bump in Change:
        (step,) = plan(current, {"r": text}, bump)
        assert step == (TooSmall("r", needed) if bump < needed else NewVersion("r", next_version("1.0.0", bump), text))


def test_a_committed_version_is_never_written_again(tmp_path: Path) -> None:
    authored(tmp_path, NewVersion("r", "1.0.0", ONE))
    with pytest.raises(FileExistsError):
        write(tmp_path, [NewVersion("r", "1.0.0", EXTENDED)])
    assert (tmp_path / "r" / "1.0.0.avsc").read_text() == ONE


def test_numbers_are_given_once_and_a_new_version_starts_with_the_newest_example(tmp_path: Path) -> None:
    authored(tmp_path, NewVersion("r", "1.0.0", ONE), NewVersion("s", "1.0.0", ONE), NewVersion("r", "1.9.0", ONE))
    write(tmp_path, [NewVersion("r", "1.10.0", EXTENDED), NewVersion("t", "1.0.0", ONE)])
    assert read_numbers(tmp_path) == {"r": {"1.0.0": 1, "1.9.0": 3, "1.10.0": 4}, "s": {"1.0.0": 2}, "t": {"1.0.0": 5}}
    assert json.loads((tmp_path / "r" / "1.10.0.example.json").read_text()) == {"of": "1.9.0"}
    assert newest(read_folder(tmp_path))["r"].version == "1.10.0"
