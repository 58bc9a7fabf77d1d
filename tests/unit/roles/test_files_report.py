"""From a file to its rows to what became of them, read from the topics; and rejected rows put right, without a broker."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.domain.event import Bed, Event
from pipeline.domain.files.life import FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.gate import Accept, Position, decide
from pipeline.domain.records import Audit, Lane, Outcome, OutcomeKind, Reason
from pipeline.formats.avro import Codec
from pipeline.formats.files import corrections
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.producer import OutRecord
from pipeline.kafka.producer import Position as Placed
from pipeline.kafka.receipts import Receipts
from pipeline.kafka.sink import KafkaSink
from pipeline.roles.files import repair as files_repair
from pipeline.roles.files.ledger import FilesReader
from pipeline.roles.policies import load_policy
from pipeline.roles.ways_in.files import file_profile, key_of
from pipeline.settings.model import Settings
from tests.support.files_desk import Office, run_once
from tests.support.files_in import NAME, NOW, census, manifest_of, put
from tests.unit.roles.test_files import settings
from tests.unit.roles.test_replay import Topics

CODEC = Codec.shipped()
SECRET = "Zzyzx"


class Publishing:
    """A producer whose broker is memory."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Placed]:
        return [Placed(each.topic, 0, self.topics.put(each.topic, each.key, each.value or b""), NOW) for each in records]

    def pressure(self) -> float:
        return 0.0

    async def close(self, timeout_s: float) -> None:
        return


class Place:
    """A file of twenty beds of which two rows were rejected, taken and judged."""

    def __init__(self, folder: Path) -> None:
        self.topics = Topics()
        self.settings: Settings = settings(folder)
        key_id, _ = self.settings.raw_key()
        self.cipher = RawCipher(self.settings.raw_keys(), key_id)
        self.reader = FilesReader(self.topics, CODEC)
        office = Office(folder)
        sink = KafkaSink(
            Publishing(self.topics), CODEC, self.cipher, Receipts(lambda: NOW), ready=lambda: True, clock=lambda: NOW
        )
        content = census(20, broken=frozenset({3, 17}), canary=SECRET)
        put(office.incoming, content, manifest_of(content))
        asyncio.run(run_once(office, sink))
        for state in office.ledger.kept:
            self.topics.put("files", key_of(state), state)
        self.judge()

    def judge(self) -> None:
        """What the gate makes of landing; each entity comes once, so that it has no head before."""
        policy = load_policy()
        for offset, (key, value) in enumerate(self.topics.logs["landing.bed"]):
            event = CODEC.decode(value)
            assert isinstance(event, Event)
            verdict = decide(None, Position(event.entity_type, 1, 0, offset, NOW), key, event, policy)
            if isinstance(verdict, Accept):
                self.topics.put("events.accepted", key, verdict.accepted)

    @property
    def state(self) -> FileState:
        (state,) = self.reader.find(self.reader.files()[0].file_id)
        return state


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setattr(files_repair, "Publisher", lambda kafka: Publishing(made.topics))
    monkeypatch.setattr(files_repair, "operator_chain", lambda *given: Chain())
    return made


class Chain:
    def append(self, **said: Any) -> OutRecord:
        entry = Audit(chain="operator/x", sequence=1, previous_hash="0" * 64, hash="1" * 64, **said)
        return OutRecord("audit", b"operator/x", CODEC.encode(entry))


def outcome(accepted: Any, kind: OutcomeKind, later: int = 0) -> Outcome:
    return Outcome(
        destination="ehr",
        tenant=accepted.tenant,
        entity_type=accepted.entity_type,
        namespace=accepted.namespace,
        entity_id=accepted.entity_id,
        kind=kind,
        reason=Reason.NONE,
        revision=accepted.revision + later,
        after=0,
        partition=0,
        event_id=accepted.event_id,
        content_hash=accepted.content_hash,
        state_hash=accepted.state_hash,
        lane=Lane.BULK,
        open_since=NOW,
        received_at=NOW,
        recorded_at=NOW,
        at=NOW,
        writer="0",
    )


