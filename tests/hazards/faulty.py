"""`surgeline`, with faults at named points: `python faulty.py run gate` in place of `surgeline run gate`.

The faults lie in the file that SURGELINE_TEST_FAULTS names, a JSON list, struck in order and each once; without the file
nothing differs. Before a fault strikes, its point is added to `<file>.struck`. Only tests start this program.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

FILE: Final = "SURGELINE_TEST_FAULTS"
UNFENCED: Final = "SURGELINE_TEST_UNFENCED"
"""If set, the watchdog does not look at the clock: a zombie then does all the harm that it can."""

EXIT_STRUCK: Final = 99

Point = Literal["judge", "outputs", "changelog", "store", "seek", "send", "sent"]
"""In a batch, before: its verdicts, its changelog (outputs are durable), its store (changelog is durable), its
acknowledgement (stored). Before a seek; before a request to the destination; after the destination's answer."""


class Strike(msgspec.Struct, frozen=True):
    """At the `nth` passing of a point: kill -9, exit at once, stop until SIGCONT, raise, or wait."""

    point: Point
    action: Literal["kill", "exit", "stop", "raise", "wait"]
    nth: int = 1
    seconds: float = 0.0


_lock: Final = threading.Lock()
_LIST: Final = msgspec.json.Decoder(list[Strike])


def resumed(file: Path) -> Path:
    """Made by whoever sends SIGCONT, before it."""
    return file.with_name(f"{file.name}.resumed")


def _due(point: Point) -> Strike | None:
    """The fault to strike now, if any."""
    file = Path(os.environ[FILE])
    with _lock:
        if not file.exists():
            return None
        first, *others = _LIST.decode(file.read_bytes())
        if first.point != point:
            return None
        if first.nth > 1:
            _write(file, [msgspec.structs.replace(first, nth=first.nth - 1), *others])
            return None
        _write(file, others)
        with file.with_name(f"{file.name}.struck").open("a") as struck:
            struck.write(f"{point}\n")
        return first


def _write(file: Path, strikes: list[Strike]) -> None:
    if not strikes:
        file.unlink()
        return
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(msgspec.json.encode(strikes))
    new.rename(file)


def _strike(strike: Strike) -> None:
    match strike.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            # The thread that sends the signal may run on for a moment before it is stopped with the others.
            while not resumed(Path(os.environ[FILE])).exists():
                time.sleep(0.005)
        case "exit":
            os._exit(EXIT_STRUCK)
        case "raise":
            raise RuntimeError("a fault of the test")
        case "wait":
            time.sleep(strike.seconds)


def _pass(point: Point) -> None:
    if (strike := _due(point)) is not None:
        _strike(strike)


async def _pass_on_the_loop(point: Point) -> None:
    strike = _due(point)
    if strike is not None and strike.action == "wait":
        await asyncio.sleep(strike.seconds)
    elif strike is not None:
        _strike(strike)


def _before(owner: type, name: str, point: Point) -> None:
    method: Callable[..., Any] = getattr(owner, name)

    @wraps(method)
    def struck(*args: Any, **kwargs: Any) -> Any:
        _pass(point)
        return method(*args, **kwargs)

    setattr(owner, name, struck)


def _around_on_the_loop(owner: type, name: str, before: Point | None, after: Point | None) -> None:
    method: Callable[..., Any] = getattr(owner, name)

    @wraps(method)
    async def struck(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            await _pass_on_the_loop(before)
        result = await method(*args, **kwargs)
        if after is not None:
            await _pass_on_the_loop(after)
        return result

    setattr(owner, name, struck)


def main() -> None:
    """Wrap the points, then be `surgeline`."""
    from pipeline.cli import app
    from pipeline.destinations.fhir.destination import FhirDestination
    from pipeline.ops.watchdog import Watchdog
    from pipeline.stream.judging.gate import GateWork
    from pipeline.stream.worker.batch import BatchRunner
    from pipeline.stream.worker.outputs import Outputs
    from pipeline.stream.worker.store import BatchStore
    from pipeline.stream.worker.transport import BatchConsumer
    from pipeline.stream.writing.agent import WriterWork

    _before(GateWork, "judge", "judge")
    _before(WriterWork, "judge", "judge")
    _before(BatchRunner, "store", "outputs")
    _around_on_the_loop(Outputs, "flushed", None, "outputs")
    _before(BatchStore, "keep", "changelog")
    _before(GateWork, "after", "store")
    _before(WriterWork, "after", "store")
    _around_on_the_loop(BatchConsumer, "perform_seek", "seek", None)
    _around_on_the_loop(FhirDestination, "send", "send", "sent")
    if os.environ.get(UNFENCED):
        Watchdog.check_clock = lambda self: None  # type: ignore[method-assign]
    app()


if __name__ == "__main__":
    main()
