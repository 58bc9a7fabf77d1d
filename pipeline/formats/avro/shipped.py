"""The committed schemas and the ids that stand for them on the wire."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.resources import schemas_dir

SHIPPED_ID_BASE: Final = 0x5347_0000
"""Added to the numbers of `ids.yaml` on the wire. A registry counts up from 1, so that its ids never mean one of ours:
what was written before there was a registry, or while it was away, stays readable beside what it numbers."""

IDS_FILE: Final = "ids.yaml"

Version = tuple[int, int, int]


def parse_version(text: str) -> Version:
    """Semantic version of three numbers; ValueError for anything else."""
    major, minor, patch = (int(part) for part in text.split("."))
    return major, minor, patch


@dataclass(frozen=True, slots=True)
class Shipped:
    """One committed schema; `id` is the one on the wire."""

    name: str
    version: str
    id: int
    text: str

    @property
    def compact(self) -> str:
        """The schema without white space, as a registry is given it."""
        return json.dumps(json.loads(self.text), separators=(",", ":"), ensure_ascii=False)


def read_numbers(folder: Path) -> dict[str, dict[str, int]]:
    """Contents of `ids.yaml`: name → version → number. Empty where there is none yet."""
    path = folder / IDS_FILE
    loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {str(name): {str(version): int(number) for version, number in each.items()} for name, each in loaded.items()}


def read_folder(folder: Path) -> tuple[Shipped, ...]:
    """Every schema that `ids.yaml` names, oldest version first. OSError where a file is missing."""
    return tuple(
        Shipped(
            name, version, SHIPPED_ID_BASE + numbers[version], (folder / name / f"{version}.avsc").read_text(encoding="utf-8")
        )
        for name, numbers in read_numbers(folder).items()
        for version in sorted(numbers, key=parse_version)
    )


@functools.cache
def shipped_schemas() -> tuple[Shipped, ...]:
    """The committed schemas, read once."""
    return read_folder(schemas_dir())


def newest(schemas: tuple[Shipped, ...]) -> dict[str, Shipped]:
    """Newest version of each."""
    return {schema.name: schema for schema in schemas}


@dataclass(frozen=True, slots=True)
class SchemaIds:
    """Which id goes on what is written, and what each id that is read stands for.

    `writes` holds an id per schema name; `reads` holds name and shipped version per id, and all of `writes`.
    """

    writes: Mapping[str, int]
    reads: Mapping[int, tuple[str, str]]

    @classmethod
    def shipped(cls) -> "SchemaIds":
        """Ids of the committed schemas; the newest version is written."""
        schemas = shipped_schemas()
        return cls(
            writes={name: schema.id for name, schema in newest(schemas).items()},
            reads={schema.id: (schema.name, schema.version) for schema in schemas},
        )

    def with_registered(self, registered: Mapping[int, tuple[str, str]]) -> "SchemaIds":
        """Also read a registry's ids, and write them where the registry has the version that is written now."""
        by_schema = {schema: number for number, schema in registered.items()}
        writes = {name: by_schema.get(self.reads[number], number) for name, number in self.writes.items()}
        return SchemaIds(writes, {**self.reads, **registered})

    def pinned(self, versions: Mapping[str, str]) -> "SchemaIds":
        """Write an older version of some schemas, while readers that don't know the newest are still about."""
        by_schema = {schema: number for number, schema in self.reads.items()}
        return SchemaIds({**self.writes, **{name: by_schema[name, version] for name, version in versions.items()}}, self.reads)
