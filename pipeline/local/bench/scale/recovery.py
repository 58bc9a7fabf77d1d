"""`surgeline bench scale`, its second part: how soon a gate without its disk serves again, by the number of its heads.

The changelog is written beforehand, one record of each head: a bed's whole state with all the recent events that a head
remembers, ids of its own. Then a gate starts without a disk, is killed (kill -9), and starts again with what it had put there.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from pipeline import topology
from pipeline.domain.event import EntityType, Event
from pipeline.domain.head import Head, encode_head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, partition_of, revision_of
from pipeline.domain.judging.gate import Accept, Position, decide
from pipeline.domain.ring import EMPTY_RING, RING_LENGTH, entry_of, with_entry
from pipeline.formats.avro import Codec
from pipeline.local.bench.gate.load import Landed, Landing
from pipeline.local.bench.gate.run import SETTINGS, load_landing
from pipeline.local.bench.scale.gates import Gates
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack
from pipeline.roles.policies import load_policy
from pipeline.roles.process import codec_of

CHUNK: Final = 20_000
"""Heads that are made, then sent."""

DAY_EVENTS_PER_S: Final = 50.0
"""Accepted on average over a day by one gate: what its changelog holds of the last day, which is not compacted."""

_DAY_S: Final = 86_400
_LEAST_S: Final = 0.1


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """One number of heads of `head_bytes` on average: seconds from the start until the gate served, without its disk and then
    with it; memory and disk after the first, in bytes."""

    heads: int
    head_bytes: float
    ready_without_disk_s: float
    ready_with_disk_s: float
    memory: int
    disk: int

    @property
    def per_s(self) -> float:
        """Records of the changelog that are recovered in a second: what the start takes longer without the disk is theirs."""
        return self.heads / max(_LEAST_S, self.ready_without_disk_s - self.ready_with_disk_s)

    @property
    def day_s(self) -> float:
        """Seconds until it serves without its disk, with a day's records behind it that were not compacted yet."""
        return self.ready_with_disk_s + (self.heads + DAY_EVENTS_PER_S * _DAY_S) / self.per_s


def measure_recovery(heads: int, broker: Broker, folder: Path) -> Recovery:
    """Fill a changelog, start, kill and start again, with the default of what a start may take."""
    stack = Stack(folder / f"heads-{heads}", broker.bootstrap, (), f"heads{heads}.", SETTINGS)
    stack.write_settings()
    stack.complete("topics", "apply")
    records, size = full_heads(codec_of(stack.settings)), 0
    for begin in range(0, heads, CHUNK):
        chunk = list(islice(records, min(CHUNK, heads - begin)))
        size += sum(len(record.value) for record in chunk)
        load_landing(stack.settings.kafka, chunk)
    gates = Gates(stack, 1)
    try:
        without_s = gates.until_ready_s()
        ((_, memory),), disk = gates.looks(), gates.disk()
        gates.kill()
        with_s = gates.until_ready_s()
    finally:
        stack.stop()
    return Recovery(
        heads=heads,
        head_bytes=size / heads,
        ready_without_disk_s=without_s,
        ready_with_disk_s=with_s,
        memory=memory,
        disk=disk,
    )


def full_heads(codec: Codec) -> Iterator[Landed]:
    """Records of the changelog, without end: each of another bed."""
    now = Millis(time.time_ns() // 1_000_000)
    pattern = _head_of_a_bed(codec, now)
    offsets: defaultdict[int, int] = defaultdict(int)
    number = 0
    while True:
        key = EntityKey("demo", EntityType.BED.value, "GENERAL", f"MED/{number}/A").encode()
        partition = partition_of(key, topology.ENTITY_PARTITIONS)
        offset = offsets[partition]
        offsets[partition] = offset + 1
        yield Landed(topology.GATE_CHANGELOG, key, encode_head(_own(pattern, number, offset)), partition, offset, now)
        number += 1


def _head_of_a_bed(codec: Codec, now: Millis) -> Head:
    """The head after a bed's first record."""
    record = Landing(10, codec).first(now)[0]
    event = codec.decode(record.value)
    assert isinstance(event, Event)
    verdict = decide(None, Position(EntityType.BED, 1, record.partition, 0, now), record.key, event, load_policy())
    assert isinstance(verdict, Accept)
    return verdict.head


def _own(pattern: Head, number: int, offset: int) -> Head:
    """A head with ids of its own, which no compression takes together."""
    ring = EMPTY_RING
    digits = hashlib.shake_128(str(number).encode()).hexdigest(RING_LENGTH * 24)
    for at in range(0, len(digits), 48):
        ring = with_entry(ring, entry_of(EventId(digits[at : at + 32]), digits[at + 32 : at + 48]))
    return msgspec.structs.replace(
        pattern, position=offset, revision=revision_of(pattern.epoch, offset), ring=ring, event_id=EventId(digits[:32])
    )
