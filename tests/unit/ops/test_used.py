"""Nothing is declared that is not produced: every metric, every line and every field of a line has its place in the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from pipeline.ops import log_catalogue, metrics
from pipeline.ops.log_catalogue import FIELD_HELP, LogEvent
from pipeline.ops.metrics import Metric

PACKAGE = Path(log_catalogue.__file__).resolve().parents[1]
METRICS = sorted(name for name, value in vars(metrics).items() if isinstance(value, Metric))
LINES = {name: value for name, value in vars(log_catalogue).items() if isinstance(value, LogEvent)}

BY_EVERY_LINE = {"role", "instance"}
"""Fields that `configure` sets for a whole process."""


@cache
def code(without: str) -> str:
    """The package's code without imports, comments and texts; the named file left out."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py")) if file.name != without]
    names: list[str] = []
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                names.append(node.attr)
            elif isinstance(node, ast.Name):
                names.append(node.id)
    return " ".join(names)


def is_used(name: str, outside_of: str) -> bool:
    return re.search(rf"\b{name}\b", code(outside_of)) is not None


def test_there_is_something_to_look_for() -> None:
    assert len(METRICS) == len(metrics.CATALOGUE) > 20
    assert len(LINES) == len(log_catalogue.CATALOGUE) > 20
    assert not is_used("NO_SUCH_METRIC", "metrics.py")


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_produced(name: str) -> None:
    assert is_used(name, "metrics.py"), "produce it, or take it out of the catalogue"


@pytest.mark.parametrize("name", LINES)
def test_every_line_is_logged(name: str) -> None:
    assert is_used(name, "log_catalogue.py"), "log it, or take it out of the catalogue"


def test_every_field_of_a_line_is_given_where_the_line_is_logged() -> None:
    given: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Name | ast.Attribute):
                first = call.args[0]
                name = first.attr if isinstance(first, ast.Attribute) else first.id
                given.setdefault(name, set()).update(keyword.arg for keyword in call.keywords if keyword.arg)
    never = {name: sorted(LINES[name].fields - given[name]) for name in LINES if given.get(name)}
    assert {name: fields for name, fields in never.items() if fields} == {}


def test_every_field_belongs_to_a_line() -> None:
    assert FIELD_HELP.keys() - BY_EVERY_LINE == set().union(*(line.fields for line in LINES.values()))
