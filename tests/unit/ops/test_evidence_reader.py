"""What is told of an entity, an event or a file: everything of it, nothing of another, no value unless it was asked for."""

import io
import json
from typing import Any, Final

import msgspec
import pytest
from rich.console import Console

from pipeline.domain.accounts.evidence import Question, Stage
from pipeline.domain.event import (
    Bed,
    EntityType,
    Event,
    EventType,
    Provenance,
    Reference,
    Service,
    ServiceStatus,
)
from pipeline.domain.files.record import FileState, FileStatus
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision, partition_of
from pipeline.domain.records import (
    Accepted,
    Control,
    ControlKind,
    Decision,
    DecisionKind,
    Lane,
    MergeLink,
    Outcome,
    OutcomeKind,
    Quarantined,
    Reason,
)
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import subject
from pipeline.ops.render.evidence import evidence_json, render_evidence
from pipeline.roles.accounts.evidence import EvidenceReader

KEY: Final = EntityKey("north", "bed", "MAIN", "ICU/12/A")
OTHER: Final = EntityKey("north", "bed", "MAIN", "ICU/12/B")
FIRST: Final = EventId("a" * 32)
SECOND: Final = EventId("b" * 32)
CANARY: Final = "Z-CANARY-4711"
"""A value of the entity, which may only be shown to who asked for values."""


def digest_of(key: bytes) -> str:
    return subject(key, b"k" * 32)


def event(event_id: EventId, at: int, key: EntityKey = KEY) -> Event:
    return Event(
        event_id=event_id,
        tenant=key.tenant,
        facility="MAIN",
        source_system="capacity",
        feed="http:capacity",
        entity_type=EntityType.BED,
        namespace=key.namespace,
        entity_id=key.id,
        event_type=EventType.BED_STATUS,
        recorded_at=Millis(at),
        received_at=Millis(at),
        user="nurse-7",
        payload=Bed(service=Service(ServiceStatus.BLOCKED, reason=CANARY)),
        provenance=Provenance("raw.http", 3, 7),
    )


def accepted(event_id: EventId, revision: int, at: int) -> Accepted:
    return Accepted(
        event_id=event_id,
        tenant=KEY.tenant,
        facility="MAIN",
        entity_type=EntityType.BED,
        namespace=KEY.namespace,
        entity_id=KEY.id,
        event_type=EventType.BED_STATUS,
        source_system="capacity",
        feed="http:capacity",
        epoch=1,
        partition=0,
        offset=revision,
        revision=Revision(revision),
        previous_revision=Revision(0),
        lane=Lane.URGENT,
        changed=("service",),
        state=Bed(service=Service(ServiceStatus.BLOCKED, reason=CANARY)),
        state_hash="0" * 16,
        content_hash="0" * 16,
        recorded_at=Millis(at),
        received_at=Millis(at),
        accepted_at=Millis(at + 1),
        policy_version="1",
    )


def outcome(event_id: EventId, revision: int, at: int, kind: OutcomeKind, reason: Reason = Reason.NONE) -> Outcome:
    return Outcome(
        destination="ehr",
        tenant=KEY.tenant,
        entity_type=EntityType.BED,
        namespace=KEY.namespace,
        entity_id=KEY.id,
        kind=kind,
        reason=reason,
        revision=Revision(revision),
        after=Revision(0),
        partition=0,
        event_id=event_id,
        content_hash="0" * 16,
        state_hash="0" * 16,
        lane=Lane.URGENT,
        open_since=Millis(at),
        received_at=Millis(at),
        recorded_at=Millis(at),
        at=Millis(at),
        writer="ehr/0",
    )


