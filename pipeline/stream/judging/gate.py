"""The gate's agent: landing records in, verdicts out, heads kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipeline.domain.event import EntityType, Event
from pipeline.domain.head import HEAD_VERSION, Head, at_of, decode_head, encode_head
from pipeline.domain.identifiers import EntityKey, derive_event_id, partition_of, revision_of
from pipeline.domain.judging.gate import Accept, Broken, Position, Redelivered, Send, Suppress, decide
from pipeline.domain.judging.merges import ALIAS_KEY
from pipeline.domain.judging.policy import Policy, decode_policy
from pipeline.domain.judging.referring import Resolve, as_it_stands
from pipeline.domain.judging.restating import PIPELINE
from pipeline.domain.records import Accepted, Control, ControlKind, Decision, Quarantined, Reason
from pipeline.formats.avro import Codec, Undecodable
from pipeline.ops.log_catalogue import POLICY_APPLIED
from pipeline.ops.logs import emit
from pipeline.stream.judging.aliases import ALIAS_MARK, Aliases, alias_of, last_alias
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.worker.outputs import Outputs
from pipeline.stream.worker.store import RESERVED, join_positions
from pipeline.topology import ENTITY_PARTITIONS, LANDING

POLICY_KEY: Final = b"\x00policy"
"""Key of policy records in a landing topic, and beginning of the key under which a partition keeps them."""

POLICY_HISTORY: Final = 16
"""Policies that a partition remembers, with the position from which each holds: a redelivery is judged by its own."""

ACCEPTED_BOUND: Final = 512 * 1024
"""Bytes that an accepted record may have; a state that grew beyond is quarantined, or it would stop the partition."""


KEY_BOUND: Final = 4 * 1024
"""Bytes that a key may have. A greater one is no entity's, and with it a decision would not fit into its topic."""


class InForce(msgspec.Struct, frozen=True, array_like=True):
    """A policy with the revision number of the position that put it into force."""

    since: int
    text: str


_HISTORY: Final = msgspec.msgpack.Decoder(tuple[InForce, ...])


POLICY_MARK: Final = b"\xf1"
"""First byte of a policy history's value; a head's is its version, and positions are a MessagePack map."""


def join_values(one: bytes, other: bytes) -> bytes:
    """The later of two changelog records of one key: heads by position, policies and aliases by the last, positions by the
    highest."""
    if one[0] == other[0] == HEAD_VERSION:
        return one if at_of(one) >= at_of(other) else other
    if one[:1] == other[:1] == POLICY_MARK:
        return max(one, other, key=_last_policy)
    if one[:1] == other[:1] == ALIAS_MARK:
        return max(one, other, key=last_alias)
    return join_positions(one, other)


def policies_of(key: bytes | None, value: bytes | None, topic: str) -> tuple[tuple[int, str], ...]:
    """Policies of a changelog record of the gate, each with the position from which it holds in a landing topic."""
    if not key or not key.startswith(POLICY_KEY) or not key.endswith(topic.encode()) or not value or value[:1] != POLICY_MARK:
        return ()
    return tuple((p.since, p.text) for p in _HISTORY.decode(memoryview(value)[1:]))


def _last_policy(data: bytes) -> int:
    return max((p.since for p in _HISTORY.decode(memoryview(data)[1:])), default=0)


@dataclass(frozen=True, slots=True)
class Destinations:
    """Full names of the topics that the gate writes to, and how its landing topics are called; to these it writes as well."""

    accepted: str
    decisions: str
    quarantine: str
    lanes: Mapping[str, str]
    landing: Mapping[str, EntityType]
    epochs: Mapping[str, int]


