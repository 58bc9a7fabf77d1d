"""The books of a running pipeline: the cut is closed, waiting is bounded, and the destination itself can be asked."""

import io
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console

from pipeline.domain.accounts.books import Books, of_types
from pipeline.domain.accounts.deliveries import Trouble
from pipeline.domain.event import Bed, EntityType, Environment, EventType
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Outcome, OutcomeKind, Reason, TopicEpoch
from pipeline.ops.books import BooksReader, Shown, Waiting, ask_destination, exit_code, take_cut
from pipeline.ops.render.books import books_json, render_books

EHR = "ehr"
BEDS = ("ICU-1", "ICU-2")


class Clock:
    """Moved by sleeping, and tells somebody."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[float], None] = lambda now: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep(self.now)

    def waiting(self, gate_s: float = 0, open_s: float = 0) -> Waiting:
        return Waiting(gate_s, open_s, self, self.sleep)


class Pipeline:
    """Publishes what gate and writer would, for one partition of the beds' landing topic."""

    def __init__(self, topics: Any) -> None:
        self.topics = topics
        self.newest: dict[str, Accepted] = {}
        self.confirmed: dict[str, Revision] = {}
        topics.put(
            "epochs", 0, b"landing.bed", TopicEpoch(topic="pre.landing.bed", topic_id="x", epoch=2, at=Millis(0), actor="t")
        )

    def land(self, bed: str) -> tuple[int, bytes]:
        key = EntityKey("acme", "bed", "capacity", bed).encode()
        self.topics.put("landing.bed", 3, key, b"never read by the books")
        return len(self.topics.logs["landing.bed", 3]) - 1, key

    def commit(self) -> None:
        self.topics.offsets["landing.bed", 3] = len(self.topics.logs["landing.bed", 3])

    def accept(self, bed: str) -> None:
        offset, key = self.land(bed)
        before = self.newest.get(bed)
        record = Accepted(
            event_id=EventId(f"{offset:032x}"), tenant="acme", facility="main", entity_type=EntityType.BED,
            namespace="capacity", entity_id=bed, event_type=EventType.BED_STATUS, source_system="capacity", feed="http",
            epoch=2, partition=3, offset=offset, revision=revision_of(2, offset),
            previous_revision=before.revision if before else NO_REVISION, lane=Lane.URGENT, changed=("environment",),
            state=Bed(environment=Environment.CLEAN), state_hash=f"{offset:016x}", content_hash=f"{offset:016x}",
            recorded_at=Millis(1_000), received_at=Millis(2_000 + offset), accepted_at=Millis(2_000), policy_version="1",
        )  # fmt: skip
        self.newest[bed] = record
        self.topics.put("events.accepted", 3, key, record)
        self.commit()

    def decide(self, bed: str, kind: DecisionKind) -> None:
        offset, key = self.land(bed)
        record = Decision(
            topic="landing.bed", epoch=2, partition=3, offset=offset, kind=kind, reason=Reason.NONE,
            revision=NO_REVISION, decided_at=Millis(2_000), policy_version="1",
        )  # fmt: skip
        self.topics.put("decisions", 3, key, record)
        self.commit()

    def confirm(self, bed: str) -> None:
        new = self.newest[bed]
        record = Outcome(
            destination=EHR, tenant="acme", entity_type=EntityType.BED, namespace="capacity", entity_id=bed,
            kind=OutcomeKind.CONFIRMED, reason=Reason.NONE, revision=new.revision,
            after=self.confirmed.get(bed, NO_REVISION), partition=3, event_id=new.event_id, content_hash=new.content_hash,
            state_hash=new.state_hash, lane=new.lane, open_since=new.received_at, received_at=new.received_at,
            recorded_at=new.recorded_at, at=Millis(5_000), writer="writer-ehr/0",
        )  # fmt: skip
        self.confirmed[bed] = new.revision
        self.topics.put("outcomes", 3, b"", record)

    def reader(self) -> BooksReader:
        return BooksReader(self.topics, self.topics.codec, {EHR: of_types([EntityType.BED])}, lambda key: "digest", "pre.")


def run_of(topics: Any) -> Pipeline:
    pipeline = Pipeline(topics)
    pipeline.accept("ICU-1")
    pipeline.accept("ICU-1")
    pipeline.decide("ICU-2", DecisionKind.DUPLICATE)
    pipeline.accept("ICU-2")
    return pipeline


def text_of(books: Books) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_books(books, now_ms=60_000))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_cut_knows_epochs_ends_and_the_gates_offset(topics: Any) -> None:
    run_of(topics)
    (cut,) = [part for part in take_cut(topics, topics.codec, "pre.") if part.end]
    assert (cut.topic, cut.epoch, cut.partition, cut.first, cut.end, cut.committed) == ("landing.bed", 2, 3, 0, 4, 4)


def test_books_of_a_drained_pipeline_balance(topics: Any) -> None:
    pipeline = run_of(topics)
    for bed in BEDS:
        pipeline.confirm(bed)
    books = pipeline.reader().run(Clock().waiting())
    assert (books.complete, exit_code(books)) == (True, 0)
    assert "the books balance and nothing is open" in text_of(books)


