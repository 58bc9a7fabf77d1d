"""Logging: only lines of the catalogue, only their fields, and of a library's line only that there was one.

Libraries leak: Faust logs a crashed agent's exception text, retry hooks log arguments, asyncio shows a task's. So every
`LogRecord` of every logger is stripped where it is made, before any handler, ours or theirs, can see it.
"""

import contextlib
import enum
import hashlib
import logging
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Final, Unpack

import structlog

from pipeline.ops import log_catalogue as lines
from pipeline.ops.log_catalogue import CATALOGUE, Fields, LogEvent
from pipeline.ops.metrics import LOGS_REFUSED
from pipeline.settings.model import Settings

KAFKA_LOGGER: Final = "surgeline.kafka"
TEXT_LIMIT: Final = 120
_CODE: Final = re.compile(rf"[\w.:/<>\-]{{0,{TEXT_LIMIT}}}", re.ASCII)
"""What a text field may be: a code, a name, a digest; nothing that a person wrote."""

HARMLESS: Final = frozenset(
    {
        "Starting...", "Stopping...", "Shutting down...", "Restarting...", "Ready", "Worker ready", "Gracefully shutting down...",
        "Recovery started", "Recovery complete", "Restore complete!", "Resuming flow...", "Elected group coordinator",
        "Seek stream partitions to committed offsets.", "Worker shutting down...", "Connection closed",
        "Application startup complete.",
        "schema registry does not answer", "the kept ids of the schema registry can not be read",
        "the ids of the schema registry can not be kept", "unreadable record", "not paused",
    }
)  # fmt: skip
"""Templates of lines that are shown, of libraries and of rooms below the catalogue: constants of their source, no arguments."""

_LIBRARY_PREFIX: Final = re.compile(r"^\[\^-*[^\]]{0,80}\]: ")
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class NotInCatalogue(Exception):
    """A line or field that the catalogue doesn't have; raised in tests only."""


def subject(key: bytes, digest_key: bytes) -> str:
    """Keyed digest of an entity key, 16 hexadecimal digits: the same entity has the same, nobody without the key can tell which.

    `digest_key` may have any length; what is beyond 64 bytes counts as well.
    """
    if len(digest_key) > hashlib.blake2b.MAX_KEY_SIZE:
        digest_key = hashlib.blake2b(digest_key).digest()
    return hashlib.blake2b(key, key=digest_key, digest_size=8).hexdigest()


class _StandardError:
    """Where lines go; a closed pipe at the other end loses lines, never the process. (Faust's `redirect_stdouts` must be off.)"""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    debug = info = warning = error = msg


@dataclass(slots=True)
class _State:
    """What `configure` set up; one per process."""

    level: int = logging.INFO
    strict: bool = False
    always: tuple[tuple[str, str], ...] = ()


_state = _State()
_refused: dict[str, int] = {}
_refused_lock: Final = threading.Lock()
_log: Any = structlog.wrap_logger(
    _StandardError(),
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(sort_keys=False),
    ],
)


def emit(event: LogEvent, **fields: Unpack[Fields]) -> None:
    """Log one line of the catalogue. Never raises outside of tests.

    A line that isn't in the catalogue is dropped; so is a field that the line doesn't have, or a text that is no code.
    Both are counted (`refused`). Safe from any thread.
    """
    if CATALOGUE.get(event.name) is not event:
        _refuse("line")
        return
    if _LEVELS[event.level] >= _state.level:
        allowed = dict(_allowed(event, fields))
        getattr(_log, event.level)(event.name, **dict(_state.always), **allowed)


def _allowed(event: LogEvent, fields: Fields) -> Iterator[tuple[str, str | int | float]]:
    always = {name for name, _ in _state.always}
    for name, value in fields.items():
        if name not in event.fields or name in always:
            _refuse("field")
        elif isinstance(value, int | float) and not isinstance(value, enum.Enum):
            yield name, round(value, 3) if isinstance(value, float) else value
        elif isinstance(value, str) and _CODE.fullmatch(text := value.value if isinstance(value, enum.Enum) else value):
            yield name, text
        else:
            _refuse("value")


def _refuse(cause: str) -> None:
    with _refused_lock:
        _refused[cause] = _refused.get(cause, 0) + 1
    LOGS_REFUSED.of(cause).inc()
    if _state.strict:
        raise NotInCatalogue(cause)


