"""The trace of the demo's surge: bounded, repeatable, badly sent as told, and understood by what reads it."""

import json
from collections import defaultdict
from functools import cache
from itertools import pairwise

import pytest

from pipeline.domain.event import EventType
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.mapping import to_events
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Mapped
from pipeline.formats.json_events import Client, Invalid, parse_event
from pipeline.local.demo.telling import hl7_time, rfc3339
from pipeline.local.demo.trace import MIN_ENTITIES, Step, paced, surge_trace

BASE = Millis(1_790_000_000_123)
TRIGGERS = {"A01", "A02", "A03", "A04", "A08", "A11", "A12", "A13", "A20"}
SEEDS = range(6)
CLIENT = Client(name="demo", tenant="demo", source_systems=frozenset({"capacity"}))


@cache
def trace(seed: int) -> tuple[Step, ...]:
    return tuple(surge_trace(seed, BASE))


def fields(step: Step, segment: str) -> list[str]:
    """Fields of a message's segment, indexed as HL7 counts them (MSH apart)."""
    return next((line.split("|") for line in step.body.split("\r") if line.startswith(segment + "|")), [])


def entities(step: Step) -> set[str]:
    if step.kind == "http":
        event = json.loads(step.body)
        return {f"{event['entity_type']} {event['entity_id']}"}
    pid, pv1, npu = fields(step, "PID"), fields(step, "PV1"), fields(step, "NPU")
    beds = {npu[1]} if npu else {place for place in (pv1[3], pv1[6]) if place}
    people = {f"patient {pid[3]}", f"encounter {pv1[19]}"} if pid else set()
    return people | {"bed " + "/".join(bed.split("^")[:3]) for bed in beds}


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_of_time_rate_and_entities_hold(seed: int) -> None:
    steps = trace(seed)
    times = [step.at_s for step in steps]
    assert times == sorted(times)
    assert 0 <= times[0] < 1
    assert 50 < times[-1] <= 60
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in zip(times, times[100:], strict=False))
    assert 300 < len(set().union(*map(entities, steps))) <= 600
    assert len(steps) > 2000


@pytest.mark.parametrize(("duration_s", "max_rate", "max_entities"), [(5, 20, 120), (10, 100, 600), (1, 1, 120), (20, 500, 300)])
def test_bounds_hold_for_small_traces_too(duration_s: float, max_rate: int, max_entities: int) -> None:
    steps = surge_trace(3, BASE, duration_s, max_rate, max_entities)
    times = [step.at_s for step in steps]
    assert times[0] >= 0
    assert times[-1] <= duration_s
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in zip(times, times[max_rate:], strict=False))
    assert len(set().union(*map(entities, steps))) <= max_entities


def test_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    assert surge_trace(7, BASE) == surge_trace(7, BASE)
    assert surge_trace(7, BASE) != surge_trace(8, BASE)


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_of_copies_and_late_messages_are_met(seed: int) -> None:
    steps = surge_trace(seed, BASE, duplicate_share=0.2, disorder_share=0.1)
    distinct = len({step.identity for step in steps})
    assert sum(step.repeat for step in steps) == round(0.2 * distinct)
    assert sum(step.late for step in steps) == round(0.1 * distinct)
    calm = surge_trace(seed, BASE, duplicate_share=0, disorder_share=0)
    assert [step.recorded_at for step in calm] == sorted(step.recorded_at for step in calm)
    assert not any(step.repeat or step.late for step in calm)


@pytest.mark.parametrize("seed", SEEDS)
def test_late_message_follows_one_recorded_after_it_and_no_other_does(seed: int) -> None:
    newest = 0
    for step in trace(seed):
        if not step.repeat:
            assert step.late == (step.recorded_at < newest)
        newest = max(newest, step.recorded_at)


def test_most_late_messages_are_overtaken_by_one_about_the_same_thing() -> None:
    newest: dict[str, int] = defaultdict(int)
    contested = 0
    for step in trace(1):
        about = entities(step)
        contested += step.late and any(step.recorded_at < newest[entity] for entity in about)
        for entity in about:
            newest[entity] = max(newest[entity], step.recorded_at)
    assert contested > 100


@pytest.mark.parametrize("seed", SEEDS)
def test_copy_is_the_same_to_the_byte_and_comes_after_the_first(seed: int) -> None:
    first: dict[str, Step] = {}
    for step in trace(seed):
        if step.repeat:
            assert first[step.identity].body == step.body
        else:
            assert step.identity not in first
            first[step.identity] = step


def test_recorded_times_rise_strictly_and_start_at_the_base() -> None:
    recorded = sorted(step.recorded_at for step in trace(1) if not step.repeat)
    assert recorded[0] == BASE
    assert all(earlier < later for earlier, later in pairwise(recorded))
    assert recorded[-1] <= BASE + 60_000


