"""The bench from source to confirmation: what it sends, and what it makes of the history."""

import json
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, Lane
from pipeline.local.bench.e2e.bench import SHARES, E2eReport, Options, markdown
from pipeline.local.bench.e2e.send import BATCH, HttpSender
from pipeline.local.bench.e2e.stages import STAGES, Course, Courses, StageLag, stages_of
from pipeline.local.bench.surge.figures import LaneLag
from pipeline.local.bench.surge.load import Load, Mix

MIX = Mix(*(share * 500.0 for share in SHARES))


def report(critical_p99_ms: float, *, open_: int = 0, unanswered: int = 0) -> E2eReport:
    lags = tuple(LaneLag(lane.value, 100, 50.0, critical_p99_ms, 900.0) for lane in LANES)
    return E2eReport(
        commit="c" * 40,
        machine={"cores": 2, "python": "3"},
        options=Options(),
        lags=lags,
        sent=1_000,
        unanswered=unanswered,
        retries=0,
        open=open_,
        cpu={"machine": 1.5, "gate": 0.5},
    )


class WayIn:
    """Takes batches; refuses the first, whose sender has to repeat it under the same key."""

    def __init__(self) -> None:
        self.taken: dict[str, list[dict[str, Any]]] = {}
        self.keys: list[str] = []

    async def post(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        self.keys.append(key)
        if len(self.keys) == 1:
            return web.Response(status=503)
        self.taken[key] = json.loads(await request.read())["events"]
        return web.Response(status=202)


async def test_batches_go_out_at_the_load_s_rate_and_a_refused_one_again_under_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    way_in = WayIn()
    app = web.Application()
    app.router.add_post("/v1/events:batch", way_in.post)
    async with TestServer(app) as server, HttpSender(Load(50), str(server.make_url("")).rstrip("/"), "token") as sender:
        await sender.play(MIX, 0.4)
        await sender.settled()
    assert sender.sent == sender.yes == 200
    assert sender.retries == 1
    assert way_in.keys.count(way_in.keys[0]) == 2
    assert all(len(events) <= BATCH + len(LANES) for events in way_in.taken.values())
    events = [event for batch in way_in.taken.values() for event in batch]
    assert len(events) == 200
    assert not {"event_id", "received_at", "content_hash"} & set(events[0])


@pytest.mark.parametrize(
    ("made", "reached"),
    [(report(249.0), True), (report(251.0), False), (report(100.0, open_=1), False), (report(100.0, unanswered=1), False)],
)
def test_the_goal_is_reached_only_with_everything_answered_and_confirmed(made: E2eReport, reached: bool) -> None:
    assert made.reached is reached


def test_the_table_names_each_lane() -> None:
    text = markdown(report(99.0))
    assert all(f"| {lane.value} | 100 | 50 | 99 | 900 |" in text for lane in LANES)


def test_where_the_time_goes_is_told_of_what_replaced_an_event_too() -> None:
    ward, ended = b"bed 1", b"bed 2"
    courses = Courses(
        events=[
            Course(ward, 5, Lane.CRITICAL, (100, 101, 104, 110)),
            Course(ward, 4, Lane.BULK, (90, 91, 94, 99)),  # was never written itself: revision 5 replaced it
            Course(ended, 9, Lane.CRITICAL, (100, 101, 104, 110)),  # nothing is told of its end
            Course(ward, 6, Lane.CRITICAL, (5_000, 5_001, 5_004, 5_010)),  # after the span
        ],
        pending={ward: [(4, 103), (5, 115), (6, 5_015)], ended: [(9, 115)]},
        shown={ward: [(5, 125), (6, 5_025)]},
        confirmed={ward: [(5, 130), (6, 5_030)]},
        told={ward: [(5, 138), (6, 5_038)]},
    )
    stages = stages_of(courses, Millis(50), Millis(1_000))
    critical = [(each.stage, each.p99_ms) for each in stages if each.lane == Lane.CRITICAL.value]
    assert critical == list(zip(STAGES, (1.0, 3.0, 6.0, 5.0, 10.0, 5.0, 8.0), strict=True))
    every = {each.stage: each.p99_ms for each in stages if each.lane == "all"}
    assert every["at the EHR"] == 22.0


def test_the_tables_say_where_time_and_processor_went() -> None:
    stages = tuple(StageLag(lane, stage, 3.0, 7.0) for lane in ("critical", "all") for stage in STAGES)
    text = markdown(msgspec.structs.replace(report(99.0), stages=stages))
    assert "| judged | 3 | 7 | 3 | 7 |" in text
    assert "| gate | 0.50 | 1,000 |" in text
