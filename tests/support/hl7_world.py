"""HL7 v2 messages through the mapping and the gate, one log per entity: what is known after each of them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.domain.event import Bed, Encounter, EntityType, Event, Patient, Payload
from pipeline.domain.head import Head
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.judging.gate import Accept, Position, Suppress, decide
from pipeline.domain.records import DecisionKind, Reason
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Mapped
from tests.support.hl7_samples import DEFAULT
from tests.support.policies import shipped_policy

TENANT = "t1"
ARRIVES_S = 30
"""From the recording of a message to its landing, where a test says nothing else."""


def at(text: str) -> Millis:
    """A time of the fifth of January 2026 in UTC, as HH:MM, in milliseconds."""
    hour, minute = (int(part) for part in text.split(":"))
    return Millis(int(datetime(2026, 1, 5, hour, minute, tzinfo=UTC).timestamp() * 1000))


@dataclass
class World:
    """Heads of all entities that were told of."""

    heads: dict[bytes, Head] = field(default_factory=dict)
    offset: int = 0
    resets: int = 0
    """How many accepted events were taken for a source that started to count anew."""

    def tell(self, data: bytes, profile: Profile = DEFAULT, *, lands: Millis | None = None) -> list["Said"]:
        """Map a message and judge each of its events; it lands half a minute after it was recorded, or at `lands`."""
        arrival = lands if lands is not None else Millis(9_999_999_999_999)
        verdict = map_bytes(data, profile, TENANT, arrival)[1]
        assert isinstance(verdict, Mapped), verdict
        if lands is None:
            verdict = map_bytes(data, profile, TENANT, Millis(verdict.events[0].recorded_at + ARRIVES_S * 1000))[1]
            assert isinstance(verdict, Mapped)
        return [self.judge(event) for event in verdict.events]

    def judge(self, event: Event) -> "Said":
        key = event.key.encode()
        self.offset += 1
        position = Position(event.entity_type, 1, 0, self.offset, event.received_at)
        verdict = decide(self.heads.get(key), position, key, event, shipped_policy())
        match verdict:
            case Accept(head=head, accepted=accepted):
                self.heads[key] = head
                self.resets += accepted.sequence_reset
                return Said(event.entity_type, None, None, {drop.field: drop.reason for drop in accepted.dropped})
            case Suppress(head=head, decision=decision):
                if head is not None:
                    self.heads[key] = head
                return Said(event.entity_type, decision.kind, decision.reason, {d.field: d.reason for d in decision.dropped})
            case other:
                raise AssertionError(type(other).__name__)

    def state(self, entity_type: EntityType, namespace: str, name: str) -> Payload | None:
        """What is known of an entity; None for nothing."""
        head = self.heads.get(EntityKey(TENANT, entity_type.value, namespace, name).encode())
        return head.state if head is not None else None

    def bed(self, name: str = "ICU/1/A", namespace: str = "MAIN") -> Bed:
        """A bed that was told of."""
        state = self.state(EntityType.BED, namespace, name)
        assert isinstance(state, Bed)
        return state

    def stay(self, name: str = "V1") -> Encounter:
        """A stay that was told of."""
        state = self.state(EntityType.ENCOUNTER, "MAIN", name)
        assert isinstance(state, Encounter)
        return state

    def person(self, name: str = "4711") -> Patient:
        """A patient who was told of."""
        state = self.state(EntityType.PATIENT, "MAIN", name)
        assert isinstance(state, Patient)
        return state


@dataclass(frozen=True)
class Said:
    """What became of one event: accepted (`kind` is None), or why not; and the fields of it that did not count."""

    entity: EntityType
    kind: DecisionKind | None
    reason: Reason | None
    dropped: dict[str, Reason]
