"""A Faust app of ours: what a crash of one of its services does."""

from pathlib import Path

import pytest

from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.settings.sections.workers import WorkerSettings
from pipeline.stream.worker import app as stream_app
from pipeline.stream.worker.app import AppSpec
from pipeline.stream.worker.batch import Cycle
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE


class Ended(BaseException):
    """In place of the end of this process."""


async def test_a_crash_of_the_recovery_ends_the_process_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AppSpec("gate", "0", tmp_path, ("landing.bed",), "heads", max, 8, Cycle(), 500, 64)
    app = stream_app._create_app(spec, KafkaSettings(), WorkerSettings())
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(stream_app, "die", end)
    recovery = app.tables.recovery  # type: ignore[attr-defined]  # the manager has it, its interface does not say so
    with pytest.raises(Ended):
        await recovery.crash(RuntimeError("the disk is ahead of its changelog"))
    assert codes == [EXIT_NOT_DURABLE]
