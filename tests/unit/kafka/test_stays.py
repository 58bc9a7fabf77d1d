"""What is read of the tables at a writer's start, and in what order, with topics that are played."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec
import pytest

from pipeline.domain.event import EncounterStatus
from pipeline.domain.head import encode_head
from pipeline.domain.identifiers import Millis, Revision, partition_of
from pipeline.domain.records import Accepted
from pipeline.domain.writing.occupants import Occupants
from pipeline.domain.writing.pending import EMPTY, encode_pending
from pipeline.formats.avro import Codec
from pipeline.kafka import stays
from pipeline.kafka.client import Message
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import ACCEPTED, ENTITY_PARTITIONS, GATE_CHANGELOG, OUTCOMES, writer_changelog
from tests.unit.domain.test_occupants import key, stay
from tests.unit.domain.test_old_stays import head

KAFKA = KafkaSettings(bootstrap_servers="127.0.0.1:1")
WINDOW_MS = 1_000
NOW = Millis(50_000)
LIES, LEFT = stay(1, "A", "X"), stay(2, "A", "X", status=EncounterStatus.FINISHED)


class Played:
    """Topics in memory, and a follower that does what comes first, and then hands on what there is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topics: dict[str, list[Message]] = {}
        self.read: list[tuple[str, int]] = []
        self.since: int | None = None
        self.ends_after: int | None = None
        monkeypatch.setattr(stays, "read_topic", self._read_topic)
        monkeypatch.setattr(stays, "Follower", self._follower)

    def put(self, topic: str, who: bytes, value: bytes) -> None:
        log = self.topics.setdefault(topic, [])
        log.append(Message(topic, partition_of(who, ENTITY_PARTITIONS), len(log), 0, who, value, ()))

    def table(self, accepted: Accepted, confirmed: Revision | None = None) -> None:
        self.put(GATE_CHANGELOG, key(accepted.entity_id), encode_head(head(accepted)))
        if confirmed is not None:
            known = msgspec.structs.replace(EMPTY, confirmed=confirmed)
            self.put(writer_changelog("ehr"), key(accepted.entity_id), encode_pending(known))

    def _read_topic(self, kafka: KafkaSettings, topic: str, only: Collection[int]) -> Iterator[Message]:
        (partition,) = only
        self.read.append((topic, partition))
        return iter([message for message in self.topics.get(topic, ()) if message.partition == partition])

    def _follower(self, kafka: KafkaSettings, topics: Any, apply: Callable[[Message], None], since: int, first: Any) -> Any:
        self.since = since
        asked = 0

        def is_ending() -> bool:
            nonlocal asked
            asked += 1
            return self.ends_after is not None and asked > self.ends_after

        first(is_ending)
        for topic in topics:
            for message in self.topics.get(topic, ()):
                apply(message)

        class Started:
            def start(self) -> None:
                """As the real one."""

        return Started()

    def occupants(self) -> Occupants:
        made = Occupants("ehr")
        stays.follow_stays(KAFKA, Codec.shipped(), made, "ehr", NOW, WINDOW_MS)
        return made


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def test_each_partition_of_what_was_told_is_read_before_its_heads_and_the_history_after_all(played: Played) -> None:
    played.occupants()
    pairs = [(topic, partition) for partition in range(ENTITY_PARTITIONS) for topic in (writer_changelog("ehr"), GATE_CHANGELOG)]
    assert played.read == pairs
    assert played.since == NOW - WINDOW_MS


def test_a_stay_older_than_the_history_is_known_with_what_came_since(played: Played) -> None:
    played.table(LIES, LIES.revision)
    played.put(ACCEPTED, key("A"), Codec.shipped().encode(LEFT))
    before = played.occupants().before(key("B"), stay(3, "B", "X"))
    assert before.leaving == {key("A")}


def test_of_several_records_of_what_was_told_the_highest_counts(played: Played) -> None:
    """A zombie that woke up wrote the last one."""
    for accepted, confirmed in ((LIES, LIES.revision), (LEFT, LEFT.revision), (LIES, Revision(0))):
        played.table(accepted, confirmed)
    assert len(played.occupants()) == 0


def test_what_no_writer_of_this_destination_knows_of_and_what_is_no_stay_is_passed_over(played: Played) -> None:
    played.table(LIES)
    for topic in (GATE_CHANGELOG, writer_changelog("ehr"), ACCEPTED, OUTCOMES):
        for strange in (b"\x00policy", b"no key", b"t|bed|N|B1", b"\xff"):
            played.put(topic, strange, b"\xf2?")
    assert len(played.occupants()) == 0


def test_a_head_that_a_later_version_wrote_is_said_and_passed_over(played: Played, caplog: pytest.LogCaptureFixture) -> None:
    played.table(LIES, LIES.revision)
    played.put(GATE_CHANGELOG, key("A"), b"\x09later")
    assert len(played.occupants()) == 1
    assert [record.message for record in caplog.records] == ["unreadable record"]
    assert key("A").decode() not in caplog.text


def test_a_start_that_is_called_off_reads_no_further(played: Played) -> None:
    for number in range(100):
        lies = stay(number + 1, f"P{number}", f"B{number}")
        played.table(lies, lies.revision)
    played.ends_after = 3
    assert len(played.occupants()) == 0
