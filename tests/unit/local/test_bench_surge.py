"""What `surgeline bench surge` sends, how it counts, and what its stand-in and its FIFO writer do."""

from collections import Counter
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from rich.console import Console

from pipeline.domain.event import Event
from pipeline.domain.head import Head
from pipeline.domain.identifiers import EntityKey, Millis, revision_of
from pipeline.domain.judging.gate import Accept, Position, decide
from pipeline.domain.records import Lane
from pipeline.domain.writing.scheduler import Entry
from pipeline.formats.fhir.revision import Mark, mark_extension
from pipeline.local.bench.surge import figures as of
from pipeline.local.bench.surge.bench import bench_surge, joined, report_of
from pipeline.local.bench.surge.fifo import FifoScheduler
from pipeline.local.bench.surge.figures import Change, History, LaneLag, Phase, Span, phase_of
from pipeline.local.bench.surge.load import Load, Mix
from pipeline.local.bench.surge.parts import queue_checks
from pipeline.local.bench.surge.report import Check, Options, Part, SurgeReport, markdown
from pipeline.local.servers.standin import Behaviour, StandIn, Witness
from tests.support.policies import shipped_policy

DOCS: Final = Path(__file__).resolve().parents[3] / "docs"
REPORTS: Final = ("bench-surge.json", "bench-surge-full.json")
MIX = Mix.of(1_000, 50)


class Gate:
    """Judges as the gate does, without a broker."""

    def __init__(self) -> None:
        self.heads: dict[EntityKey, Head] = {}
        self.offset = 0

    def lane(self, event: Event) -> Lane:
        """Lane of an event that must be accepted."""
        self.offset += 1
        at = Position(event.entity_type, 1, 0, self.offset, event.received_at)
        verdict = decide(self.heads.get(event.key), at, event.key.encode(), event, shipped_policy())
        assert isinstance(verdict, Accept), verdict
        self.heads[event.key] = verdict.head
        return verdict.accepted.lane


# -- the load


def test_each_event_of_the_load_is_accepted_and_takes_the_lane_that_it_is_counted_in() -> None:
    load, gate = Load(400), Gate()
    first = Counter(gate.lane(event) for event in load.every(lambda: Millis(1)))
    lanes = Counter(gate.lane(event) for second in range(3) for event in load.due(MIX, 1.0, Millis(1_000 * (second + 1))))
    assert first == {Lane.BULK: 400}
    assert lanes == {Lane.CRITICAL: 150, Lane.URGENT: 285, Lane.ROUTINE: 855, Lane.BULK: 1_710}


def test_no_entity_has_two_critical_changes_before_each_has_had_one() -> None:
    load, gate = Load(500), Gate()
    for event in load.every(lambda: Millis(1)):
        gate.lane(event)
    critical = [event.key for event in load.due(Mix(400, 0, 0, 0), 1.0, Millis(2)) if gate.lane(event) is Lane.CRITICAL]
    assert len(critical) == len(set(critical)) == 400


def test_a_move_takes_a_bed_that_nobody_lies_in() -> None:
    load, at = Load(500), dict[str, object]()
    moves = [*load.every(lambda: Millis(1)), *load.due(Mix(2_000, 0, 0, 0), 1.0, Millis(2))]
    for event in moves:
        place = getattr(event.payload, "location", None)
        if isinstance(place, msgspec.Struct):
            assert place not in at.values()
            at[event.entity_id] = place
    assert len(at) == 100


def test_doubling_the_load_leaves_what_is_critical_as_it_was() -> None:
    assert MIX.doubled().critical == MIX.critical
    assert MIX.doubled().per_s == pytest.approx(1_950)
    assert MIX.per_s == pytest.approx(1_000)


def test_the_same_seed_makes_the_same_events() -> None:
    one, other = Load(50, seed=3), Load(50, seed=3)
    assert one.due(MIX, 1.0, Millis(5)) == other.due(MIX, 1.0, Millis(5))
    assert one.due(MIX, 1.0, Millis(6)) != Load(50, seed=4).due(MIX, 1.0, Millis(6))


# -- the figures


