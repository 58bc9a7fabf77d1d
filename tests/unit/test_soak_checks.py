"""The soak's judge finds what it is there to find, and leaves alone what only breathes."""

import pytest

from pipeline.local.bench.e2e.send import AT_ONCE
from tests.chaos.soak_checks import FEWEST, WAY_IN, WAY_IN_BYTES, Lags, Look, Minute, checks_of, none_lost, quarters

MB = 1_000_000


def looks(memory: list[float], *, files: int = 100, disk: float = 50.0, name: str = "gate") -> list[Look]:
    return [
        Look(60.0 + 5 * place, {name: int(size * MB)}, {name: files}, {"gate": int(disk * MB)})
        for place, size in enumerate(memory)
    ]


def minutes(*p50: float, lane: str = "critical") -> list[Minute]:
    return [Minute(number, lane, 100, figure, 4 * figure) for number, figure in enumerate(p50)]


def failed(seen: list[Look], lags: list[Minute]) -> list[str]:
    return [check.name for check in checks_of(seen, lags, ("gate",)) if not check.held]


STEADY = minutes(50, 60, 61, 60, 62, 70)


def test_what_breathes_stands_still() -> None:
    assert failed(looks([150, 153, 149, 151, 150, 155, 150, 152] * 4), STEADY) == []


def test_a_leak_is_found() -> None:
    assert failed(looks([150 + 2 * n for n in range(40)]), STEADY) == ["memory of the gate stands still"]


def test_descriptors_that_are_never_closed_are_found() -> None:
    seen = [Look(look.at_s, look.memory, {"gate": 100 + n}, look.disk) for n, look in enumerate(looks([150.0] * 40))]
    assert failed(seen, STEADY) == ["descriptors of the gate stand still"]


@pytest.mark.parametrize(("most", "held"), [(AT_ONCE, True), (4 * AT_ONCE, False)])
def test_the_way_in_has_a_descriptor_for_each_connection_of_the_sender_and_no_more(most: int, held: bool) -> None:
    seen = [
        Look(look.at_s, look.memory, {WAY_IN: 50 + most * n // 39}, look.disk)
        for n, look in enumerate(looks([150.0] * 40, name=WAY_IN))
    ]
    assert failed(seen, STEADY) == ([] if held else ["descriptors of the way in stand still"])


def test_a_table_that_grows_with_the_events_and_not_with_the_entities_is_found() -> None:
    seen = [Look(look.at_s, look.memory, look.files, {"gate": (50 + 2 * n) * MB}) for n, look in enumerate(looks([150.0] * 40))]
    assert failed(seen, STEADY) == ["disk of the gate's table stands still"]


def test_a_queue_that_grows_is_found_by_its_lag() -> None:
    assert failed(looks([150.0] * 40), minutes(50, 100, 300, 600, 900, 1_200)) == ["lag of the critical lane stands still"]


def test_the_start_is_not_judged() -> None:
    early = [Look(5.0 * n, {"gate": n * 10 * MB}, {"gate": n}, {"gate": 0}) for n in range(12)]
    assert failed(early + looks([150.0] * 40), STEADY) == []


def test_the_way_in_may_fill_what_it_remembers_and_no_more() -> None:
    grows = [100 + 4 * n for n in range(40)]
    assert failed(looks(grows, name=WAY_IN), STEADY) == []
    assert failed(looks([*grows, WAY_IN_BYTES / MB + 1], name=WAY_IN), STEADY) == ["memory of the way in keeps to its bound"]


def test_too_short_a_run_proves_nothing() -> None:
    assert quarters([1.0] * (FEWEST - 1)) is None
    assert "memory of the gate stands still" in failed(looks([150.0] * 3), STEADY)
    assert "lag of the critical lane stands still" in failed(looks([150.0] * 40), minutes(50, 60, 61))


@pytest.mark.parametrize(("yes", "held"), [(100, True), (101, False), (0, False)])
def test_a_verdict_on_a_copy_is_no_event_s_verdict(yes: int, held: bool) -> None:
    assert none_lost(yes, {"events.accepted": 90, "STALE": 10, "DUPLICATE": 50, "CONTROL": 56}).held is held


def test_lags_are_counted_by_the_minute_in_which_they_end_and_none_from_before() -> None:
    lags = Lags(began_ms=1_000_000)
    for at_ms, lag_ms in ((999_999, 5), (1_000_000, 10), (1_059_999, 20), (1_060_000, 30)):
        lags.add(at_ms, "critical", lag_ms)
    assert [(each.number, each.count) for each in lags.minutes()] == [(0, 2), (1, 1)]
