"""What a partition knows of merged identities, on the database that it is kept in."""

from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from pipeline.domain.event import Encounter, EntityType, Reference
from pipeline.domain.head import Head, encode_head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision, revision_of
from pipeline.domain.judging.merges import aliases
from pipeline.domain.judging.referring import as_it_stands
from pipeline.domain.judging.verdicts import Position
from pipeline.domain.records import Control, MergeLink
from pipeline.domain.ring import EMPTY_RING
from pipeline.stream.judging.aliases import ALIAS_MARK, Aliases, last_alias
from pipeline.stream.judging.gate import join_values
from pipeline.stream.worker.batch import PartitionBatch

TOPIC = "landing.encounter"
LANDING = {TOPIC: EntityType.ENCOUNTER}


def ref(name: str) -> Reference:
    return Reference("N", name)


def key(kind: str, name: str, tenant: str = "t") -> bytes:
    return EntityKey(tenant, kind, "N", name).encode()


def at(offset: int) -> Position:
    return Position(EntityType.ENCOUNTER, 1, 0, offset, Millis(offset))


def order(loser: str, survivor: str, revision: int, *, undone: bool = False) -> Control:
    position = Position(EntityType.PATIENT, 1, 0, revision, Millis(0))
    link = MergeLink(ref(loser), ref(survivor), Millis(0), EventId(f"{revision:032x}"))
    sends = aliases("t", position, link, Revision(revision), undone=undone)
    assert {send.entity_type for send in sends} == {EntityType.ENCOUNTER, EntityType.TRANSFER, EntityType.PROCEDURE}
    assert all(send.everywhere for send in sends)
    assert isinstance(sends[0].record, Control)
    return sends[0].record


def head(patient: str) -> bytes:
    state = Encounter(patient=ref(patient))
    return encode_head(Head(1, 0, revision_of(1, 0), "", "F", state, {}, EMPTY_RING, EventId(""), "", Millis(0), Millis(0)))


@pytest.fixture
def database(tmp_path: Path) -> Rdict:
    return Rdict(str(tmp_path / "db"), Options(raw_mode=True))


def put(known: Aliases, offset: int, loser: str, survivor: str, revision: int, *, undone: bool = False) -> None:
    entity = EntityKey("t", "patient", "N", loser)
    known.put(at(offset), TOPIC, entity, order(loser, survivor, revision, undone=undone))


def meant(known: Aliases, offset: int, name: str) -> str:
    return known.resolver(at(offset), TOPIC, "t")(EntityType.PATIENT, ref(name)).id


def test_a_reference_means_its_survivor_from_the_aliass_position_on_also_in_a_later_batch(database: Rdict) -> None:
    batch = PartitionBatch(0, database)
    known = Aliases(batch)
    assert known.resolver(at(9), TOPIC, "t") is as_it_stands, "nothing is looked up where nothing was merged"
    put(known, 5, "A", "B", 1)
    put(known, 7, "B", "C", 2)
    for place, value in batch.puts.items():
        database[place] = value
    later = Aliases(PartitionBatch(0, database))
    assert [meant(later, offset, "A") for offset in (5, 6, 8)] == ["A", "B", "C"]
    assert meant(later, 8, "X") == "X"
    assert later.resolver(at(8), TOPIC, "other tenant")(EntityType.PATIENT, ref("A")) == ref("A")


def test_the_losers_own_later_word_counts_whatever_comes_last(database: Rdict) -> None:
    known = Aliases(PartitionBatch(0, database))
    put(known, 5, "A", "B", 9, undone=True)
    put(known, 6, "A", "B", 3)
    assert meant(known, 9, "A") == "A"


def test_a_circle_that_is_still_to_be_undone_means_everyone_itself(database: Rdict) -> None:
    known = Aliases(PartitionBatch(0, database))
    put(known, 5, "A", "B", 1)
    put(known, 6, "B", "A", 2)
    assert (meant(known, 9, "A"), meant(known, 9, "B")) == ("A", "B")


def test_who_refers_to_a_retired_identity_is_found_stored_or_changed_in_the_batch(database: Rdict) -> None:
    for name, patient in (("1", "A"), ("2", "X"), ("3", "A")):
        database[key("encounter", name)] = head(patient)
    database[key("encounter", "4", "u")] = head("A")
    database[key("patient", "A")] = b"no stay"
    batch = PartitionBatch(0, database)
    batch.puts[key("encounter", "3")] = head("X")
    batch.puts[key("encounter", "5")] = head("A")
    known = Aliases(batch)
    assert not list(known.referrers(LANDING))
    put(known, 5, "A", "B", 1)
    assert {found for _, found, _ in known.referrers(LANDING)} == {key("encounter", "1"), key("encounter", "5")}


def test_of_two_changelog_records_the_one_that_knows_more_is_kept(database: Rdict) -> None:
    batch = PartitionBatch(0, database)
    known = Aliases(batch)
    put(known, 5, "A", "B", 1)
    early = dict(batch.puts)
    put(known, 7, "A", "C", 2)
    for place, value in batch.puts.items():
        assert value[:1] == ALIAS_MARK
        assert join_values(early[place], value) == join_values(value, early[place]) == value
        assert last_alias(value) >= last_alias(early[place])
