"""Transfers, procedures and episodes of care at a FHIR server, a fake and a real one: made, changed, and edited by others."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp
import pytest
from msgspec import structs

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, Confirmed, Current, Request, Suppressed, VersionMismatch
from pipeline.domain.event import (
    Encounter,
    EncounterStatus,
    EntityType,
    PatientClass,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    StageState,
    Transfer,
    TransferKind,
    TransferStage,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.fhir.inbound import Ignored, IgnoredBecause, Mapped, Origin, Verdict, events_of
from pipeline.formats.fhir.inbound_verdict import FhirVersion
from pipeline.formats.fhir.profile import Profile, ResourceProfile
from pipeline.local.servers.ehr import Ehr
from tests.support.fhir_checks import check
from tests.support.fhir_lab import DIGEST_KEY, FakeFhir, accepted, changed_at_ehr, pending

GIVEN_SERVER: Final = os.environ.get("SURGELINE_TEST_FHIR_URL", "")
SERVERS: Final = ["fake", pytest.param("sekmet", marks=pytest.mark.integration)]
if GIVEN_SERVER:
    SERVERS.append(pytest.param("given", marks=pytest.mark.integration))

T0: Final = 1_700_000_000_000
PATIENT: Final = Reference("MAIN", "P1")
EMERGENCY: Final = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"}
REQUESTED: Final = Transfer(
    kind=TransferKind.INCOMING,
    stage=StageState(TransferStage.REQUESTED, None, Millis(T0)),
    origin=Place(facility="EAST", point_of_care="ED"),
    destination=Place(point_of_care="ICU", room="12", bed="A"),
    service="CARD",
    requested_at=Millis(T0),
)
BOOKED: Final = Procedure(
    status=ProcedureStatus.BOOKED,
    start=Millis(T0),
    end=Millis(T0 + 5_400_000),
    place=Place(point_of_care="OR", room="3"),
    patient=PATIENT,
    service="HIP",
)


class Lab:
    """One server, a destination for each role, and a way to be somebody else at that server."""

    def __init__(self, base_url: str, make: str = "sekmet", version: FhirVersion = "R4") -> None:
        self.base_url = base_url
        self.make = make
        self.version = version
        self.session = aiohttp.ClientSession()
        self.replica = self.destination(self.profile("replica"))
        self.owner = self.destination(self.profile("owner"))

    def profile(self, role: str) -> Profile:
        return load_profile(f"{self.make}-{role}{'-r5' if self.version == 'R5' else ''}")

    def check(self, body: dict[str, Any]) -> None:
        """Fail where the resource is not valid in the server's version."""
        check(body, self.version)

    def back(self, body: dict[str, Any]) -> Verdict:
        """What becomes of the resource on its way in."""
        origin = Origin("t1", "MAIN", "ehr", "fhir", self.version)
        dated = {**body, "meta": {"lastUpdated": "2026-01-31T08:00:00Z"} | body["meta"]}  # the fake one doesn't say when
        return events_of(dated, origin, self.replica.builder.profile, DIGEST_KEY, Millis(T0))

    def destination(self, profile: Profile) -> FhirDestination:
        return FhirDestination(profile.role, self.base_url, profile, DIGEST_KEY)

    async def get(self, path: str) -> dict[str, Any]:
        async with self.session.get(f"{self.base_url}/{path}") as response:
            body: dict[str, Any] = await response.json(content_type=None)
            return body

    async def edit(self, path: str, edit: Callable[[dict[str, Any]], None]) -> None:
        """What a clinician does: read, change, write."""
        body = await self.get(path)
        edit(body)
        async with self.session.put(f"{self.base_url}/{path}", json=body) as response:
            assert response.status in (200, 201)

    async def matching(self, resource_type: str, system: str, value: str) -> list[dict[str, Any]]:
        async with self.session.post(
            f"{self.base_url}/{resource_type}/_search",
            data={"identifier": f"{system}|{value}"},
            headers={"Cache-Control": "no-cache"},  # HAPI answers a repeated search from a cache
        ) as response:
            bundle = await response.json(content_type=None)
        return [entry["resource"] for entry in bundle.get("entry", [])]

    async def write(self, to: FhirDestination, record: Accepted, remote_id: str | None = None) -> Confirmed:
        sent = await to.send(await self.request(to, record, remote_id))
        assert isinstance(sent, Confirmed), sent
        return sent

    async def request(self, to: FhirDestination, record: Accepted, remote_id: str | None = None) -> Request:
        write = pending(record, remote_id)
        found = await to.read(write)
        assert isinstance(found, Current | Absent), type(found)
        request = to.build(write, found)
        assert isinstance(request, Request), request
        return request

    async def close(self) -> None:
        await self.session.close()
        await self.replica.close()
        await self.owner.close()


