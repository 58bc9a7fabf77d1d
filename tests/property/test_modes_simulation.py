"""Modes on a clock moved by hand: they don't flap, whatever the figures do, and under a surge they protect what is critical.

The simulation is a destination that takes so many writes a second, the real scheduler before it, and the mode machine beside
them, as a writer wires them.
"""

import itertools
from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.records import LANES, RANK, Lane
from pipeline.domain.writing.mode_policy import ModesFile, Thaw
from pipeline.domain.writing.modes import ESSENTIAL, Cause, Entered, Figures, Force, Mode, Modes
from pipeline.domain.writing.scheduler import Entry, LaneScheduler
from pipeline.roles.policies import load_modes

POLICY = load_modes()
STEP_MS = 500
START = 1_800_000_000_000

WAITS = st.sampled_from((0.0, 1.9, 2.1, 4.9, 5.1, 14.9, 15.1, 60.0))
SEEN = st.builds(lambda is_open, wait, turn: Figures(is_open, {}, max(wait, turn), turn), st.booleans(), WAITS, WAITS)
STEADY = st.builds(lambda wait, turn: Figures(False, {}, max(wait, turn), turn), WAITS, WAITS)


def played(steps: list[tuple[Figures, int]], order: Force | None = None) -> list[Entered]:
    """Changes of mode; each figures are seen for so many looks."""
    modes, now, changes = Modes(POLICY), START, []
    for seen, looks in steps:
        for _ in range(looks):
            now += STEP_MS
            change = modes.judge(seen, Millis(now), order)
            if change is not None:
                changes.append(change)
    return changes


@given(st.lists(st.tuples(STEADY, st.integers(1, 12)), max_size=80))
def test_a_mode_is_never_left_for_a_milder_one_before_its_dwell(steps: list[tuple[Figures, int]]) -> None:
    changes = played(steps)
    for entered, left in itertools.pairwise(changes):
        assert left.previous is entered.mode
        held_s = (left.at - entered.at) / 1000
        if entered.mode is Mode.SEVERE:
            assert held_s >= POLICY.severe.dwell_s
        if entered.mode is Mode.SLOW and left.mode is Mode.NORMAL:
            assert held_s >= POLICY.slow.dwell_s


@given(st.lists(st.tuples(SEEN, st.integers(1, 12)), max_size=80))
def test_changes_are_bounded_by_time_whatever_breaker_and_waits_do(steps: list[tuple[Figures, int]]) -> None:
    changes = played(steps)
    passed_s = sum(looks for _, looks in steps) * STEP_MS / 1000
    shortest_s = min(POLICY.outage.calm_s, POLICY.slow.dwell_s, POLICY.severe.dwell_s)
    # Within the shortest cycle there is a way up and a way down: at most four changes.
    assert len(changes) <= 4 * (passed_s / shortest_s + 1)


@given(st.lists(st.tuples(SEEN, st.integers(1, 12)), max_size=60))
def test_after_a_quiet_time_it_is_normal_and_each_recovery_was_ended_by_being_drained(steps: list[tuple[Figures, int]]) -> None:
    changes = played([*steps, (Figures(False, {}, 0.0), 120)])
    assert not changes or changes[-1].mode is Mode.NORMAL
    outages = [index for index, change in enumerate(changes) if change.mode is Mode.OUTAGE]
    assert not outages or any(change.cause is Cause.DRAINED for change in changes[outages[-1] :])


@given(st.lists(st.tuples(STEADY, st.integers(1, 12)), min_size=1, max_size=40), st.sampled_from((Mode.NORMAL, Mode.SEVERE)))
def test_a_forced_mode_does_not_move(steps: list[tuple[Figures, int]], mode: Mode) -> None:
    order = Force(mode, "operator:a", "why", Millis(START), Millis(START + 86_400_000))
    assert [(change.mode, change.cause) for change in played(steps, order)] == [(mode, Cause.FORCED)]


# -- a destination that takes so much and no more


