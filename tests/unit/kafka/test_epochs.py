"""Which life of a topic it is, judged without a broker."""

from pipeline.domain.identifiers import MAX_EPOCH, Millis
from pipeline.domain.records import TopicEpoch
from pipeline.kafka.epochs import Life, assign, unknown
from pipeline.settings.sections.kafka import KafkaSettings

NOW = Millis(1_700_000_000_000)


def recorded(epoch: int, topic_id: str = "id-1") -> dict[str, TopicEpoch]:
    return {"landing.bed": TopicEpoch(topic="landing.bed", topic_id=topic_id, epoch=epoch, at=NOW, actor="test")}


def test_a_topic_whose_id_is_recorded_is_known() -> None:
    assert unknown([Life("landing.bed", "id-1")], recorded(1)) == []


def test_a_topic_made_anew_is_unknown_until_an_operator_says_so() -> None:
    reborn = [Life("landing.bed", "id-2")]
    assert [stranger.topic for stranger in unknown(reborn, recorded(1))] == ["landing.bed"]
    record, refuse = assign(KafkaSettings(), reborn, recorded(1), "operator", NOW, new_epoch=False)
    assert (record, [stranger.topic for stranger in refuse]) == ([], ["landing.bed"])
    record, refuse = assign(KafkaSettings(), reborn, recorded(1), "operator", NOW, new_epoch=True)
    assert [(item.epoch, item.topic_id) for item in record] == [(2, "id-2")]
    assert refuse == []


def test_saying_new_epoch_changes_nothing_where_the_id_is_known() -> None:
    assert assign(KafkaSettings(), [Life("landing.bed", "id-1")], recorded(4), "operator", NOW, new_epoch=True) == ([], [])


def test_epochs_end_where_a_revision_would_no_longer_fit() -> None:
    record, refuse = assign(KafkaSettings(), [Life("landing.bed", "id-2")], recorded(MAX_EPOCH), "operator", NOW, new_epoch=True)
    assert record == []
    assert len(refuse) == 1