class GateWork:
    """Judges the records of a batch. Nothing that arrives stops it or is skipped."""

    def __init__(
        self,
        codec: Codec,
        topics: Destinations,
        fallback: Policy,
        encrypt: Callable[[bytes, bytes], bytes],
        max_record_bytes: int,
        observe: Callable[[Accepted | Decision | Redelivered], None],
        stored: Callable[[], None] = lambda: None,
    ) -> None:
        """`observe` is told of each verdict as it falls, `stored` once what was observed is in the table."""
        self._codec = codec
        self._topics = topics
        self._landing = {entity_type: topic for topic, entity_type in topics.landing.items()}
        self._places = {topic: (entity_type, topics.epochs[topic]) for topic, entity_type in topics.landing.items()}
        self._fallback = fallback
        self._encrypt = encrypt
        self._max_record_bytes = max_record_bytes
        self._observe = observe
        self._stored = stored

    def is_quick(self, record: Any) -> bool:
        """An alias has all heads of a type looked at, and an id that is not known may be asked for at the registry."""
        return not (record.key or b"").startswith(ALIAS_KEY) and self._codec.type_of(record.value) is not None

    def judge(self, batch: PartitionBatch, outputs: Outputs) -> None:
        """Verdicts of one partition's records; heads that several records touch are stored once, with the last."""
        keys = list({r.key for r in batch.records if r.key and not r.key.startswith(RESERVED)})
        heads: dict[bytes, Head] = {key: decode_head(data) for key, data in batch.get(keys).items()}
        before = dict(heads)
        policies, aliases = _Policies(batch, self._fallback), Aliases(batch)
        for record in batch.records:
            self._one(record, heads, policies, aliases, outputs)
        batch.puts.update((key, encode_head(head)) for key, head in heads.items() if head is not before.get(key))
        for topic, key, alias in aliases.referrers(dict(self._topics.landing)):
            outputs.send(topic, batch.partition, key, self._codec.encode(_repointing(key, alias)))

    def after(self, batches: Sequence[PartitionBatch]) -> None:
        """Tell that the verdicts are stored: they have no further effect in this process."""
        self._stored()

    def _one(self, record: Any, heads: dict[bytes, Head], policies: "_Policies", aliases: Aliases, outputs: Outputs) -> None:
        entity_type, epoch = self._places[record.topic]
        at = Position(entity_type, epoch, record.partition, record.offset, record.timestamp)
        head = heads.get(record.key) if record.key else None
        content = self._read(record, head is not None)
        if isinstance(content, Control) and content.kind is ControlKind.POLICY:
            content = policies.put(at, record.topic, content)
        if isinstance(content, Control) and content.kind is ControlKind.ALIAS and (retired := alias_of(record.key)):
            aliases.put(at, record.topic, retired, content)
        policy = policies.at(at, record.topic)
        is_any_merged = aliases.has_any(record.topic)
        resolve = aliases.resolver(at, record.topic, _tenant_of(content, record.key)) if is_any_merged else as_it_stands
        verdict, encoded = self._verdict(head, at, record.key, content, policy, resolve)
        match verdict:
            case Redelivered():
                self._observe(verdict)
                return
            case Accept(new, accepted):
                self._send_accepted(accepted, encoded, record, outputs)
                self._send_on(verdict.sends, outputs)
                self._observe(accepted)
            case Suppress(new, decision, broken):
                key = record.key if record.key is None or len(record.key) <= KEY_BOUND else None
                outputs.send(self._topics.decisions, record.partition, key, self._codec.encode(decision))
                if broken is not None:
                    self._send_quarantined(decision, broken, record, outputs)
                self._send_on(verdict.sends, outputs)
                self._observe(decision)
        if new is not None:
            heads[record.key] = new

    def _read(self, record: Any, is_known: bool) -> Event | Control | Broken:
        """The record's content, or the rule that it breaks. The key of an entity that is known is a good one."""
        if record.key is None:
            return Broken(Reason.NULL_KEY, "key", "a landing record has a key", "key it tenant|type|namespace|id, then replay")
        if len(record.key) > KEY_BOUND:
            return Broken(Reason.BAD_KEY, "key", f"a key has at most {KEY_BOUND} bytes", "shorten the identifier at the source")
        if record.value is None:
            return Broken(Reason.NULL_VALUE, "value", "a landing record has a value", "nothing is deleted by an empty record")
        if len(record.value) > self._max_record_bytes:
            return Broken(Reason.OVERSIZE, "value", f"at most {self._max_record_bytes} bytes", "split the message at the source")
        try:
            content = self._codec.decode(record.value)
        except Undecodable as error:
            return Broken(error.reason, "value", "the value is Avro of a known schema", "register the schema, then replay")
        if not isinstance(content, (Event, Control)):
            return Broken(Reason.WRONG_TOPIC, "value", "a landing topic holds events and controls", "publish it elsewhere")
        if is_known and type(content) is Event:
            return content
        return _misplaced(record.key, content) or content

    def _verdict(
        self,
        head: Head | None,
        at: Position,
        key: bytes | None,
        content: Event | Control | Broken,
        policy: Policy,
        resolve: Resolve,
    ) -> tuple[Accept | Suppress | Redelivered, bytes]:
        """Verdict with the encoded accepted record. A fault of ours in one record quarantines that record."""
        try:
            verdict = decide(head, at, key, content, policy, resolve)
            encoded = self._codec.encode(verdict.accepted) if isinstance(verdict, Accept) else b""
            if len(encoded) <= ACCEPTED_BOUND:
                return verdict, encoded
            fault = Broken(Reason.OVERSIZE, "payload", f"a state has at most {ACCEPTED_BOUND} bytes", "clear fields, replay")
        except Exception:  # noqa: BLE001 - a fault of ours in one record must not stop the partition: it is quarantined
            fault = Broken(Reason.INTERNAL, None, "the gate could judge it", "report the position; replay after the fix")
        return decide(head, at, key, fault, policy), b""

    def _send_accepted(self, accepted: Accepted, encoded: bytes, record: Any, outputs: Outputs) -> None:
        outputs.send(self._topics.accepted, record.partition, record.key, encoded)
        outputs.send(self._topics.lanes[accepted.lane], record.partition, record.key, encoded)

    def _send_on(self, sends: Sequence[Send], outputs: Outputs) -> None:
        """What a merge makes for the logs of others."""
        for send in sends:
            topic, value = self._landing[send.entity_type], self._codec.encode(send.record)
            everywhere = range(ENTITY_PARTITIONS) if send.everywhere else (partition_of(send.key, ENTITY_PARTITIONS),)
            for partition in everywhere:
                outputs.send(topic, partition, send.key, value)

    def _send_quarantined(self, decision: Decision, broken: Broken, record: Any, outputs: Outputs) -> None:
        context = f"{decision.topic}/{decision.partition}/{decision.offset}".encode()
        quarantined = Quarantined(
            topic=decision.topic,
            partition=decision.partition,
            offset=decision.offset,
            reason=broken.reason,
            field=broken.field,
            rule=broken.rule,
            remedy=broken.remedy,
            event_id=decision.event_id,
            record_key=self._encrypt(record.key, context) if record.key is not None else None,
            record=self._encrypt(record.value, context) if record.value is not None else None,
            at=decision.decided_at,
        )
        # Not under the record's own key: that may be anything, a name included, and the value holds it encrypted.
        place = f"{decision.topic}|{decision.partition}|{decision.offset}".encode()
        outputs.send(self._topics.quarantine, record.partition, place, self._codec.encode(quarantined))


