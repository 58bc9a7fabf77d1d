"""What a FHIR destination promises the writer, on a fake server and on a real one alike."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import pytest
from msgspec import UNSET, structs

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    Newer,
    NotApplied,
    PendingWrite,
    Refused,
    Request,
    Suppressed,
    VersionMismatch,
)
from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Identifier,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Place,
    Reference,
    Service,
    ServiceStatus,
    Sex,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Reason
from pipeline.local.servers.ehr import Ehr
from tests.support.fhir_lab import DIGEST_KEY, FakeFhir, accepted, changed_at_ehr, outcome, pending

PLACE = Place(building="B1", floor="3", point_of_care="ICU", room="12", bed="A")
FREE = Bed(
    occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEAN, service=Service(ServiceStatus.OPEN), place=PLACE
)
TAKEN = Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, Reference("MAIN", "V1")), environment=Environment.CLEAN)


@dataclass
class Lab:
    """One server, a destination for each role, and a way to be somebody else at that server."""

    base_url: str
    replica: FhirDestination
    owner: FhirDestination
    fake: FakeFhir | None
    session: aiohttp.ClientSession

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

    async def matching(self, record: Accepted) -> list[dict[str, Any]]:
        subject = self.replica.builder.subject(record)
        url = f"{self.base_url}/{subject.resource.resource_type}/_search"
        async with self.session.post(url, data={"identifier": subject.ident.token()}) as response:
            bundle = await response.json(content_type=None)
        return [entry["resource"] for entry in bundle.get("entry", [])]


GIVEN_SERVER: Final = os.environ.get("SURGELINE_TEST_FHIR_URL", "")
"""Base of another FHIR R4 server to hold to the same promises, such as a HAPI FHIR JPA."""

SERVERS: Final = ["fake", pytest.param("sekmet", marks=pytest.mark.integration)]
if GIVEN_SERVER:
    SERVERS.append(pytest.param("given", marks=pytest.mark.integration))


@pytest.fixture(params=SERVERS)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    if request.param == "given":
        async with lab_at(GIVEN_SERVER, None) as made:
            yield made
        return
    if request.param == "sekmet":
        ehr: Ehr = request.getfixturevalue("ehr_replica")
        async with lab_at(ehr.base_url, None) as made:
            yield made
        return
    fake = FakeFhir()
    async with fake.serve() as base_url, lab_at(base_url, fake) as made:
        yield made


@pytest.fixture
async def fake_lab() -> AsyncIterator[Lab]:
    fake = FakeFhir()
    async with fake.serve() as base_url, lab_at(base_url, fake) as made:
        yield made


class lab_at:
    """A lab at one server, by the profiles of servers of its kind."""

    def __init__(self, base_url: str, fake: FakeFhir | None, kind: str = "sekmet") -> None:
        replica = FhirDestination("replica", base_url, load_profile(f"{kind}-replica"), DIGEST_KEY)
        owner = FhirDestination("owner", base_url, load_profile(f"{kind}-owner"), DIGEST_KEY)
        self._lab = Lab(base_url, replica, owner, fake, aiohttp.ClientSession())

    async def __aenter__(self) -> Lab:
        return self._lab

    async def __aexit__(self, *_: object) -> None:
        await self._lab.replica.close()
        await self._lab.owner.close()
        await self._lab.session.close()


@pytest.fixture
def bed_id() -> str:
    return f"ICU/12/{uuid.uuid4().hex[:8]}"


async def request_for(destination: FhirDestination, write: PendingWrite) -> Request:
    current = await destination.read(write)
    assert isinstance(current, Current | Absent)
    request = destination.build(write, current)
    assert isinstance(request, Request)
    return request


async def confirm(destination: FhirDestination, record: Accepted, remote_id: str | None = None) -> Confirmed:
    sent = await destination.send(await request_for(destination, pending(record, remote_id)))
    assert isinstance(sent, Confirmed)
    return sent


async def test_a_new_bed_is_made_with_its_place_around_it(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    bed = await lab.get(f"Location/{done.remote_id}")
    levels = []
    node = bed
    while "partOf" in node:
        node = await lab.get("Location/" + node["partOf"]["reference"].rpartition("/")[2])
        levels.append(node["physicalType"]["coding"][0]["code"])
    assert levels == ["ro", "lvl", "wa", "bu", "si"]
    assert (bed["status"], bed["operationalStatus"]["code"], bed["mode"]) == ("active", "U", "instance")


async def test_a_second_bed_of_a_room_makes_no_second_room(lab: Lab, bed_id: str) -> None:
    first = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    second = await confirm(lab.replica, accepted(FREE, bed_id + "-b", 6))
    rooms = {(await lab.get(f"Location/{done.remote_id}"))["partOf"]["reference"].rpartition("/")[2] for done in (first, second)}
    assert len(rooms) == 1


async def test_twenty_creates_at_once_make_one_resource(lab: Lab, bed_id: str) -> None:
    record = accepted(FREE, bed_id, 5)
    requests = [await request_for(lab.replica, pending(record)) for _ in range(20)]
    outcomes = await asyncio.gather(*(lab.replica.send(request) for request in requests))
    assert len(await lab.matching(record)) == 1
    assert sum(isinstance(outcome, Confirmed) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, VersionMismatch) for outcome in outcomes) == 19


async def test_ten_beds_at_once_in_a_new_room_make_one_room(lab: Lab, bed_id: str) -> None:
    state = structs.replace(FREE, place=structs.replace(PLACE, room=f"R-{bed_id}"))
    waiting = [accepted(state, f"{bed_id}-{i}", 5 + i) for i in range(10)]
    ids: list[str] = []
    for _ in range(3):  # a server may let one win and ask the others to read again, which is a round of the writer
        requests = [await request_for(lab.replica, pending(record)) for record in waiting]
        outcomes = await asyncio.gather(*(lab.replica.send(request) for request in requests))
        ids += [outcome.remote_id for outcome in outcomes if isinstance(outcome, Confirmed)]
        waiting = [record for record, outcome in zip(waiting, outcomes, strict=True) if isinstance(outcome, VersionMismatch)]
    assert len(ids) == 10
    rooms = {(await lab.get(f"Location/{remote_id}"))["partOf"]["reference"].rpartition("/")[2] for remote_id in ids}
    assert len(rooms) == 1


@pytest.mark.parametrize("name", ["a|b", "a,b", "a$b", "a b&c=d+e%20", "Zimmer-Süd/ü", "x\\y"])
async def test_any_name_is_found_again_and_made_once(lab: Lab, bed_id: str, name: str) -> None:
    record = accepted(FREE, name + bed_id, 5)
    late = await request_for(lab.replica, pending(record))
    done = await confirm(lab.replica, record)
    found = await lab.replica.read(pending(record))
    assert isinstance(found, Current)
    assert found.remote_id == done.remote_id
    assert isinstance(await lab.replica.send(late), VersionMismatch)


async def test_who_lost_the_race_to_create_finds_it_already_there(lab: Lab, bed_id: str) -> None:
    record = accepted(FREE, bed_id, 5)
    late = await request_for(lab.replica, pending(record))
    await confirm(lab.replica, record)
    assert isinstance(await lab.replica.send(late), VersionMismatch)
    current = await lab.replica.read(pending(record))
    assert isinstance(current, Current)
    assert lab.replica.build(pending(record), current) == Suppressed(Reason.ALREADY_THERE, record.revision)


async def test_a_write_made_from_an_old_read_is_refused(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    stale = await request_for(lab.replica, pending(accepted(TAKEN, bed_id, 6), done.remote_id))
    await lab.edit(f"Location/{done.remote_id}", lambda body: body.update(description="near the window"))
    assert isinstance(await lab.replica.send(stale), VersionMismatch)


async def test_an_edit_of_other_elements_survives_and_is_no_change_of_ours(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))

    def clinician(body: dict[str, Any]) -> None:
        body["description"] = "near the window"
        body["telecom"] = [{"system": "phone", "value": "17"}]
        body["identifier"].insert(0, {"system": "urn:other", "value": "7"})
        body["extension"].insert(0, {"url": "urn:other:colour", "valueString": "blue"})

    await lab.edit(f"Location/{done.remote_id}", clinician)
    edited = await lab.get(f"Location/{done.remote_id}")
    assert changed_at_ehr(lab.replica.builder, accepted(FREE, bed_id, 5), edited) == ()
    await confirm(lab.replica, accepted(TAKEN, bed_id, 6), done.remote_id)
    body = await lab.get(f"Location/{done.remote_id}")
    assert (body["description"], body["telecom"][0]["value"], body["operationalStatus"]["code"]) == ("near the window", "17", "O")
    assert body["identifier"][0] == {"system": "urn:other", "value": "7"}
    assert body["extension"][0] == {"url": "urn:other:colour", "valueString": "blue"}


async def test_an_edit_of_what_we_wrote_is_told_by_field(lab: Lab, bed_id: str) -> None:
    record = accepted(FREE, bed_id, 5)
    done = await confirm(lab.replica, record)
    await lab.edit(f"Location/{done.remote_id}", lambda body: body["operationalStatus"].update(code="K", display="Contaminated"))
    edited = await lab.get(f"Location/{done.remote_id}")
    assert changed_at_ehr(lab.replica.builder, record, edited) == ("operational_status",)
    current = await lab.replica.read(pending(record, done.remote_id))
    assert isinstance(current, Current)
    assert current.revision == record.revision
    assert isinstance(lab.replica.build(pending(record, done.remote_id), current), Request)


async def test_a_late_revision_never_overwrites_a_newer_one(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(TAKEN, bed_id, 9))
    late = pending(accepted(FREE, bed_id, 8), done.remote_id)
    current = await lab.replica.read(late)
    assert isinstance(current, Current)
    assert lab.replica.build(late, current) == Suppressed(Reason.NEWER_AT_DESTINATION, accepted(TAKEN, bed_id, 9).revision)


async def test_one_revision_with_two_states_is_a_fork(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    other = pending(accepted(TAKEN, bed_id, 5, state_hash="f" * 16), done.remote_id)
    current = await lab.replica.read(other)
    assert isinstance(current, Current)
    assert lab.replica.build(other, current) == Refused(Reason.FORK)


async def test_two_resources_with_our_identifier_are_nobodys_to_choose(lab: Lab, bed_id: str) -> None:
    record = accepted(FREE, bed_id, 5)
    done = await confirm(lab.replica, record)
    body = await lab.get(f"Location/{done.remote_id}")
    async with lab.session.put(f"{lab.base_url}/Location/copy-{done.remote_id}", json={**body, "id": f"copy-{done.remote_id}"}):
        pass
    assert await lab.replica.read(pending(record)) == Refused(Reason.MULTIPLE_MATCHES)


async def test_an_owner_gets_status_and_extensions_and_keeps_the_rest(lab: Lab, bed_id: str) -> None:
    record = accepted(FREE, bed_id, 5)
    ident = lab.owner.builder.subject(record).ident
    remote = uuid.uuid4().hex
    theirs = {
        "resourceType": "Location",
        "id": remote,
        "identifier": [ident.body()],
        "status": "active",
        "name": "Window bed",
        "mode": "instance",
        "partOf": {"display": "ICU"},
    }
    async with lab.session.put(f"{lab.base_url}/Location/{remote}", json=theirs) as response:
        assert response.status == 201
    blocked = Bed(service=Service(ServiceStatus.CLOSED), place=PLACE, occupancy=BedOccupancy(Occupancy.VACANT))
    done = await confirm(lab.owner, accepted(blocked, bed_id, 6))
    assert done.remote_id == remote
    body = await lab.get(f"Location/{remote}")
    assert body["operationalStatus"]["code"] == "C"
    assert {name: body[name] for name in theirs} == theirs


async def test_a_moved_bed_gets_its_new_place_in_one_transaction(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    before = (await lab.get(f"Location/{done.remote_id}"))["partOf"]["reference"]
    moved = accepted(Bed(place=Place(building="B1", floor="3", point_of_care="ICU", room=f"R-{bed_id}", bed="A")), bed_id, 6)
    after = await confirm(lab.replica, moved, done.remote_id)
    assert after.remote_id == done.remote_id
    body = await lab.get(f"Location/{done.remote_id}")
    assert body["partOf"]["reference"] != before
    assert body["operationalStatus"]["code"] == "U"
    assert isinstance(await lab.replica.read(pending(moved, done.remote_id)), Current)


async def test_a_stay_moves_and_leaves_its_other_locations_alone(lab: Lab, bed_id: str) -> None:
    def at(bed: str, prior: str | None, offset: int) -> Accepted:
        def place(name: str) -> Place:
            return Place(point_of_care="ICU", room="12", bed=name)

        state = Encounter(
            patient=Reference("MAIN", "P1"),
            patient_class=PatientClass.INPATIENT,
            status=EncounterStatus.IN_PROGRESS,
            location=place(bed),
            prior_location=place(prior) if prior else UNSET,
            admitted_at=Millis(1_700_000_000_000),
        )
        return accepted(state, f"V-{bed_id}", offset, EntityType.ENCOUNTER)

    done = await confirm(lab.replica, at("A", None, 5))
    await lab.edit(
        f"Encounter/{done.remote_id}",
        lambda body: body["location"].insert(0, {"location": {"display": "radiology"}, "status": "completed"}),
    )
    await confirm(lab.replica, at("C", "B", 7), done.remote_id)  # the move A to B was superseded
    body = await lab.get(f"Encounter/{done.remote_id}")
    shown = [(item["location"].get("identifier", {}).get("value", "-")[-1], item["status"]) for item in body["location"]]
    assert shown == [("-", "completed"), ("A", "completed"), ("C", "active"), ("B", "completed")]
    assert body["subject"]["identifier"]["value"] == "MAIN/P1"
    assert body["class"]["code"] == "IMP"


async def test_a_patient_is_made_and_merged_without_losing_what_others_added(lab: Lab, bed_id: str) -> None:
    identifiers = (Identifier("MAIN", "4711", "MR"), Identifier("SSA", "1-2", "SS"))
    state = Patient(identifiers=identifiers, name=Name("Doe", "Jane Q"), birth_date="1970-01-02", sex=Sex.FEMALE, deceased=False)
    done = await confirm(lab.replica, accepted(state, f"P-{bed_id}", 5, EntityType.PATIENT))

    def clinician(body: dict[str, Any]) -> None:
        body["name"].insert(0, {"use": "nickname", "given": ["JJ"]})
        body["maritalStatus"] = {"text": "M"}

    await lab.edit(f"Patient/{done.remote_id}", clinician)
    merged = Patient(identifiers=identifiers[:1], name=Name("Roe", "Jane"), merged_into=Reference("MAIN", "P2"))
    await confirm(lab.replica, accepted(merged, f"P-{bed_id}", 6, EntityType.PATIENT), done.remote_id)
    body = await lab.get(f"Patient/{done.remote_id}")
    assert [name["given"] for name in body["name"]] == [["JJ"], ["Jane"]]
    assert (body["maritalStatus"], body["active"], body["gender"]) == ({"text": "M"}, False, "female")
    assert body["link"][0]["other"]["identifier"]["value"] == "MAIN/P2"
    assert len(body["identifier"]) == 2


async def test_no_identifier_is_ever_in_a_url(fake_lab: Lab) -> None:
    record = accepted(Patient(name=Name("Doe", "Jane")), "MRN-4711", 5, EntityType.PATIENT)
    done = await confirm(fake_lab.replica, record)
    await fake_lab.replica.read(pending(record, done.remote_id))
    assert fake_lab.fake is not None
    assert fake_lab.fake.urls
    assert not [url for url in fake_lab.fake.urls if "4711" in url or "?" in url]


async def test_a_write_whose_answer_was_lost_is_read_back_as_confirmed(fake_lab: Lab) -> None:
    assert fake_lab.fake is not None
    record = accepted(FREE, "ICU/12/A", 5)
    request = await request_for(fake_lab.replica, pending(record))
    fake_lab.fake.lose_answers = 1
    assert await fake_lab.replica.send(request) == Ambiguous()
    assert await fake_lab.replica.read_back(request) == Confirmed("6", 'W/"1"', record.revision)
    assert fake_lab.fake.writes == 6  # nothing was sent a second time: the bed and the five places around it


async def test_a_write_that_never_arrived_is_read_back_as_not_applied(lab: Lab, bed_id: str) -> None:
    record, newer = accepted(FREE, bed_id, 5), accepted(TAKEN, bed_id, 6)
    create = await request_for(lab.replica, pending(record))
    assert await lab.replica.read_back(create) == Absent()
    done = await confirm(lab.replica, record)
    update = await request_for(lab.replica, pending(newer, done.remote_id))
    assert await lab.replica.read_back(update) == NotApplied()
    await confirm(lab.replica, accepted(FREE, bed_id, 7), done.remote_id)
    assert await lab.replica.read_back(update) == Newer(accepted(FREE, bed_id, 7).revision)


async def test_a_deleted_bed_is_gone_and_not_made_again(fake_lab: Lab) -> None:
    assert fake_lab.fake is not None
    done = await confirm(fake_lab.replica, accepted(FREE, "ICU/12/A", 5))
    fake_lab.fake.resources[f"Location/{done.remote_id}"] = {"resourceType": "Location", "deleted": True}
    assert await fake_lab.replica.read(pending(accepted(TAKEN, "ICU/12/A", 6), done.remote_id)) == Refused(Reason.REFUSED_GONE)


async def test_a_promised_bed_is_held_where_the_promise_cannot_be_told(fake_lab: Lab) -> None:
    promised = Bed(
        occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEAN, allocation=Allocation(AllocationStatus.RESERVED)
    )
    profile = load_profile("sekmet-owner")
    mute = FhirDestination("mute", fake_lab.base_url, _with(profile, "untellable"), DIGEST_KEY)
    write = pending(accepted(promised, "ICU/12/A", 5))
    assert mute.build(write, Absent()) == Suppressed(Reason.RESERVATION_UNTELLABLE, write.accepted.revision)
    assert isinstance(fake_lab.owner.build(write, Absent()), Request)
    await mute.close()


def _with(profile: Any, reservation: str) -> Any:
    return structs.replace(profile, reservation=reservation)


async def test_nothing_of_a_servers_words_gets_out(fake_lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    assert fake_lab.fake is not None
    record = accepted(FREE, "ICU/12/A", 5)
    request = await request_for(fake_lab.replica, pending(record))
    answers: list[object] = []
    for status, code in ((400, "invalid"), (200, "processing"), (409, "conflict"), (500, "exception")):
        fake_lab.fake.fault = lambda _, status=status, code=code: outcome(status, code)  # type: ignore[misc]
        answers.append(await fake_lab.replica.send(request))
    assert "Zanzibar" not in repr(answers) + caplog.text
    assert answers == [Refused(Reason.REFUSED_INVALID), Refused(Reason.ERROR_IN_BODY), VersionMismatch(), Ambiguous()]
