"""Error budgets: how many changes may come late or be lost, how fast that is used up, and the incident that opens. Pure.

Alerts look at a long and a short window at once, each with several burn rates (Google's Site Reliability Workbook, chapter 5,
"Multiwindow, Multi-Burn-Rate Alerts"): the long one says that it matters, the short one that it still goes on.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pipeline.domain.event import Described, Time
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.policy import BadPolicy, Version
from pipeline.domain.records import Lane

LOSS: Final = "loss"
"""Objective of what reconciliation had to repair; the others have the names of their lanes."""

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
MINUTES_KEPT_S: Final = 6 * 3600
"""Windows up to this are counted by the minute, longer ones by the hour."""

Share = Annotated[float, Meta(gt=0, lt=1, description="of all changes")]
WindowS = Annotated[int, Meta(ge=60, le=30 * 86_400, description="seconds")]


class IncidentKind(Described):
    """Why an incident is open."""

    BURNING_FAST = "BURNING_FAST", "at this pace the budget is gone within days: somebody looks at once"
    BURNING_SLOWLY = "BURNING_SLOWLY", "at this pace the budget does not last: somebody looks this week"
    EXHAUSTED = "EXHAUSTED", "the budget of the whole period is used up"


class Delay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the changes of a lane, `share` are confirmed within `within_s` of their receipt."""

    lane: Lane
    within_s: Annotated[float, Meta(gt=0, le=86_400, description="seconds")]
    share: Share


class Burn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An alert: both windows burn the budget at least `factor` times as fast as would use it up in the whole period."""

    kind: IncidentKind
    long_s: WindowS
    short_s: WindowS
    factor: Annotated[float, Meta(gt=0, le=10_000)]


class BudgetsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`budgets.yaml`: objectives, and when using them up is an incident."""

    version: Version
    period_days: Annotated[int, Meta(ge=1, le=30)]
    delay: Annotated[tuple[Delay, ...], Meta(min_length=1)]
    loss_share: Share
    at_least: Annotated[int, Meta(ge=1, le=1_000_000, description="changes in the long window; fewer say nothing")]
    burn: Annotated[tuple[Burn, ...], Meta(min_length=1)]
    calm_s: Annotated[int, Meta(ge=60, le=86_400, description="an incident ends once it was calm for so long")]
    reconcile_every_s: Annotated[
        int, Meta(ge=60, le=7 * 86_400, description="an incident starts a reconciliation at most so often")
    ]

    def share_of(self, objective: str) -> float:
        """Share that an objective asks for; `objective` is a lane or LOSS."""
        return self.loss_share if objective == LOSS else self.delay_of(Lane(objective)).share

    def delay_of(self, lane: Lane) -> Delay:
        """Objective of a lane; the check of the file made sure that there is one."""
        return next(each for each in self.delay if each.lane is lane)


def budgets_from(document: Mapping[str, object]) -> BudgetsFile:
    """From the parsed file; BadPolicy lists what is wrong with it."""
    try:
        policy = msgspec.convert(document, BudgetsFile)
    except msgspec.ValidationError as error:
        raise BadPolicy([f"budgets.yaml: {error}"]) from None
    problems = [f"delay: {lane.value} is there {n} times, not once" for lane in Lane if (n := _times(policy, lane)) != 1]
    for number, burn in enumerate(policy.burn, 1):
        if burn.short_s >= burn.long_s:
            problems.append(f"burn.{number}.short_s: not shorter than long_s")
        if burn.kind is IncidentKind.EXHAUSTED:
            problems.append(f"burn.{number}.kind: EXHAUSTED follows from the budget itself")
        if burn.long_s > policy.period_days * 86_400:
            problems.append(f"burn.{number}.long_s: longer than the period")
    if problems:
        raise BadPolicy([f"budgets.yaml: {problem}" for problem in problems])
    return policy


def _times(policy: BudgetsFile, lane: Lane) -> int:
    return sum(each.lane is lane for each in policy.delay)


# -- counting


@dataclass(frozen=True, slots=True)
class Count:
    """Changes, and those of them that missed the objective."""

    total: int = 0
    bad: int = 0


