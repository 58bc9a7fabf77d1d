"""The writer's agent: lanes and outcomes in, pending kept. It never waits for the destination."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipeline.destinations.protocol import Destination
from pipeline.domain.event import Reference
from pipeline.domain.identifiers import partition_of
from pipeline.domain.judging.merges import key_of
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.pending import Fork, Pending, decode_pending, encode_pending, join, on_accepted, on_loser, on_outcome
from pipeline.formats.avro import Codec, Undecodable
from pipeline.ops import log_catalogue as lines
from pipeline.ops.logs import emit
from pipeline.ops.metrics import FORKS
from pipeline.stream.judging.foreign import is_in_its_place, quarantined_of, tell_quarantined
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.worker.outputs import Outputs
from pipeline.stream.worker.store import RESERVED, join_positions
from pipeline.stream.writing.delivery import Change, Delivery
from pipeline.topology import ENTITY_PARTITIONS, without_prefix

PENDING_MARK: Final = 1

RULE: Final = "lanes hold accepted records, outcomes hold outcomes, each by its entity's key; a revision has one state"
REMEDY: Final = "find who else writes to this topic; for a fork, reassert the entity"


def join_values(one: bytes, other: bytes) -> bytes:
    """Join of any value of the writer's table."""
    if one[0] == other[0] == PENDING_MARK:
        late, early = decode_pending(one), decode_pending(other)
        if late.generation == early.generation and one == other:
            return one
        return encode_pending(join(late, early))
    return join_positions(one, other)


class WriterWork:
    """Folds accepted revisions and outcomes into pending, and tells the delivery what changed."""

    def __init__(
        self,
        codec: Codec,
        destination: Destination,
        delivery: Delivery,
        deadlines_s: Mapping[Lane, float],
        outcomes: str,
        quarantine: str,
        encrypt: Callable[[bytes, bytes], bytes],
        prefix: str = "",
    ) -> None:
        """`prefix` is what the cluster's topic names have before those of the map; the other names have it already."""
        self._codec = codec
        self._destination = destination
        self._delivery = delivery
        self._deadlines_s = deadlines_s
        self._outcomes = outcomes
        self._quarantine = quarantine
        self._encrypt = encrypt
        self._prefix = prefix
        self._changes: list[Change] = []

    def is_quick(self, record: Any) -> bool:
        """An id that is not known may be asked for at the registry."""
        return self._codec.type_of(record.value) is not None

    def judge(self, batch: PartitionBatch, outputs: Outputs) -> None:
        """Fold one partition's records."""
        keys = list({r.key for r in batch.records if r.key and not r.key.startswith(RESERVED)})
        known = {key: decode_pending(data) for key, data in batch.get(keys).items()}
        closed: dict[bytes, list[Outcome]] = {}
        touched: set[bytes] = set()
        for record in batch.records:
            changed = self._fold(record, known.get(record.key), closed, outputs)
            if changed is not None:
                known[record.key] = changed
                touched.add(record.key)
        for key in touched:
            batch.puts[key] = encode_pending(known[key])
        self._changes += [Change(batch.partition, key, known.get(key), tuple(closed.get(key, ()))) for key in {*touched, *closed}]

    def after(self, batches: Sequence[PartitionBatch]) -> None:
        """On the loop's thread: what was stored may now be scheduled."""
        changes, self._changes = self._changes, []
        self._delivery.changed(changes)

    def _fold(self, record: Any, known: Pending | None, closed: dict[bytes, list[Outcome]], outputs: Outputs) -> Pending | None:
        try:
            content = self._codec.decode(record.value)
        except Undecodable as error:
            self._park(record, error.reason, outputs)
            return None
        if isinstance(content, Outcome) and record.topic == self._outcomes and _is_told_to_survivor(record, content):
            if content.destination != self._destination.name:
                return None
            return on_loser(known, record.partition, content.key.encode(), content.revision)
        if isinstance(content, (Accepted, Outcome)) and not is_in_its_place(record, content):
            # Its outcome would go to another partition, so that the entity waited for ever; or nobody could name it.
            self._park(record, Reason.KEY_MISMATCH, outputs)
            return None
        match content:
            case Outcome() if record.topic == self._outcomes:
                if content.destination != self._destination.name:
                    return None
                closed.setdefault(record.key, []).append(content)
                self._tell_survivor(record, content, outputs)
                return on_outcome(known, content)
            case Accepted() if record.topic != self._outcomes:
                if not self._destination.expects(content):
                    return None
                try:
                    return on_accepted(known, content, record.value, self._deadlines_s[content.lane])
                except Fork:
                    self._tell_fork(record, content)
                    self._park(record, Reason.FORK, outputs)
                    return None
            case _:
                self._park(record, Reason.WRONG_TOPIC, outputs)
                return None

    def _tell_survivor(self, record: Any, outcome: Outcome, outputs: Outputs) -> None:
        """The survivor lies in another partition, perhaps at another worker, which waits for the end of what is merged."""
        if outcome.survivor is None or outcome.kind is OutcomeKind.FAILED:
            return
        key = key_of(outcome.tenant, outcome.entity_type, outcome.survivor)
        outputs.send(self._outcomes, partition_of(key, ENTITY_PARTITIONS), key, record.value)

    def _park(self, record: Any, reason: Reason, outputs: Outputs) -> None:
        """A record that no stage of ours wrote here, or a fork: kept, with its place."""
        place, quarantined = quarantined_of(record, reason, RULE, REMEDY, self._encrypt, self._prefix)
        outputs.send(self._quarantine, record.partition, place, self._codec.encode(quarantined))
        tell_quarantined(self._destination.name, quarantined)

    def _tell_fork(self, record: Any, accepted: Accepted) -> None:
        FORKS.of("state").inc()
        emit(
            lines.WRITE_FORK,
            destination=self._destination.name,
            entity_type=accepted.entity_type.value,
            topic=without_prefix(record.topic, self._prefix),
            partition=record.partition,
            offset=record.offset,
            revision=accepted.revision,
        )


def _is_told_to_survivor(record: Any, outcome: Outcome) -> bool:
    """Whether it is the copy of a loser's outcome."""
    if outcome.survivor is None or outcome.survivor == Reference(outcome.namespace, outcome.entity_id):
        return False
    key = key_of(outcome.tenant, outcome.entity_type, outcome.survivor)
    return bool(record.key == key and record.partition == partition_of(key, ENTITY_PARTITIONS))
