"""Whoever logs in this package does it by the catalogue; the few library-style loggers are known, and stripped."""

import ast
from collections.abc import Iterator
from pathlib import Path

from pipeline.ops import log_catalogue
from pipeline.ops.log_catalogue import CATALOGUE, LogEvent

PACKAGE = Path(log_catalogue.__file__).resolve().parents[1]
EVENTS = {name: value for name, value in vars(log_catalogue).items() if isinstance(value, LogEvent)}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of `emit` in the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "emit" and node.args:
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", node


def event_of(call: ast.Call) -> LogEvent | None:
    first = call.args[0]
    name = first.attr if isinstance(first, ast.Attribute) else first.id if isinstance(first, ast.Name) else ""
    return EVENTS.get(name)


def test_each_line_that_is_logged_is_one_of_the_catalogue_with_its_own_fields() -> None:
    wrong = []
    for where, call in calls():
        event = event_of(call)
        named = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        if event is not None and not named <= event.fields:
            wrong.append(f"{where}: {event.name} has no {sorted(named - event.fields)}")
    assert wrong == []


def test_every_constant_of_the_catalogue_is_in_it() -> None:
    assert {event.name for event in EVENTS.values()} == CATALOGUE.keys()


def test_nothing_in_the_package_logs_by_structlog_itself() -> None:
    users = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any("structlog" in line for line in file.read_text(encoding="utf-8").splitlines() if "import" in line)
    }
    assert users == {"ops/logs.py"}