class Tally:
    """Counts of one objective by the minute and by the hour; what is older than the period is forgotten."""

    def __init__(self, minutes: Mapping[int, Count] | None = None, hours: Mapping[int, Count] | None = None) -> None:
        self._minutes = dict(minutes or {})
        self._hours = dict(hours or {})

    def add(self, at: Millis, total: int, bad: int) -> None:
        """Count changes that ended at a time."""
        for counts, unit in ((self._minutes, at // MINUTE_MS), (self._hours, at // HOUR_MS)):
            before = counts.get(unit, Count())
            counts[unit] = Count(before.total + total, before.bad + bad)

    def within(self, now: Millis, window_s: float) -> Count:
        """What ended in the window before `now`, whole minutes or hours."""
        counts, unit_ms = (self._minutes, MINUTE_MS) if window_s <= MINUTES_KEPT_S else (self._hours, HOUR_MS)
        first = (now - int(window_s * 1000)) // unit_ms
        picked = [count for unit, count in counts.items() if first < unit <= now // unit_ms]
        return Count(sum(each.total for each in picked), sum(each.bad for each in picked))

    def forget(self, now: Millis, period_days: int) -> None:
        """Drop what no window reaches any more."""
        for counts, oldest in (
            (self._minutes, (now - MINUTES_KEPT_S * 1000) // MINUTE_MS),
            (self._hours, (now - period_days * 24 * HOUR_MS) // HOUR_MS),
        ):
            for unit in [unit for unit in counts if unit < oldest]:
                del counts[unit]

    def encode(self) -> bytes:
        """For the state: JSON, two lists of [unit, total, bad]."""
        said = [
            [[unit, each.total, each.bad] for unit, each in sorted(counts.items())] for counts in (self._minutes, self._hours)
        ]
        return msgspec.json.encode(said)

    @classmethod
    def decode(cls, data: bytes) -> "Tally":
        """Inverse of `encode`; msgspec.DecodeError."""
        minutes, hours = msgspec.json.decode(data, type=tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]])
        return cls(*({unit: Count(total, bad) for unit, total, bad in counts} for counts in (minutes, hours)))


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted of one objective at one destination, and how far `outcomes` was read for it."""

    destination: Annotated[str, Meta(description="destination")]
    objective: Annotated[str, Meta(description="lane of a delay, or loss")]
    counts: Annotated[bytes, Meta(description="changes by the minute and by the hour: JSON of pipeline.domain.budgets.Tally")]
    read: Annotated[dict[str, int], Meta(description="offset of outcomes to be read next, by partition")] = {}
    late: Annotated[dict[str, int], Meta(description="counted as late while still open: digest of the entity, since when")] = {}
    at: Annotated[Time, Meta(description="when it was written")]


# -- judging


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one objective stands. `burns` are those kinds that hold, `smoulders` those that aren't calm yet.

    `used`: part of the period's budget that is gone, 1.0 for all of it. `rates`: burn rate by window in seconds.
    """

    objective: str
    count: Count
    used: float
    rates: Mapping[int, float]
    burns: frozenset[IncidentKind] = frozenset()
    smoulders: frozenset[IncidentKind] = frozenset()


CALM_PART: Final = 0.5
"""An alert is calm once its short window burns slower than this part of its factor."""

CALM_USED: Final = 0.95
"""An exhausted budget counts as back once less than this is used."""


def judge(policy: BudgetsFile, objective: str, tally: Tally, now: Millis) -> Verdict:
    """How an objective stands at `now`."""
    allowed = 1 - policy.share_of(objective)
    whole = tally.within(now, policy.period_days * 86_400)
    used = whole.bad / (whole.total * allowed) if whole.total else 0.0
    rates: dict[int, float] = {}
    burns, smoulders = set[IncidentKind](), set[IncidentKind]()
    for burn in policy.burn:
        long, short = tally.within(now, burn.long_s), tally.within(now, burn.short_s)
        rates[burn.long_s], rates[burn.short_s] = _rate(long, allowed), _rate(short, allowed)
        if long.total >= policy.at_least and min(rates[burn.long_s], rates[burn.short_s]) >= burn.factor:
            burns.add(burn.kind)
        if rates[burn.short_s] >= burn.factor * CALM_PART and rates[burn.long_s] >= burn.factor * CALM_PART:
            smoulders.add(burn.kind)
    if whole.total >= policy.at_least and used >= 1:
        burns.add(IncidentKind.EXHAUSTED)
    if used >= CALM_USED:
        smoulders.add(IncidentKind.EXHAUSTED)
    return Verdict(objective, whole, used, rates, frozenset(burns), frozenset(smoulders | burns))


def _rate(count: Count, allowed: float) -> float:
    return count.bad / count.total / allowed if count.total else 0.0


# -- incidents


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """How far the telling of an incident's start or end is."""

    attempts: Annotated[int, Meta(description="attempts so far")] = 0
    next_at: Annotated[Time, Meta(description="not tried again before")] = Millis(0)
    done: Annotated[bool, Meta(description="told, given up, or there is nobody to tell")] = False


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A budget is exhausted or burns at a destination; one record of the newest state per incident."""

    incident_id: Annotated[str, Meta(description="derived id, 32 hexadecimal digits")]
    destination: Annotated[str, Meta(description="destination")]
    kind: Annotated[IncidentKind, Meta(description="why it is open")]
    opened_at: Annotated[Time, Meta(description="when it opened")]
    closed_at: Annotated[Time | None, Meta(description="when it ended")] = None
    objectives: Annotated[tuple[str, ...], Meta(description="objectives that opened it: lanes, loss")]
    figures: Annotated[dict[str, float], Meta(description="figures at its start, by name")] = {}
    reconciled: Annotated[bool, Meta(description="a reconciliation was ordered for it")] = False
    start: Annotated[Telling, Meta(description="telling its start")] = Telling()
    end: Annotated[Telling, Meta(description="telling its end")] = Telling()


MAX_TELLINGS: Final = 8
FIRST_WAIT_MS: Final = 2_000
LONGEST_WAIT_MS: Final = 600_000


def after_attempt(telling: Telling, was_taken: bool, now: Millis) -> Telling:
    """After one attempt to tell: done, again later (2 s, doubling to 10 min), or given up after MAX_TELLINGS."""
    attempts = telling.attempts + 1
    wait_ms = min(FIRST_WAIT_MS << (attempts - 1), LONGEST_WAIT_MS)
    return Telling(attempts=attempts, next_at=Millis(now + wait_ms), done=was_taken or attempts >= MAX_TELLINGS)


def incident_id(destination: str, kind: IncidentKind, opened_at: Millis) -> str:
    """Derived, so that telling it again names the same."""
    return hashlib.sha256(f"{destination}|{kind.value}|{opened_at}".encode()).hexdigest()[:32]


@dataclass(slots=True)
class Watch:
    """Opens and ends the incidents of one destination: of each kind at most one is open, whatever objectives are behind it."""

    destination: str
    can_reconcile: bool = True
    open: dict[IncidentKind, Incident] = field(default_factory=dict)
    reconciled_at: Millis | None = None
    _calm_since: dict[IncidentKind, Millis] = field(default_factory=dict)

    def take_up(self, incident: Incident) -> None:
        """What an earlier process left: nothing is opened or ordered twice."""
        if incident.reconciled:
            self.reconciled_at = max(self.reconciled_at or Millis(0), incident.opened_at)
        if incident.closed_at is None:
            self.open[incident.kind] = incident
        elif self.open.get(incident.kind, incident).incident_id == incident.incident_id:
            self.open.pop(incident.kind, None)

    def judge(self, policy: BudgetsFile, verdicts: Sequence[Verdict], now: Millis) -> list[Incident]:
        """Incidents that open or end by these verdicts, to be made durable before anybody is told."""
        changed: list[Incident] = []
        for kind in IncidentKind:
            burning = tuple(each for each in verdicts if kind in each.burns)
            held = self.open.get(kind)
            if held is None and burning:
                changed.append(self._opened(policy, kind, burning, now))
            elif held is not None and self._is_calm(policy, kind, verdicts, now):
                changed.append(msgspec.structs.replace(held, closed_at=now))
                del self.open[kind]
        return changed

    def _opened(self, policy: BudgetsFile, kind: IncidentKind, burning: Iterable[Verdict], now: Millis) -> Incident:
        waited = self.reconciled_at is None or now - self.reconciled_at >= policy.reconcile_every_s * 1000
        due = self.can_reconcile and waited
        figures: dict[str, float] = {}
        objectives = []
        for each in burning:
            objectives.append(each.objective)
            figures[f"{each.objective}_used"] = round(each.used, 4)
            figures[f"{each.objective}_bad"] = float(each.count.bad)
            figures |= {f"{each.objective}_burn_{window}s": round(rate, 2) for window, rate in each.rates.items()}
        opened = Incident(
            incident_id=incident_id(self.destination, kind, now),
            destination=self.destination,
            kind=kind,
            opened_at=now,
            objectives=tuple(objectives),
            figures=figures,
            reconciled=due,
        )
        self.open[kind] = opened
        self._calm_since.pop(kind, None)
        if due:
            self.reconciled_at = now
        return opened

    def _is_calm(self, policy: BudgetsFile, kind: IncidentKind, verdicts: Iterable[Verdict], now: Millis) -> bool:
        if any(kind in each.smoulders for each in verdicts):
            self._calm_since.pop(kind, None)
            return False
        return now - self._calm_since.setdefault(kind, now) >= policy.calm_s * 1000