def refused() -> dict[str, int]:
    """Lines, fields and values that were dropped, by cause."""
    with _refused_lock:
        return dict(_refused)


def code_of(text: str) -> str:
    """The text if it is a code that a line may hold, else `other`."""
    return text if _CODE.fullmatch(text) else "other"


class StrippedRecord(logging.LogRecord):
    """A library's line without its text, arguments, stack and exception, whoever formats it."""

    def __init__(self, name: str, level: int, pathname: str, lineno: int, msg: object, *rest: Any, **more: Any) -> None:
        args = rest[0] if rest else more.get("args")
        exc_info = rest[1] if len(rest) > 1 else more.get("exc_info")
        self.cause = _harmless(name, msg, args)
        self.exception = _type_name(exc_info, args)
        super().__init__(name, level, "", lineno, self.cause, (), None)

    def __setattr__(self, name: str, value: object) -> None:
        # `exc_text` and `stack_info` are set from outside by formatters and by `extra`: they never hold anything here.
        super().__setattr__(name, None if name in ("exc_info", "exc_text", "stack_info") else value)


def _harmless(name: str, msg: object, args: object) -> str:
    if name == KAFKA_LOGGER and isinstance(args, tuple) and args and isinstance(args[0], str):
        return code_of(args[0])
    template = _LIBRARY_PREFIX.sub("", msg) if isinstance(msg, str) else ""
    return template if template in HARMLESS else "left-out"


def _type_name(exc_info: Any, args: object) -> str:
    if isinstance(exc_info, tuple) and exc_info and exc_info[0] is not None:
        return str(exc_info[0].__name__)
    if isinstance(exc_info, BaseException):
        return type(exc_info).__name__
    found = [arg for arg in args if isinstance(arg, BaseException)] if isinstance(args, tuple) else []
    return type(found[0]).__name__ if found else ""


class LibraryHandler(logging.Handler):
    """Shows that a library logged, at its level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; never raises."""
        with contextlib.suppress(Exception):
            shown = {"logger": code_of(record.name), "cause": getattr(record, "cause", "left-out").replace(" ", "-").rstrip(".!")}
            if exception := getattr(record, "exception", ""):
                shown["exception"] = exception
            level = min(max(record.levelno, logging.DEBUG), logging.ERROR) // 10 * 10
            name = {number: text for text, number in _LEVELS.items()}[level]
            getattr(_log, name)(lines.LIBRARY.name, **dict(_state.always), **shown)


def configure(settings: Settings, role: str = "cli", instance: str = "", *, strict: bool = False) -> None:
    """Set logging up for this process: call once, before anything else is built. Lines go to standard error.

    Takes over the root logger, warnings, and what Python prints of an uncaught exception (type and place remain).
    `strict` raises on whatever the catalogue refuses; for tests.
    """
    global _state, _log
    level = _LEVELS[settings.logging.level.lower()]
    always = tuple((name, text) for name, text in (("role", role), ("instance", instance)) if text)
    _state = _State(level, strict, always)
    _log = structlog.wrap_logger(_StandardError(), processors=_processors(settings.logging.as_json))
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    logging.setLogRecordFactory(StrippedRecord)
    root = logging.getLogger()
    root.handlers[:] = [LibraryHandler()]
    root.setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)
    logging.raiseExceptions = False
    sys.excepthook = _uncaught
    threading.excepthook = lambda failed: _uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)
    sys.unraisablehook = lambda failed: _uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _processors(as_json: bool) -> list[Any]:
    renderer = structlog.processors.JSONRenderer(sort_keys=False) if as_json else structlog.dev.ConsoleRenderer(colors=False)
    return [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), renderer]


def _drop(logger: object, method: str, event: Any) -> Any:
    """Whoever logs by structlog itself, past the catalogue: counted and dropped."""
    _refuse("line")
    raise structlog.DropEvent


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    emit(lines.ROLE_CRASHED, exception=code_of(kind.__name__), where=where(trace))


def where(trace: TracebackType | None) -> str:
    """Module and line of the innermost frame of our own code, else of the innermost; without any value."""
    frame: FrameType | None = None
    line, found = 0, ""
    while trace is not None:
        frame, line = trace.tb_frame, trace.tb_lineno
        name = code_of(str(frame.f_globals.get("__name__", "")))
        if name.startswith("pipeline") or not found.startswith("pipeline"):
            found = f"{name}:{line}"
        trace = trace.tb_next
    return found
