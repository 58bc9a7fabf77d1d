"""What a writer takes up after a recovery that another rebalance overtook."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.roles.writers import writer
from pipeline.roles.writers.writer import WriterRole

SOON_S = 10.0


async def test_what_was_read_before_another_rebalance_is_not_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()
    taken_up: list[int] = []
    is_present = True

    def read(db: int) -> list[Any]:
        if db == 1:
            reading.set()
            assert go_on.wait(SOON_S)
        return []

    monkeypatch.setattr(writer, "_all_pending", read)
    store = SimpleNamespace(handle=lambda partition: partition)
    delivery = SimpleNamespace(assigned=lambda partition, _: taken_up.append(partition))
    role: Any = SimpleNamespace(_worker=SimpleNamespace(table=SimpleNamespace(store=store)), _delivery=delivery)
    recovery = asyncio.create_task(WriterRole._recovered(role, frozenset({0, 1, 2}), lambda: is_present))
    assert await asyncio.to_thread(reading.wait, SOON_S)
    is_present = False
    go_on.set()
    await recovery
    assert taken_up == [0]
