"""An EHR that is restored from a backup gives version numbers twice; a condition on one must not hold against another's write."""

import asyncio
import copy

from hypothesis import given
from hypothesis import strategies as st

from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    Outcome,
    PendingWrite,
    Refused,
    Request,
    Retry,
    VersionMismatch,
)
from pipeline.domain.identifiers import Revision, revision_of
from pipeline.domain.records import OutcomeKind, Reason
from pipeline.stream.writing.contact import MAX_SILENCE_MS
from tests.support.changes import change, key_of
from tests.unit.stream.test_delivery import World

ENTITIES = ("A", "B", "C")
HERS = Revision(0)
"""A clinician's version carries no revision here, as if she had taken our mark away too."""


class Hospital(World):
    """A delivery, an EHR with backups, and a clinician. `overwritten` counts her versions that ours replaced unread."""

    def __init__(self) -> None:
        super().__init__(threshold=3, max_attempts=50)
        self.backup: dict[str, tuple[int, Revision, str]] = {}
        self.seen: dict[str, str] = {}
        self.overwritten = 0
        self.offset = 0
        self._read, self._apply = self.ehr.read, self.ehr.apply
        self.ehr.read = self._reading  # type: ignore[method-assign]
        self.ehr.apply = self._applying  # type: ignore[method-assign]

    async def _reading(self, write: PendingWrite) -> Current | Absent | Refused | Retry:
        current = await self._read(write)
        if isinstance(current, Current | Absent):
            self.seen[write.accepted.entity_id] = self._state(write.accepted.entity_id)
        return current

    def _applying(self, request: Request) -> Outcome:
        stood = self._state(request.target)
        outcome = self._apply(request)
        if isinstance(outcome, Confirmed):
            self.overwritten += stood.startswith("hers") and stood != self.seen.get(request.target, "")
            self.seen[request.target] = self._state(request.target)
        return outcome

    def _state(self, entity: str) -> str:
        known = self.ehr.resources.get(entity)
        return known[2] if known else ""

    def back_up(self) -> None:
        self.backup = copy.deepcopy(self.ehr.resources)

    def restore(self) -> None:
        self.ehr.resources = copy.deepcopy(self.backup)

    def save(self, entity: str, number: int) -> None:
        """The clinician saves: the next version number, with what is hers in it."""
        version, revision, _ = self.ehr.resources.get(entity, (0, HERS, ""))
        self.ehr.resources[entity] = version + 1, revision, f"hers {number}"

    async def away(self, way: str) -> None:
        """An outage: met by a connection that is refused or cut off, by what a balancer says in its place, or by nobody."""
        match way:
            case "quiet":
                self.clock.now += MAX_SILENCE_MS + 1
                return
            case "elsewhere":
                await self.answered_for("B", "C")
                return
            case "refused":
                self.ehr.answers = [Retry(Reason.CONNECTION)]
            case "cut":
                self.ehr.answers = [Ambiguous(Reason.CONNECTION)]
            case _:
                self.ehr.answers = [Retry(Reason.UNAVAILABLE)] * 3
        await self.write("D")

    async def answered_for(self, *entities: str) -> None:
        """A proxy says 404 to everything for longer than a silence may last, while now and then something is written."""
        for entity in entities:
            self.clock.now += MAX_SILENCE_MS * 2 // 3
            self.ehr.answers, self.ehr.reads = [VersionMismatch()] * 9, [Retry(Reason.UNAVAILABLE)] * 9
            self.offset += 1
            self.accept(change(self.offset, entity))
            await self.run()
            self.read_outcomes()
        self.ehr.answers, self.ehr.reads = [], []

    async def write(self, entity: str) -> None:
        self.offset += 1
        self.accept(change(self.offset, entity))
        await self.live()


def restored_with_numbers_used_again(world: Hospital) -> None:
    """The backup holds version 1; ours made 2 and 3; after the restore the clinician makes 2 and 3."""
    world.restore()
    world.save("A", 1)
    world.save("A", 2)
    assert world.ehr.resources["A"][0] == 3


async def written_thrice() -> Hospital:
    world = Hospital()
    await world.write("A")
    world.back_up()
    await world.write("A")
    await world.write("A")
    assert (world.ehr.resources["A"][0], world.ehr.read_count) == (3, 1), "the bodies of our writes save the reads"
    return world


async def test_after_an_outage_nothing_that_was_kept_is_written_on() -> None:
    world = await written_thrice()
    await world.away("unavailable")
    restored_with_numbers_used_again(world)
    await world.write("A")
    assert world.overwritten == 0
    assert world.ehr.read_count > 2


