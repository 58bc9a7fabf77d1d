"""The four answers, and that silence is never taken for "current"."""

import io
import threading
from typing import Any

import msgspec
import pytest
from rich.console import Console

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis, Revision, revision_of
from pipeline.domain.records import LagReport, Lane, LaneWindow, ModeChange, ModeOrder, Reason, Stuck
from pipeline.kafka.client import KafkaUnavailable
from pipeline.ops.render.modes import modes_json, render_modes
from pipeline.ops.render.status import render_status, status_json, watch
from pipeline.ops.status import DestinationStatus, FeedStatus, Status, Verdict, assemble, read_status
from pipeline.ops.words import age_of, duration_of

NOW = Millis(1_700_000_000_000)
ALL = tuple(range(8))
WAITS = Stuck(
    subject="ICU-12",
    entity_type=EntityType.BED,
    lane=Lane.CRITICAL,
    reason=Reason.REFUSED_INVALID,
    attempts=3,
    since=Millis(NOW - 720_000),
    revision=Revision(17),
)


def report(instance: str = "0", age_ms: int = 1_000, partitions: tuple[int, ...] = ALL, **changes: Any) -> LagReport:
    one = LagReport(
        destination="ehr",
        instance=instance,
        partitions=partitions,
        window_start=Millis(NOW - age_ms - 5_000),
        window_end=Millis(NOW - age_ms),
        mode="normal",
        pending={},
        in_flight=0,
        parked=0,
        last_confirmed_at=Millis(NOW - 2_000),
        last_confirmed_revision=revision_of(1, 77),
    )
    return msgspec.structs.replace(one, **changes)


def mode(name: str, age_ms: int, instance: str = "0", cause: str = "breaker-open") -> ModeChange:
    return ModeChange(destination="ehr", instance=instance, mode=name, previous="normal", at=Millis(NOW - age_ms), cause=cause)


def status_of(*reports: LagReport, modes: tuple[ModeChange, ...] = ()) -> Status:
    return assemble(NOW, reports, modes, [], ["ehr"])


def ehr(*reports: LagReport, modes: tuple[ModeChange, ...] = ()) -> DestinationStatus:
    return status_of(*reports, modes=modes).destinations[0]


def text_of(status: Status) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(render_status(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_drained_destination_is_current() -> None:
    shown = ehr(report())
    assert (shown.verdict, shown.waiting, shown.last_confirmed_revision) == (Verdict.CURRENT, 0, revision_of(1, 77))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"pending": {"urgent": 2}, "oldest_open_since": Millis(NOW - 900)}, Verdict.CATCHING_UP),
        ({"pending": {"urgent": 2}, "oldest_open_since": Millis(NOW - 60_000)}, Verdict.DELAYED),
        ({"shadowed": 3}, Verdict.SHADOW),
        ({"shadowed": 3, "pending": {"urgent": 2}}, Verdict.CATCHING_UP),
        ({"parked": 1}, Verdict.STUCK),
        ({"stuck": (WAITS,)}, Verdict.STUCK),
    ],
)
def test_what_waits_is_told_by_how_bad_it_is(changes: dict[str, Any], verdict: Verdict) -> None:
    assert ehr(report(**changes)).verdict is verdict


def test_what_was_only_compared_is_shown_and_never_told_as_current() -> None:
    text = text_of(status_of(report(shadowed=3)))
    assert "IN SHADOW" in text
    assert "3 entities were only compared" in text
    assert "no: what the flags let be written is there" in text


def test_a_writer_that_stopped_reporting_is_unknown_and_never_current() -> None:
    status = status_of(report(age_ms=240_000))
    assert (status.verdict, status.destinations[0].unreported) == (Verdict.UNKNOWN, ALL)
    assert "no report since 4 min ago" in text_of(status)


def test_a_destination_that_never_reported_is_there_as_unknown() -> None:
    status = status_of()
    assert status.verdict is Verdict.UNKNOWN
    assert "no writer has reported yet" in text_of(status)