@pytest.fixture(params=SERVERS)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    if request.param == "fake":
        async with FakeFhir().serve() as base_url:
            made = Lab(base_url)
            yield made
            await made.close()
        return
    ehr: Ehr | None = request.getfixturevalue("ehr_replica") if request.param == "sekmet" else None
    made = Lab(ehr.base_url if ehr else GIVEN_SERVER)
    yield made
    await made.close()


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex[:12]


def record(state: Payload, name: str, offset: int) -> Accepted:
    kinds = {Transfer: EntityType.TRANSFER, Procedure: EntityType.PROCEDURE, Encounter: EntityType.ENCOUNTER}
    return accepted(state, name, offset, kinds[type(state)])


def staged(stage: TransferStage, reason: str | None = None) -> Transfer:
    return structs.replace(REQUESTED, stage=StageState(stage, reason, Millis(T0 + 60_000)))


@pytest.mark.parametrize("role", ["owner", "replica"])
async def test_a_transfer_is_made_moved_and_declined_and_a_clinicians_notes_stay(lab: Lab, name: str, role: str) -> None:
    to: FhirDestination = getattr(lab, role)
    done = await lab.write(to, record(REQUESTED, name, 5))
    made = await lab.get(f"Task/{done.remote_id}")
    lab.check(made)
    assert (made["status"], made["businessStatus"]["coding"][0]["code"], "for" in made) == ("requested", "REQUESTED", False)

    def clinician(body: dict[str, Any]) -> None:
        body["note"] = [{"text": "called back"}]
        body["priority"] = "urgent"
        body["businessStatus"]["text"] = "waiting for us"

    await lab.edit(f"Task/{done.remote_id}", clinician)
    assert changed_at_ehr(to.builder, record(REQUESTED, name, 5), await lab.get(f"Task/{done.remote_id}")) == ()
    await lab.write(to, record(structs.replace(staged(TransferStage.IN_REVIEW), patient=PATIENT), name, 6), done.remote_id)
    await lab.write(to, record(staged(TransferStage.DECLINED, "NO_BED"), name, 7), done.remote_id)
    body = await lab.get(f"Task/{done.remote_id}")
    lab.check(body)
    assert (body["status"], body["businessStatus"]["coding"][0]["code"]) == ("rejected", "DECLINED")
    reason = body["statusReason"]
    assert (reason["concept"] if lab.version == "R5" else reason)["text"] == "NO_BED"
    assert (body["note"][0]["text"], body["priority"], body["businessStatus"]["text"]) == (
        "called back",
        "urgent",
        "waiting for us",
    )
    assert body["for"]["identifier"]["value"] == "MAIN/P1"
    assert (body["authoredOn"][:19], body["lastModified"][:19]) == ("2023-11-14T22:13:20", "2023-11-14T22:14:20")


async def test_whom_a_transfer_is_for_is_the_owners_word_once_it_has_spoken(lab: Lab, name: str) -> None:
    done = await lab.write(lab.owner, record(REQUESTED, name, 5))
    theirs = {"type": "Patient", "identifier": {"system": "urn:theirs", "value": "4711"}}
    await lab.edit(f"Task/{done.remote_id}", lambda body: body.update({"for": theirs}))
    ours = record(structs.replace(staged(TransferStage.IN_REVIEW), patient=PATIENT), name, 6)
    await lab.write(lab.owner, ours, done.remote_id)
    body = await lab.get(f"Task/{done.remote_id}")
    assert (body["for"]["identifier"], body["status"]) == (theirs["identifier"], "received")
    current = await lab.owner.read(pending(ours, done.remote_id))
    assert isinstance(current, Current)
    assert lab.owner.build(pending(ours, done.remote_id), current) == Suppressed(Reason.ALREADY_THERE, ours.revision)


