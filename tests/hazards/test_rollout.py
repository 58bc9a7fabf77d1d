"""Shadow, limited, full while the writer runs and dies: nothing arrives that a flag forbids, and nothing is left behind."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.domain.event import Event, sealed
from pipeline.domain.records import Audit, OutcomeKind
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from pipeline.ops.audit import read_entries
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.accounts.books import close_books
from tests.hazards.at_ehr import NAMESPACE, locations, proxied
from tests.hazards.harness import CODEC, OWNER, SHORT, STATES, Site, site, until
from tests.hazards.stream import Stream, flowing

NORTH, SOUTH = NAMESPACE, "SOUTH"
BEDS = {NORTH: tuple(f"N/{n}/A" for n in range(4)), SOUTH: tuple(f"S/{n}/A" for n in range(4))}
VARIANTS = {
    "shadow": {"mode": "shadow"},
    "north": {"mode": "limited", "facilities": [NORTH]},
    "full": {"mode": "full"},
}


def flip(file: Path, variant: str) -> None:
    """As an operator does: a new file in the place of the old one."""
    flag = {"state": "ENABLED", "variants": VARIANTS, "defaultVariant": variant}
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"flags": {f"rollout.{OWNER}": flag}}))
    new.rename(file)


def changes(to: Site, step: int) -> list[Event]:
    """A change of each bed, published."""
    events = [
        sealed(msgspec.structs.replace(to.bed(bed, STATES[step]), facility=facility, content_hash=""))
        for facility, beds in BEDS.items()
        for bed in beds
    ]
    to.publish(*events)
    to.wait_judged(*(event.event_id for event in events))
    return events


def ended(to: Site, kind: OutcomeKind, events: list[Event]) -> set[str]:
    """Facilities of those events that have this end, once each of the facility's has it."""
    ids = {o.event_id for o in to.outcomes() if o.kind is kind}
    return {facility for facility in BEDS if {e.event_id for e in events if e.facility == facility} <= ids}


def at_the_ehr(to: Site, ehr: Ehr) -> set[str]:
    return {facility for facility, beds in BEDS.items() if any(locations(ehr.base_url, to.tenant, bed) for bed in beds)}


def flips(to: Site, tenant: str | None = None) -> list[Audit]:
    """Of the site's tenant, or of another, such as the settings' default one, which every writer knows from its start."""
    entries, subject = read_entries(KafkaTopics(to.kafka), CODEC), f"{tenant or to.tenant}/bed"
    return [entry for entry in entries if (entry.action, entry.subject) == ("rollout.flipped", subject)]


def report(to: Site) -> Mapping[str, Any]:
    told: dict[str, Any] = json.loads(to.stack.complete("shadow", "report", "--json"))
    assert [row["entity_type"] for row in told["rows"]] == ["bed"]
    return {**told["rows"][0], "entities": told["entities"]}


