"""What the stages hand to each other: each class is one Avro record, and its descriptions are that schema's documentation."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pipeline.domain.event import Described, EntityType, EventType, Payload, Redacted, Reference, Time
from pipeline.domain.identifiers import EntityKey, EventId, Revision


class Lane(Described):
    """How urgently a change must reach its destinations; strictest first."""

    CRITICAL = "critical", "a patient or an ambulance waits for it"
    URGENT = "urgent", "decides about the next hour"
    ROUTINE = "routine", "needed, not urgent"
    BULK = "bulk", "snapshots, reconciliation, master data"


LANES: Final = (Lane.CRITICAL, Lane.URGENT, Lane.ROUTINE, Lane.BULK)
RANK: Final = {lane: rank for rank, lane in enumerate(LANES)}


class DecisionKind(Described):
    """How the gate judged a landing position that it did not accept. Every position gets exactly one verdict."""

    DUPLICATE = "DUPLICATE", "the same event was published twice"
    STALE = "STALE", "each field it states is known from a newer event"
    NO_OP = "NO_OP", "it says what is already known"
    NOT_OWNER = "NOT_OWNER", "the source may not say any of it"
    CONFLICT = "CONFLICT", "the same event id with other content"
    IGNORED = "IGNORED", "ignored by a rule of the policy"
    QUARANTINED = "QUARANTINED", "can't be judged; kept with reason and remedy"
    CONTROL = "CONTROL", "a record of the pipeline itself, e.g. a policy"


class Reason(Described):
    """Why something was decided, parked or refused; bounded, because it is a metric label."""

    NONE = "NONE", "no further reason"
    REPEATED_ID = "REPEATED_ID", "its id is among the entity's recent events"
    CONTENT_DIFFERS = "CONTENT_DIFFERS", "its id is known with other content"
    OLDER_SEQUENCE = "OLDER_SEQUENCE", "the source's own sequence is older"
    OLDER_TIME = "OLDER_TIME", "it was recorded before what is known"
    LOWER_PRECEDENCE = "LOWER_PRECEDENCE", "recorded at the same time as the word of a source that ranks higher"
    OCCUPANT_CHANGED = "OCCUPANT_CHANGED", "it ends the stay of a patient who is no longer in the bed"
    SAME_STATE = "SAME_STATE", "nothing differs"
    FIELD_NOT_OWNED = "FIELD_NOT_OWNED", "the policy gives the field to other sources"
    UNKNOWN_SOURCE = "UNKNOWN_SOURCE", "the policy does not name the source system"
    FEED_NOT_LIVE = "FEED_NOT_LIVE", "another feed of this source is live; this one is only compared"
    IGNORED_BY_RULE = "IGNORED_BY_RULE", "the policy ignores this kind of event"
    HEAD_MOVED = "HEAD_MOVED", "a newer state was accepted since the repair was asked for"
    NOT_EXPIRED = "NOT_EXPIRED", "the value was changed or prolonged before its end"
    POLICY = "POLICY", "a policy takes effect"
    FORWARDED = "FORWARDED", "about a retired identity: handed on to the log of the one that survives"
    RELEASE = "RELEASE", "an identity that was merged into this one, or no longer is, tells of its end"
    ALIAS = "ALIAS", "references to a retired identity mean its survivor from here on"
    REPOINT = "REPOINT", "an entity's references were looked at again after a merge, and are as they should be"
    REOPEN = "REOPEN", "a merge that was to be taken back is no longer in force"
    MERGE_CYCLE = "MERGE_CYCLE", "merges would retire an identity into itself, or too many into one another"
    NULL_KEY = "NULL_KEY", "the record has no key"
    BAD_KEY = "BAD_KEY", "the key is not tenant|type|namespace|id"
    NULL_VALUE = "NULL_VALUE", "the record has no value"
    UNDECODABLE = "UNDECODABLE", "the bytes are not a known schema's"
    UNKNOWN_SCHEMA = "UNKNOWN_SCHEMA", "the schema id is not known here"
    OVERSIZE = "OVERSIZE", "the record is larger than the limit"
    WRONG_TOPIC = "WRONG_TOPIC", "the record is about another entity type than the topic"
    KEY_MISMATCH = "KEY_MISMATCH", "the record's key and its content name different entities"
    MISSING_FIELD = "MISSING_FIELD", "a required field is empty"
    BAD_RESOURCE = "BAD_RESOURCE", "a FHIR resource or notification that breaks a rule, which the quarantine names"
    BAD_ROW = "BAD_ROW", "a record of a file that breaks a rule, which the quarantine names"
    FUTURE_TIME = "FUTURE_TIME", "recorded further in the future than the allowed skew"
    UNKNOWN_ENTITY = "UNKNOWN_ENTITY", "nothing is known of the entity"
    TIMEOUT = "TIMEOUT", "no answer in time"
    CONNECTION = "CONNECTION", "the destination can't be reached"
    RATE_LIMITED = "RATE_LIMITED", "the destination asked for a pause (429)"
    UNAVAILABLE = "UNAVAILABLE", "the destination is unavailable (5xx)"
    VERSION_MISMATCH = "VERSION_MISMATCH", "somebody else wrote first (409, 412)"
    PREREQUISITE = "PREREQUISITE", "its bed is not vacated at the destination yet; tried again until it is"
    MERGE_OPEN = "MERGE_OPEN", "an identity that was merged into it isn't closed at the destination yet; tried again until it is"
    AMBIGUOUS = "AMBIGUOUS", "sent, no answer; will be read back"
    REFUSED_INVALID = "REFUSED_INVALID", "the destination refuses the content (400, 422)"
    UNAUTHENTICATED = "UNAUTHENTICATED", "the destination does not know our credentials (401); tried again until it does"
    NO_TOKEN = "NO_TOKEN", "no access token is to be had, so nothing was sent; tried again until there is one"
    REFUSED_FORBIDDEN = "REFUSED_FORBIDDEN", "the destination does not allow this write to us (403)"
    REFUSED_GONE = "REFUSED_GONE", "the resource was deleted at the destination (410)"
    REFUSED_MISSING = "REFUSED_MISSING", "the resource is not at the destination and may not be created there"
    REFUSED_OTHER = "REFUSED_OTHER", "the destination refuses for another reason (4xx)"
    ERROR_IN_BODY = "ERROR_IN_BODY", "answered 200 with an error in the body"
    MULTIPLE_MATCHES = "MULTIPLE_MATCHES", "several resources carry the entity's identifier"
    NEWER_AT_DESTINATION = "NEWER_AT_DESTINATION", "the destination already shows a newer revision"
    ALREADY_THERE = "ALREADY_THERE", "the destination already shows this revision and state"
    RESERVATION_UNTELLABLE = "RESERVATION_UNTELLABLE", "the destination can't be told of a reservation; the write is held"
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED", "tried as often as allowed"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED", "not delivered within the lane's deadline"
    SHADOW = "SHADOW", "compared only; a flag keeps this write or feed from being live"
    FORK = "FORK", "one revision with two states"
    INTERNAL = "INTERNAL", "a fault of the pipeline; see the log"
    ASKED_AGAIN = "ASKED_AGAIN", "the destination wants it to be sent again (HL7 v2 AE, CE)"
    UNTELLABLE = "UNTELLABLE", "the destination's format has no word for this state; what was told before stays there"
    RESIDENCY = "RESIDENCY", "the tenant's data may not go to the region of the destination; nothing was sent"
    NO_CONSENT = "NO_CONSENT", "the tenant does not agree to the purpose of the destination; nothing was sent"
    NOT_IN_CHARSET = "NOT_IN_CHARSET", "a value has a character that the destination's character set lacks"


class Dropped(msgspec.Struct, frozen=True):
    """A field of an accepted event that did not survive."""

    field: Annotated[str, Meta(description="field")]
    reason: Annotated[Reason, Meta(description="why")]


class Await(Redacted, frozen=True):
    """An identity that was merged into this one: it is closed at a destination before this one is written there."""

    loser: Annotated[Reference, Meta(description="the identity that is retired")]
    revision: Annotated[Revision, Meta(description="revision that closes it; 0 until its gate has told")]
    since: Annotated[Time, Meta(description="landing time of the first word of the merge")]


class Accepted(Redacted, frozen=True, kw_only=True):
    """One accepted change with the whole state after it; the history is all of these, on `events.accepted`."""

    event_id: Annotated[EventId, Meta(description="event")]
    tenant: Annotated[str, Meta(description="organisation")]
    facility: Annotated[str, Meta(description="site")]
    entity_type: Annotated[EntityType, Meta(description="what it is about")]
    namespace: Annotated[str, Meta(description="assigning authority of entity_id")]
    entity_id: Annotated[str, Meta(description="identifier")]
    event_type: Annotated[EventType, Meta(description="what happened")]
    source_system: Annotated[str, Meta(description="system that said so")]
    feed: Annotated[str, Meta(description="connection it came by")]
    epoch: Annotated[int, Meta(description="epoch of the landing topic")]
    partition: Annotated[int, Meta(description="landing partition; lanes and outcomes use the same")]
    offset: Annotated[int, Meta(description="landing offset")]
    revision: Annotated[Revision, Meta(description="epoch and offset in one number; rises per entity")]
    previous_revision: Annotated[Revision, Meta(description="revision before this one, 0 for the first")]
    lane: Annotated[Lane, Meta(description="lane")]
    changed: Annotated[tuple[str, ...], Meta(description="fields with a new value")]
    dropped: Annotated[tuple[Dropped, ...], Meta(description="fields of the event that did not survive")] = ()
    state: Annotated[Payload, Meta(description="the whole state after the change")]
    state_hash: Annotated[str, Meta(description="digest of the state, 16 hexadecimal digits")]
    content_hash: Annotated[str, Meta(description="digest of what the event said")]
    occurred_at: Annotated[Time | None, Meta(description="when it happened")] = None
    recorded_at: Annotated[Time, Meta(description="when the source recorded it")]
    received_at: Annotated[Time, Meta(description="when it reached us")]
    accepted_at: Annotated[Time, Meta(description="landing time, the gate's clock")]
    policy_version: Annotated[str, Meta(description="policy that judged it")]
    sequence_reset: Annotated[bool, Meta(description="the source's sequence fell while its time rose")] = False
    trace_id: Annotated[str | None, Meta(description="W3C trace id")] = None
    awaits: Annotated[tuple[Await, ...], Meta(description="identities to be closed at a destination before this is written")] = ()

    @property
    def key(self) -> EntityKey:
        """Entity key; its encoding is the Kafka key."""
        return EntityKey(self.tenant, self.entity_type.value, self.namespace, self.entity_id)


class Decision(Redacted, frozen=True, kw_only=True):
    """Verdict on one landing position that was not accepted."""

    topic: Annotated[str, Meta(description="landing topic, without the prefix")]
    epoch: Annotated[int, Meta(description="epoch of the landing topic")]
    partition: Annotated[int, Meta(description="landing partition")]
    offset: Annotated[int, Meta(description="landing offset")]
    kind: Annotated[DecisionKind, Meta(description="verdict")]
    reason: Annotated[Reason, Meta(description="why")]
    detail: Annotated[str, Meta(description="the rule or field, without any value of the record")] = ""
    event_id: Annotated[EventId | None, Meta(description="event, where the record could be read")] = None
    content_hash: Annotated[str | None, Meta(description="digest of what the event said")] = None
    revision: Annotated[Revision, Meta(description="the entity's revision at that moment")]
    dropped: Annotated[tuple[Dropped, ...], Meta(description="verdict per field")] = ()
    received_at: Annotated[Time | None, Meta(description="when it reached us")] = None
    decided_at: Annotated[Time, Meta(description="landing time, the gate's clock")]
    policy_version: Annotated[str, Meta(description="policy that judged it")]


class OutcomeKind(Described):
    """What became of a revision at a destination."""

    CONFIRMED = "CONFIRMED", "the destination shows it; every older unconfirmed revision is superseded by it"
    SHADOWED = "SHADOWED", "computed and compared, not written"
    PARKED = "PARKED", "not written; visible until a higher revision is confirmed or it is replayed"
    FAILED = "FAILED", "one attempt failed; it will be tried again"


class Would(Described):
    """What a write that was only compared would have done at the destination."""

    CREATE = "CREATE", "made what isn't there"
    UPDATE = "UPDATE", "changed fields of what is there"
    MARK = "MARK", "changed no field, only the revision that the resource carries"
    HOLD = "HOLD", "nothing: it would have been held or refused, for the reason beside it"


class Outcome(Redacted, frozen=True, kw_only=True):
    """What became of a revision at one destination.

    CONFIRMED closes the range (after, revision): each accepted revision of the entity strictly between is superseded by it.
    """

    destination: Annotated[str, Meta(description="destination")]
    tenant: Annotated[str, Meta(description="organisation")]
    entity_type: Annotated[EntityType, Meta(description="what it is about")]
    namespace: Annotated[str, Meta(description="assigning authority of entity_id")]
    entity_id: Annotated[str, Meta(description="identifier")]
    kind: Annotated[OutcomeKind, Meta(description="what became of it")]
    reason: Annotated[Reason, Meta(description="why")]
    revision: Annotated[Revision, Meta(description="revision")]
    after: Annotated[Revision, Meta(description="last revision confirmed before; 0 for none")]
    partition: Annotated[int, Meta(description="partition of the entity, from landing on")]
    event_id: Annotated[EventId, Meta(description="event that made the revision")]
    content_hash: Annotated[str, Meta(description="digest of what the event said")]
    state_hash: Annotated[str, Meta(description="digest of the state")]
    lane: Annotated[Lane, Meta(description="lane it was written in")]
    remote_id: Annotated[str | None, Meta(description="id of the resource at the destination")] = None
    etag: Annotated[str | None, Meta(description="version of the resource at the destination")] = None
    attempts: Annotated[int, Meta(description="attempts so far")] = 1
    retry_at: Annotated[Time | None, Meta(description="FAILED: not tried again before")] = None
    would: Annotated[Would | None, Meta(description="SHADOWED: what the write would have done; none if it can't be told")] = None
    fields: Annotated[tuple[str, ...], Meta(description="SHADOWED: names of the fields that it would have changed")] = ()
    open_since: Annotated[Time, Meta(description="receipt of the oldest change that it closes")]
    received_at: Annotated[Time, Meta(description="receipt of this revision's event")]
    recorded_at: Annotated[Time, Meta(description="when the source recorded this revision's event")]
    at: Annotated[Time, Meta(description="when it was so; the lag ends here if confirmed")]
    writer: Annotated[str, Meta(description="instance that wrote it")]
    survivor: Annotated[
        Reference | None,
        Meta(description="identity that this one is merged into; the same record then lies in the survivor's partition as well"),
    ] = None

    @property
    def key(self) -> EntityKey:
        """Entity key; its encoding is the Kafka key."""
        return EntityKey(self.tenant, self.entity_type.value, self.namespace, self.entity_id)


class ControlKind(Described):
    """Records of the pipeline itself in a landing topic."""

    POLICY = "POLICY", "a policy takes effect in this partition from here on"
    REASSERT = "REASSERT", "send the entity's current state again"
    EXPIRE = "EXPIRE", "a field has come to its `until`"
    RELEASE = "RELEASE", "to a survivor: an identity merged into it is closed, or the merge did not come to pass"
    ALIAS = "ALIAS", "to a whole partition: references to a retired identity mean its survivor"
    REPOINT = "REPOINT", "look at the entity's references again"
    REOPEN = "REOPEN", "take back a merge that closes a circle"


class MergeLink(Redacted, frozen=True):
    """One merge on a release's way along a chain of them."""

    loser: Annotated[Reference, Meta(description="the identity that is retired")]
    survivor: Annotated[Reference, Meta(description="the identity that it is merged into")]
    recorded_at: Annotated[Time, Meta(description="when the source recorded the merge")]
    event_id: Annotated[EventId, Meta(description="event that closed the loser")]