@pytest.fixture
def told(topics: Any) -> Any:
    """Two events of one bed, one of another, an order, a decision, outcomes, and what people did about them."""
    mine, key = partition_of(KEY.encode(), 8), KEY.encode()
    topics.put("landing.bed", mine, key, event(FIRST, 1_000))
    topics.put("landing.bed", partition_of(OTHER.encode(), 8), OTHER.encode(), event(EventId("c" * 32), 1_500, OTHER))
    topics.put("events.accepted", mine, key, accepted(FIRST, 1, 1_000))
    topics.put("outcomes", mine, key, outcome(FIRST, 1, 2_000, OutcomeKind.PARKED, Reason.REFUSED_INVALID))
    order = Control(
        kind=ControlKind.REASSERT, event_id=SECOND, actor="operator:rosa", reason="mended at the EHR", at=Millis(3_000)
    )
    topics.put("landing.bed", mine, key, order)
    topics.put("events.accepted", mine, key, accepted(SECOND, 2, 3_000))
    topics.put("outcomes", mine, key, outcome(SECOND, 2, 4_000, OutcomeKind.CONFIRMED))
    stale = Decision(
        topic="landing.bed",
        epoch=1,
        partition=mine,
        offset=2,
        kind=DecisionKind.STALE,
        reason=Reason.OLDER_TIME,
        event_id=EventId("d" * 32),
        revision=Revision(2),
        decided_at=Millis(5_000),
        policy_version="1",
    )
    topics.put("decisions", mine, key, stale)
    chain = AuditChain.continued(topics, topics.codec, topics.codec, "operator/rosa")
    for action, about, event_id in (
        ("reassert", digest_of(key), SECOND),
        ("reassert", digest_of(OTHER.encode()), None),
        ("evidence.looked", digest_of(key), None),
        ("write.confirmed", digest_of(key), SECOND),
    ):
        made = chain.append(
            at=Millis(3_000), actor="operator:rosa", action=action, subject=about, event_id=event_id, reason="ticket 12"
        )
        topics.put(made.topic, made.partition, made.key, made.value)
    return topics


def reader(topics: Any) -> EvidenceReader:
    return EvidenceReader(topics, topics.codec, digest_of)


def stages(found: Any) -> list[tuple[Stage, str]]:
    return [(line.stage, line.what) for line in found.lines]


def test_an_entity_s_line_of_time_holds_all_of_it_in_order_and_nothing_of_another(told: Any) -> None:
    found = reader(told).read(Question(key=KEY))
    assert stages(found) == [
        (Stage.SENT, "BED_STATUS"),
        (Stage.JUDGED, "ACCEPTED"),
        (Stage.NOT_RECEIVED, "PARKED"),
        (Stage.ORDERED, "REASSERT"),
        (Stage.DONE_BY_HAND, "reassert"),
        (Stage.DONE_BY_HAND, "evidence.looked"),
        (Stage.JUDGED, "ACCEPTED"),
        (Stage.RECEIVED, "CONFIRMED"),
        (Stage.JUDGED, "STALE"),
    ]
    order = found.lines[3]
    assert (order.who, order.why) == ("operator:rosa", "mended at the EHR")
    assert found.lines[2].why == "REFUSED_INVALID"
    assert "nurse-7" in found.lines[0].who


def test_a_digest_finds_the_same_lines_as_the_entity_s_name(told: Any) -> None:
    by_name = reader(told).read(Question(key=KEY))
    by_digest = reader(told).read(Question(digest=digest_of(KEY.encode())))
    assert by_digest.lines == by_name.lines
    assert by_name.subject == by_digest.subject


def test_both_sides_of_a_merge_name_the_other_by_its_digest_and_tell_nothing_else_of_it(told: Any) -> None:
    me, other = Reference(KEY.namespace, KEY.id), Reference(OTHER.namespace, OTHER.id)
    merge = EventId("e" * 32)
    mine, theirs = (partition_of(key.encode(), 8) for key in (KEY, OTHER))
    closed = msgspec.structs.replace(outcome(merge, 3, 6_000, OutcomeKind.CONFIRMED), survivor=other)
    told.put("outcomes", mine, KEY.encode(), closed)
    told.put("outcomes", theirs, OTHER.encode(), closed)  # the copy that the survivor's writer waits for
    link = MergeLink(loser=me, survivor=other, recorded_at=Millis(5_500), event_id=merge)
    word = Control(kind=ControlKind.RELEASE, event_id=merge, actor="gate", at=Millis(6_000), trail=(link,))
    told.put("landing.bed", theirs, OTHER.encode(), word)
    loser, survivor = (reader(told).read(Question(key=key)) for key in (KEY, OTHER))
    assert [line.detail["merged_into"] for line in loser.lines if "merged_into" in line.detail] == [digest_of(OTHER.encode())]
    assert [line.detail["merged_from"] for line in survivor.lines if "merged_from" in line.detail] == [digest_of(KEY.encode())]
    assert KEY.id not in evidence_json(survivor).decode()
    assert reader(told).read(Question(digest=digest_of(KEY.encode()))).lines == loser.lines


