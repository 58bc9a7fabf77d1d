"""Attacks on the batch: more than fits at once, and a record that only just fits into its topic."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.worker import outputs as outputs_module
from pipeline.stream.worker.batch import portions
from pipeline.stream.worker.outputs import Outputs


@given(sizes=st.lists(st.integers(0, 30), max_size=40), most=st.integers(1, 40))
def test_a_cycle_is_worked_off_in_order_in_portions_that_keep_to_the_bound(sizes: list[int], most: int) -> None:
    events: list[Any] = [SimpleNamespace(value=[place] * size) for place, size in enumerate(sizes)]
    found = [list(portion) for portion in portions(events, most)]
    assert [event for portion in found for event in portion] == events
    for portion in found:
        assert portion
        assert len(portion) == 1 or sum(len(event.value) for event in portion) <= most


def test_a_record_as_large_as_a_landing_topic_takes_can_be_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would end the gate at each start: the client refuses it, and a batch that is not durable ends the process."""
    ends: list[int] = []
    monkeypatch.setattr(outputs_module, "die", ends.append)
    outputs = Outputs({"bootstrap.servers": "127.0.0.1:1"})
    outputs.send("quarantine", 0, b"k", bytes(1_048_576 + 10_000))
    assert ends == []