class Control(Redacted, frozen=True, kw_only=True):
    """An order of the pipeline to one entity's gate, or a policy to a whole partition; carries no values of an entity."""

    kind: Annotated[ControlKind, Meta(description="what is ordered")]
    event_id: Annotated[EventId, Meta(description="derived id of the order")]
    actor: Annotated[str, Meta(description="who ordered it: operator, or role of the pipeline")]
    reason: Annotated[str, Meta(description="why")] = ""
    at: Annotated[Time, Meta(description="when it was ordered")]
    seen_revision: Annotated[Revision, Meta(description="REASSERT: the head that was seen")] = Revision(0)
    seen_etag: Annotated[str | None, Meta(description="REASSERT: version seen at the destination")] = None
    field: Annotated[str | None, Meta(description="EXPIRE: field")] = None
    until: Annotated[Time | None, Meta(description="EXPIRE: the end that was reached")] = None
    policy_version: Annotated[str | None, Meta(description="POLICY: version")] = None
    policy: Annotated[str | None, Meta(description="POLICY: the rules themselves, JSON")] = None
    loser_revision: Annotated[Revision, Meta(description="RELEASE, ALIAS: the loser's own revision at its word")] = Revision(0)
    trail: Annotated[tuple[MergeLink, ...], Meta(description="RELEASE, ALIAS, REOPEN: the merges that it tells of")] = ()
    undone: Annotated[bool, Meta(description="RELEASE, ALIAS: the merge did not come to pass, or is no longer in force")] = False
    answers: Annotated[Time | None, Meta(description="RELEASE: when the source recorded the merge that it answers")] = None


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an audit chain; a chain belongs to one writing process and each entry holds the hash of the one before."""

    chain: Annotated[str, Meta(description="role and instance")]
    sequence: Annotated[int, Meta(description="position in the chain, from 1")]
    at: Annotated[Time, Meta(description="when")]
    actor: Annotated[str, Meta(description="who: a principal or a role of the pipeline")]
    action: Annotated[str, Meta(description="what was done, e.g. write.confirmed")]
    subject: Annotated[str, Meta(description="to what: keyed digest of the entity key, or a name that is no patient data")]
    destination: Annotated[str | None, Meta(description="where")] = None
    revision: Annotated[Revision | None, Meta(description="revision")] = None
    event_id: Annotated[EventId | None, Meta(description="event")] = None
    reason: Annotated[str, Meta(description="why")] = ""
    detail: Annotated[dict[str, str], Meta(description="figures that caused it, by name")] = {}
    previous_hash: Annotated[str, Meta(description="hash of the entry before; 64 zeros for the first")]
    hash: Annotated[str, Meta(description="SHA-256 over this entry without its hash")]


class Quarantined(Redacted, frozen=True, kw_only=True):
    """A record that could not be judged, whole, with the rule that it broke and what to do."""

    topic: Annotated[str, Meta(description="topic it came by, without the prefix")]
    partition: Annotated[int, Meta(description="partition")]
    offset: Annotated[int, Meta(description="offset")]
    reason: Annotated[Reason, Meta(description="why")]
    field: Annotated[str | None, Meta(description="field at fault")] = None
    rule: Annotated[str, Meta(description="rule that it broke")]
    remedy: Annotated[str, Meta(description="what to do")]
    event_id: Annotated[EventId | None, Meta(description="event, where it could be read")] = None
    record_key: Annotated[bytes | None, Meta(description="key; encrypted as the record is")] = None
    record: Annotated[bytes | None, Meta(description="the record itself, encrypted; key id in the header of the ciphertext")] = (
        None
    )
    file: Annotated[str, Meta(description="digest of the content of the file that it stood in")] = ""
    row: Annotated[int, Meta(description="number of the record in that file, from 1; 0 for none")] = 0
    line: Annotated[int, Meta(description="line on which it begins there")] = 0
    at: Annotated[Time, Meta(description="landing time")]


class LaneWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Lag of one lane and entity type at one destination in one window, from receipt to confirmation."""

    lane: Annotated[Lane, Meta(description="lane")]
    entity_type: Annotated[EntityType, Meta(description="entity type")]
    count: Annotated[int, Meta(description="changes confirmed in the window, superseded ones too")]
    p50_ms: Annotated[float, Meta(description="median lag, ms")]
    p99_ms: Annotated[float, Meta(description="99th percentile of the lag, ms")]
    max_ms: Annotated[float, Meta(description="greatest lag, ms")]


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """A change that does not reach its destination."""

    subject: Annotated[str, Meta(description="keyed digest of the entity key; a bed's or unit's own id")]
    entity_type: Annotated[EntityType, Meta(description="entity type")]
    lane: Annotated[Lane, Meta(description="lane")]
    reason: Annotated[Reason, Meta(description="cause")]
    attempts: Annotated[int, Meta(description="attempts so far")]
    since: Annotated[Time, Meta(description="receipt of the oldest change that waits")]
    revision: Annotated[Revision, Meta(description="newest revision that waits")]


class LagReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one writer instance knows at the end of one window: the answers to the four questions for its partitions."""

    destination: Annotated[str, Meta(description="destination")]
    instance: Annotated[str, Meta(description="writer instance")]
    partitions: Annotated[tuple[int, ...], Meta(description="partitions that it serves")]
    window_start: Annotated[Time, Meta(description="start of the window")]
    window_end: Annotated[Time, Meta(description="end of the window")]
    mode: Annotated[str, Meta(description="mode of the destination")]
    pending: Annotated[dict[str, int], Meta(description="entities that wait, by lane")]
    in_flight: Annotated[int, Meta(description="writes under way")]
    parked: Annotated[int, Meta(description="entities parked")]
    shadowed: Annotated[int, Meta(description="entities whose newest state was only compared")] = 0
    frozen: Annotated[dict[str, int], Meta(description="entities that the mode freezes, by lane and entity type: bulk bed")] = {}
    oldest_open_since: Annotated[Time | None, Meta(description="receipt of the oldest change that waits")] = None
    last_confirmed_at: Annotated[Time | None, Meta(description="time of the last confirmation")] = None
    last_confirmed_revision: Annotated[Revision, Meta(description="revision of the last confirmation")] = Revision(0)
    concurrency: Annotated[int, Meta(description="writes allowed at once")] = 0
    double_occupied: Annotated[int, Meta(description="beds that more than one stay claims, all partitions")] = 0
    unread: Annotated[int, Meta(description="records of the history that a destination told of each is still to read")] = 0
    windows: Annotated[tuple[LaneWindow, ...], Meta(description="lag per lane and entity type")] = ()
    stuck: Annotated[tuple[Stuck, ...], Meta(description="longest stuck first, bounded")] = ()


class ModeChange(msgspec.Struct, frozen=True, kw_only=True):
    """A destination enters a mode."""

    destination: Annotated[str, Meta(description="destination")]
    instance: Annotated[str, Meta(description="writer instance")]
    mode: Annotated[str, Meta(description="mode entered")]
    previous: Annotated[str, Meta(description="mode left")]
    at: Annotated[Time, Meta(description="when")]
    cause: Annotated[str, Meta(description="rule that caused it; DRAINED starts a reconciliation")]
    figures: Annotated[dict[str, float], Meta(description="figures that caused it, by name")] = {}
    back_at: Annotated[Time | None, Meta(description="return of the destination that it still recovers from")] = None
    frozen_since: Annotated[Time | None, Meta(description="since when the mode, or the one before it, freezes")] = None


class ModeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An operator forces a mode of a destination, or releases it; the newest order of a destination counts."""

    destination: Annotated[str, Meta(description="destination")]
    mode: Annotated[str | None, Meta(description="mode that is forced; none: released, the figures decide again")]
    actor: Annotated[str, Meta(description="who ordered it")]
    reason: Annotated[str, Meta(description="why, in the operator's words")]
    at: Annotated[Time, Meta(description="when it was ordered")]
    until: Annotated[Time, Meta(description="it ends by itself then")]