@pytest.mark.timeout(400)
def test_nothing_is_sent_that_a_flag_forbids_and_a_flip_writes_all_that_was_only_compared_though_its_writer_is_killed(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    file = tmp_path / "flags.json"
    flip(file, "shadow")
    with (
        proxied(owner, tmp_path / "p") as proxy,
        site(tmp_path / "s", broker.bootstrap, {OWNER: proxy.url}, flags_file=str(file)) as to,
    ):
        to.start("gate", wait=False)
        writer = to.start("writer", OWNER)

        first = changes(to, 0)
        until(lambda: ended(to, OutcomeKind.SHADOWED, first) == {NORTH, SOUTH}, "each bed compared")
        assert at_the_ehr(to, owner) == set()
        told = report(to)
        assert (told["entities"], told["create"], told["update"]) == (8, 8, 0)
        assert told["fields"]["environment"] == 8
        books, _ = close_books(to.stack.settings, ask=False)
        assert (books.balanced, books.destinations[0].shadowed, books.destinations[0].current, books.open) == (True, 8, 0, 0)

        flip(file, "north")
        until(lambda: ended(to, OutcomeKind.CONFIRMED, first) == {NORTH}, "the beds of the listed facility at the EHR")
        second = changes(to, 1)
        until(lambda: ended(to, OutcomeKind.CONFIRMED, second) == {NORTH}, "their changes")
        until(lambda: ended(to, OutcomeKind.SHADOWED, second) == {SOUTH}, "the others compared")
        assert at_the_ehr(to, owner) == {NORTH}
        assert report(to)["entities"] == 4

        file.write_text('{"flags": {"rollout.own')
        third = changes(to, 2)
        until(lambda: ended(to, OutcomeKind.SHADOWED, third) == {SOUTH}, "a broken file changes nothing")
        to.kill(writer)
        to.start("writer", OWNER)
        fourth = changes(to, 3)
        until(lambda: ended(to, OutcomeKind.SHADOWED, fourth) == {SOUTH}, "nor does it after a restart")
        assert at_the_ehr(to, owner) == {NORTH}

        proxy.set(Fault(kind=FaultKind.LATENCY, amount=600))
        flip(file, "full")
        until(lambda: len(flips(to)) == 2 and proxy.struck() > 0, "a flip whose writes hang")
        to.kill(writer)
        proxy.set()
        to.start("writer", OWNER)
        until(lambda: ended(to, OutcomeKind.CONFIRMED, fourth) == {NORTH, SOUTH}, "every bed at the EHR")
        books = to.settle(ehrs={OWNER: owner.base_url})
        assert (books.destinations[0].current, books.destinations[0].entities) == (8, 8)
        assert report(to)["entities"] == 0

        modes = [(entry.reason, entry.detail["from"], entry.detail["to"]) for entry in flips(to)]
        limited = f"limited facilities={NORTH}"
        assert modes == [("shadow to limited", "shadow", limited), ("limited to full", limited, "full")]
        assert all(entry.actor == f"flags:{entry.detail['digest'][:16]}" for entry in flips(to))

        flip(file, "shadow")
        until(lambda: len(flips(to)) == 3, "a flip back")
        fifth = changes(to, 0)
        until(lambda: ended(to, OutcomeKind.SHADOWED, fifth) == {NORTH, SOUTH}, "nothing more is sent")
        assert not any(o.kind is OutcomeKind.CONFIRMED for o in to.outcomes() if o.event_id in {e.event_id for e in fifth})
        assert (report(to)["update"], report(to)["fields"]) == (8, {"environment": 8, "operational_status": 8})


def are_heads_confirmed(to: Site) -> bool:
    confirmed = {(o.partition, o.revision) for o in to.outcomes() if o.kind is OutcomeKind.CONFIRMED}
    return all((head.partition, head.revision) in confirmed for head in to.heads().values())


@pytest.mark.timeout(600)
def test_flags_that_are_flipped_at_random_while_events_flow_and_writers_die_leave_nothing_behind_and_take_nothing_back(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    file, chance = tmp_path / "flags.json", random.Random(4)
    flip(file, "shadow")
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}, flags_file=str(file)) as to:
        to.start("gate", wait=False)
        writers = [to.start("writer", OWNER, instance=str(number), wait=False) for number in range(2)]
        for name in writers:
            to.stack.wait_ready(name, timeout_s=120)
        events = Stream(seed=11, beds=12, changes=10 if SHORT else 40).events(to)
        with to.supervised(*writers), flowing(to, events, 8 if SHORT else 12) as sent:
            for number in range(3 if SHORT else 9):
                count = len(flips(to, "demo"))
                flip(file, ("full", "shadow", "north")[number % 3])
                until(lambda count=count: len(flips(to, "demo")) >= count + len(writers), "each writer's flip")  # type: ignore[misc]
                to.kill(chance.choice(writers))
            sent()
            flip(file, "shadow")
            to.wait_judged(*to.acknowledged)
            flip(file, "full")
            until(lambda: are_heads_confirmed(to), "every bed's newest state at the EHR")
            to.settle()
        kinds = {o.kind for o in to.outcomes()}
        assert {OutcomeKind.CONFIRMED, OutcomeKind.SHADOWED} <= kinds
        assert OutcomeKind.PARKED not in kinds
        assert report(to)["entities"] == 0
