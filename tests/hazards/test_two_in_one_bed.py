"""Whoever comes into a bed is written after whoever leaves it, though the leaver, in another partition, is held up."""

import itertools
import urllib.parse
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.domain.event import Encounter, EncounterStatus, EntityType, Event, EventType, PatientClass, Place, sealed
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id, partition_of
from pipeline.domain.records import Outcome, OutcomeKind
from pipeline.kafka.reader import end_offsets
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from pipeline.topology import ACCEPTED, ENTITY_PARTITIONS, OUTCOMES
from pipeline.topology import topic as at_broker
from tests.hazards.at_ehr import ask, proxied
from tests.hazards.harness import ANSWER_S, Site, now_ms, site, until

REPLICA: Final = "replica"
NUMBERS: Final = itertools.count()
AWAY: Final = Fault(kind=FaultKind.UNAVAILABLE, methods=("PUT",), times=4)
"""Strikes updates, not creates: whoever leaves is known already, whoever comes is new."""


def stay(to: Site, who: str, bed: str, status: EncounterStatus) -> Event:
    key, now = EntityKey(to.tenant, "encounter", "GENERAL", who), now_ms()
    return sealed(
        Event(
            event_id=derive_event_id(to.tenant, "hazards", (f"stay-{next(NUMBERS)}",), key, 0),
            tenant=to.tenant,
            facility="GENERAL",
            source_system="ehr",
            feed="hazards",
            entity_type=EntityType.ENCOUNTER,
            namespace="GENERAL",
            entity_id=who,
            event_type=EventType.UPDATE,
            recorded_at=Millis(now),
            received_at=now,
            payload=Encounter(
                patient_class=PatientClass.INPATIENT,
                status=status,
                location=Place("GENERAL", point_of_care="ICU", room="1", bed=bed),
            ),
        )
    )


def elsewhere(to: Site, than: str) -> str:
    """A stay whose partition is another one."""

    def partition(who: str) -> int:
        return partition_of(EntityKey(to.tenant, "encounter", "GENERAL", who).encode(), ENTITY_PARTITIONS)

    return next(who for who in map("COMES-{}".format, itertools.count()) if partition(who) != partition(than))


def confirmed(to: Site, event: Event) -> Outcome | None:
    found = [o for o in to.outcomes() if o.event_id == event.event_id and o.kind is OutcomeKind.CONFIRMED]
    return found[0] if found else None


@pytest.mark.timeout(240)
def test_a_bed_is_vacated_at_the_ehr_before_it_is_occupied_there(broker: Broker, replica: Ehr, tmp_path: Path) -> None:
    with (
        proxied(replica, tmp_path / "p") as proxy,
        site(tmp_path / "s", broker.bootstrap, {REPLICA: proxy.url}) as to,
    ):
        to.start_all(("gate",), ("writer", REPLICA))
        lies = stay(to, "LEAVES", "X", EncounterStatus.IN_PROGRESS)
        to.publish(lies)
        until(lambda: confirmed(to, lies) is not None, "the first stay at the EHR")

        proxy.set(AWAY)
        leaves = stay(to, "LEAVES", "X", EncounterStatus.FINISHED)
        comes = stay(to, elsewhere(to, "LEAVES"), "X", EncounterStatus.IN_PROGRESS)
        to.publish(leaves)
        to.publish(comes)
        until(lambda: confirmed(to, comes) is not None, "the next stay at the EHR")
        assert proxy.struck() == AWAY.times, "it was held up"
        out, into = confirmed(to, leaves), confirmed(to, comes)
        assert out is not None
        assert into is not None
        assert out.at <= into.at
        to.settle(ehrs={REPLICA: replica.base_url})


LONG_STAYS: Final = 4


def forget_history(to: Site) -> None:
    """What the history held is gone from it, as what is older than the time for which it is read at a start."""
    ends = {topic: end_offsets(to.kafka, topic) for topic in (ACCEPTED, OUTCOMES)}
    at = [
        TopicPartition(at_broker(topic, to.kafka.topic_prefix), partition, end)
        for topic, offsets in ends.items()
        for partition, end in offsets.items()
        if end
    ]
    client = AdminClient(dict(to.kafka.client_config()))  # kept: answers of a client that is gone never come
    for answer in client.delete_records(at).values():
        answer.result(ANSWER_S)


def versions(to: Site, ehr: Ehr, who: str) -> list[dict[str, Any]]:
    """All versions of a stay at the EHR, oldest first."""
    token = f"https://surgeline.dev/fhir/id/{to.tenant}/encounter|GENERAL/{who}"
    form = urllib.parse.urlencode({"identifier": token}).encode()
    found = ask(f"{ehr.base_url}/Encounter/_search", "POST", form, {"Content-Type": "application/x-www-form-urlencoded"})
    (entry,) = found["entry"]
    bundle = ask(f"{ehr.base_url}/Encounter/{entry['resource']['id']}/_history?_count=100")
    return sorted((each["resource"] for each in bundle["entry"]), key=lambda body: int(body["meta"]["versionId"]))


def when_active(found: list[dict[str, Any]], active: bool) -> datetime:
    """When the EHR first showed the stay in its bed, or last did not."""
    times = [
        datetime.fromisoformat(body["meta"]["lastUpdated"])
        for body in found
        if any(each["status"] == "active" for each in body["location"]) is active
    ]
    return min(times) if active else max(times)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("disk", ["kept", pytest.param("lost", marks=pytest.mark.long)])
def test_who_has_lain_in_a_bed_for_weeks_is_waited_for_after_a_start(
    broker: Broker, replica: Ehr, tmp_path: Path, disk: str
) -> None:
    """The departure and the next arrival are in the backlog; that the bed is taken is told by no record of the history."""
    with (
        proxied(replica, tmp_path / "p") as proxy,
        site(tmp_path / "s", broker.bootstrap, {REPLICA: proxy.url}) as to,
    ):
        to.start("gate")
        writer = to.start("writer", REPLICA)
        stays = [f"LIES-{number}" for number in range(LONG_STAYS)]
        lie = [stay(to, who, f"X{number}", EncounterStatus.IN_PROGRESS) for number, who in enumerate(stays)]
        to.publish(*lie)
        until(lambda: all(confirmed(to, each) is not None for each in lie), "the first stays at the EHR")
        to.kill(writer)
        if disk == "lost":
            to.wipe(writer)
        forget_history(to)

        proxy.set(AWAY)
        newcomers = [f"COMES-{number}" for number in range(LONG_STAYS)]
        leave = [stay(to, who, f"X{number}", EncounterStatus.FINISHED) for number, who in enumerate(stays)]
        come = [stay(to, who, f"X{number}", EncounterStatus.IN_PROGRESS) for number, who in enumerate(newcomers)]
        to.publish(*come, *leave)
        to.wait_judged(*(each.event_id for each in (*come, *leave)))
        to.start("writer", REPLICA)
        until(lambda: all(confirmed(to, each) is not None for each in come), "the next stays at the EHR")
        assert proxy.struck() == AWAY.times, "the departures were held up"
        for before, after in zip(stays, newcomers, strict=True):
            left, came = versions(to, replica, before), versions(to, replica, after)
            assert when_active(left, active=False) <= when_active(came, active=True), "two in one bed"
