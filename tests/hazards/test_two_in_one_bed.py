"""Whoever comes into a bed is written after whoever leaves it, though the leaver, in another partition, is held up."""

import itertools
from pathlib import Path
from typing import Final

import pytest

from pipeline.domain.event import Encounter, EncounterStatus, EntityType, Event, EventType, PatientClass, Place, sealed
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id, partition_of
from pipeline.domain.records import Outcome, OutcomeKind
from pipeline.local.broker import Broker
from pipeline.local.ehr import Ehr
from pipeline.local.faults import Fault, FaultKind
from pipeline.topology import ENTITY_PARTITIONS
from tests.hazards.harness import Site, now_ms, proxied, site, until

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
        to.start("gate")
        to.start("writer", REPLICA)
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
