"""When a run is over, and what it says of itself then."""

from pathlib import Path
from typing import Any

import pytest

from loadtest.conductor import Conductor, Wanted
from loadtest.feeder import Feeder
from loadtest.judge import limits_for
from loadtest.plan import Order
from loadtest.shapes import SHAPES
from loadtest.target import HttpTarget, MllpTarget, Opened, Target, write
from pipeline.domain.identifiers import Millis

NOTHING_WAITS = {"on": True, "waiting": 0, "quiet_s": 60.0}
BOUND_S = 120 + 120


class Ended:
    """Acts that were all played."""

    value = ()

    def ready(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds after the shape's begin, for the conductor."""
    at = {"s": 0.0}
    monkeypatch.setattr("loadtest.conductor.time.time", lambda: 1_000.0 + at["s"])
    return at


@pytest.fixture
def conductor(tmp_path: Path, clock: dict[str, float]) -> Conductor:
    write(Target("s.yaml", HttpTarget("http://h", "t"), MllpTarget("h", 1)), tmp_path / "target.yaml")
    shape = SHAPES["steady-day"].scaled(1, 0.1)
    wanted = Wanted(Opened(tmp_path / "target.yaml"), shape, 1, 0.1, 1, limits_for(shape.name), tmp_path)
    made = Conductor(wanted, environment=None)  # type: ignore[arg-type]
    made.order, made._acting = Order(shape.name, 1, 0.1, 1, Millis(1_000_000), 2), Ended()
    return made


def said(total: int | None, done: int, **changes: Any) -> dict[str, Any]:
    return Feeder().told() | {"total": total, "done": done} | changes


def test_it_is_over_when_all_is_sent_answered_confirmed_and_quiet(conductor: Conductor, clock: dict[str, float]) -> None:
    conductor.take("a", said(10, 10, observer=dict(NOTHING_WAITS)))
    conductor.take("b", said(10, 10))
    clock["s"] = 59
    assert not conductor.over()
    clock["s"] = 61
    assert conductor.over()


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        (said(10, 9, observer=NOTHING_WAITS), said(10, 10)),
        (said(10, 10, observer=NOTHING_WAITS | {"waiting": 1}), said(10, 10)),
        (said(10, 10, observer=NOTHING_WAITS | {"quiet_s": 0.5}), said(10, 10)),
        (said(10, 10), said(10, 10)),
        (said(10, 10, observer=NOTHING_WAITS), said(None, 0)),
        (said(10, 10, observer=NOTHING_WAITS), None),
        (said(10, 10, observer=NOTHING_WAITS), said(10, 10, yes_left=3)),
    ],
    ids=["unanswered", "unconfirmed", "just now", "nobody watches", "no plan yet", "silent worker", "ids untold"],
)
def test_until_then_it_goes_on_within_a_bound(
    conductor: Conductor, clock: dict[str, float], of_a: dict[str, Any], of_b: dict[str, Any] | None
) -> None:
    for client, data in (("a", of_a), ("b", of_b)):
        if data is not None:
            conductor.take(client, dict(data))
    clock["s"] = 61
    assert not conductor.over()
    clock["s"] = 60 + BOUND_S + 1
    assert conductor.over()


def test_a_worker_that_fell_silent_leaves_its_messages_unanswered(conductor: Conductor) -> None:
    conductor.take("a", said(10, 10))
    conductor.take("b", said(10, 4))
    assert conductor.left() == 6


def test_promises_of_all_workers_are_kept(conductor: Conductor) -> None:
    conductor.take("a", said(2, 1, yes=["x"]))
    conductor.take("b", said(2, 2, yes=["y", "z"]))
    conductor.take("a", said(2, 2, yes=["w"]))
    assert conductor.promised == {"w", "x", "y", "z"}


def test_a_run_that_never_began_could_not_be_judged(conductor: Conductor) -> None:
    conductor.order = None
    assert conductor.finish() == 2