def test_an_event_s_line_of_time_is_of_that_event_alone(told: Any) -> None:
    found = reader(told).read(Question(event_id=SECOND))
    assert {line.event_id for line in found.lines} == {SECOND}
    assert [line.stage for line in found.lines] == [Stage.ORDERED, Stage.DONE_BY_HAND, Stage.JUDGED, Stage.RECEIVED]


def test_no_value_and_no_name_of_the_entity_is_shown_unless_values_are_asked_for(told: Any) -> None:
    def shown(values: bool) -> str:
        found = reader(told).read(Question(key=KEY, values=values))
        console = Console(file=io.StringIO(), width=300)
        console.print(render_evidence(found))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue() + evidence_json(found).decode()

    assert CANARY not in shown(False)
    assert KEY.id not in shown(False)
    assert CANARY in shown(True)


def test_original_bytes_that_expired_are_said_to_be_gone(told: Any) -> None:
    kept = reader(told).read(Question(event_id=FIRST)).lines[0].detail
    assert (kept["original"], kept["original_kept"]) == ("raw.http/3/7", "yes")
    told.first["raw.http", 3] = 8
    assert reader(told).read(Question(event_id=FIRST)).lines[0].detail["original_kept"] == "expired"


def test_a_file_s_line_of_time_goes_from_the_ledger_to_one_row_s_end(told: Any) -> None:
    state = FileState(
        tenant="north",
        partner="capacity-co",
        file_id="f" * 32,
        name="beds.csv",
        name_digest="0" * 32,
        profile="bed-extract",
        status=FileStatus.TAKEN,
        sha256="9" * 64,
        records=2,
        rows_done=2,
        landed=1,
        rejected=1,
        since=Millis(500),
        at=Millis(900),
    )
    told.put("files", 0, b"k", state)
    row = event(EventId("e" * 32), 800)
    row = msgspec.structs.replace(row, audit_context=f"file {'9' * 32}/2")
    told.put("landing.bed", partition_of(KEY.encode(), 8), KEY.encode(), row)
    broken = Quarantined(
        topic="landing.bed",
        partition=0,
        offset=0,
        reason=Reason.BAD_ROW,
        rule="a time",
        remedy="write a time",
        event_id=EventId("e" * 32),
        at=Millis(950),
    )
    told.put("quarantine", 0, b"k", broken)
    whole = reader(told).read(Question(file_id="f" * 32))
    assert stages(whole) == [(Stage.FILE, "TAKEN")]
    one = reader(told).read(Question(file_id="f" * 32, row=2))
    assert stages(one) == [(Stage.SENT, "BED_STATUS"), (Stage.FILE, "TAKEN"), (Stage.KEPT_APART, "QUARANTINED")]


def test_what_nobody_knows_has_no_lines_and_json_says_so(told: Any) -> None:
    found = reader(told).read(Question(event_id="0" * 32))
    assert json.loads(evidence_json(found))["lines"] == []


def test_a_record_that_can_t_be_read_is_counted_and_hides_nothing_else(told: Any) -> None:
    told.put("outcomes", partition_of(KEY.encode(), 8), KEY.encode(), b"\x00broken")
    found = reader(told).read(Question(key=KEY))
    assert found.unreadable == 1
    assert len(found.lines) == 9