def test_partitions_that_nobody_reports_are_named() -> None:
    shown = ehr(report("0", partitions=(0, 1, 2, 3)), report("1", partitions=(4, 5, 6)))
    assert (shown.verdict, shown.unreported) == (Verdict.UNKNOWN, (7,))


def test_figures_of_all_instances_add_up_and_the_worst_mode_is_shown() -> None:
    window = LaneWindow(lane=Lane.URGENT, entity_type=EntityType.BED, count=2, p50_ms=10, p99_ms=20, max_ms=30)
    one = report("0", partitions=(0, 1, 2, 3), pending={"urgent": 2}, mode="slow", windows=(window,))
    other = report("1", partitions=(4, 5, 6, 7), pending={"urgent": 3}, mode="outage", windows=(window,))
    shown = ehr(one, other, modes=(mode("outage", 9_000, "1"), mode("slow", 20_000, "0")))
    assert (shown.pending["urgent"], shown.mode, shown.mode_since) == (5, "outage", NOW - 9_000)
    assert [(row.count, row.p99_ms) for row in shown.windows] == [(4, 20)]


def test_what_is_frozen_adds_up_over_instances_and_severe_counts_as_worse_than_recovery() -> None:
    one = report("0", partitions=(0, 1, 2, 3), frozen={"bulk bed": 2, "routine patient": 1}, mode="severe")
    other = report("1", partitions=(4, 5, 6, 7), frozen={"bulk bed": 3}, mode="recovery")
    shown = ehr(one, other, modes=(mode("severe", 9_000, "0", cause="TURNS_WAIT"),))
    assert (shown.mode, shown.frozen) == ("severe", {"bulk bed": 5, "routine patient": 1})
    text = text_of(status_of(one, other, modes=(mode("severe", 9_000, "0", cause="TURNS_WAIT"),)))
    assert "severe, entered 9.0 s ago: a critical or urgent change has waited too long for its turn" in text
    assert "6 entities stay pending until the mode ends (5 bulk bed, 1 routine patient)" in text


@pytest.mark.parametrize(
    ("orders", "forced"),
    [
        ([("severe", 60_000, 60_000)], "severe"),
        ([("severe", 60_000, -1)], None),
        ([("severe", 60_000, 60_000), (None, 30_000, 0)], None),
        ([(None, 60_000, 0), ("slow", 30_000, 60_000)], "slow"),
    ],
)
def test_an_order_is_shown_as_long_as_it_holds_with_who_gave_it_and_why(
    orders: list[tuple[str | None, int, int]], forced: str | None
) -> None:
    told = [
        ModeOrder(
            destination="ehr", mode=name, actor="operator:a", reason="calm [b]", at=Millis(NOW - age), until=Millis(NOW + left)
        )
        for name, age, left in orders
    ]
    for given in (told, told[::-1]):
        status = assemble(NOW, [report()], [], [], ["ehr"], given)
        order = status.destinations[0].order
        assert (order.mode if order else None) == forced
        assert ("by operator:a, for 1 min yet: calm [b]" in text_of(status)) is (forced is not None)


def test_the_modes_alone_are_shown_with_the_figures_that_caused_them() -> None:
    change = msgspec.structs.replace(mode("slow", 9_000, cause="WAITS"), figures={"oldest_wait_s": 5.5})
    status = status_of(report(mode="slow"), modes=(change,))
    console = Console(file=io.StringIO(), width=160)
    console.print(render_modes(status))
    assert isinstance(console.file, io.StringIO)
    for words in ("slow, entered 9.0 s ago: a change has waited too long", "oldest_wait_s 5.5", "Frozen", "nothing", "Forced"):
        assert words in console.file.getvalue()
    (shown,) = msgspec.json.decode(modes_json(status))
    assert (shown["mode"], shown["cause"], shown["figures"]) == ("slow", "WAITS", {"oldest_wait_s": 5.5})


