"""Drift that is planted behind our back is found and named, each once; where there is none, none is found."""

import random
from collections import Counter
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.compare import Settled
from pipeline.domain.reconcile.record import Drift, Remedy, Rule
from tests.support.reconcile_world import NOW, World, body_of, key_of

ENTITIES: Final = 24


def _environment(body: dict[str, Any]) -> dict[str, Any]:
    if body["resourceType"] == "Encounter":
        return {**body, "status": "onleave"}
    extensions = [each for each in body["extension"] if not each["url"].endswith("environment")]
    return {**body, "extension": extensions}


def _unmarked(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "extension": [each for each in body.get("extension", []) if "revision" not in each["url"]]}


def plant(world: World, number: int, kind: str) -> tuple[Drift, Rule, Remedy] | Settled:
    """One entity is made to differ, or to be on its way; what a run has to say of it."""
    resources, name = world.server.resources, world.name(number)
    match kind:
        case "edit":
            resources[name] = _environment(resources[name])
            return Drift.EDITED, Rule.OURS_TO_WRITE, Remedy.REASSERT
        case "delete":
            del resources[name]
            return Drift.DELETED, Rule.GONE, Remedy.REASSERT
        case "restore":
            before = resources[name]
            world.change(number)
            world.confirm(number)
            resources[name] = before
            return Drift.STALE, Rule.OLDER_REVISION, Remedy.REASSERT
        case "replace":
            resources[name] = _unmarked(resources[name])
            return Drift.CONFLICTING, Rule.MARK_LOST, Remedy.REASSERT
        case "double":
            resources[f"{name}-2"] = {**resources[name], "id": f"{number}-2"}
            return Drift.DOUBLED, Rule.NEVER_DELETE, Remedy.REPORT
        case "lost":
            world.change(number)
            return Drift.STALE, Rule.NEVER_WRITTEN, Remedy.REASSERT
        case "ahead":
            ahead = World(0)
            ahead.newest = dict(world.newest)
            ahead._offset = world._offset + 1_000
            resources[name] = body_of(world.builder, ahead.change(number), str(number))
            return Drift.CONFLICTING, Rule.NEWER_REVISION, Remedy.REPORT
        case "waiting":
            world.change(number, Millis(NOW - 1_000))
            return Settled.WAITING
        case "told":
            world.change(number, Millis(NOW - 1_000))
            world.tell(number)
            return Settled.WAITING
        case "parked":
            revision = world.change(number).revision
            world.tell(number, parked=revision)
            return Settled.PARKED
        case "shadowed":
            revision = world.change(number).revision
            world.tell(number, shadowed=revision)
            return Settled.SHADOWED
        case _:
            return Settled.EQUAL


KINDS: Final = (
    "edit", "delete", "restore", "replace", "double", "lost", "ahead", "waiting", "told", "parked", "shadowed", "none",
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=ENTITIES, max_size=ENTITIES),
    extras=st.integers(0, 3),
    foreign=st.integers(0, 3),
    shifts=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 2**32),
)
def test_planted_drift_is_named_once_and_nothing_else_is(
    kinds: list[str], extras: int, foreign: int, shifts: float, seed: int
) -> None:
    if shifts:
        kinds = ["none" if kind == "double" else kind for kind in kinds]  # a page that shifted away may have shown the other
    world = World(ENTITIES, seed)
    wanted = {key_of(number).encode().decode(): plant(world, number, kind) for number, kind in enumerate(kinds)}
    for number in range(extras):
        ghost = World(0)
        body = body_of(world.builder, ghost.change(1_000 + number), f"ghost{number}")
        world.server.resources[f"{body['resourceType']}/ghost{number}"] = body
    for number in range(foreign):
        world.server.resources[f"Location/ward{number}"] = {"resourceType": "Location", "id": f"ward{number}", "name": "ward"}
    world.server.shifts = shifts
    run = world.run()

    found = Counter(subject for subject, _, _ in run.tally.found)
    assert max(found.values(), default=0) <= 1
    named = {subject: (each.kind, each.rule, each.remedy) for subject, _, each in run.tally.found if each.kind is not Drift.EXTRA}
    assert named == {subject: each for subject, each in wanted.items() if not isinstance(each, Settled)}
    assert run.tally.settled == Counter(each for each in wanted.values() if isinstance(each, Settled))
    assert run.entities == ENTITIES == run.tally.settled.total() + run.tally.drifted + run.tally.unread
    if not shifts:
        assert (run.tally.extra, run.tally.foreign) == (extras, foreign)
    repaired = {each.subject for each in world.ordered}
    assert repaired == {
        subject for subject, each in wanted.items() if not isinstance(each, Settled) and each[2] is Remedy.REASSERT
    }
    assert all(each.finding.revision == world.holdings.held[each.key].revision for each in world.ordered)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_changes_while_it_is_compared_is_no_drift(seed: int) -> None:
    world = World(ENTITIES, seed)
    draw = random.Random(seed)

    def move() -> None:
        for number in draw.sample(range(ENTITIES), 8):
            world.change(number, Millis(NOW - 1))
            world.confirm(number)

    world.server.between_pages = [move for _ in range(4)]
    run = world.run()
    assert run.tally.found == []
    assert world.ordered == []
    assert run.entities == run.tally.settled.total() == ENTITIES