async def test_whom_a_transfer_is_for_is_corrected_at_the_owner_where_we_wrote_it(lab: Lab, name: str) -> None:
    done = await lab.write(lab.owner, record(structs.replace(REQUESTED, patient=PATIENT), name, 5))
    await lab.write(lab.owner, record(staged(TransferStage.IN_REVIEW), name, 6), done.remote_id)
    other = structs.replace(staged(TransferStage.CLINICALLY_ACCEPTED), patient=Reference("MAIN", "P2"))
    await lab.write(lab.owner, record(other, name, 7), done.remote_id)
    assert (await lab.get(f"Task/{done.remote_id}"))["for"]["identifier"]["value"] == "MAIN/P2"


async def test_a_procedure_is_booked_moved_and_cancelled_and_other_participants_stay(lab: Lab, name: str) -> None:
    done = await lab.write(lab.replica, record(BOOKED, name, 5))
    made = await lab.get(f"Appointment/{done.remote_id}")
    lab.check(made)
    assert (made["status"], made["minutesDuration"], len(made["participant"])) == ("booked", 90, 2)

    def clinician(body: dict[str, Any]) -> None:
        body["participant"].insert(0, {"actor": {"display": "Dr. Who"}, "status": "tentative"})
        body["participant"][2]["status"] = "declined"
        body["description"] = "left hip"

    await lab.edit(f"Appointment/{done.remote_id}", clinician)
    moved = structs.replace(BOOKED, start=Millis(T0 + 3_600_000), end=Millis(T0 + 7_200_000), reason="LATE")
    await lab.write(lab.replica, record(moved, name, 6), done.remote_id)
    body = await lab.get(f"Appointment/{done.remote_id}")
    lab.check(body)
    reason = "cancellationReason" if lab.version == "R5" else "cancelationReason"
    assert (body["minutesDuration"], body["description"], reason in body) == (60, "left hip", False)
    assert [item["status"] for item in body["participant"]] == ["tentative", "accepted", "declined"]
    cancelled = structs.replace(moved, status=ProcedureStatus.CANCELLED, reason="NO_BED")
    await lab.write(lab.replica, record(cancelled, name, 7), done.remote_id)
    body = await lab.get(f"Appointment/{done.remote_id}")
    lab.check(body)
    assert (body["status"], body[reason]["text"], body["description"]) == ("cancelled", "NO_BED", "left hip")


async def test_a_procedure_of_which_nothing_is_known_yet_is_made_and_filled_in(lab: Lab, name: str) -> None:
    done = await lab.write(lab.replica, record(Procedure(status=ProcedureStatus.PENDING), name, 5))
    assert (await lab.get(f"Appointment/{done.remote_id}"))["status"] == "proposed"
    await lab.write(lab.replica, record(BOOKED, name, 6), done.remote_id)
    body = await lab.get(f"Appointment/{done.remote_id}")
    lab.check(body)
    assert (body["status"], len(body["participant"])) == ("booked", 2)


def stay(name: str, admitted_at: int, **fields: Any) -> Encounter:
    return Encounter(
        patient=PATIENT,
        patient_class=PatientClass.INPATIENT,
        status=EncounterStatus.IN_PROGRESS,
        admitted_at=Millis(admitted_at),
        **fields,
    )


async def test_a_stay_s_life_comes_back_as_echoes_and_a_clinician_s_word_comes_alone(lab: Lab, name: str) -> None:
    at, later = Place("MAIN", point_of_care="ICU", room="12", bed="A"), Place("MAIN", point_of_care="ICU", room="12", bed="B")
    states = [
        stay(name, T0, location=at, service="MED", expected_discharge_at=Millis(T0 + 86_400_000)),
        structs.replace(stay(name, T0, location=at, pending_location=later), status=EncounterStatus.ONLEAVE),
        stay(name, T0, location=later, prior_location=at, pending_location=None),
    ]
    remote_id = None
    for offset, state in enumerate(states, 5):
        remote_id = (await lab.write(lab.replica, record(state, f"V-{name}", offset), remote_id)).remote_id or remote_id
        body = await lab.get(f"Encounter/{remote_id}")
        lab.check(body)
        assert lab.back(body) == Ignored(IgnoredBecause.ECHO, "Encounter"), offset
    await lab.edit(f"Encounter/{remote_id}", lambda body: body.update(status="completed" if lab.version == "R5" else "finished"))
    told = lab.back(await lab.get(f"Encounter/{remote_id}"))
    assert isinstance(told, Mapped)
    assert told.events[0].payload == Encounter(status=EncounterStatus.FINISHED)
    over = structs.replace(states[-1], status=EncounterStatus.FINISHED, discharged_at=Millis(T0 + 90_000_000), disposition="01")
    await lab.write(lab.replica, record(over, f"V-{name}", 9), remote_id)
    body = await lab.get(f"Encounter/{remote_id}")
    lab.check(body)
    assert {each["status"] for each in body["location"]} == {"completed"}
    assert lab.back(body) == Ignored(IgnoredBecause.ECHO, "Encounter")