def test_an_instance_whose_partitions_went_to_another_says_nothing_any_more() -> None:
    gone = report("old", age_ms=20_000, pending={"critical": 9}, parked=4, stuck=(WAITS,))
    shown = ehr(gone, report("new"))
    assert (shown.verdict, [instance.instance for instance in shown.instances]) == (Verdict.CURRENT, ["new"])


def test_of_an_instances_reports_the_newest_counts_in_whatever_order_they_come() -> None:
    reports = [report(age_ms=1_000), report(age_ms=6_000, pending={"bulk": 8}), report(age_ms=11_000)]
    assert ehr(*reports).waiting == ehr(*reversed(reports)).waiting == 0


def test_the_human_form_answers_all_four_questions_in_words() -> None:
    stuck = report(stuck=(WAITS,), parked=1, pending={"critical": 1}, oldest_open_since=WAITS.since, mode="slow")
    text = text_of(assemble(NOW, [stuck], [mode("slow", 65_000)], [FeedStatus("capacity", "http", Millis(NOW - 3_000))], ["ehr"]))
    for words in (
        "ehr: STUCK",
        "Current?",
        "Delayed?",
        "12 min",
        "Stuck?",
        "ICU-12",
        "refuses the content",
        "Last confirmed",
        "3.0 s ago",
    ):
        assert words in text


def test_status_is_read_from_the_tails_of_the_topics(topics: Any) -> None:
    topics.partitions = 1
    for age_ms in range(20_000, 0, -5_000):
        topics.put("lag", 0, b"ehr|0", report(age_ms=age_ms))
    topics.put("modes", 0, b"ehr|0", mode("normal", 60_000, cause="start"))
    topics.put("modes", 0, b"ehr|1", None)
    order = ModeOrder(destination="ehr", mode="slow", actor="operator:a", reason="r", at=Millis(NOW - 9), until=Millis(NOW + 9))
    topics.put("modes", 0, b"ehr", order)
    topics.put("lag", 0, b"?", b"rubbish")
    status = read_status(topics, topics.codec, ["ehr", "hl7"], lambda: NOW)
    assert [(shown.destination, shown.verdict) for shown in status.destinations] == [
        ("ehr", Verdict.CURRENT),
        ("hl7", Verdict.UNKNOWN),
    ]
    assert status.destinations[0].order == order
    assert msgspec.json.decode(status_json(status), type=Status) == status


def test_watching_goes_on_while_the_brokers_do_not_answer() -> None:
    stop, console = threading.Event(), Console(file=io.StringIO(), width=120)
    turns = iter([status_of(report()), None])

    def read() -> Status:
        status = next(turns)
        if status is None:
            stop.set()
            raise KafkaUnavailable
        return status

    watch(read, console, stop, interval_s=0.01)
    assert isinstance(console.file, io.StringIO)
    assert "the brokers don't answer" in console.file.getvalue()


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0, "0 ms"), (420, "420 ms"), (3_200, "3.2 s"), (725_000, "12 min 5 s"), (7_800_000, "2 h 10 min"), (86_400_000, "1 d")],
)
def test_durations_are_words(milliseconds: int, words: str) -> None:
    assert duration_of(milliseconds) == words
    assert age_of(milliseconds, 0) == f"{words} ago"
    assert age_of(milliseconds, None) == "never"


def test_what_a_destination_told_of_each_change_has_still_to_read_keeps_it_from_being_current() -> None:
    status = assemble(NOW, [report(unread=12)], [], [], ["ehr"])
    (shown,) = status.destinations
    assert (shown.unread, shown.waiting) == (12, 12)
    assert shown.verdict is Verdict.CATCHING_UP
    console = Console(file=io.StringIO(), width=120)
    console.print(render_status(status))
    assert "12 records of the history" in console.file.getvalue()  # type: ignore[attr-defined]