@pytest.mark.parametrize("seed", SEEDS)
def test_every_event_is_accepted_by_the_api_s_own_reader(seed: int) -> None:
    kinds = set()
    for step in trace(seed):
        if step.kind == "http":
            event = parse_event(json.loads(step.body), client=CLIENT, idempotency_key="x", item=0, received_at=BASE)
            assert not isinstance(event, Invalid), (event.field, event.rule)
            assert (event.recorded_at, event.idempotency_key) == (step.recorded_at, step.identity)
            assert event.event_type in {EventType.UPDATE, EventType.SNAPSHOT}
            kinds.add(event.entity_type.value)
    assert kinds == {"bed", "staffing", "diversion"}


def test_messages_have_the_triggers_and_identifiers_that_were_agreed() -> None:
    seen = set()
    for step in trace(1) + trace(2) + trace(4):
        if step.kind == "hl7":
            msh, evn, pid, pv1 = (fields(step, name) for name in ("MSH", "EVN", "PID", "PV1"))
            assert msh[2:4] == ["EPICADT", "GENERAL"]
            assert msh[9] == step.identity
            assert len(step.identity) <= 20
            assert evn[2] == hl7_time(step.recorded_at)
            trigger = msh[8].split("^")[1]
            seen.add(trigger)
            if trigger != "A20":
                assert pid[3].endswith("^^^GENERAL^MR")
                assert pv1[19].startswith("V")
                assert pv1[19].endswith("^^^GENERAL^VN")
                assert bool(pv1[6]) == (trigger in {"A02", "A12"})
    assert seen == TRIGGERS


@pytest.mark.parametrize("seed", SEEDS)
def test_every_message_is_mapped_by_the_hl7_room(seed: int) -> None:
    profile = Profile(version="1", source_system="EPICADT", feed="mllp", facility="GENERAL", time_zone="UTC")
    for step in trace(seed):
        if step.kind == "hl7":
            message = parse(step.body.encode())
            assert isinstance(message, Message)
            verdict = to_events(message, profile, "demo", BASE)
            assert isinstance(verdict, Mapped), verdict
            about = {entity.replace("^^^GENERAL^MR", "").replace("^^^GENERAL^VN", "") for entity in entities(step)}
            if fields(step, "EVN")[1] == "A08":  # moves nobody, so it says nothing of a bed
                about = {entity for entity in about if not entity.startswith("bed ")}
            assert {f"{event.entity_type.value} {event.entity_id}" for event in verdict.events} == about
            assert {event.namespace for event in verdict.events} == {"GENERAL"}
            assert {event.recorded_at for event in verdict.events} == {step.recorded_at}


def test_beds_never_hold_two_patients_in_true_order() -> None:
    holder: dict[str, str] = {}
    for step in sorted((s for s in trace(1) if s.kind == "hl7" and not s.repeat), key=lambda s: s.recorded_at):
        trigger, pv1 = fields(step, "MSH")[8].split("^")[1], fields(step, "PV1")
        if trigger == "A20" or trigger == "A08":
            continue
        bed, visit = pv1[3], pv1[19]
        assert holder.get(bed, visit) == visit, trigger
        if pv1[6]:
            holder.pop(pv1[6], None)
        if trigger in {"A03", "A11"}:
            holder.pop(bed, None)
        else:
            holder[bed] = visit


def test_cancel_holds_the_time_of_what_it_cancels() -> None:
    cancels = [s for s in trace(1) if s.kind == "hl7" and fields(s, "EVN")[1] in {"A11", "A12", "A13"}]
    assert cancels
    assert all(fields(step, "EVN")[6] < fields(step, "EVN")[2] for step in cancels)


def test_step_shows_no_patient_data() -> None:
    step = next(step for step in trace(1) if step.kind == "hl7")
    assert "Madeup" in step.body
    assert "Madeup" not in repr(step)


def test_too_small_a_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="a surge needs"):
        surge_trace(1, BASE, max_entities=MIN_ENTITIES - 1)


def test_pacing_keeps_order_and_moves_nothing_that_fits() -> None:
    assert paced([0.0, 0.5, 1.0], max_rate=2, end_s=5) == [0.0, 0.5, 1.0]
    assert paced([1.0, 1.0, 1.0, 1.0], max_rate=2, end_s=5) == [1.0, 1.0, 2.0, 2.0]
    assert paced([5.0, 5.0, 5.0], max_rate=1, end_s=5) == [3.0, 4.0, 5.0]


def test_times_are_written_in_utc_to_the_millisecond() -> None:
    assert hl7_time(BASE) == "20260921141320.123+0000"
    assert rfc3339(BASE) == "2026-09-21T14:13:20.123Z"
