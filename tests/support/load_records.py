"""A change and its confirmation, for the tests of what a load measures."""

from pipeline.domain.event import Bed, EntityType, EventType
from pipeline.domain.identifiers import EventId, Millis, Revision
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason

ACCEPTED = Accepted(
    event_id=EventId("e"),
    tenant="demo",
    facility="GENERAL",
    entity_type=EntityType.BED,
    namespace="GENERAL",
    entity_id="ICU/1/A",
    event_type=EventType.UPDATE,
    source_system="capacity",
    feed="http",
    epoch=1,
    partition=0,
    offset=0,
    revision=Revision(1),
    previous_revision=Revision(0),
    lane=Lane.CRITICAL,
    changed=(),
    state=Bed(),
    state_hash="",
    content_hash="",
    recorded_at=Millis(0),
    received_at=Millis(100),
    accepted_at=Millis(0),
    policy_version="",
)
OUTCOME = Outcome(
    destination="ehr",
    tenant="demo",
    entity_type=EntityType.BED,
    namespace="GENERAL",
    entity_id="ICU/1/A",
    kind=OutcomeKind.CONFIRMED,
    reason=Reason.NONE,
    revision=Revision(1),
    after=Revision(0),
    partition=0,
    event_id=EventId("e"),
    content_hash="",
    state_hash="",
    lane=Lane.CRITICAL,
    open_since=Millis(0),
    received_at=Millis(100),
    recorded_at=Millis(0),
    at=Millis(350),
    writer="ehr-0",
)
