"""What a reconciliation says of itself: each class is one Avro record, and its descriptions are that schema's documentation.

None of them names an entity or repeats a value: a finding names its entity by the keyed digest that logs and audit show.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pipeline.domain.event import Described, EntityType, Time
from pipeline.domain.identifiers import Revision

MAX_DRIFTS: Final = 500
"""Findings that a result lists one by one, the oldest; all of them are counted."""
MAX_REPAIRED: Final = 10_000
"""Repairs of one run, each kept by its digest: what is beyond waits for the next run."""


class Drift(Described):
    """What differs between what we hold and what a system shows."""

    MISSING = "MISSING", "accepted, and never shown there"
    DELETED = "DELETED", "confirmed there, and gone"
    STALE = "STALE", "an older state is shown than the one that was confirmed, or none was confirmed in time"
    CONFLICTING = "CONFLICTING", "something else is shown than was written, by revision or by value"
    EDITED = "EDITED", "our revision is shown, with other values in what is ours to write"
    EXTRA = "EXTRA", "it carries our name or our mark, and nothing is known of it here"
    DOUBLED = "DOUBLED", "several resources carry the entity's identifier"


class Rule(Described):
    """The rule that names a finding and settles it."""

    NEVER_WRITTEN = "NEVER_WRITTEN", "the writer never heard of the accepted state: it is sent again"
    OVERDUE = "OVERDUE", "the writer holds it and is late: its lane and mode decide, see status"
    GONE = "GONE", "what was confirmed is made again, where the profile lets us make it"
    OWNER_MAKES = "OWNER_MAKES", "the system makes its resources itself: what is gone there is its word"
    OLDER_REVISION = "OLDER_REVISION", "a revision never goes back: the current state is sent again"
    NEWER_REVISION = "NEWER_REVISION", "a newer revision than we know is there: nothing is written over it"
    MARK_LOST = "MARK_LOST", "it was replaced without our mark: the current state is sent again"
    FORK = "FORK", "one revision with two states: the current state is sent again"
    OURS_TO_WRITE = "OURS_TO_WRITE", "the fields that differ are ours to write there: the current state is sent again"
    ITS_OWN_WORD = "ITS_OWN_WORD", "the policy lets that system say it: it enters by its feed, as a difference"
    NEVER_DELETE = "NEVER_DELETE", "nothing is ever deleted there: somebody has to look at it"
    UNKNOWN_HERE = "UNKNOWN_HERE", "a snapshot names what we never heard of: the feed that should have told of it is looked at"
    SNAPSHOT_DIFFERS = "SNAPSHOT_DIFFERS", "a snapshot says otherwise and nothing newer settles it: shown, never written over"


class Remedy(Described):
    """What is done about a finding."""

    REASSERT = "REASSERT", "the gate is asked to send its current state again, unless its head has moved"
    ADOPT = "ADOPT", "left to the feed of that system, which takes it in as that system's word"
    REPORT = "REPORT", "reported, nothing is written"
    ESCALATE = "ESCALATE", "it was repaired as often as is allowed in its time: somebody undoes it, or it does not hold"


class Stage(Described):
    """How far a run is."""

    RUNNING = "RUNNING", "begun; a later record of the same run replaces this one"
    DONE = "DONE", "all that was meant was compared"
    PARTIAL = "PARTIAL", "some of it could not be read or repaired; it is tried again soon"
    BROKEN_OFF = "BROKEN_OFF", "ended before its end: the mode of the destination, a stop, or a fault"


class Scope(Described):
    """How much a run compares."""

    FULL = "FULL", "everything"
    INCREMENTAL = "INCREMENTAL", "what changed there or here since the run before"


class Cause(Described):
    """Why a run began."""

    SCHEDULE = "SCHEDULE", "its time had come"
    NIGHTLY = "NIGHTLY", "the full comparison of the night, or the first of all"
    RECOVERED = "RECOVERED", "the destination was away, and what had waited is written"
    FEED_GAP = "FEED_GAP", "a subscription at that system missed something"
    ORDER = "ORDER", "an operator ordered it"
    RETRY = "RETRY", "the run before did not come to its end"


class FindingCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often something was found."""

    kind: Annotated[Drift, Meta(description="what differs")]
    rule: Annotated[Rule, Meta(description="rule that settles it")]
    remedy: Annotated[Remedy, Meta(description="what is done about it")]
    entity_type: Annotated[EntityType, Meta(description="entity type")]
    count: Annotated[int, Meta(description="how many")]
    since: Annotated[Time, Meta(description="since when the oldest can have been so, at most")]