def history() -> History:
    """A was changed twice and written once, B written late, C is open; one change of before."""
    changes = [
        Change(b"A", 1, 500, Lane.BULK),
        Change(b"A", 2, 1_000, Lane.BULK),
        Change(b"A", 3, 1_500, Lane.CRITICAL),
        Change(b"B", 4, 1_800, Lane.ROUTINE),
        Change(b"C", 5, 1_900, Lane.BULK),
    ]
    return History(changes, confirmed={b"A": [(1, 600), (3, 1_700)], b"B": [(4, 4_000)]})


def test_a_superseded_change_is_as_late_as_the_revision_that_replaced_it() -> None:
    phase = phase_of(history(), Span("slow", Millis(1_000), Millis(2_000), 4, 1))
    assert (phase.accepted, phase.entities, phase.writes, phase.superseded, phase.open) == (4, 3, 2, 1, 1)
    assert phase.superseded_lag == LaneLag("superseded", 1, 700, 700, 700)
    assert phase.lag(Lane.CRITICAL) == LaneLag("critical", 1, 200, 200, 200)
    assert phase.lag(Lane.URGENT).count == 0


def test_draining_counts_from_the_loads_end_what_was_left_then() -> None:
    phase = phase_of(history(), Span("slow", Millis(1_000), Millis(2_000), 4, 1))
    assert (phase.left, phase.drained_s) == (2, 2.0)


def test_the_stand_ins_own_record_shows_a_stale_overwrite_and_a_repeated_write() -> None:
    good, back, twice, foreign = [(1, 0), (3, 1)], [(3, 0), (1, 1)], [(2, 0), (2, 1)], [(0, 0), (1, 1)]
    assert of.stale_overwrites(Witness({"a": good}, [])) == 0
    assert of.stale_overwrites(Witness({"a": back, "b": twice, "c": good}, [])) == 2
    assert of.unmarked(Witness({"a": good, "b": foreign}, [])) == 1


def test_the_busiest_second_is_looked_for_at_every_step() -> None:
    arrivals = [(at, 10, 1, 7) for at in range(10_500, 11_500, 100)] + [(at, 1, 0, 0) for at in range(11_500, 13_000, 100)]
    witness = Witness({}, arrivals)
    assert of.busiest(witness, Millis(10_000), Millis(13_000)) == 110
    assert of.busiest(witness, Millis(12_000), Millis(13_000)) == 10
    assert of.per_s(witness, Millis(10_500), Millis(11_500)) == (100.0, 10.0)


def test_work_has_resumed_when_a_request_is_taken_not_when_one_is_refused_or_cut_off() -> None:
    witness = Witness({}, [(1_000, 5, 0, 0), (2_000, 0, 3, 0), (2_100, 0, 0, 3), (2_400, 1, 0, 0)])
    assert of.taken_since(witness, Millis(2_000)) == 2_400
    assert of.taken_since(witness, Millis(2_450)) == 2_450
    assert of.taken_since(witness, Millis(3_000)) is None


def test_growth_is_from_the_first_look_to_the_greatest() -> None:
    assert of.growth([100, 150, 120]) == 0.5
    assert of.growth([100]) == 0.0


def test_an_event_that_nobody_judged_is_lost() -> None:
    assert of.lost(["a", "b"], {"a"}) == 1


def phase(name: str, critical_p99_ms: float, left: int = 100, drained_s: float = 1.0, still_open: int = 0) -> Phase:
    critical = LaneLag("critical", 10, 1.0, critical_p99_ms, critical_p99_ms)
    replaced = LaneLag("superseded", 0, 0, 0, 0)
    return Phase(name, 1_000, 50, 60, 1, 1, 1, 0, still_open, left, drained_s, (critical,), replaced)


@pytest.mark.parametrize(
    ("slow", "doubled", "held"),
    [
        (phase("slow", 300), phase("d", 300), [True, True, True, True]),
        (phase("slow", 301), phase("d", 301), [False, True, True, True]),
        (phase("slow", 200), phase("d", 300), [True, False, True, True]),
        (phase("slow", 200, drained_s=1.2), phase("d", 200, still_open=1), [True, True, False, False]),
    ],
)
def test_each_promise_of_the_slow_phases_is_judged_by_its_own_bound(slow: Phase, doubled: Phase, held: list[bool]) -> None:
    checks = queue_checks([phase("healthy", 100), slow, doubled], Options())
    assert [check.held for check in checks] == held


