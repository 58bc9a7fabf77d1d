"""Write what is made from the structs: new schema versions, their ids, and the canonical model's document.

`python -m pipeline.formats.avro.author` writes a schema that has no version yet as 1.0.0 and renders the document. A
committed version is never written again: a schema that has changed needs `--bump`, which is refused where it is smaller
than the change. `--check` writes nothing. The exit code is 1 where something is left to do.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from pipeline.formats.avro.catalogue import CATALOGUE
from pipeline.formats.avro.compatibility import Change, change_of
from pipeline.formats.avro.document import render
from pipeline.formats.avro.generate import schema_text
from pipeline.formats.avro.shipped import IDS_FILE, Shipped, newest, parse_version, read_folder, read_numbers
from pipeline.resources import home, schemas_dir

FIRST_VERSION: Final = "1.0.0"

IDS_NOTE: Final = """\
# Number of each schema version; with a fixed base added (pipeline/formats/avro/shipped.py) it is the id on the wire.
# Written by `python -m pipeline.formats.avro.author`. A number is given once and never to another schema.
"""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A schema version to be written."""

    name: str
    version: str
    text: str


@dataclass(frozen=True, slots=True)
class TooSmall:
    """A schema that has changed by more than the permitted part of its version."""

    name: str
    needed: Change


def plan(current: dict[str, Shipped], texts: dict[str, str], bump: Change) -> list[NewVersion | TooSmall]:
    """What is to be written for the schemas `texts`, where `bump` is the greatest part of a version that may rise."""
    steps: list[NewVersion | TooSmall] = []
    for name, text in texts.items():
        if name not in current:
            steps.append(NewVersion(name, FIRST_VERSION, text))
        elif (change := change_of(current[name].text, text)) is not Change.NONE:
            version = next_version(current[name].version, bump)
            steps.append(TooSmall(name, change) if bump < change else NewVersion(name, version, text))
    return steps


def next_version(version: str, bump: Change) -> str:
    """The version with one part raised and those after it zero."""
    major, minor, patch = parse_version(version)
    match bump:
        case Change.MAJOR:
            return f"{major + 1}.0.0"
        case Change.MINOR:
            return f"{major}.{minor + 1}.0"
        case _:
            return f"{major}.{minor}.{patch + 1}"


def write(folder: Path, steps: list[NewVersion]) -> None:
    """Write new versions, and give each the next free number. A new version starts with the example of the one before."""
    numbers = read_numbers(folder)
    last = max((number for versions in numbers.values() for number in versions.values()), default=0)
    for number, step in enumerate(steps, start=last + 1):
        place = folder / step.name
        place.mkdir(parents=True, exist_ok=True)
        versions = numbers.setdefault(step.name, {})
        if versions:
            before = max(versions, key=parse_version)
            (place / f"{step.version}.example.json").write_bytes((place / f"{before}.example.json").read_bytes())
        with (place / f"{step.version}.avsc").open("x", encoding="utf-8") as file:
            file.write(step.text)
        versions[step.version] = number
    (folder / IDS_FILE).write_text(IDS_NOTE + yaml.safe_dump(numbers, sort_keys=False), encoding="utf-8")


def _report(steps: list[NewVersion | TooSmall], checking: bool) -> int:
    for step in steps:
        match step:
            case TooSmall(name, needed):
                sys.stderr.write(f"{name} has changed: needs --bump {needed.name.lower()}\n")
            case NewVersion(name, version):
                sys.stderr.write(f"{name} {version} {'is not written' if checking else 'written'}\n")
    return 1 if steps and (checking or any(isinstance(step, TooSmall) for step in steps)) else 0


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.formats.avro.author", description=__doc__)
    parser.add_argument("--bump", choices=("patch", "minor", "major"), help="part of the version that changed schemas raise")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    bump = Change[options.bump.upper()] if options.bump else Change.NONE
    folder = schemas_dir()
    steps = plan(newest(read_folder(folder)), {entry.name: schema_text(entry) for entry in CATALOGUE}, bump)
    code = _report(steps, options.check)
    if options.check:
        return code or _check_document(folder)
    if code == 0:
        write(folder, [step for step in steps if isinstance(step, NewVersion)])
        document().write_text(render(read_folder(folder)), encoding="utf-8")
    return code


def document() -> Path:
    """Where the canonical model is described; in a checkout only."""
    return home() / "docs" / "canonical-model.md"


def _check_document(folder: Path) -> int:
    """An installation has no documents to check."""
    if not document().parent.is_dir() or document().read_text(encoding="utf-8") == render(read_folder(folder)):
        return 0
    sys.stderr.write(f"{document().name} is not current\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