@dataclass
class Surge:
    """Entities change at given rates by lane; `per_s` is what the destination takes."""

    per_s: dict[Lane, float]
    capacity_per_s: float
    entities: int = 2_000
    policy: ModesFile = POLICY
    now: int = START
    changes: list[Entered] = field(default_factory=list)
    waits_s: dict[Lane, list[float]] = field(default_factory=lambda: {lane: [] for lane in LANES})
    seconds_in: dict[Mode, float] = field(default_factory=lambda: dict.fromkeys(Mode, 0.0))

    def __post_init__(self) -> None:
        self.scheduler = LaneScheduler()
        self.modes = Modes(self.policy)
        self._pending: dict[bytes, Entry] = {}
        self._serial = 0
        self._owed = dict.fromkeys(LANES, 0.0)
        self._taken = 0.0

    def run(self, for_s: float, *, is_out: bool = False) -> None:
        for _ in range(int(for_s * 1000 / STEP_MS)):
            self.now += STEP_MS
            self._arrive()
            self._judge(is_out)
            self._write(0.0 if is_out else self.capacity_per_s)
            self.seconds_in[self.modes.mode] += STEP_MS / 1000

    def _arrive(self) -> None:
        for lane in LANES:
            self._owed[lane] += self.per_s.get(lane, 0.0) * STEP_MS / 1000
            while self._owed[lane] >= 1:
                self._owed[lane] -= 1
                self._serial += 1
                self._change(lane, (self._serial * 7919) % self.entities)

    def _change(self, lane: Lane, number: int) -> None:
        """As pending does: the highest lane and the oldest time of what is unconfirmed."""
        key = EntityKey("t", EntityType.BED.value, "n", str(number)).encode()
        known = self._pending.get(key)
        highest = lane if known is None else min(lane, known.lane, key=RANK.__getitem__)
        since, lane_since = Millis(self.now), Millis(0)
        if known is not None:
            since = known.since
            lane_since = Millis(self.now) if highest is not known.lane else known.lane_since
        entry = Entry(key, highest, since, Millis(0), lane_since)
        self._pending[key] = entry
        self.scheduler.put(entry)

    def _judge(self, is_out: bool) -> None:
        def waited_s(since: Millis | None) -> float:
            return 0.0 if since is None else (self.now - since) / 1000

        seen = Figures(is_out, {}, waited_s(self.scheduler.awake_since()), waited_s(self.scheduler.turn_since(ESSENTIAL)))
        change = self.modes.judge(seen, Millis(self.now))
        if change is not None:
            self.changes.append(change)
            rules = self.modes.freezes
            rule = (lambda _, lane, kind: any(each.holds(lane, kind, None) for each in rules)) if rules else None
            self.scheduler.reconsider(self.scheduler.freeze(rule))
        self.scheduler.thaw(self.modes.thaws(Millis(self.now)))

    def _write(self, per_s: float) -> None:
        self._taken += per_s * STEP_MS / 1000
        while self._taken >= 1:
            entry = self.scheduler.take(Millis(self.now))
            if entry is None:
                self._taken = 0.0
                return
            self._taken -= 1
            self.waits_s[entry.lane].append((self.now - (entry.lane_since or entry.since)) / 1000)
            del self._pending[entry.key]
            self.scheduler.discard(entry.key)
            self.scheduler.release(entry.key)

    @property
    def pending(self) -> int:
        return len(self._pending)


def test_below_capacity_nothing_ever_changes() -> None:
    surge = Surge({Lane.CRITICAL: 1, Lane.URGENT: 4, Lane.ROUTINE: 10, Lane.BULK: 4}, 20)
    surge.run(600)
    assert surge.changes == []


def test_a_surge_of_bulk_alone_makes_it_slow_and_never_severe() -> None:
    surge = Surge({Lane.CRITICAL: 1, Lane.URGENT: 4, Lane.BULK: 100}, 20, entities=600)
    surge.run(300)
    assert [change.mode for change in surge.changes] == [Mode.SLOW]
    assert max(surge.waits_s[Lane.CRITICAL]) <= 1.0


def test_a_surge_of_urgent_changes_freezes_the_rest_while_critical_ones_go_through_and_ends_without_flapping() -> None:
    surge = Surge({Lane.CRITICAL: 4, Lane.URGENT: 24, Lane.ROUTINE: 10, Lane.BULK: 40}, 20, entities=5_000)
    surge.run(120)
    assert surge.modes.mode is Mode.SEVERE
    assert len(surge.scheduler.frozen) > 200
    surge.per_s = {Lane.CRITICAL: 1, Lane.URGENT: 4}
    surge.run(600)
    assert surge.modes.mode is Mode.NORMAL
    assert surge.pending == 0
    assert max(surge.waits_s[Lane.CRITICAL]) <= 1.0
    # One way up and one way down, with at most one more turn while the thawed backlog competes.
    assert len(surge.changes) <= 6, [(change.mode.value, change.cause.value) for change in surge.changes]


def test_at_the_very_edge_of_capacity_half_an_hour_sees_few_changes() -> None:
    surge = Surge({Lane.CRITICAL: 4, Lane.URGENT: 16.1, Lane.ROUTINE: 1, Lane.BULK: 1}, 20)
    surge.run(1_800)
    assert len(surge.changes) <= 1_800 / POLICY.severe.dwell_s / 2
    assert max(surge.waits_s[Lane.CRITICAL]) <= 1.0


def test_nothing_starves_though_a_surge_does_not_end() -> None:
    policy = msgspec.structs.replace(POLICY, thaw=Thaw(120, 0.5))
    surge = Surge({Lane.CRITICAL: 4, Lane.URGENT: 18, Lane.BULK: 1}, 20, entities=100_000, policy=policy)
    surge.run(420)
    assert surge.modes.mode is Mode.SEVERE
    frozen_for_s = (surge.now - surge.changes[-1].at) / 1000
    assert len(surge.waits_s[Lane.BULK]) >= 0.4 * (frozen_for_s - 120)
    assert max(surge.waits_s[Lane.CRITICAL]) <= 1.0


def test_an_outage_is_recovered_from_and_the_end_of_it_is_told_once() -> None:
    surge = Surge({Lane.CRITICAL: 1, Lane.URGENT: 4, Lane.ROUTINE: 6, Lane.BULK: 4}, 20, entities=600)
    surge.run(60)
    surge.run(300, is_out=True)
    surge.run(300)
    assert surge.modes.mode is Mode.NORMAL
    modes = [change.mode for change in surge.changes]
    assert modes[0] is Mode.OUTAGE
    assert modes.count(Mode.OUTAGE) == 1
    assert [change.cause for change in surge.changes].count(Cause.DRAINED) == 1
    drained = next(change.at for change in surge.changes if change.cause is Cause.DRAINED)
    assert drained - (START + 360_000) <= 120_000