def test_a_report_is_reached_only_where_every_promise_of_every_part_held() -> None:
    def part(*held: bool) -> Part:
        checks = tuple(Check("promise", each, "seen") for each in held)
        return Part(name="queue", phases=(phase("slow", 1),), checks=checks, figures={}, cpu={}, concurrency={})

    assert report_of(Options(), [part(True), part(True, True)]).reached
    missed = report_of(Options(), [part(True), part(True, False)])
    assert not missed.reached
    assert "| queue | promise | **no** | seen |" in markdown(missed)


def test_parts_that_are_run_singly_come_together_in_one_report_unless_they_differ_in_what_was_run() -> None:
    def report(name: str, held: bool, options: Options) -> SurgeReport:
        part = Part(name=name, phases=(), checks=(Check("promise", held, ""),), figures={}, cpu={}, concurrency={})
        return report_of(options, [part])

    same, other = Options(), Options(seconds=1)
    kills, queue = report("kills", True, same), report("queue", True, same)
    assert [part.name for part in joined(kills, queue).parts] == ["queue", "kills"]
    assert joined(joined(kills, queue), report("kills", False, same)).reached is False
    assert joined(kills, report("queue", True, other)).parts == report("queue", True, other).parts
    assert joined(None, queue) == queue


def test_a_folder_that_no_bench_has_left_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    console = Console(file=StringIO())
    assert bench_surge(Options(), ["queue"], tmp_path, console, None, check=True) == 2
    assert (tmp_path / "mine").exists()


# -- the FIFO writer's scheduler


def test_fifo_takes_by_receipt_whatever_the_lane_and_keeps_no_place_for_what_is_critical() -> None:
    scheduler = FifoScheduler()
    for number, lane in enumerate((Lane.BULK, Lane.CRITICAL, Lane.ROUTINE, Lane.URGENT)):
        scheduler.put(Entry(f"t|bed|n|{number}".encode(), lane, Millis(number), Millis(0)))
    taken = [scheduler.take(Millis(10**9), critical_only=number == 0) for number in range(4)]
    assert [entry.key[-1:] for entry in taken if entry is not None] == [b"0", b"1", b"2", b"3"]


# -- the stand-in


@pytest.fixture
async def standin() -> AsyncIterator[tuple[StandIn, TestServer]]:
    made = StandIn(1_000, 1_000, "queue")
    server = TestServer(made.app())
    async with server:
        yield made, server


async def test_a_refusal_says_for_how_long_where_it_is_told_to(standin: tuple[StandIn, TestServer]) -> None:
    made, server = standin
    async with ClientSession() as http:
        refusing = Behaviour(0.001, mode="refuse", retry_after_s=3)
        async with http.post(server.make_url("/behave"), data=msgspec.json.encode(refusing)) as answer:
            assert answer.status == 204
        async with http.get(server.make_url("/fhir/Location/1")) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
        async with http.get(server.make_url("/witness")) as answer:
            witness = msgspec.json.decode(await answer.read(), type=Witness)
    assert [each[1:] for each in witness.arrivals] == [(0, 1, 0)]
    assert made.store.counts.refused == 1


async def test_a_stand_in_that_is_out_answers_nobody_and_changes_nothing(standin: tuple[StandIn, TestServer]) -> None:
    made, server = standin
    made.behave(Behaviour(out=True))
    async with ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.put(server.make_url("/fhir/Location/1"), data=b'{"resourceType": "Location"}')
    assert not made.store.resources


async def test_every_revision_that_was_ever_shown_is_remembered_in_its_order(standin: tuple[StandIn, TestServer]) -> None:
    made, server = standin
    async with ClientSession() as http:
        for offset in (5, 3):
            mark = mark_extension(Mark(revision_of(1, offset), "a" * 16, ()))
            body = msgspec.json.encode({"resourceType": "Location", "extension": [mark]})
            async with http.put(server.make_url("/fhir/Location/1"), data=body) as answer:
                assert answer.status < 300
    shown = [revision for revision, _ in made.store.shown["Location/1"]]
    assert shown == [revision_of(1, 5), revision_of(1, 3)]
    assert of.stale_overwrites(Witness(made.store.shown, [])) == 1


# -- the documentation


@pytest.mark.parametrize("name", REPORTS)
def test_the_figures_in_the_documentation_are_those_of_the_reports(name: str) -> None:
    report = msgspec.json.decode((DOCS / "reports" / name).read_bytes(), type=SurgeReport)
    assert markdown(report) in (DOCS / "performance.md").read_text(encoding="utf-8")