async def test_one_refused_connection_is_enough_for_a_server_that_began_anew() -> None:
    world = await written_thrice()
    await world.away("refused")
    restored_with_numbers_used_again(world)
    await world.write("A")
    assert world.overwritten == 0


async def test_one_connection_that_is_cut_off_in_the_midst_of_a_write_is_enough_too() -> None:
    world = await written_thrice()
    await world.away("cut")
    restored_with_numbers_used_again(world)
    await world.write("A")
    assert world.overwritten == 0


async def test_who_answers_in_the_place_of_an_ehr_is_not_heard_as_that_ehr() -> None:
    """A body that was kept is tried each time, and what says 404 to that begins no new minute of trust."""
    world = await written_thrice()
    world.breaker.threshold = 100  # nothing but the silence is to tell
    await world.write("B")
    await world.write("C")
    await world.away("elsewhere")
    restored_with_numbers_used_again(world)
    await world.write("A")
    assert world.overwritten == 0
    assert world.table.rows[key_of("A")].confirmed == revision_of(1, world.offset)


async def test_an_outage_that_nobody_met_because_nothing_was_written_counts_as_one() -> None:
    world = await written_thrice()
    await world.away("quiet")
    restored_with_numbers_used_again(world)
    await world.write("A")
    assert world.overwritten == 0


async def test_a_clock_that_was_set_back_makes_no_silence_shorter() -> None:
    world = await written_thrice()
    world.clock.set_back(3_600_000)
    restored_with_numbers_used_again(world)
    await world.write("A")
    assert world.overwritten == 0
    assert len(world.ehr.history) == 4, "it is written, and not held by the clock"


async def test_a_resource_that_shows_less_than_it_did_gives_the_restore_away_for_all_others() -> None:
    world = Hospital()
    for _ in range(2):
        await world.write("A")
        await world.write("B")
        if not world.backup:
            world.back_up()
    world.restore()
    world.save("A", 1)
    world.save("B", 1)
    world.save("B", 2)  # of B the number is another one by now, and her version shows an older revision
    await world.write("B")
    await world.write("A")
    assert world.overwritten == 0


async def test_a_write_that_is_on_its_way_to_its_turn_when_the_outage_is_noticed_reads_anew() -> None:
    world = await written_thrice()
    waited = False

    async def turn(critical: bool) -> None:
        nonlocal waited
        if not waited:
            waited = True
            world.delivery._contact.lost()
            restored_with_numbers_used_again(world)

    world.delivery.throttle.pace = turn  # type: ignore[method-assign]
    await world.write("A")
    assert waited
    assert world.overwritten == 0


async def test_a_confirmation_from_before_the_outage_that_is_learnt_of_after_it_is_not_kept() -> None:
    world = await written_thrice()

    async def answered_late() -> Outcome:
        confirmed = Confirmed("A", "4", Revision(0))
        world.delivery._contact.lost()
        return confirmed

    world.ehr.answers = [answered_late]
    await world.write("A")
    assert world.ledger.kinds()[-1] is OutcomeKind.CONFIRMED
    assert len(world.delivery._bodies) == 0


async def test_a_busy_destination_that_stays_is_read_once() -> None:
    world = Hospital()
    for _ in range(50):
        await world.write("A")
        world.clock.now += MAX_SILENCE_MS
    assert world.ehr.read_count == 1


STEP = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(ENTITIES)),
    st.tuples(st.just("save"), st.sampled_from(ENTITIES)),
    st.tuples(st.just("pass"), st.integers(0, 2 * MAX_SILENCE_MS)),
    st.tuples(st.just("back up"), st.none()),
    st.tuples(st.just("restore"), st.sampled_from(["refused", "cut", "unavailable", "elsewhere", "quiet"])),
)


@given(st.lists(STEP, max_size=24))
def test_however_often_it_is_restored_no_version_of_hers_is_written_over_unread(steps: list[tuple[str, object]]) -> None:
    asyncio.run(lived_through(steps))


async def lived_through(steps: list[tuple[str, object]]) -> None:
    world = Hospital()
    for number, (what, of) in enumerate(steps):
        match what, of:
            case "write", str(entity):
                await world.write(entity)
            case "save", str(entity):
                world.save(entity, number)
            case "pass", int(ms):
                world.clock.now += ms
            case "back up", _:
                world.back_up()
            case "restore", str(way):
                await world.away(way)
                world.restore()
                await world.live()
    assert world.overwritten == 0
    assert not world.observer.faults
