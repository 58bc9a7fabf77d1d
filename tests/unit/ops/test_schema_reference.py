"""The JSON Schemas of policies and profiles are those of the code, and the shipped files keep to them."""

import json
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from pipeline.ops.reference.schemas import SHAPES, render

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = [(name, file) for name, (pattern, _) in SHAPES.items() for file in sorted((REPOSITORY / "pipeline").glob(pattern))]


@pytest.mark.parametrize("name", SHAPES)
def test_the_committed_schema_is_the_codes(name: str) -> None:
    shown = (REPOSITORY / "docs/schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    assert shown == render(name), "run: python -m pipeline.ops.reference.schemas"


@pytest.mark.parametrize(("name", "file"), FILES, ids=[file.name for _, file in FILES])
def test_a_shipped_file_keeps_to_its_schema_and_a_misspelt_one_does_not(name: str, file: Path) -> None:
    validator = jsonschema_rs.validator_for(json.loads(render(name)))
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert [error.message for error in validator.iter_errors(document)] == []
    assert not validator.is_valid(document | {"verison": 1})


def test_every_kind_has_files() -> None:
    assert {name for name, _ in FILES} == set(SHAPES)