EPISODES: Final = "https://surgeline.dev/fhir/id/t1/episode"


async def test_two_stays_of_one_condition_share_the_episode_that_their_source_names(lab: Lab, name: str) -> None:
    episode = Reference("MAIN", f"E-{name}")
    first = await lab.write(lab.replica, record(stay(name, T0, episode=episode), f"V1-{name}", 5))
    second = await lab.write(lab.replica, record(stay(name, T0 + 86_400_000, episode=episode), f"V2-{name}", 6))
    (made,) = await lab.matching("EpisodeOfCare", EPISODES, f"MAIN/E-{name}")
    lab.check(made)
    assert (made["status"], made["patient"]["identifier"]["value"]) == ("active", "MAIN/P1")
    assert made["period"]["start"].startswith("2023-11-14T22:13:20")
    for done in (first, second):
        body = await lab.get(f"Encounter/{done.remote_id}")
        lab.check(body)
        assert body["episodeOfCare"][0]["reference"].rpartition("/")[2] == made["id"]
        assert body["episodeOfCare"][0]["identifier"]["value"] == f"MAIN/E-{name}"


async def test_ten_stays_at_once_make_one_episode(lab: Lab, name: str) -> None:
    waiting = [record(stay(name, T0, episode=Reference("MAIN", f"E-{name}")), f"V{i}-{name}", 5 + i) for i in range(10)]
    confirmed = 0
    for _ in range(3):  # a server may let one win and ask the others to read again, which is a round of the writer
        requests = [await lab.request(lab.replica, each) for each in waiting]
        outcomes = await asyncio.gather(*(lab.replica.send(request) for request in requests))
        confirmed += sum(isinstance(outcome, Confirmed) for outcome in outcomes)
        waiting = [each for each, outcome in zip(waiting, outcomes, strict=True) if isinstance(outcome, VersionMismatch)]
    assert confirmed == 10
    assert len(await lab.matching("EpisodeOfCare", EPISODES, f"MAIN/E-{name}")) == 1


async def test_a_stay_without_a_named_episode_makes_none(lab: Lab, name: str) -> None:
    done = await lab.write(lab.replica, record(stay(name, T0), f"V-{name}", 5))
    assert "episodeOfCare" not in await lab.get(f"Encounter/{done.remote_id}")


async def test_an_episode_waits_for_its_patient_and_is_then_a_clinicians_to_change(lab: Lab, name: str) -> None:
    episode = Reference("MAIN", f"E-{name}")
    nobody = structs.replace(stay(name, T0, episode=episode), patient=None)
    done = await lab.write(lab.replica, record(nobody, f"V-{name}", 5))
    assert "reference" not in (await lab.get(f"Encounter/{done.remote_id}"))["episodeOfCare"][0]
    assert await lab.matching("EpisodeOfCare", EPISODES, f"MAIN/E-{name}") == []
    await lab.write(lab.replica, record(stay(name, T0, episode=episode), f"V-{name}", 6), done.remote_id)
    (made,) = await lab.matching("EpisodeOfCare", EPISODES, f"MAIN/E-{name}")
    await lab.edit(f"EpisodeOfCare/{made['id']}", lambda body: body.update(status="finished"))
    over = structs.replace(stay(name, T0, episode=episode), status=EncounterStatus.FINISHED, discharged_at=Millis(T0 + 1_000))
    await lab.write(lab.replica, record(over, f"V-{name}", 7), done.remote_id)
    await lab.write(lab.replica, record(stay(name, T0, episode=episode), f"W-{name}", 8))
    assert [each["status"] for each in await lab.matching("EpisodeOfCare", EPISODES, f"MAIN/E-{name}")] == ["finished"]