class _Policies:
    """The policies of one partition, per landing topic, each with the position from which it holds."""

    def __init__(self, batch: PartitionBatch, fallback: Policy) -> None:
        self._batch = batch
        self._fallback = fallback
        self._known: dict[str, tuple[InForce, ...]] = {}

    def at(self, at: Position, topic: str) -> Policy:
        """Policy under which a position is judged, at its first delivery and at every other."""
        known = self._of(topic)
        if not known:
            return self._fallback
        position = revision_of(at.epoch, at.offset)
        in_force = [p for p in known if p.since < position]
        return decode_policy(in_force[-1].text) if in_force else self._fallback

    def put(self, at: Position, topic: str, order: Control) -> Control | Broken:
        """Put a policy into force from this position on; one that can't be read changes nothing."""
        try:
            decode_policy(order.policy or "")
        except ValueError:
            return Broken(Reason.UNDECODABLE, "policy", "a policy record carries a valid policy", "apply it by the command")
        since = revision_of(at.epoch, at.offset)
        known = self._of(topic)
        if all(p.since != since for p in known):
            known = tuple(sorted((*known, InForce(since, order.policy or "")), key=lambda p: p.since))[-POLICY_HISTORY:]
            self._known[topic] = known
            self._batch.puts[_policy_key(topic)] = POLICY_MARK + msgspec.msgpack.encode(known)
            place = LANDING[at.entity_type]
            emit(POLICY_APPLIED, version=order.policy_version or "", topic=place, partition=at.partition, offset=at.offset)
        return order

    def _of(self, topic: str) -> tuple[InForce, ...]:
        if topic not in self._known:
            data = self._batch.db.get(_policy_key(topic))
            self._known[topic] = _HISTORY.decode(memoryview(data)[1:]) if data is not None else ()
        return self._known[topic]


def _misplaced(key: bytes, content: Event | Control) -> Broken | None:
    """What is wrong with the key: those of policies and aliases hold nothing else, and these have no other."""
    is_policy = isinstance(content, Control) and content.kind is ControlKind.POLICY
    if key == POLICY_KEY or is_policy:
        if key == POLICY_KEY and is_policy:
            return None
        rule = "a policy has the key that is kept for it" if is_policy else "this key is kept for policies"
        remedy = "apply it by the command" if is_policy else "key it tenant|type|namespace|id"
        return Broken(Reason.BAD_KEY, "key", rule, remedy)
    try:
        if (alias_of(key) is not None) is not _is_alias(content):
            return Broken(Reason.BAD_KEY, "key", "only aliases have the keys that are kept for them", "replay the merge instead")
        if not _is_alias(content):
            EntityKey.decode(key)
    except ValueError:
        return Broken(Reason.BAD_KEY, "key", "the key is tenant|type|namespace|id", "publish through a way in")
    return None


def _is_alias(content: Event | Control) -> bool:
    return isinstance(content, Control) and content.kind is ControlKind.ALIAS and bool(content.trail)


def _tenant_of(content: Event | Control | Broken, key: bytes | None) -> str:
    """Tenant within which references mean something: an order has it in its key."""
    if isinstance(content, Event):
        return content.tenant
    if not isinstance(content, Control) or content.kind is not ControlKind.REPOINT or key is None:
        return ""
    return EntityKey.decode(key).tenant


def _repointing(key: bytes, alias: Control) -> Control:
    """Order to look at an entity's references again. The same alias has the same one."""
    entity = EntityKey.decode(key)
    event_id = derive_event_id(entity.tenant, PIPELINE, (ControlKind.REPOINT.value, alias.event_id), entity, 0)
    return Control(kind=ControlKind.REPOINT, event_id=event_id, actor="gate", at=alias.at)


def _policy_key(topic: str) -> bytes:
    return POLICY_KEY + b"|" + topic.encode()
