"""One EHR written by real deliveries while everything around them goes wrong, and what is done to them.

A writer (`hostile_writer`) can be killed, be told the same again, or be frozen at the moment before a request leaves,
replaced, and resumed long after. What it has to tell comes from a world (`hostile_worlds`); what the EHR shows in the end is
judged by `hostile_judge`.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from pipeline.destinations.fhir.build import Builder
from pipeline.domain.records import Accepted, Lane
from pipeline.formats.fhir.profile import Profile
from pipeline.local.servers.faults import Fault, FaultKind
from tests.chaos.clinician import Clinician, session
from tests.support.bundle_faults import OF_A_BATCH, BundleFaultProxy
from tests.support.fhir_lab import DIGEST_KEY
from tests.support.hostile_judge import Judge
from tests.support.hostile_worlds import Beds, Fact, Ward, World
from tests.support.hostile_writer import ATTEMPT_TIMEOUT_S, NOTHING, Freezable, Log, Snapshot, Writer

CATCH_S: Final = 45.0
"""Bound of the wait for a write that can be frozen, and for the successor that overtakes it."""
SETTLE_S: Final = 120.0
LIVES_ON_S: Final = 1.5
"""How long a resumed zombie goes on as if nothing had happened."""
BEDSIDES: Final = 2
LATELY: Final = 6
"""Of the entities that changed last so many are edited: that is where somebody else writes as well."""
BATCH_SHARE: Final = 0.5
WRITE_SHARE: Final = 0.1

FAULTS: Final = (
    Fault(kind=FaultKind.LATENCY, probability=0.05, amount=ATTEMPT_TIMEOUT_S * 1.5),
    Fault(kind=FaultKind.SLOW_FACTOR, probability=0.05, amount=4),
    Fault(kind=FaultKind.STALE_READ, probability=0.15, methods=("GET", "POST")),
    Fault(kind=FaultKind.STALE_READ, probability=0.05, methods=("GET", "POST"), amount=3),
    Fault(kind=FaultKind.RESET_AFTER_COMMIT, probability=0.08),
    Fault(kind=FaultKind.TRUNCATED, probability=0.06),
    Fault(kind=FaultKind.ERROR_IN_200, probability=0.06),
    Fault(kind=FaultKind.UNAVAILABLE, probability=0.03),
    Fault(kind=FaultKind.UNAVAILABLE, probability=0.02, retry_after_s=1, retry_after_as="date"),
    Fault(kind=FaultKind.TOO_MANY_REQUESTS, probability=0.03),
    Fault(kind=FaultKind.TOO_MANY_REQUESTS, probability=0.02, retry_after_s=1),
    Fault(kind=FaultKind.RESET_BEFORE, probability=0.04),
    Fault(kind=FaultKind.SLOW_FIRST_BYTE, probability=0.03, amount=ATTEMPT_TIMEOUT_S * 1.2),
)


Made = Callable[[str, Profile], Freezable]
"""A writer's destination: base address and profile."""


