"""What lies in `quarantine`, opened and judged: what may be put back, what needs it no more, and what can't be, by name.

A landing record is put back as it was, bytes and key, behind everything that has landed since: its own times say what it
may still change. A record of a lane is never put back there: its entity is sent again at its head.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline import topology
from pipeline.domain.event import Event
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.judging.gate import Broken, Position, Suppress, decide
from pipeline.domain.judging.policy import Policy
from pipeline.domain.reconcile.replay import Refusal
from pipeline.domain.records import Accepted, Control, ControlKind, Quarantined, Reason
from pipeline.formats.avro import Codec, Undecodable
from pipeline.kafka.crypto import RawCipher, Undecryptable

BACK_IN_LANDING: Final = frozenset(topology.LANDING.values())
_TYPE_OF: Final = {topic: entity_type for entity_type, topic in topology.LANDING.items()}
_LANES: Final = frozenset(topology.LANE_TOPICS.values())

NOT_OPENED: Final = "NOT_OPENED"
"""Beside the reasons of the quarantine: its bytes can't be had."""

_WHAT_INSTEAD: Final[Mapping[str, str]] = {
    "way in": "correct it at its source, which sends it again; the whole message is in raw.* under this position",
    "outcomes": "no outcome is put back: surgeline books says if one is missing; find who else writes there",
    "lane": "no stage of ours wrote it there: find who else writes to this topic",
    "policy": "put the policy into force by surgeline policy apply",
    "key": "name the key that encrypted it under raw_encryption.previous; else let the source send it again",
    "empty": "nothing to put back: let the source send it again",
    "decode": "register the schema, or run the version that wrote it; else let the source send it again",
}

_NOT_YET: Final = "its time is still to come: have the source correct it, or replay it after that time"


@dataclass(frozen=True, slots=True)
class Back:
    """A landing record that may be put back."""

    topic: str
    key: bytes
    value: bytes
    digest: bytes
    entity_type: str
    event_id: EventId | None
    source_system: str
    feed: str
    at: Millis
    cause: Reason

    def __repr__(self) -> str:
        return f"Back({self.topic}, {self.cause.value}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Again:
    """An entity whose revision a writer could not take from a lane."""

    topic: str
    key: bytes
    revision: Revision
    source_system: str
    feed: str
    at: Millis
    cause: Reason

    def __repr__(self) -> str:
        return f"Again({self.topic}, {self.cause.value}, <redacted>)"

    @property
    def entity_type(self) -> str:
        """Type of the entity."""
        return EntityKey.decode(self.key).entity_type


def record_digest(topic: str, key: bytes, value: bytes) -> bytes:
    """What two equal records of a topic have in common."""
    digest = hashlib.sha256()
    for part in (topic.encode(), key, value):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


class Opener:
    """Opens and judges quarantined records."""

    def __init__(self, codec: Codec, cipher: RawCipher, policy: Policy, max_record_bytes: int, now: Millis) -> None:
        """`policy` is the one in force, `max_record_bytes` the gate's bound, `now` what it would judge by."""
        self._codec = codec
        self._cipher = cipher
        self._policy = policy
        self._max_record_bytes = max_record_bytes
        self._now = now

    def open(self, record: Quarantined) -> Back | Again | Refusal:
        """What can be done with a record."""
        if record.topic in BACK_IN_LANDING:
            return self._landing(record)
        if record.topic in _LANES:
            return self._lane(record)
        return _refusal(record, "outcomes" if record.topic == topology.OUTCOMES else "way in")

    def _landing(self, record: Quarantined) -> Back | Refusal:
        opened = self._bytes_of(record)
        if isinstance(opened, Refusal):
            return opened
        key, value = opened
        if len(value) > self._max_record_bytes:
            return Refusal(record.topic, Reason.OVERSIZE.value, record.remedy)
        try:
            content = self._codec.decode(value)
        except Undecodable as error:
            return _refusal(record, "decode", error.reason.value)
        if not isinstance(content, (Event, Control)):
            return Refusal(record.topic, Reason.WRONG_TOPIC.value, record.remedy)
        if isinstance(content, Control) and content.kind is ControlKind.POLICY:
            return _refusal(record, "policy")
        broken = self._still_broken(record, key, content)
        if broken is not None:
            return Refusal(record.topic, broken.reason.value, broken.remedy)
        said = (content.source_system, content.feed) if isinstance(content, Event) else (content.actor, "")
        entity_type, digest = _TYPE_OF[record.topic].value, record_digest(record.topic, key, value)
        return Back(record.topic, key, value, digest, entity_type, content.event_id, *said, record.at, record.reason)

    def _still_broken(self, record: Quarantined, key: bytes, content: Event | Control) -> Broken | None:
        """Why the gate would quarantine it again, if it would: it is asked, with no head, as no rule for that knows one."""
        try:
            EntityKey.decode(key)
        except ValueError:
            return Broken(Reason.BAD_KEY, "key", "the key is tenant|type|namespace|id", "let the source send it by a way in")
        at = Position(_TYPE_OF[record.topic], 1, record.partition, record.offset, self._now)
        try:
            verdict = decide(None, at, key, content, self._policy)
        except Exception:  # noqa: BLE001 - the gate met the same fault of ours, and keeps the record for the version that mends it
            return Broken(Reason.INTERNAL, None, "the gate could judge it", "report the position; replay after the fix")
        broken = verdict.broken if isinstance(verdict, Suppress) else None
        return (
            msgspec.structs.replace(broken, remedy=_NOT_YET)
            if broken is not None and broken.reason is Reason.FUTURE_TIME
            else broken
        )

    def _lane(self, record: Quarantined) -> Again | Refusal:
        opened = self._bytes_of(record)
        if isinstance(opened, Refusal):
            return opened
        key, value = opened
        try:
            content = self._codec.decode(value)
        except Undecodable as error:
            return _refusal(record, "decode", error.reason.value)
        if not isinstance(content, Accepted) or content.key.encode() != key:
            return _refusal(record, "lane")
        return Again(record.topic, key, content.revision, content.source_system, content.feed, record.at, record.reason)

    def _bytes_of(self, record: Quarantined) -> tuple[bytes, bytes] | Refusal:
        """Key and value, decrypted."""
        if record.record_key is None or record.record is None:
            return _refusal(record, "empty")
        context = f"{record.topic}/{record.partition}/{record.offset}"
        try:
            return self._cipher.open_named(context, record.record_key), self._cipher.open_named(context, record.record)
        except Undecryptable:
            return _refusal(record, "key", NOT_OPENED)


def _refusal(record: Quarantined, instead: str, cause: str | None = None) -> Refusal:
    return Refusal(record.topic, cause or record.reason.value, _WHAT_INSTEAD[instead])
