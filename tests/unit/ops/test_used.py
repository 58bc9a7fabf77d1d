"""Nothing is declared that is not produced: every metric, every line and every field of a line has its place in the code."""

import ast
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
def code() -> tuple[tuple[str, frozenset[str], tuple[ast.Call, ...]], ...]:
    """Of each file of the package its name, the names that its code uses (no imports, comments or texts), and its calls."""
    return tuple((file.name, *looked_at(ast.parse(file.read_text(encoding="utf-8")))) for file in sorted(PACKAGE.rglob("*.py")))


def looked_at(tree: ast.Module) -> tuple[frozenset[str], tuple[ast.Call, ...]]:
    names: set[str] = set()
    calls: list[ast.Call] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Call):
            calls.append(node)
    return frozenset(names), tuple(calls)


def is_used(name: str, outside_of: str) -> bool:
    return any(name in names for file, names, _ in code() if file != outside_of)


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
    for _, _, calls in code():
        for call in calls:
            if call.args and isinstance(call.args[0], ast.Name | ast.Attribute):
                first = call.args[0]
                name = first.attr if isinstance(first, ast.Attribute) else first.id
                given.setdefault(name, set()).update(keyword.arg for keyword in call.keywords if keyword.arg)
    never = {name: sorted(LINES[name].fields - given[name]) for name in LINES if given.get(name)}
    assert {name: fields for name, fields in never.items() if fields} == {}


def test_every_field_belongs_to_a_line() -> None:
    assert FIELD_HELP.keys() - BY_EVERY_LINE == set().union(*(line.fields for line in LINES.values()))
