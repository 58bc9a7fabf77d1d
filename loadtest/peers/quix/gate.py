"""The gate's work on Quix Streams, for `surgeline bench gate --peer quix`: the same pure decision, encodings and topics.

Written as Quix's guide has it: a dataframe per landing topic, a stateful `apply` that reads and sets the entity's head, and
its outputs to topics chosen per record. The head is bytes, so that nothing is encoded twice. Runs in an environment of its
own (requirements.lock) with the repository on PYTHONPATH; `python gate.py JOB.json`, where JOB.json is of
`pipeline.local.bench.gate.worker`.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any, Final

from quixstreams import Application, State, message_context
from quixstreams.models import Serializer, Topic

from pipeline.domain.event import EntityType, Event
from pipeline.domain.head import decode_head, encode_head
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.judging.gate import Accept, Position, Redelivered, decide
from pipeline.domain.judging.policy import decode_policy
from pipeline.domain.records import Control
from pipeline.formats.avro import Codec

HEAD: Final = "head"

Output = tuple[str, bytes]
"""Topic and value."""


class ValueOf(Serializer):  # type: ignore[misc]  # the peer's packages are in its own environment alone
    """The value of an output."""

    def __call__(self, value: Output, ctx: Any) -> bytes:
        """The bytes as they are."""
        return value[1]


class Gate:
    """Judges one record at a time."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._codec = Codec.shipped()
        self._policy = decode_policy(job["policy"])
        self._types = {name: (EntityType(kind), job["epochs"][name]) for name, kind in job["landing"].items()}
        self._accepted, self._decisions, self._lanes = job["accepted"], job["decisions"], job["lanes"]

    def judge(self, value: bytes, key: bytes, timestamp: int, _headers: Any, state: State) -> list[Output]:
        """Outputs of one record, the head set."""
        at = message_context()
        entity_type, epoch = self._types[at.topic]
        record = self._codec.decode(value)
        assert isinstance(record, Event | Control)
        EntityKey.decode(key)
        before = state.get_bytes(HEAD)
        head = decode_head(before) if before is not None else None
        verdict = decide(
            head, Position(entity_type, epoch, at.partition, at.offset, Millis(timestamp)), key, record, self._policy
        )
        if isinstance(verdict, Redelivered):
            return []
        if verdict.head is not None:
            state.set_bytes(HEAD, encode_head(verdict.head))
        if isinstance(verdict, Accept):
            encoded = self._codec.encode(verdict.accepted)
            return [(self._accepted, encoded), (self._lanes[verdict.accepted.lane.value], encoded)]
        return [(self._decisions, self._codec.encode(verdict.decision))]


def main(job: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    app = Application(
        broker_address=job["bootstrap"],
        consumer_group=job["group"],
        auto_offset_reset="earliest",
        commit_interval=job["commit_interval_s"],
        producer_extra_config=job["producer"],
        consumer_extra_config={"session.timeout.ms": job["session_ms"]},
        state_dir=Path(job["state_dir"]),
        loglevel=logging.WARNING,
    )
    gate = Gate(job)
    outputs: dict[str, Topic] = {
        name: app.topic(name, value_serializer=ValueOf()) for name in (job["accepted"], job["decisions"], *job["lanes"].values())
    }
    for name in job["landing"]:
        frame = app.dataframe(app.topic(name, value_deserializer="bytes"))
        judged = frame.apply(gate.judge, stateful=True, metadata=True, expand=True)
        judged.to_topic(lambda output, _key, _timestamp, _headers: outputs[output[0]])
    app.run()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
