"""The chaos run's judges find what they are there to find."""

import asyncio
import time
from collections import Counter

import pytest

from pipeline.domain.accounts.audit import Fault, Finding
from pipeline.domain.identifiers import Millis, revision_of
from pipeline.formats.fhir.revision import Mark, mark_extension
from pipeline.local.errors import LocalPlatformError
from tests.chaos.checks import Body, Version, broken_chains, history_problems, lost, other_states, theirs, version_of
from tests.chaos.load import BATCH_ITEMS, event_of, make_load
from tests.chaos.plan import MOST_FREEZES, ROLES, STATEFUL, Deed, make_plan
from tests.chaos.run import CLOSING_S, RATE_PER_S, SET_UP_S, Wanted, done_until

BASE = Millis(1_760_000_000_000)


def test_a_history_that_rises_with_edits_in_between_is_accepted() -> None:
    versions = [Version(1, 10, "a"), Version(2, 10, "b"), Version(3, 12, "b"), Version(4, 12, "c"), Version(5, 15, "c")]
    assert history_problems(versions, {2: "b", 4: "c"}, 15) == []


def test_the_order_in_which_the_server_lists_versions_does_not_matter() -> None:
    versions = [Version(3, 12, "b"), Version(1, 10, "a"), Version(2, 10, "b")]
    assert history_problems(versions, {2: "b"}, 12) == []


def test_a_revision_written_twice_is_found() -> None:
    assert "twice" in history_problems([Version(1, 10, ""), Version(2, 10, "")], {}, 10)[0]


def test_a_revision_that_goes_back_is_found_even_if_the_end_is_right() -> None:
    found = history_problems([Version(1, 10, ""), Version(2, 12, ""), Version(3, 11, ""), Version(4, 13, "")], {}, 13)
    assert len(found) == 1
    assert "went back" in found[0]


def test_a_history_that_ends_before_the_head_is_found() -> None:
    assert "head" in history_problems([Version(1, 10, "")], {}, 12)[0]


def test_an_overwritten_edit_is_found_where_it_happens_and_at_the_end() -> None:
    found = history_problems([Version(1, 10, "a"), Version(2, 10, "b"), Version(3, 12, "a")], {2: "b"}, 12)
    assert any("changed what is the EHR's" in problem for problem in found)
    assert any("last edit" in problem for problem in found)


def test_an_edit_that_vanished_from_the_history_is_found() -> None:
    assert "not in the history" in history_problems([Version(1, 10, "a")], {2: "b"}, 10)[0]


def test_a_write_without_a_revision_is_found() -> None:
    assert "no revision" in history_problems([Version(1, None, "")], {}, None)[0]


def test_only_a_verdict_on_its_merits_shows_that_an_event_was_not_lost() -> None:
    verdicts = {"kept": {"DUPLICATE", "ACCEPTED"}, "stale": {"STALE"}, "copy-only": {"DUPLICATE"}}
    assert lost(["kept", "stale", "copy-only", "never"], verdicts) == ["copy-only", "never"]


def test_a_head_that_misses_the_newest_statement_is_found() -> None:
    assert other_states({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 1}) == ["b", "c"]


def test_a_fork_is_forgiven_only_where_a_process_of_the_chain_was_replaced() -> None:
    forks = [Finding("writer-a/0", 5, 5, Fault.FORKED), Finding("writer-b/0", 7, 7, Fault.FORKED)]
    gap, repeat = Finding("writer-a/0", 9, 9, Fault.MISSING), Finding("writer-b/0", 3, 3, Fault.REPEATED)
    assert broken_chains([*forks, gap, repeat], ["writer-a/0"]) == [forks[1], gap]


def test_what_is_the_ehrs_holds_none_of_what_is_ours() -> None:
    mark = mark_extension(Mark(revision_of(1, 5), "hash", ()))
    body: Body = {
        "resourceType": "Location",
        "meta": {"versionId": "3"},
        "extension": [mark, {"url": "https://hospital.example/x", "valueString": "1"}],
        "identifier": [{"system": "https://surgeline.dev/fhir/id/demo/bed", "value": "b"}],
        "operationalStatus": {"code": "C"},
        "status": "active",
    }
    moved = {**body, "extension": body["extension"][1:], "operationalStatus": {"code": "K"}, "identifier": []}
    assert theirs(body, "owner") == theirs(moved, "owner")
    assert theirs(body, "owner") != theirs({**body, "status": "suspended"}, "owner")
    assert theirs(body, "replica") == theirs({**body, "status": "suspended"}, "replica")
    assert version_of(body, "owner").revision == revision_of(1, 5)