def test_what_landed_after_the_cut_is_not_waited_for(topics: Any) -> None:
    pipeline = run_of(topics)
    for bed in BEDS:
        pipeline.confirm(bed)
    reader = pipeline.reader()
    pipeline.accept("ICU-1")
    books = reader.run(Clock().waiting())
    assert (books.complete, books.beyond_cut) == (True, 1)


def test_the_books_wait_for_the_gate_and_then_for_the_writer_within_bounds(topics: Any) -> None:
    pipeline, clock = run_of(topics), Clock()
    pipeline.confirm("ICU-2")
    behind, _ = pipeline.land("ICU-1")
    reader = pipeline.reader()

    def work(now: float) -> None:
        if now > 2 and topics.offsets["landing.bed", 3] == behind:
            topics.logs["landing.bed", 3].pop()
            pipeline.accept("ICU-1")
        elif now > 6 and "ICU-1" not in pipeline.confirmed:
            pipeline.confirm("ICU-1")

    clock.on_sleep = work
    books = reader.run(clock.waiting(gate_s=30, open_s=30))
    assert books.complete
    assert clock.now < 20


def test_waiting_ends_at_its_bound_and_shows_what_is_open(topics: Any) -> None:
    pipeline, clock = run_of(topics), Clock()
    pipeline.confirm("ICU-2")
    pipeline.land("ICU-1")
    books = pipeline.reader().run(clock.waiting(gate_s=10, open_s=10))
    assert (books.balanced, books.complete, books.open, books.waiting) == (True, False, 2, 1)
    assert clock.now < 40
    assert "2 open, 1 not judged yet" in text_of(books)


def test_a_verdict_that_got_lost_below_the_gates_offset_is_named(topics: Any) -> None:
    pipeline = run_of(topics)
    for bed in BEDS:
        pipeline.confirm(bed)
    topics.logs["decisions", 3].clear()
    books = pipeline.reader().run(Clock().waiting())
    assert [(problem.trouble, problem.offset) for problem in books.problems] == [(Trouble.MISSING, 2)]
    assert exit_code(books) == 1
    assert "landing.bed[3] 2.2" in text_of(books)


def test_a_record_that_does_not_decode_is_named(topics: Any) -> None:
    pipeline = run_of(topics)
    topics.put("outcomes", 5, None, b"rubbish")
    books = pipeline.reader().run(Clock().waiting())
    assert [(problem.trouble, problem.topic, problem.partition) for problem in books.problems] == [
        (Trouble.UNREADABLE, "outcomes", 5)
    ]


def test_a_history_cut_by_retention_is_a_note_and_no_fault(topics: Any) -> None:
    pipeline = run_of(topics)
    for bed in BEDS:
        pipeline.confirm(bed)
    topics.logs["events.accepted", 5] = [(None, b"gone")]
    topics.first["events.accepted", 5] = 1
    books = pipeline.reader().run(Clock().waiting())
    assert books.complete
    assert [(note.trouble, note.topic, note.offset) for note in books.notes] == [(Trouble.HISTORY_TRIMMED, "events.accepted", 1)]


async def test_a_destination_that_shows_something_else_is_named(topics: Any) -> None:
    pipeline = run_of(topics)
    for bed in BEDS:
        pipeline.confirm(bed)
    reader = pipeline.reader()
    books = reader.run(Clock().waiting())
    shown: dict[str, Shown | None] = {bed: Shown(new.revision, new.state_hash) for bed, new in pipeline.newest.items()}

    async def show(key: EntityKey, entity_type: EntityType) -> Shown | None:
        assert entity_type is EntityType.BED
        if key.id == "down":
            raise ConnectionError
        return shown[key.id]

    asked = await ask_destination(reader.ledger, EHR, show)
    assert (asked.entities, asked.same, asked.problems, exit_code(books, [asked])) == (2, 2, (), 0)
    shown |= {"ICU-1": Shown(revision_of(2, 0), None), "ICU-2": None}
    asked = await ask_destination(reader.ledger, EHR, show)
    assert sorted(problem.detail for problem in asked.problems) == ["it isn't there", "it shows an older revision"]
    assert exit_code(books, [asked]) == 1
    shown |= {"ICU-1": Shown(revision_of(2, 99), None), "ICU-2": Shown(pipeline.newest["ICU-2"].revision, "f" * 16)}
    asked = await ask_destination(reader.ledger, EHR, show)
    assert (asked.moved_on, [problem.detail for problem in asked.problems]) == (1, ["it shows another state"])
    assert b"ICU" not in books_json(books, [asked])


async def test_no_answer_of_the_destination_is_counted_and_is_no_difference(topics: Any) -> None:
    pipeline = run_of(topics)
    pipeline.confirm("ICU-1")
    reader = pipeline.reader()
    reader.run(Clock().waiting())

    async def show(key: EntityKey, entity_type: EntityType) -> Shown | None:
        raise ConnectionError(key.id)

    asked = await ask_destination(reader.ledger, EHR, show)
    assert (asked.unanswered, asked.different) == (1, 0)


def test_books_as_json_can_be_read_back(topics: Any) -> None:
    books = run_of(topics).reader().run(Clock().waiting())
    assert msgspec.convert(msgspec.json.decode(books_json(books))["books"], Books) == books