class Receipt(Redacted, frozen=True, kw_only=True):
    """The answer that a sender got, so that a repeat gets the same."""

    identity: Annotated[str, Meta(description="digest of what names the message at its source")]
    body_digest: Annotated[str, Meta(description="SHA-256 of the body")]
    answer: Annotated[bytes, Meta(description="the answer, as it was sent")]
    at: Annotated[Time, Meta(description="when it was answered")]


class FeedState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a FHIR feed has heard its server. Whatever it says to have been taken is on landing; it may lag behind that."""

    feed: Annotated[str, Meta(description="feed, a name of the settings")]
    instance: Annotated[str, Meta(description="instance that wrote it")]
    subscription: Annotated[str | None, Meta(description="id of the subscription at the server")]
    state: Annotated[bytes, Meta(description="event numbers, gaps, status and times, as JSON of pipeline.domain.subscription")]
    at: Annotated[Time, Meta(description="when it was written")]


class TopicEpoch(msgspec.Struct, frozen=True, kw_only=True):
    """Which life of a topic this is: a topic that was deleted and made again has a new id and the next epoch."""

    topic: Annotated[str, Meta(description="topic, with the prefix")]
    topic_id: Annotated[str, Meta(description="Kafka's id of the topic")]
    epoch: Annotated[int, Meta(description="epoch, from 1")]
    at: Annotated[Time, Meta(description="when it was recorded")]
    actor: Annotated[str, Meta(description="who recorded it")]


class Raw(Redacted, frozen=True, kw_only=True):
    """Original bytes, encrypted with AES-256-GCM."""

    identity: Annotated[str, Meta(description="digest of what names the message at its source")]
    key_id: Annotated[str, Meta(description="key that it is encrypted with")]
    content_type: Annotated[str, Meta(description="media type")]
    ciphertext: Annotated[bytes, Meta(description="nonce, ciphertext and tag")]
    received_at: Annotated[Time, Meta(description="when it reached us")]
