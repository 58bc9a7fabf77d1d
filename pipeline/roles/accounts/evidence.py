"""`surgeline evidence`: reads what every topic knows of one entity, event or file. That somebody looked is audited first."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

import msgspec

from pipeline import topology
from pipeline.domain.accounts.evidence import (
    Evidence,
    Line,
    Question,
    ids_of,
    line_of_accepted,
    line_of_audit,
    line_of_control,
    line_of_decision,
    line_of_event,
    line_of_file,
    line_of_outcome,
    line_of_quarantined,
    merges_of,
    told,
)
from pipeline.domain.event import EntityType, Event
from pipeline.domain.files.life import moments_of_others
from pipeline.domain.files.record import FileState
from pipeline.domain.identifiers import EntityKey, EventId, Millis, partition_of
from pipeline.domain.judging.merges import is_copy
from pipeline.domain.records import Accepted, Audit, Control, Decision, Outcome, Quarantined
from pipeline.formats.avro import Codec, Record
from pipeline.formats.files.rows import CONTEXT
from pipeline.kafka.client import Message
from pipeline.ops.topics import Topics, decoded
from pipeline.roles.operator_log import operator_chain, publish_at_once
from pipeline.settings.model import Settings

LOOKED: Final = "evidence.looked"
"""Action of the audit entry by which somebody's look is known, before anything is shown."""

MAX_DIGESTS: Final = 200_000
"""Digests of entities that are kept while topics are read."""

WRITES: Final = "write."
"""Audit entries of outcomes, which speak for themselves."""


def audit_look(
    settings: Settings, codec: Codec, question: Question, digest_of: Callable[[bytes], str], actor: str, reason: str, now: Millis
) -> None:
    """Make it durable that somebody looks, and why. KafkaUnavailable: then nothing is to be shown."""
    entry = operator_chain(settings, codec, actor).append(
        at=now,
        actor=actor,
        action=LOOKED,
        subject=question.subject(digest_of),
        event_id=EventId(question.event_id) if question.event_id else None,
        reason=reason,
        detail={"of": question.of, "values": "shown" if question.values else "left out"},
    )
    publish_at_once(settings, [entry])


