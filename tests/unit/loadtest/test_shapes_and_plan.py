"""What is sent, and when: the shapes' rates, the plan's recorded times, and the shares of several workers."""

from collections import Counter, defaultdict

import pytest

from loadtest.plan import MAX_MESSAGES, Plan, TooLong, entities_for, make_plan
from loadtest.shapes import SHAPES, SLOW_FACTOR, SURGE_FACTOR, Act, Deed, Phase, Shape, due_times
from pipeline.domain.identifiers import Millis
from pipeline.local.demo.drive import subject_of

BEGIN = Millis(1_800_000_000_000)


def small(name: str) -> Shape:
    return SHAPES[name].scaled(1, 0.05)


@pytest.fixture(scope="module")
def storm() -> Plan:
    return make_plan(small("retry-storm"), 1, BEGIN)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_every_shape_fits_into_one_run_and_its_deeds_lie_within_it(shape: Shape) -> None:
    assert entities_for(shape.messages)
    for act in shape.acts:
        assert 0 <= act.at_s <= act.at_s + act.for_s <= shape.for_s


@pytest.mark.parametrize("name", ["mass-casualty", "worst-day"])
def test_a_mass_casualty_is_fifty_times_the_usual_for_two_minutes(name: str) -> None:
    usual, surge, _ = SHAPES[name].phases
    assert surge.for_s == 120
    assert surge.rate_per_s == SURGE_FACTOR * usual.rate_per_s == 50 * usual.rate_per_s


def test_the_named_troubles_are_as_long_and_as_bad_as_they_say() -> None:
    assert SHAPES["outage"].acts == (Act(Deed.OUT, 60, 600),)
    assert SHAPES["slow-ehr"].acts[0].deed is Deed.SLOW
    assert SLOW_FACTOR == 10
    assert SHAPES["retry-storm"].copies == 0.3
    worst = Counter(act.deed for act in SHAPES["worst-day"].acts)
    assert worst[Deed.SLOW] == 1
    assert {act.role for act in SHAPES["worst-day"].acts if act.deed is Deed.KILL} == {"gate", "writer", "http", "mllp"}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_a_scale_changes_rate_and_length_and_nothing_else(shape: Shape) -> None:
    scaled = shape.scaled(0.5, 0.1)
    assert scaled.for_s == pytest.approx(shape.for_s * 0.1)
    assert scaled.messages == pytest.approx(shape.messages * 0.05, rel=0.02)
    assert [(act.deed, act.role) for act in scaled.acts] == [(act.deed, act.role) for act in shape.acts]
    assert all(act.at_s + act.for_s <= scaled.for_s + 1e-9 for act in scaled.acts)


@pytest.mark.parametrize(("rate", "time"), [(0, 1), (1, 0), (-1, 1)])
def test_a_scale_that_is_not_above_zero_is_refused(rate: float, time: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        SHAPES["outage"].scaled(rate, time)


def test_messages_are_due_at_each_phases_rate_and_a_fraction_carries_over() -> None:
    times = due_times((Phase("slow", 10, 0.25), Phase("fast", 2, 10), Phase("silent", 5, 0), Phase("again", 4, 1)))
    assert times == sorted(times)
    assert sum(at_s <= 10 for at_s in times) == 2  # 2.5 messages: the half is owed
    assert sum(10 < at_s <= 12 for at_s in times) == 20
    assert sum(12 < at_s <= 17 for at_s in times) == 0
    assert sum(at_s > 17 for at_s in times) == 4


def test_a_plan_is_the_same_everywhere(storm: Plan) -> None:
    assert make_plan(small("retry-storm"), 1, BEGIN).steps == storm.steps


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_send_everything_once_and_keep_each_subject_together(storm: Plan, workers: int) -> None:
    shares = [storm.share_of(worker, workers) for worker in range(workers)]
    assert sorted(map(id, (step for share in shares for step in share))) == sorted(map(id, storm.steps))
    where = defaultdict(set)
    for worker, share in enumerate(shares):
        for step in share:
            if step.kind == "hl7":
                where[subject_of(step)].add(worker)
    assert all(len(workers_of) == 1 for workers_of in where.values())


def test_a_storm_repeats_thirty_in_a_hundred_and_tells_some_out_of_order(storm: Plan) -> None:
    distinct = sum(not step.repeat for step in storm.steps)
    assert sum(step.repeat for step in storm.steps) == pytest.approx(0.3 * distinct, rel=0.02)
    assert sum(step.late for step in storm.steps) == pytest.approx(0.15 * distinct, rel=0.02)
    first = {step.identity: step.body for step in storm.steps if not step.repeat}
    assert all(first[step.identity] == step.body for step in storm.steps if step.repeat)


def test_what_is_not_late_is_recorded_when_it_is_due(storm: Plan) -> None:
    for step in storm.steps:
        if not step.late and not step.repeat:
            assert step.recorded_at == pytest.approx(BEGIN + step.at_s * 1000, abs=5)


def test_beds_are_shown_before_the_shape_begins(storm: Plan) -> None:
    early = [step for step in storm.steps if step.at_s < 0 and not step.late and not step.repeat]
    assert storm.warm_up_s > 0
    assert early
    assert all('"event_type":"SNAPSHOT"' in step.body for step in early)
    assert storm.distinct == small("retry-storm").messages


def test_more_than_one_run_may_have_is_refused_before_it_begins() -> None:
    with pytest.raises(TooLong, match="lower the rate"):
        entities_for(MAX_MESSAGES + 1)