async def test_a_stay_that_moves_to_another_episode_leaves_those_of_others_alone(lab: Lab, name: str) -> None:
    done = await lab.write(lab.replica, record(stay(name, T0, episode=Reference("MAIN", f"E1-{name}")), f"V-{name}", 5))
    foreign = {"identifier": {"system": "urn:theirs", "value": "7"}, "display": "theirs"}
    await lab.edit(f"Encounter/{done.remote_id}", lambda body: body["episodeOfCare"].insert(0, foreign))
    await lab.write(lab.replica, record(stay(name, T0, episode=Reference("MAIN", f"E2-{name}")), f"V-{name}", 6), done.remote_id)
    shown = (await lab.get(f"Encounter/{done.remote_id}"))["episodeOfCare"]
    assert [item["identifier"]["value"] for item in shown] == ["7", f"MAIN/E2-{name}"]


# -- what an owner permits


async def test_an_owner_is_told_a_reservation_and_nothing_else_of_its_stay(lab: Lab, name: str) -> None:
    profile = lab.profile("owner")
    stays = ResourceProfile(system=profile.references[EntityType.ENCOUNTER].system, fields=("pending_location",))
    references = {kind: named for kind, named in profile.references.items() if kind is not EntityType.ENCOUNTER}
    to = lab.destination(
        structs.replace(
            profile,
            resources={**profile.resources, EntityType.ENCOUNTER: stays},
            references=references,
            reservation="pending-location",
        )
    )
    ours = record(stay(name, T0, pending_location=Place(point_of_care="ICU", room="12", bed="A")), name, 5)
    theirs = {
        "resourceType": "Encounter",
        "id": f"enc-{name}",
        "identifier": [to.builder.subject(ours).ident.body()],
        "status": "in-progress",
        "class": [{"coding": [EMERGENCY]}] if lab.version == "R5" else EMERGENCY,
        "location": [{"location": {"display": "ED 4"}, "status": "active"}],
    }
    path = f"Encounter/enc-{name}"
    async with lab.session.put(f"{lab.base_url}/{path}", json=theirs) as response:
        assert response.status == 201
    await lab.write(to, ours)
    body = await lab.get(path)
    lab.check(body)
    assert [item["status"] for item in body["location"]] == ["active", "reserved"]
    await lab.write(to, record(structs.replace(ours.state, pending_location=None), name, 6))
    body = await lab.get(path)
    assert {key: body[key] for key in theirs} == theirs
    assert "subject" not in body
    await to.close()


# -- where the revision travels


@pytest.mark.parametrize("revision", ["tag", "none"])
async def test_without_the_extension_a_write_is_still_fenced_confirmed_and_not_repeated(
    lab: Lab, name: str, revision: str
) -> None:
    to = lab.destination(structs.replace(lab.profile("replica"), revision=revision))
    done = await lab.write(to, record(REQUESTED, name, 5))
    changed = record(staged(TransferStage.IN_REVIEW), name, 6)
    stale = await lab.request(to, changed, done.remote_id)
    await lab.edit(f"Task/{done.remote_id}", lambda body: body.update(priority="urgent"))
    assert isinstance(await to.send(stale), VersionMismatch)
    request = await lab.request(to, changed, done.remote_id)
    sent = await to.send(request)
    assert isinstance(sent, Confirmed)
    back = await to.read_back(request)
    assert isinstance(back, Confirmed)
    assert back.revision == changed.revision
    body = await lab.get(f"Task/{done.remote_id}")
    assert body["priority"] == "urgent"
    assert "revision" not in str(body.get("extension"))
    current = await to.read(pending(changed, done.remote_id))
    assert isinstance(current, Current)
    assert to.build(pending(changed, done.remote_id), current) == Suppressed(Reason.ALREADY_THERE, changed.revision)
    await to.close()


async def test_a_tag_keeps_an_older_write_from_replacing_a_newer_one(lab: Lab, name: str) -> None:
    to = lab.destination(structs.replace(lab.profile("replica"), revision="tag"))
    newer = record(staged(TransferStage.IN_REVIEW), name, 9)
    done = await lab.write(to, newer)
    late = pending(record(REQUESTED, name, 8), done.remote_id)
    current = await to.read(late)
    assert isinstance(current, Current)
    assert to.build(late, current) == Suppressed(Reason.NEWER_AT_DESTINATION, newer.revision)
    await to.close()
