"""What will be done to the pipeline in one run, and when: pure, from the seed."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.local.servers.faults import Fault, FaultKind

OWNER, REPLICA = "ehr-owner", "ehr-replica"
BROKER = "broker"
GATE, HTTP, MLLP, TIMERS = "gate", "http", "mllp", "timers"
WRITERS: Final = (f"writer-{OWNER}", f"writer-{REPLICA}")
ROLES: Final = (GATE, *WRITERS, HTTP, MLLP, TIMERS)
WEIGHTS: Final = (5, 3, 3, 3, 2, 1)
STATEFUL: Final = (GATE, *WRITERS)
WIPE_SHARE: Final = 0.4
"""Of the kills of a role that has a data folder."""
QUIET_S: Final = 3.0
"""At the load's beginning and end, as far as the load is long enough."""
KILLS_PER_FREEZE: Final = 8
MOST_FREEZES: Final = 12
"""However many kills: while a role is frozen it is killed no second time, and its kills come after that."""
FREEZE_S: Final = 14.0
"""Longer than the session, which is ten seconds on the local stack."""
REPLACED_AFTER_S: Final = 3.0
FAULTS_PER_S: Final = 1 / 40


class Deed(StrEnum):
    """What is done to a role."""

    KILL = "kill"
    """kill -9; restarted at once."""
    WIPE = "wipe"
    """kill -9, and its data folder is gone when it is restarted."""
    FREEZE = "freeze"
    """SIGSTOP past its session, then SIGCONT."""
    ZOMBIE = "zombie"
    """As FREEZE, but a replacement under its name is at work before it resumes."""
    BROKER = "broker"
    """kill -9 of the broker, and the same again."""


@dataclass(frozen=True, slots=True, order=True)
class Act:
    """One deed."""

    at_s: float
    deed: Deed
    role: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """One EHR misbehaves for a while."""

    at_s: float
    for_s: float
    destination: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class Plan:
    """Both, in the order of time."""

    acts: tuple[Act, ...]
    troubles: tuple[Trouble, ...]


def make_plan(seed: int, kills: int, span_s: float, per_role: int = 0, broker: int = 0) -> Plan:
    """`kills` kills of roles by chance, `per_role` of each beside them, `broker` of the broker, and some freezes, within the
    load's span. Wiping and EHR faults come with some seeds only."""
    chance = random.Random(f"plan {seed}")
    wipes, faults = chance.random() < 0.7, chance.random() < 0.7
    quiet_s = min(QUIET_S, span_s / 10)
    roles = [chance.choices(ROLES, WEIGHTS)[0] for _ in range(kills)] + [role for role in ROLES for _ in range(per_role)]
    acts = [_kill(chance, role, chance.uniform(quiet_s, span_s - quiet_s), wipes) for role in roles]
    acts += _freezes(chance, len(roles), span_s, quiet_s)
    acts += [Act(chance.uniform(quiet_s, span_s - quiet_s), Deed.BROKER, BROKER) for _ in range(broker)]
    return Plan(tuple(sorted(acts)), tuple(_troubles(chance, span_s)) if faults else ())


def _kill(chance: random.Random, role: str, at_s: float, wipes: bool) -> Act:
    wiped = wipes and role in STATEFUL and chance.random() < WIPE_SHARE
    return Act(at_s, Deed.WIPE if wiped else Deed.KILL, role)


def _freezes(chance: random.Random, kills: int, span_s: float, quiet_s: float) -> list[Act]:
    """One at a time and each followed by a pause: what is frozen is killed no second time meanwhile."""
    room = int((span_s - quiet_s) / (2 * FREEZE_S))
    count = min(room, MOST_FREEZES, max(chance.randrange(2), kills // KILLS_PER_FREEZE))
    slots = chance.sample(range(room), count)
    deeds = (Deed.FREEZE, Deed.ZOMBIE)
    return [Act(quiet_s + slot * 2 * FREEZE_S, chance.choice(deeds), chance.choice(STATEFUL)) for slot in slots]


def _troubles(chance: random.Random, span_s: float) -> list[Trouble]:
    count = max(1, round(span_s * FAULTS_PER_S))
    faults = (
        Fault(kind=FaultKind.RESET_AFTER_COMMIT, probability=0.2),
        Fault(kind=FaultKind.UNAVAILABLE, probability=0.5, retry_after_s=1),
        Fault(kind=FaultKind.SLOW_FACTOR, amount=8.0),
        Fault(kind=FaultKind.TRUNCATED, probability=0.1),
    )
    starts = sorted(chance.uniform(0, span_s * 0.85) for _ in range(count))
    return [Trouble(at, chance.uniform(4, 10), chance.choice((OWNER, REPLICA)), chance.choice(faults)) for at in starts]