class Drifted(msgspec.Struct, frozen=True, kw_only=True):
    """One finding."""

    subject: Annotated[str, Meta(description="keyed digest of the entity key; of an extra one, of its place at the destination")]
    entity_type: Annotated[EntityType, Meta(description="entity type")]
    kind: Annotated[Drift, Meta(description="what differs")]
    rule: Annotated[Rule, Meta(description="rule that settles it")]
    remedy: Annotated[Remedy, Meta(description="what is done about it")]
    since: Annotated[Time, Meta(description="since when it can have been so, at most")]
    revision: Annotated[Revision, Meta(description="revision that we hold; 0 for none")]
    shown: Annotated[Revision, Meta(description="revision that is shown; 0 for none")]
    fields: Annotated[tuple[str, ...], Meta(description="names of the fields that differ, where that can be told")] = ()


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """One run at one destination: what was compared, what was found, what was done. The newest record of a run counts."""

    run: Annotated[str, Meta(description="id of the run")]
    destination: Annotated[str, Meta(description="destination")]
    instance: Annotated[str, Meta(description="instance that ran it")]
    scope: Annotated[Scope, Meta(description="how much was compared")]
    cause: Annotated[Cause, Meta(description="why it began")]
    order: Annotated[str | None, Meta(description="order that it carries out")] = None
    dry_run: Annotated[bool, Meta(description="nothing was repaired, on purpose")] = False
    stage: Annotated[Stage, Meta(description="how far it is")]
    stopped_by: Annotated[str, Meta(description="what broke it off or left something unread; a code, empty for nothing")] = ""
    begun_at: Annotated[Time, Meta(description="when it began")]
    ended_at: Annotated[Time | None, Meta(description="when it ended")] = None
    entities: Annotated[int, Meta(description="entities of ours that were to be compared")] = 0
    equal: Annotated[int, Meta(description="of these, equal")] = 0
    waiting: Annotated[int, Meta(description="of these, on their way and in time: no drift")] = 0
    parked: Annotated[int, Meta(description="of these, parked at the writer and visible there: no drift")] = 0
    shadowed: Annotated[int, Meta(description="of these, only compared because of a flag: no drift")] = 0
    drifted: Annotated[int, Meta(description="of these, with a finding")] = 0
    unread: Annotated[int, Meta(description="of these, not to be told: the destination did not answer")] = 0
    resources: Annotated[int, Meta(description="resources that were read")] = 0
    foreign: Annotated[int, Meta(description="of these, of others: neither our name nor our mark")] = 0
    extra: Annotated[int, Meta(description="of these, with our name or mark and unknown here")] = 0
    snapshots: Annotated[int, Meta(description="entities of which a source's snapshot spoke")] = 0
    repaired: Annotated[int, Meta(description="entities whose state was ordered to be sent again")] = 0
    left: Annotated[int, Meta(description="repairs that were due and left for the next run")] = 0
    findings: Annotated[tuple[FindingCount, ...], Meta(description="what was found, counted")] = ()
    drifts: Annotated[tuple[Drifted, ...], Meta(description="what was found, one by one, the oldest first, bounded")] = ()
    repairs: Annotated[tuple[str, ...], Meta(description="digests of the entities that were repaired")] = ()
    changed_until: Annotated[Time, Meta(description="latest change that was read, by the destination's clock; 0 for none")]
    report: Annotated[bytes | None, Meta(description="the signed report of a full run, JSON")] = None
    signature: Annotated[str | None, Meta(description="detached JWS over the report's bytes, Ed25519")] = None

    @property
    def balances(self) -> bool:
        """Whether every entity that was to be compared is in one of the counts."""
        return self.entities == self.equal + self.waiting + self.parked + self.shadowed + self.drifted + self.unread


class ReconciliationOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An operator orders a run."""

    order: Annotated[str, Meta(description="id of the order")]
    destination: Annotated[str, Meta(description="destination")]
    scope: Annotated[Scope, Meta(description="how much is compared")]
    dry_run: Annotated[bool, Meta(description="nothing is to be repaired")]
    actor: Annotated[str, Meta(description="who ordered it")]
    reason: Annotated[str, Meta(description="why, in the operator's words")]
    at: Annotated[Time, Meta(description="when it was ordered")]