class EvidenceReader:
    """Reads the topics once for one question. Every method may raise KafkaUnavailable."""

    def __init__(self, topics: Topics, codec: Codec, digest_of: Callable[[bytes], str]) -> None:
        self._topics, self._codec, self._digest_of = topics, codec, digest_of
        self._unreadable = 0
        self._begins: dict[str, dict[int, int]] = {}
        self._digest = lru_cache(maxsize=MAX_DIGESTS)(digest_of)

    def read(self, question: Question) -> Evidence:
        """All lines on what is asked for."""
        read = self._of_file if question.file_id is not None else self._of_events
        lines = list(read(question))
        events = ids_of(lines) if question.of in ("entity", "subject", "file") else frozenset({EventId(question.event_id or "")})
        lines += self._quarantined(events)
        lines += self._audited(question, events)
        return told(question.of, question.subject(self._digest_of), lines, self._unreadable)

    # -- entities and events

    def _of_events(self, question: Question) -> Iterator[Line]:
        landing = (
            (topology.LANDING[EntityType(question.key.entity_type)],)
            if question.key is not None
            else tuple(topology.LANDING.values())
        )
        for topic in (*landing, topology.ACCEPTED, topology.DECISIONS, topology.OUTCOMES):
            for message, record in self._records(topic, question.key, self._by_key(question)):
                if question.event_id is None or getattr(record, "event_id", None) == question.event_id:
                    line = self._line(message, record, question.values)
                    if line is not None:
                        yield line

    def _by_key(self, question: Question) -> Callable[[bytes | None], bool] | None:
        """Whether a record is meant by its key alone, so that the others need not be decoded; None where the key says nothing."""
        if question.event_id is not None:
            return None
        if question.key is not None:
            mine = question.key.encode()
            return lambda key: key == mine
        return lambda key: key is not None and self._digest(key) == question.digest

    def _line(self, message: Message, record: Record, values: bool) -> Line | None:
        where = _place(message)
        match record:
            case Event():
                return line_of_event(record, where, self._is_kept, values)
            case Control():
                return self._merged(line_of_control(record, where), message, record)
            case Accepted():
                return self._merged(line_of_accepted(record, where, values), message, record)
            case Decision():
                return line_of_decision(record, where)
            case Outcome() if not is_copy(record, message.key):
                return self._merged(line_of_outcome(record, where), message, record)
            case _:
                return None

    def _merged(self, line: Line, message: Message, record: Accepted | Outcome | Control) -> Line:
        try:
            key = EntityKey.decode(message.key or b"")
        except ValueError:  # an order to a whole partition is of no entity
            return line
        merges = merges_of(record, key, self._digest)
        return msgspec.structs.replace(line, detail={**line.detail, **merges}) if merges else line

    # -- files

    def _of_file(self, question: Question) -> Iterator[Line]:
        known: dict[str, FileState] = {}
        for message, record in self._records(topology.FILES):
            if isinstance(record, FileState):
                known[record.file_id] = record
                if record.file_id == question.file_id:
                    yield line_of_file(record, _place(message))
        state = known.get(question.file_id or "")
        if state is None or question.row is None or not state.sha256:
            return
        others = moments_of_others(state, known.values())
        mark, found = f"{CONTEXT} {state.sha256[:32]}/{question.row}", set[EventId]()
        for topic in topology.LANDING.values():
            for message, record in self._records(topic):
                if isinstance(record, Event) and record.audit_context == mark and record.recorded_at not in others:
                    found.add(record.event_id)
                    yield line_of_event(record, _place(message), self._is_kept, question.values)
        for topic in (topology.ACCEPTED, topology.DECISIONS, topology.OUTCOMES):
            for message, record in self._records(topic):
                if getattr(record, "event_id", None) in found:
                    line = self._line(message, record, question.values)
                    if line is not None:
                        yield line

    # -- what lies beside

    def _quarantined(self, events: frozenset[EventId]) -> Iterator[Line]:
        for message, record in self._records(topology.QUARANTINE):
            if isinstance(record, Quarantined) and record.event_id in events:
                yield line_of_quarantined(record, _place(message))

    def _audited(self, question: Question, events: frozenset[EventId]) -> Iterator[Line]:
        subject = question.subject(self._digest_of)
        for message, record in self._records(topology.AUDIT):
            if not isinstance(record, Audit) or record.action.startswith(WRITES):
                continue
            if record.subject == subject or (record.event_id is not None and record.event_id in events):
                yield line_of_audit(record, _place(message))

    # -- reading

    def _records(
        self, topic: str, only: EntityKey | None = None, by_key: Callable[[bytes | None], bool] | None = None
    ) -> Iterator[tuple[Message, Record]]:
        """Every record of a topic; of an entity its partition alone, of some keys theirs. What does not decode is counted."""
        begin, end = dict(self._topics.begin(topic)), dict(self._topics.end(topic))
        if only is not None:
            mine = partition_of(only.encode(), topology.ENTITY_PARTITIONS)
            begin = {partition: offset if partition == mine else end[partition] for partition, offset in begin.items()}
        for message in self._topics.read(topic, begin, end):
            if by_key is not None and not by_key(message.key):
                continue
            record = decoded(self._codec, message) if message.value is not None else None
            if record is not None:
                yield message, record
            elif message.value is not None:
                self._unreadable += 1

    def _is_kept(self, topic: str, partition: int, offset: int) -> bool:
        if topic not in topology.RAW.values():
            return False
        begins = self._begins.get(topic)
        if begins is None:
            begins = self._begins[topic] = dict(self._topics.begin(topic))
        return offset >= begins.get(partition, 0)


def _place(message: Message) -> str:
    return f"{message.topic}/{message.partition}/{message.offset}"
