"""Paper entries: each with the time on the paper, never over what is newer, broken rows named and no value repeated."""

import hashlib
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.event import Bed, Environment, Event, EventType, Service, ServiceStatus, sealed
from pipeline.domain.head import Head
from pipeline.domain.identifiers import EventId, Millis
from pipeline.domain.judging.gate import Accept, Position, Redelivered, decide
from pipeline.formats.boards.entry import FUTURE, MAX_AGE_MS, NO_TIME, TOO_OLD, Paper, read_paper
from pipeline.formats.files.rows import Origin, Unreadable
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.roles.downtime.enter import PROFILE, SOURCE
from pipeline.roles.ways_in.files import file_profile
from tests.support.policies import shipped_policy

NOW: Final = Millis(1_767_600_000_000)
HEAD: Final = "Time,Facility,Unit,Room,Bed,Cleaning,Service,Service reason"


def paper(*rows: str, head: str = HEAD, zone: str = "UTC") -> Paper:
    content = "\r\n".join([head, *rows, ""]).encode()
    profile = msgspec.structs.replace(file_profile(PROFILE), time_zone=zone)
    return read_paper(profile, "MAIN", content, Origin("t", SOURCE, hashlib.sha256(content).hexdigest(), NOW, NOW))


def said(at: int, cleaning: str = "dirty", bed: str = "A") -> str:
    return f"{rfc3339_of(Millis(at))},MAIN,ICU,4,{bed},{cleaning},,"


def test_each_change_counts_from_the_time_on_the_paper() -> None:
    found = paper(said(NOW - 7_200_000), said(NOW - 3_600_000, "clean"))
    assert [(each.recorded_at, each.occurred_at, each.received_at) for each in found.events] == [
        (NOW - 7_200_000, NOW - 7_200_000, NOW),
        (NOW - 3_600_000, NOW - 3_600_000, NOW),
    ]
    assert {(each.source_system, each.entity_id, each.event_type) for each in found.events} == {
        (SOURCE, "ICU/4/A", EventType.UPDATE)
    }
    assert found.broken == ()


@pytest.mark.parametrize(
    ("cell", "zone", "hour"),
    [
        ("2026-01-05 06:15", "Europe/Berlin", 5),
        ("05.01.2026 06:15", "UTC", 6),
        ("2026-01-05T06:15:00+02:00", "Europe/Berlin", 4),
    ],
)
def test_a_time_without_an_offset_is_that_of_the_wall_clock(cell: str, zone: str, hour: int) -> None:
    (event,) = paper(f"{cell},MAIN,ICU,4,A,dirty,,", zone=zone).events
    assert rfc3339_of(event.recorded_at) == f"2026-01-05T{hour:02d}:15:00.000Z"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (",MAIN,ICU,4,A,dirty,,", NO_TIME),
        (said(NOW + 3_600_000), FUTURE),
        (said(NOW - MAX_AGE_MS - 60_000), TOO_OLD),
    ],
)
def test_a_row_whose_time_can_t_be_is_named_and_the_others_go_on(row: str, why: object) -> None:
    found = paper(row, said(NOW - 60_000))
    assert [(number, line, bad) for number, line, bad in found.broken] == [(1, 2, why)]
    assert len(found.events) == 1


def test_a_broken_row_is_named_without_its_value() -> None:
    found = paper("yesterday Zzyzx,MAIN,ICU,4,A,dirty,,", f"{rfc3339_of(NOW)},MAIN,ICU,4,A,Zzyzx,,", 'x"y,z')
    assert len(found.broken) == 3
    assert "Zzyzx" not in f"{found!r} {found.broken!r}"


def test_a_file_without_times_is_no_paper() -> None:
    with pytest.raises(Unreadable):
        paper("MAIN,ICU,4,A,dirty", head="Facility,Unit,Room,Bed,Cleaning")
    with pytest.raises(Unreadable):
        paper(head="")


def test_who_lies_where_can_t_be_entered_here_because_it_is_the_ehr_s_word() -> None:
    with pytest.raises(Unreadable):
        paper(head=f"{HEAD},Occupied")


def test_to_enter_a_file_twice_makes_the_same_events() -> None:
    rows = (said(NOW - 60_000), said(NOW - 30_000, "clean"))
    assert paper(*rows).events == paper(*rows).events


def live(at: int, state: Bed, number: int) -> Event:
    (shape,) = paper(said(NOW - 60_000)).events
    return sealed(
        msgspec.structs.replace(
            shape, source_system="capacity-main", recorded_at=Millis(at), payload=state, event_id=EventId(f"{number:032x}")
        )
    )


def judged(events: list[Event]) -> Head:
    head: Head | None = None
    for offset, event in enumerate(events, start=1):
        verdict = decide(head, Position(event.entity_type, 1, 0, offset, NOW), event.key.encode(), event, shipped_policy())
        assert not isinstance(verdict, Redelivered)
        head = verdict.head or head
    assert head is not None
    return head


def test_what_was_said_live_since_stays_though_the_paper_is_entered_later() -> None:
    newer = live(NOW - 30_000, Bed(environment=Environment.CLEAN), 1)
    state = judged([newer, *paper(said(NOW - 60_000, "contaminated")).events]).state
    assert state == Bed(environment=Environment.CLEAN)


def test_what_the_paper_alone_knows_is_taken_beside_what_is_newer() -> None:
    newer = live(NOW - 30_000, Bed(environment=Environment.CLEAN), 1)
    row = f"{rfc3339_of(Millis(NOW - 60_000))},MAIN,ICU,4,A,dirty,blocked,leak"
    state = judged([newer, *paper(row).events]).state
    assert state == Bed(environment=Environment.CLEAN, service=Service(ServiceStatus.BLOCKED, "leak"))


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.booleans(), st.sampled_from(["clean", "dirty", "cleaning"])),
        min_size=1,
        max_size=12,
        unique_by=lambda each: each[0],
    ),
    st.randoms(),
)
def test_paper_and_live_words_in_any_order_end_in_the_newest(words: list[tuple[int, bool, str]], chance: object) -> None:
    """Whatever was live and whatever on paper, and whenever the paper is entered: the newest word by its own time holds."""
    events = []
    for number, (minute, is_paper, word) in enumerate(words, start=1):
        at = NOW - minute * 60_000
        if is_paper:
            events += [msgspec.structs.replace(each, event_id=EventId(f"{number:032x}")) for each in paper(said(at, word)).events]
        else:
            events.append(live(at, Bed(environment=Environment[word.upper()]), number))
    chance.shuffle(events)  # type: ignore[attr-defined]
    newest = min(words)[2]
    assert judged(events).state == Bed(environment=Environment[newest.upper()])


def test_the_gate_lets_paper_state_what_an_operator_may() -> None:
    (event,) = paper(said(NOW - 60_000)).events
    verdict = decide(None, Position(event.entity_type, 1, 0, 1, NOW), event.key.encode(), event, shipped_policy())
    assert isinstance(verdict, Accept)
    assert verdict.accepted.state == Bed(environment=Environment.DIRTY)