def test_the_same_seed_makes_the_same_load() -> None:
    one, other = make_load(7, BASE, 400, 50), make_load(7, BASE, 400, 50)
    assert one == other
    assert one != make_load(8, BASE, 400, 50)


def test_the_load_has_its_copies_its_late_messages_and_each_event_once_in_a_request() -> None:
    load = make_load(3, BASE, 4000, 50)
    assert load.distinct == 4000
    assert 0.13 < load.copies / 4000 < 0.17
    assert 0.03 < load.late / 4000 < 0.07
    assert load.direct
    for batch in load.batches:
        assert len({item.identity for item in batch.items}) == len(batch.items)
        assert len(batch.items) <= BATCH_ITEMS * 2
    first = {message.identity for batch in load.batches for message in batch.items} | {m.identity for m in load.hl7}
    assert len(first) == 4000


def test_a_copy_straight_to_landing_has_the_id_of_what_it_copies() -> None:
    load = make_load(3, BASE, 1000, 50)
    by_identity = {item.identity: item for batch in load.batches for item in batch.items}
    for copy in load.direct:
        original = event_of(by_identity[copy.identity].body, Millis(1))
        again = event_of(copy.body, Millis(2))
        assert (again.event_id, again.content_hash) == (original.event_id, original.content_hash)


def test_a_plan_makes_every_kill_within_the_load_and_wipes_only_what_has_a_folder() -> None:
    for seed in range(40):
        plan = make_plan(seed, 12, 240.0)
        assert sum(act.deed in (Deed.KILL, Deed.WIPE) for act in plan.acts) == 12
        assert all(0 < act.at_s < 240 for act in plan.acts)
        assert all(act.role in STATEFUL for act in plan.acts if act.deed is not Deed.KILL)
        assert plan == make_plan(seed, 12, 240.0)


def test_a_plan_kills_each_role_so_often_and_the_broker_beside_them() -> None:
    plan = make_plan(3, 0, 2_000.0, per_role=50, broker=3)
    kills = Counter(act.role for act in plan.acts if act.deed in (Deed.KILL, Deed.WIPE))
    assert kills == dict.fromkeys(ROLES, 50)
    assert sum(act.deed is Deed.BROKER for act in plan.acts) == 3
    assert 0 < sum(act.deed in (Deed.FREEZE, Deed.ZOMBIE) for act in plan.acts) <= MOST_FREEZES


def wanted(events: int, minutes: float, rate_per_s: float | None = None) -> Wanted:
    return Wanted(seed=1, kills=0, kills_per_role=50, broker_kills=0, events=events, minutes=minutes, rate_per_s=rate_per_s)


def test_a_run_sends_as_fast_as_its_minutes_ask_and_no_slower_than_usual() -> None:
    assert wanted(100_000, 45).rate() == RATE_PER_S
    assert wanted(200_000, 45).rate() * (45 * 60 - SET_UP_S - CLOSING_S) == pytest.approx(200_000)
    for events, minutes, rate_per_s in ((100, 5, None), (100_000, 45, 10.0)):
        with pytest.raises(LocalPlatformError, match="minutes"):
            wanted(events, minutes, rate_per_s).rate()


async def test_what_is_not_done_in_its_time_is_broken_off_and_counted_and_a_fault_is_no_lateness() -> None:
    async def fails() -> None:
        raise RuntimeError("a fault of the run itself")

    ended, hangs = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(3_600))
    assert await done_until({ended, hangs}, time.monotonic() + 0.05) == 1
    assert hangs.cancelled()
    hangs = asyncio.create_task(asyncio.sleep(3_600))
    with pytest.raises(RuntimeError):
        await done_until({asyncio.create_task(fails()), hangs}, time.monotonic() + 60)
    assert hangs.cancelled()
