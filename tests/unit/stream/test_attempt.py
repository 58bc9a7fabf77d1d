"""One attempt at one revision: each answer of a destination and what it amounts to."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    Newer,
    NotApplied,
    Outcome,
    PendingWrite,
    ReadBack,
    Refused,
    Request,
    Retry,
    Suppressed,
    Unknown,
    VersionMismatch,
)
from pipeline.domain.identifiers import NO_REVISION, Millis, revision_of
from pipeline.domain.records import Accepted, OutcomeKind, Reason, Would
from pipeline.domain.writing.pending import on_accepted
from pipeline.stream.writing.attempt import READ_BACKS, REREADS, Attempt, Verdict
from pipeline.stream.writing.contact import Contact
from tests.support.changes import change, encoded, key_of

NEWEST = change(9)
OLD = Current("r", "W/1", {"a": 1}, revision_of(1, 4), "4" * 16)
Read = Current | Absent | Refused | Retry


class Room:
    """A destination and the delivery around it; each list is answered from its beginning, its last answer for ever."""

    name = "ehr"
    role = "replica"
    delivery = "latest"

    def __init__(self) -> None:
        self.clock = 1_000
        self.timeout_ms = 10_000
        self.ours = True
        self.kept: Current | None = None
        self.contact = Contact(self.now, self._nothing_holds)
        self.reads: list[Read] = [OLD]
        self.builds: list[Request | Suppressed | Refused] = []
        self.sends: list[Outcome | Callable[[], Awaitable[Outcome]]] = [Confirmed("r", "W/2", NEWEST.revision)]
        self.read_backs: list[ReadBack] = [NotApplied()]
        self.calls: list[str] = []
        self.deadlines: list[Millis] = []
        self.method = "PUT"
        self.pace_ms = 0
        self.pause = 0.0
        self.flags = [True]
        self.differing: tuple[str, ...] = ("environment",)

    @property
    def destination(self) -> "Room":
        return self

    def now(self) -> Millis:
        return Millis(self.clock)

    def deadline(self) -> Millis:
        return Millis(self.clock + self.timeout_ms)

    def pause_s(self) -> float:
        return self.pause

    async def pace(self, critical: bool) -> None:
        self.clock += self.pace_ms

    def may_write(self, accepted: Accepted) -> bool:
        return self.flags.pop(0) if len(self.flags) > 1 else self.flags[0]

    def cached(self, key: bytes) -> Current | None:
        return self.kept

    def forget(self, key: bytes) -> None:
        self.calls.append("forget")
        self.kept = None

    def _nothing_holds(self) -> None:
        self.calls.append("nothing holds")
        self.kept = None

    def expects(self, accepted: Accepted) -> bool:
        return True

    async def read(self, write: PendingWrite) -> Read:
        self.calls.append("read")
        return self._next(self.reads)

    def build(self, write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        return self._next(self.builds) if self.builds else Request(write, self.method, "t", (), {"b": 2})

    def differences(self, write: PendingWrite, current: Current | Absent) -> tuple[str, ...]:
        return self.differing

    async def send(self, request: Request) -> Outcome:
        self.calls.append("send")
        self.deadlines.append(request.write.deadline_at)
        answer = self._next(self.sends)
        return await answer() if callable(answer) else answer

    async def read_back(self, request: Request) -> ReadBack:
        self.calls.append("read_back")
        return self._next(self.read_backs)

    async def close(self) -> None:
        """Nothing is open."""

    @staticmethod
    def _next(answers: list) -> object:  # type: ignore[type-arg]
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def attempted(room: Room) -> Verdict | None:
    pending = on_accepted(None, NEWEST, encoded(NEWEST), 60)
    assert pending is not None
    return await Attempt(room, key_of("A"), lambda: room.ours, pending, NEWEST).run()  # type: ignore[arg-type]


async def test_what_was_taken_back_before_it_was_sent_has_no_verdict() -> None:
    room = Room()
    room.sends = [Retry(Reason.NONE)]
    assert await attempted(room) is None
    assert room.calls == ["read", "send"]


async def verdict_of(room: Room) -> Verdict:
    verdict = await attempted(room)
    assert verdict is not None
    return verdict


async def test_read_then_written_is_confirmed_with_what_was_shown_before_and_what_is_shown_now() -> None:
    room = Room()
    verdict = await verdict_of(room)
    assert room.calls == ["read", "send"]
    assert (verdict.kind, verdict.shown, verdict.shown_hash) == (OutcomeKind.CONFIRMED, OLD.revision, "4" * 16)
    assert verdict.current == Current("r", "W/2", {"b": 2}, NEWEST.revision, NEWEST.state_hash)


async def test_the_body_of_the_last_write_saves_the_read() -> None:
    room = Room()
    room.kept = OLD
    assert (await verdict_of(room)).kind is OutcomeKind.CONFIRMED
    assert room.calls == ["send"]


async def test_a_body_that_is_out_of_date_is_forgotten_and_read() -> None:
    room = Room()
    room.kept = OLD
    room.sends = [VersionMismatch(), Confirmed("r", "W/3", NEWEST.revision)]
    assert (await verdict_of(room)).kind is OutcomeKind.CONFIRMED
    assert room.calls == ["send", "forget", "read", "send"]


async def test_a_body_that_was_kept_confirms_nothing_only_what_is_read_does() -> None:
    room = Room()
    room.kept = OLD
    room.builds = [Suppressed(Reason.ALREADY_THERE, NEWEST.revision)]
    assert (await verdict_of(room)).kind is OutcomeKind.CONFIRMED
    assert room.calls == ["forget", "read"]


async def test_a_repair_finds_what_somebody_wrote_though_the_body_that_was_kept_agrees() -> None:
    """Where no revision travels: and a read that shows none is no reason to trust nothing else that was kept."""
    room = Room()
    kept = room.kept = Current("r", "W/1", {"a": 1}, revision_of(1, 8), "8" * 16)
    room.reads = [Current("r", "W/2", {"a": 7}, NO_REVISION, None)]

    def build(write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        if current is kept:
            return Suppressed(Reason.ALREADY_THERE, NEWEST.revision)
        return Request(write, "PUT", "t", (), {"b": 2})

    room.build = build  # type: ignore[method-assign]
    assert (await verdict_of(room)).kind is OutcomeKind.CONFIRMED
    assert room.calls == ["forget", "read", "send"]


async def test_rereading_is_bounded() -> None:
    room = Room()
    room.sends = [VersionMismatch()]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason) == (OutcomeKind.FAILED, Reason.VERSION_MISMATCH)
    assert room.calls.count("send") == REREADS + 1


async def test_only_a_replaced_body_is_kept() -> None:
    room = Room()
    room.method = "POST"
    assert (await verdict_of(room)).current is None


@pytest.mark.parametrize(
    ("read", "kind", "reason"),
    [
        (Refused(Reason.REFUSED_GONE), OutcomeKind.PARKED, Reason.REFUSED_GONE),
        (Retry(Reason.UNAVAILABLE, 7.0), OutcomeKind.FAILED, Reason.UNAVAILABLE),
    ],
)
async def test_a_read_that_gives_nothing_ends_the_attempt(read: Read, kind: OutcomeKind, reason: Reason) -> None:
    room = Room()
    room.reads = [read]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason) == (kind, reason)
    assert verdict.after_s == (7.0 if isinstance(read, Retry) else 0.0)
    assert room.calls == ["read"]


@pytest.mark.parametrize(
    ("built", "kind"),
    [
        (Suppressed(Reason.ALREADY_THERE, NEWEST.revision), OutcomeKind.CONFIRMED),
        (Suppressed(Reason.NEWER_AT_DESTINATION, revision_of(1, 99)), OutcomeKind.FAILED),
        (Suppressed(Reason.RESERVATION_UNTELLABLE, NO_REVISION), OutcomeKind.PARKED),
        (Refused(Reason.REFUSED_MISSING), OutcomeKind.PARKED),
    ],
)
async def test_what_need_not_or_may_not_be_written_is_not_sent(built: Suppressed | Refused, kind: OutcomeKind) -> None:
    room = Room()
    room.builds = [built]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason) == (kind, built.reason)
    assert room.calls == ["read"]


async def test_nothing_absent_is_taken_for_already_there() -> None:
    room = Room()
    room.reads = [Absent()]
    room.builds = [Suppressed(Reason.ALREADY_THERE, NEWEST.revision)]
    assert (await verdict_of(room)).kind is OutcomeKind.PARKED


@pytest.mark.parametrize(
    ("answers", "kind", "reason", "asked"),
    [
        ([Confirmed("r", "W/2", NEWEST.revision)], OutcomeKind.CONFIRMED, Reason.NONE, 1),
        ([NotApplied()], OutcomeKind.FAILED, Reason.AMBIGUOUS, 1),
        ([Absent()], OutcomeKind.FAILED, Reason.AMBIGUOUS, 1),
        ([Newer(revision_of(1, 50))], OutcomeKind.FAILED, Reason.NEWER_AT_DESTINATION, 1),
        ([Unknown(Reason.TIMEOUT)], OutcomeKind.FAILED, Reason.AMBIGUOUS, READ_BACKS),
        ([Unknown(Reason.TIMEOUT), Confirmed("r", None, NEWEST.revision)], OutcomeKind.CONFIRMED, Reason.NONE, 2),
    ],
)
async def test_an_unanswered_write_is_read_back_and_never_sent_again_in_the_same_attempt(
    answers: list[ReadBack], kind: OutcomeKind, reason: Reason, asked: int
) -> None:
    room = Room()
    room.sends, room.read_backs = [Ambiguous()], answers
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason) == (kind, reason)
    assert room.calls.count("send") == 1
    assert room.calls.count("read_back") == asked
    assert verdict.current is None


@pytest.mark.parametrize(
    ("sent", "back", "ends"),
    [
        (Ambiguous(Reason.CONNECTION), Confirmed("r", "W/2", NEWEST.revision), True),
        (Ambiguous(), Unknown(Reason.CONNECTION), True),
        (Ambiguous(Reason.TIMEOUT), Unknown(Reason.TIMEOUT), False),
        (Ambiguous(), NotApplied(), False),
    ],
)
async def test_a_connection_that_is_cut_off_ends_the_trust_in_all_that_was_read_and_slowness_does_not(
    sent: Ambiguous, back: ReadBack, ends: bool
) -> None:
    room = Room()
    room.sends, room.read_backs = [sent], [back]
    await verdict_of(room)
    assert ("nothing holds" in room.calls) is ends


async def test_a_write_that_hangs_is_ambiguous_at_the_deadline() -> None:
    room = Room()
    room.timeout_ms = 20

    async def hangs() -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    room.sends = [hangs]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason) == (OutcomeKind.FAILED, Reason.AMBIGUOUS)
    assert "read_back" in room.calls


async def test_nothing_is_sent_and_nothing_said_when_the_partition_has_gone() -> None:
    room = Room()
    room.ours = False
    assert await attempted(room) is None
    assert "send" not in room.calls


async def test_what_goes_while_it_waits_for_its_turn_is_not_even_read() -> None:
    """Nor is anything asked of a destination that an operator forced into an outage meanwhile."""
    room = Room()

    async def pace(critical: bool) -> None:
        room.ours = False

    room.pace = pace  # type: ignore[method-assign]
    assert await attempted(room) is None
    assert room.calls == []


async def test_nothing_is_sent_after_the_deadline_and_that_is_said() -> None:
    room = Room()
    room.timeout_ms = 0
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason) == (OutcomeKind.FAILED, Reason.TIMEOUT)
    assert "send" not in room.calls


async def test_waiting_for_the_rate_is_not_held_against_the_destination() -> None:
    room = Room()
    room.pace_ms = 9_000
    assert (await verdict_of(room)).kind is OutcomeKind.CONFIRMED
    assert room.deadlines == [Millis(1_000 + 10_000 + 18_000)]


async def test_the_partition_is_asked_for_after_the_rate_let_it_through() -> None:
    """A slow rate would otherwise send long after the check."""
    room = Room()
    paced = 0

    async def pace(critical: bool) -> None:
        nonlocal paced
        paced += 1
        room.ours = paced < 2

    room.pace = pace  # type: ignore[method-assign]
    assert await attempted(room) is None
    assert "send" not in room.calls


async def test_what_may_not_be_written_is_read_compared_and_never_sent() -> None:
    room = Room()
    room.flags, room.kept = [False], OLD
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason, verdict.would) == (OutcomeKind.SHADOWED, Reason.SHADOW, Would.UPDATE)
    assert (verdict.fields, verdict.remote_id, verdict.shown) == (("environment",), "r", OLD.revision)
    assert room.calls == ["read"], "the destination itself was looked at, not what was kept of it"


@pytest.mark.parametrize(
    ("read", "differing", "would"),
    [(Absent(), ("environment",), Would.CREATE), (OLD, (), Would.MARK), (OLD, ("staffed",), Would.UPDATE)],
)
async def test_a_comparison_says_what_the_write_would_have_done(read: Read, differing: tuple[str, ...], would: Would) -> None:
    room = Room()
    room.flags, room.reads, room.differing = [False], [read], differing
    verdict = await verdict_of(room)
    assert (verdict.would, verdict.fields) == (would, differing)


@pytest.mark.parametrize(
    "built",
    [
        Refused(Reason.REFUSED_INVALID),
        Suppressed(Reason.RESERVATION_UNTELLABLE, NEWEST.revision),
        Suppressed(Reason.NEWER_AT_DESTINATION, NEWEST.revision),
    ],
)
async def test_what_would_be_held_is_noted_with_its_reason_and_not_given_up(built: Suppressed | Refused) -> None:
    room = Room()
    room.flags, room.builds = [False], [built]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.reason, verdict.would) == (OutcomeKind.SHADOWED, built.reason, Would.HOLD)
    assert room.calls == ["read"]


async def test_a_read_that_is_refused_is_noted_and_one_that_may_pass_is_tried_again() -> None:
    room = Room()
    room.flags, room.reads = [False], [Refused(Reason.MULTIPLE_MATCHES)]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.would) == (OutcomeKind.SHADOWED, Would.HOLD)
    room.reads = [Retry(Reason.UNAVAILABLE, 7.0)]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.after_s) == (OutcomeKind.FAILED, 7.0)


async def test_what_the_destination_shows_already_is_confirmed_though_it_may_not_be_written_any_more() -> None:
    """It was sent before the flag was flipped, and its answer was lost."""
    room = Room()
    room.flags, room.builds = [False], [Suppressed(Reason.ALREADY_THERE, NEWEST.revision)]
    assert (await verdict_of(room)).kind is OutcomeKind.CONFIRMED


async def test_a_flag_that_is_flipped_after_the_request_was_built_still_stops_it() -> None:
    room = Room()
    room.flags = [True, True, False]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.would, room.calls) == (OutcomeKind.SHADOWED, Would.UPDATE, ["read"])


async def test_a_write_that_was_sent_before_its_flag_was_flipped_ends_by_itself() -> None:
    room = Room()

    async def flipped() -> Outcome:
        room.flags = [False]
        return Confirmed("r", "W/2", NEWEST.revision)

    room.sends = [flipped]
    assert (await verdict_of(room)).kind is OutcomeKind.CONFIRMED


async def test_a_write_that_met_somebody_elses_is_not_sent_again_after_a_flip() -> None:
    room = Room()

    async def met() -> Outcome:
        room.flags = [False]
        return VersionMismatch()

    room.sends = [met]
    verdict = await verdict_of(room)
    assert (verdict.kind, verdict.would) == (OutcomeKind.SHADOWED, Would.UPDATE)
    assert room.calls.count("send") == 1


async def test_in_a_pause_nothing_is_asked_and_nothing_said() -> None:
    room = Room()
    room.pause = 5.0
    assert await attempted(room) is None
    assert room.calls == []


async def test_a_pause_that_begins_after_the_read_stops_the_write() -> None:
    room = Room()
    paced = 0

    async def pace(critical: bool) -> None:
        nonlocal paced
        paced += 1
        room.pause = 5.0 if paced == 2 else 0.0

    room.pace = pace  # type: ignore[method-assign]
    assert await attempted(room) is None
    assert room.calls == ["read"]


async def test_an_unanswered_write_is_not_looked_for_in_a_pause_and_waits_for_its_end() -> None:
    room = Room()
    room.sends = [Ambiguous()]

    async def pace(critical: bool) -> None:
        room.pause = 5.0 if "send" in room.calls else 0.0

    room.pace = pace  # type: ignore[method-assign]
    verdict = await attempted(room)
    assert isinstance(verdict, Verdict)
    assert (verdict.kind, verdict.reason, verdict.after_s) == (OutcomeKind.FAILED, Reason.AMBIGUOUS, 5.0)
    assert "read_back" not in room.calls


async def test_a_read_back_that_is_asked_to_wait_is_not_repeated_at_once() -> None:
    room = Room()
    room.sends, room.read_backs = [Ambiguous()], [Unknown(Reason.RATE_LIMITED, 30.0)]
    verdict = await attempted(room)
    assert isinstance(verdict, Verdict)
    assert (verdict.reason, verdict.after_s) == (Reason.AMBIGUOUS, 30.0)
    assert room.calls.count("read_back") == 1


async def test_what_a_create_made_whole_saves_the_next_write_its_read() -> None:
    made = {"resourceType": "Location", "id": "r"}
    room = Room()
    room.method, room.reads = "POST", [Absent()]
    room.sends = [Confirmed("r", 'W/"1"', NEWEST.revision, made)]
    verdict = await attempted(room)
    assert verdict is not None
    assert verdict.current == Current("r", 'W/"1"', made, NEWEST.revision, NEWEST.state_hash)


async def test_a_create_that_does_not_tell_what_it_made_is_read_the_next_time() -> None:
    room = Room()
    room.method, room.reads = "POST", [Absent()]
    verdict = await attempted(room)
    assert verdict is not None
    assert verdict.current is None
