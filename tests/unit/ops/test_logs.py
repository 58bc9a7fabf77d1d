"""Logs hold codes and positions only: whatever a library, a crash or a careless call says, no patient data comes out."""

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pipeline.ops import log_catalogue as lines
from pipeline.ops import logs
from pipeline.ops.log_catalogue import CATALOGUE, FIELD_HELP, Fields, LogEvent
from pipeline.ops.logs import NotInCatalogue, configure, emit, refused, subject
from pipeline.settings.model import Settings
from pipeline.settings.sections.workers import LoggingSettings

CANARY = "CANARY^Jane"
SETTINGS = Settings(logging=LoggingSettings(level="DEBUG"))


@pytest.fixture
def configured(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    root, hooks = logging.getLogger(), (sys.excepthook, sys.unraisablehook)
    before, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    configure(SETTINGS, role="writer", instance="0")
    yield
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    root.handlers[:], root.level = before, level
    sys.excepthook, sys.unraisablehook = hooks
    structlog.reset_defaults()


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err
    return [json.loads(line) for line in captured.err.splitlines()]


@pytest.mark.usefixtures("configured")
def test_a_line_of_the_catalogue_comes_out_with_role_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    emit(lines.WRITE_PARKED, destination="ehr", lane="critical", revision=17, reason="REFUSED_INVALID", subject="0" * 16)
    (line,) = shown(capsys)
    assert (line["event"], line["level"], line["role"], line["revision"]) == ("write.parked", "error", "writer", 17)
    assert line["timestamp"].endswith("Z")


@pytest.mark.usefixtures("configured")
def test_a_field_that_the_line_does_not_have_is_dropped_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    before = refused().get("field", 0)
    emit(lines.BOOKS_CLOSED, count=3, subject=CANARY)
    emit(lines.BOOKS_CLOSED, count=3, body=CANARY)  # type: ignore[call-arg]
    assert [line["count"] for line in shown(capsys)] == [3, 3]
    assert refused()["field"] == before + 2


@pytest.mark.usefixtures("configured")
def test_a_text_that_is_no_code_and_an_object_are_dropped_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    before = refused().get("value", 0)
    emit(lines.INTAKE_REFUSED, source="mllp", reason=f"bad name {CANARY}", status=400)
    emit(lines.INTAKE_REFUSED, source="mllp", reason={"name": CANARY})  # type: ignore[arg-type]
    assert all("reason" not in line for line in shown(capsys))
    assert refused()["value"] == before + 2


@pytest.mark.usefixtures("configured")
def test_a_line_outside_of_the_catalogue_is_dropped_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    before = refused().get("line", 0)
    emit(LogEvent("write.confirmed", "error", frozenset({"cause"}), "not the catalogue's"), cause="x")
    structlog.get_logger().error(CANARY, name=CANARY)
    assert shown(capsys) == []
    assert refused()["line"] == before + 2


@pytest.mark.usefixtures("configured")
def test_tests_see_what_the_catalogue_refuses() -> None:
    configure(SETTINGS, strict=True)
    with pytest.raises(NotInCatalogue):
        emit(lines.BOOKS_CLOSED, subject="x")


LIBRARIES = ("faust.agents", "aiokafka", "mode.worker", "aiohttp.access", "granian", "stamina", "asyncio", "any")


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("name", LIBRARIES)
def test_of_a_librarys_line_only_logger_level_and_exception_type_survive(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger(name)
    library.error("Crashed reason=%r", ValueError(CANARY))
    library.warning(f"retrying with {CANARY}", extra={"args_of_call": CANARY})
    try:
        raise LookupError(CANARY)
    except LookupError:
        library.exception("failed", stack_info=True)
    found = shown(capsys)
    assert [line.get("exception") for line in found] == ["ValueError", None, "LookupError"]
    assert {(line["logger"], line["cause"]) for line in found} == {(name, "left-out")}


@pytest.mark.usefixtures("configured")
def test_a_handler_that_a_library_installs_itself_sees_stripped_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("faust.worker")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s %(pathname)s"))
    library.addHandler(handler)
    library.propagate = False
    try:
        raise LookupError(CANARY)
    except LookupError:
        library.exception("lost %s", CANARY)
    finally:
        library.removeHandler(handler)
        library.propagate = True
    assert capsys.readouterr().err.split() == ["left-out"]


@pytest.mark.usefixtures("configured")
def test_harmless_lines_of_libraries_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("faust.app").info("[^--Recovery]: Restore complete!")
    logging.getLogger(logs.KAFKA_LOGGER).warning("%s [%s] %s", "FAIL", "rdkafka#consumer-1", CANARY)
    assert [line["cause"] for line in shown(capsys)] == ["Restore-complete", "FAIL"]


@pytest.mark.usefixtures("configured")
def test_a_warning_of_python_is_stripped(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn(CANARY, stacklevel=1)
    assert [line["logger"] for line in shown(capsys)] == ["py.warnings"]


CRASHES = """
import asyncio, logging, sys, threading
from pipeline.ops.logs import configure
from pipeline.settings.model import Settings
configure(Settings(), role="gate")
def fail(): raise ValueError("CANARY^Jane")
thread = threading.Thread(target=fail); thread.start(); thread.join()
async def lost(): asyncio.get_running_loop().call_soon(fail); await asyncio.sleep(0)
asyncio.run(lost())
fail()
"""


def test_an_uncaught_exception_leaves_its_type_and_place_only() -> None:
    done = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "CANARY" not in done.stdout + done.stderr
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in found] == ["role.crashed", "library", "role.crashed"]
    assert {line["exception"] for line in found} == {"ValueError"}


def test_an_entitys_digest_needs_the_key_and_is_stable() -> None:
    key = b"acme|patient|MRN|12345"
    assert subject(key, b"k" * 32) == subject(key, b"k" * 32)
    assert len({subject(key, b"k" * 32), subject(key, b"l" * 32), subject(key, b"k" * 100)}) == 3
    assert len(subject(key, b"k" * 32)) == 16


def test_every_field_is_typed_and_explained() -> None:
    assert set(Fields.__annotations__) == FIELD_HELP.keys()
    assert all(event.doc.endswith(".") for event in CATALOGUE.values())
