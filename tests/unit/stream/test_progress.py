"""A recovery that gets on is left alone, however long it takes; one that stands still is ended."""

from pipeline.stream.worker.progress import RECOVERY_STALL_S, Progress


def test_a_slow_recovery_that_gets_on_is_left_alone() -> None:
    progress = Progress()
    assert not any(progress.is_stalled(100 - step, step * (RECOVERY_STALL_S - 1)) for step in range(100))


def test_a_recovery_that_stands_still_is_ended_and_one_that_is_over_is_not() -> None:
    progress = Progress()
    assert not progress.is_stalled(7, 0.0)
    assert not progress.is_stalled(7, RECOVERY_STALL_S - 0.1)
    assert progress.is_stalled(7, RECOVERY_STALL_S)
    assert not progress.is_stalled(0, 2 * RECOVERY_STALL_S)
    assert not progress.is_stalled(0, 9 * RECOVERY_STALL_S)