def test_a_row_is_followed_from_its_file_to_the_gate_and_each_destination(place: Place) -> None:
    state = place.state
    assert (state.status, state.name, state.landed, state.rejected) == (FileStatus.TAKEN, NAME, 18, 2)
    accepted = [CODEC.decode(value) for _, value in place.topics.logs["events.accepted"]]
    place.topics.put("outcomes", b"k", outcome(accepted[0], OutcomeKind.CONFIRMED))
    place.topics.put("outcomes", b"k", outcome(accepted[1], OutcomeKind.PARKED))
    place.topics.put("outcomes", b"k", outcome(accepted[2], OutcomeKind.CONFIRMED, later=5))
    fate = place.reader.fate(state)
    assert (len(fate.rows), fate.events, dict(fate.gate)) == (18, 18, {"accepted": 18})
    assert dict(fate.destinations["ehr"]) == {"confirmed": 1, "parked": 1, "superseded": 1, "open": 15}
    one = place.reader.fate(state, 1)
    assert (one.rows, dict(one.gate), dict(one.destinations["ehr"])) == ({1}, {"accepted": 1}, {"confirmed": 1})
    assert place.reader.fate(state, 3).rows == set(), "a rejected row made no event"


def test_a_row_of_another_file_with_the_same_content_is_not_this_one_s(place: Place) -> None:
    state = place.state
    assert state.created_at is not None
    later = msgspec.structs.replace(state, file_id="e" * 32, created_at=Millis(state.created_at + 1_800_000), at=Millis(NOW + 1))
    place.topics.put("files", key_of(later), later)
    assert place.reader.fate(state).events == 18
    assert place.reader.fate(later).events == 0


def test_rejected_rows_are_listed_and_only_with_the_key_shown_whole(place: Place) -> None:
    listed = place.reader.rejects(place.state)
    assert [(each.row, each.line, each.column, each.record) for each in listed] == [
        (3, 4, "Occupied", None),
        (17, 18, "Occupied", None),
    ]
    opened = place.reader.rejects(place.state, place.cipher)
    assert [each.record for each in opened] == [f"MAIN,ICU,{n},A,Q,{SECRET}{n}\r\n".encode() for n in (3, 17)]
    assert opened[0].head.startswith(b"Facility,Unit")
    assert SECRET not in repr(opened)


def saved(place: Place) -> bytes:
    found = place.reader.rejects(place.state, place.cipher)
    broken = [corrections.Broken(e.row, e.line, e.column, e.rule, e.remedy, e.head, e.record or b"") for e in found]
    return corrections.write(file_profile(place.state.profile), broken)


def test_corrected_rows_keep_the_files_identity_and_saying_it_twice_changes_nothing(place: Place) -> None:
    before = len(place.topics.logs["landing.bed"])
    rows = corrections.read(file_profile(place.state.profile), saved(place).replace(b",Q,", b",Y,"))
    for _ in range(2):
        plan = files_repair.plan(place.settings, place.state, rows, {3, 17})
        assert (len(plan.ready), plan.broken) == (2, ())
        files_repair.land(place.settings, CODEC, place.state, plan.ready, "operator:x", "codes")
    assert place.state.corrected == (3, 17)
    added = [CODEC.decode(value) for _, value in place.topics.logs["landing.bed"][before:]]
    events = [each for each in added if isinstance(each, Event)]
    assert len({(each.event_id, each.content_hash) for each in events}) == 2
    assert {each.recorded_at for each in events} == {Millis(NOW)}, "they are as old as their file"
    assert sorted(each.audit_context or "" for each in events)[0].endswith("/17")
    assert all(isinstance(each.payload, Bed) for each in events)


def test_only_rows_that_were_rejected_are_corrected_each_once_and_only_what_is_right_now(place: Place) -> None:
    text = saved(place).decode("utf-8-sig").splitlines()
    foreign = text[1].replace("3,", "4,", 1).replace(",Q,", ",Y,")
    right = text[1].replace(",Q,", ",Y,")
    data = "\r\n".join([text[0], right, right, text[2], foreign]).encode()
    rows = corrections.read(file_profile(place.state.profile), data)
    plan = files_repair.plan(place.settings, place.state, rows, {3, 17})
    assert [each.row for each in plan.ready] == [3]
    assert [(number, bad.field) for number, bad in plan.broken] == [(3, None), (17, "Occupied"), (4, None)]
    assert SECRET not in repr(plan)


def test_a_release_is_told_in_the_ledger_and_in_the_audit_log(place: Place) -> None:
    from msgspec.structs import replace

    from pipeline.domain.files.life import FileReason

    held = replace(place.state, status=FileStatus.HELD, why=FileReason.TOO_MANY_REJECTS, version=place.state.version + 1)
    place.topics.put("files", key_of(held), held)
    files_repair.release(place.settings, CODEC, held, "operator:x", "checked")
    assert place.state.released_by == "operator:x"
    (entry,) = [CODEC.decode(value) for _, value in place.topics.logs["audit"]]
    assert isinstance(entry, Audit)
    assert (entry.action, entry.reason, entry.subject) == ("file.released", "checked", held.file_id)