@dataclass
class Hostile:
    """One run. `counts` tells what was done to whom, so that a test can refuse a run in which nothing happened.

    `make` builds the destination of each writer; `ordered`: whether its writers vacate a bed before it is occupied.
    """

    base_url: str
    proxy: BundleFaultProxy
    profile: Profile
    seed: int
    world: World
    make: Made = Freezable
    ordered: bool = True
    log: Log = field(default_factory=Log)
    counts: Counter[str] = field(default_factory=Counter)
    struck: Counter[FaultKind] = field(default_factory=Counter)
    writers: list[Writer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(f"hostile {self.seed}")
        self.clinician = Clinician(self.base_url, self.profile.role, self.seed)
        self.judge = Judge(self.base_url, Builder(self.profile, DIGEST_KEY), self.log, self.clinician.log)
        self._stop = asyncio.Event()

    @property
    def live(self) -> Writer:
        """Who has the partition."""
        return self.writers[-1]

    # -- the run

    async def run(self, replays: int, kills: int, zombies: int, batch_share: float = BATCH_SHARE) -> None:
        """Publish, harm, and let the live writer finish without faults. TimeoutError if it doesn't."""
        deeds = [self._replay] * replays + [self._kill] * kills + [self._haunt] * zombies
        self._chance.shuffle(deeds)
        self.begin()
        async with session() as http:
            bedsides = [asyncio.create_task(self._bedside(http, number)) for number in range(BEDSIDES)]
            try:
                await self.until(lambda: bool(self.clinician.log.edits), "the clinician's first edit")
                self.proxy.faults.set(*FAULTS)
                self.proxy.batch_share, self.proxy.write_share = batch_share, WRITE_SHARE
                for deed in deeds:
                    await self._trouble(deed)
                self._pacify()
                if self.profile.bundle is not None:
                    await self._each_bundle_fault()
            finally:
                self._pacify()
                self._stop.set()
                await asyncio.gather(*bedsides)
        await self.settled()

    def begin(self) -> None:
        """A first writer, and what there is at first."""
        self._succeed(NOTHING)
        self.publish(self.world.first())

    async def settled(self) -> None:
        """Everything is confirmed at its head, as far as the live writer knows."""
        await self.until(self._is_settled, "every entity confirmed at its head")

    async def problems(self) -> list[str]:
        """Everything that the EHR shows and must not."""
        faults = [f"writer {number}: {fault} inside" for number, writer in enumerate(self.writers) for fault in writer.faults]
        return faults + await self.judge.problems()

    def publish(self, facts: list[Fact], lane: Lane | None = None) -> list[Accepted]:
        """The gate accepts them, in this order."""
        self.counts["revisions"] += len(facts)
        return [self.log.publish(*fact, lane or self._chance.choice(list(Lane))) for fact in facts]

    async def _trouble(self, deed: Callable[[], Any]) -> None:
        for _ in range(self._chance.randint(1, 4)):
            self.publish(self.world.next())
            await asyncio.sleep(self._chance.uniform(0, 0.5))
        done = deed()
        if done is not None:
            await done
        self.publish(self.world.next())

    async def _each_bundle_fault(self) -> None:
        """Whole bundles, and each fault of one in its turn, until it has struck."""
        self.proxy.batch_share = 0.7
        for fault in dict.fromkeys(OF_A_BATCH):
            self.proxy.only, before = fault, self.proxy.struck[fault]
            await self.until(lambda: self.proxy.struck[fault] > before or self._publish_all(), fault.value, CATCH_S, 0.3)  # noqa: B023

    def _publish_all(self) -> bool:
        self.publish(self.world.first(), Lane.ROUTINE)
        return False

    def _pacify(self) -> None:
        for report in self.proxy.faults.report():
            self.struck[report.fault.kind] += report.struck
        self.proxy.faults.clear()
        self.proxy.pacify()

    def _publish_more(self) -> bool:
        self.publish(self.world.next())
        return False

    def _is_settled(self) -> bool:
        return all(
            (row := self.live.rows.get(key)) is not None and row.confirmed == head.revision
            for key, head in self.log.heads.items()
        )

    async def _bedside(self, http: aiohttp.ClientSession, number: int) -> None:
        """She edits the same resources, past the proxy: what she saved was answered to her."""
        chance = random.Random(f"bedside {self.seed} {number}")
        while not self._stop.is_set():
            lately = self.log.lately(LATELY) if chance.random() < 0.7 else list(self.log.heads.values())
            found = await self.judge.shown(http, chance.choice(lately))
            if found:
                await self.clinician.edit(http, f"{found[0]['resourceType']}/{found[0]['id']}")
            await asyncio.sleep(chance.uniform(0, 0.3))

    # -- the deeds

    def _succeed(self, start: Snapshot) -> None:
        destination = self.make(self.proxy.url, self.profile)
        name = f"ehr/{len(self.writers)}"
        self.writers.append(Writer(name, self.log, start, destination, random.Random(f"{self.seed} {name}"), self.ordered))

    def _replay(self) -> None:
        self.live.seek_back()
        self.counts["replays"] += 1

    async def _kill(self) -> None:
        killed = self.live
        await killed.end()
        self._succeed(self._chance.choice([*killed.snapshots, NOTHING]))
        self.counts["kills"] += 1

    async def _haunt(self) -> None:
        """Freeze a writer with a write in its hands, let another overtake that write, and resume the first."""
        zombie = self.live
        zombie.destination.catching = True
        held = zombie.destination.caught
        await self.until(lambda: bool(held) or self._publish_more(), "a write to freeze", CATCH_S, 0.3)
        zombie.destination.running.clear()
        self._succeed(self._chance.choice(zombie.snapshots))
        overtaken = held[0].write.accepted
        (newer,) = self.publish([self.world.again(overtaken.entity_type, overtaken.entity_id)], Lane.CRITICAL)
        await self.until(lambda: self.log.confirmed(newer), "the successor to overtake", CATCH_S * 2)
        self.counts["held"] += len(held)
        zombie.destination.resume()
        await asyncio.sleep(LIVES_ON_S)
        await zombie.end()
        self.counts["zombies"] += 1

    async def until(self, holds: Callable[[], bool], what: str, within_s: float = SETTLE_S, every_s: float = 0.05) -> None:
        """TimeoutError with the seed if it doesn't come to hold."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                said = Counter((outcome.kind.value, outcome.reason.value) for _, outcome in self.log.outcomes)
                raise TimeoutError(f"seed {self.seed}: no {what} within {within_s:g} s; {dict(self.counts)} {dict(said)}")
            await asyncio.sleep(every_s)


@asynccontextmanager
async def hostile(
    base_url: str, profile: Profile, seed: int, beds: int = 4, *, ward: bool = False, make: Made = Freezable, ordered: bool = True
) -> AsyncIterator[Hostile]:
    """A run at one server, with beds alone or a whole ward; its writers end with it."""
    run, chance = f"HOSTILE{uuid.uuid4().hex[:8]}", random.Random(f"world {seed}")
    world: World = Ward(run, chance, beds) if ward else Beds(run, chance, beds)
    async with BundleFaultProxy(base_url, seed) as proxy:
        made = Hostile(base_url, proxy, profile, seed, world, make, ordered)
        try:
            yield made
        finally:
            for writer in made.writers:
                with contextlib.suppress(Exception):
                    await writer.end()
