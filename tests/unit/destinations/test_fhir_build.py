"""The one request that makes an EHR show a state: where its mark travels, at which address, and what goes together."""

from typing import Any

import pytest
from msgspec import structs

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, Confirmed, Current, PendingWrite, Refused, Request, Suppressed
from pipeline.domain.event import (
    Bed,
    Encounter,
    EntityType,
    Environment,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    StageState,
    Transfer,
    TransferStage,
)
from pipeline.domain.identifiers import Millis, revision_of
from pipeline.domain.records import Reason
from pipeline.formats.fhir.profile import BundleProfile, Profile, StatusMap
from pipeline.formats.fhir.revision import carrier_of, read_mark
from pipeline.formats.fhir.terms import REVISION
from tests.support.fhir_lab import DIGEST_KEY, FakeFhir, accepted, changed_at_ehr, pending

REPLICA = load_profile("sekmet-replica")
OWNER = load_profile("sekmet-owner")
KINDS: dict[type[Payload], EntityType] = {
    Bed: EntityType.BED,
    Encounter: EntityType.ENCOUNTER,
    Transfer: EntityType.TRANSFER,
    Procedure: EntityType.PROCEDURE,
}
Body = dict[str, Any]


def write_of(state: Payload, offset: int = 5) -> PendingWrite:
    return pending(accepted(state, "x", offset, KINDS[type(state)]))


def builder(profile: Profile = REPLICA) -> Builder:
    return Builder(profile, DIGEST_KEY)


def body_of(request: object) -> Body:
    assert isinstance(request, Request), request
    entries = request.body.get("entry")
    body: Body = entries[-1]["resource"] if entries else request.body
    return body


def made(state: Payload, profile: Profile = REPLICA, offset: int = 5) -> Body:
    return body_of(builder(profile).build(write_of(state, offset), Absent())) | {"id": "7"}


def over(body: Body, state: Payload, profile: Profile = REPLICA, offset: int = 6) -> Body:
    build = builder(profile)
    return body_of(build.build(write_of(state, offset), build.current_of(body, 'W/"1"')))


# -- where the mark travels

IN_TAG = structs.replace(REPLICA, revision="tag")
NOWHERE = structs.replace(REPLICA, revision="none")
IN_REVIEW = Transfer(stage=StageState(TransferStage.IN_REVIEW))


def test_an_extension_goes_under_the_url_that_the_ehr_gave_it() -> None:
    profile = structs.replace(REPLICA, extensions={"revision": "urn:theirs:revision"})
    body = made(IN_REVIEW, profile)
    assert [item["url"] for item in body["extension"]] == ["urn:theirs:revision"]
    mark = builder(profile).mark_in(body)
    assert mark is not None
    assert (mark.revision, read_mark(body)) == (revision_of(1, 5), None)


def test_a_tag_tells_revision_state_and_that_there_was_an_edit() -> None:
    body = made(IN_REVIEW, IN_TAG)
    build = builder(IN_TAG)
    assert [tag["system"] for tag in body["meta"]["tag"]] == [REVISION]
    assert build.current_of(body, None).revision == revision_of(1, 5)
    assert build.current_of(body, None).state_hash == write_of(IN_REVIEW).accepted.state_hash
    assert changed_at_ehr(build, write_of(IN_REVIEW).accepted, body) == ()
    assert changed_at_ehr(build, write_of(IN_REVIEW).accepted, body | {"note": [{"text": "x"}]}) == ()
    edited = changed_at_ehr(build, write_of(IN_REVIEW).accepted, body | {"status": "completed"})
    assert edited is not None
    assert "status" in edited


def test_of_tags_that_a_server_carried_forward_the_highest_counts_and_one_is_left() -> None:
    old = made(IN_REVIEW, IN_TAG, 5)["meta"]["tag"]
    body = made(IN_REVIEW, IN_TAG, 9)
    body["meta"]["tag"] = [*old, {"system": "urn:theirs", "code": "x"}, *body["meta"]["tag"], {"system": REVISION, "code": "?"}]
    assert builder(IN_TAG).current_of(body, None).revision == revision_of(1, 9)
    after = over(body, IN_REVIEW, IN_TAG, 10)
    assert [tag["system"] for tag in after["meta"]["tag"]] == ["urn:theirs", REVISION]


def test_where_no_revision_travels_the_fields_alone_say_whether_it_is_there() -> None:
    body = made(IN_REVIEW, NOWHERE)
    assert REVISION not in str(body)
    build = builder(NOWHERE)
    current = build.current_of(body, 'W/"1"')
    assert build.build(write_of(IN_REVIEW, 8), current) == Suppressed(Reason.ALREADY_THERE, revision_of(1, 8))
    assert isinstance(build.build(write_of(Transfer(service="CARD"), 8), current), Request)


@pytest.mark.parametrize("profile", [REPLICA, IN_TAG, NOWHERE], ids=["extension", "tag", "none"])
def test_an_unset_profile_reads_what_it_writes(profile: Profile) -> None:
    body = made(IN_REVIEW, profile)
    mark = carrier_of(profile).read(body)
    assert (mark is None) == (profile.revision == "none")


# -- what a mark speaks of


def digests(body: Body) -> set[str]:
    mark = read_mark(body)
    assert mark is not None
    return {field for field, _ in mark.digests}


def test_what_we_made_up_for_a_new_resource_is_ours_and_no_word_of_the_ehr() -> None:
    body = made(Encounter(service="MED"))
    assert body["status"] == "unknown"
    assert {"status", "patient_class", "service"} <= digests(body)
    assert {"status", "patient_class"} <= digests(over(body, Encounter(service="SUR")))
    theirs = over(body | {"status": "arrived"}, Encounter(service="SUR"))
    assert (theirs["status"], "status" in digests(theirs)) == ("arrived", False)


# -- the owner's word


def for_of(body: Body) -> Any:
    return body.get("for", {}).get("identifier", {}).get("value")


P1, P2 = Transfer(patient=Reference("MAIN", "P1")), Transfer(patient=Reference("MAIN", "P2"))
THEIRS = {"type": "Patient", "identifier": {"system": "urn:theirs", "value": "4711"}}


def test_an_owners_word_on_the_patient_stands_and_at_a_replica_ours_does() -> None:
    assert for_of(over(made(IN_REVIEW, OWNER) | {"for": THEIRS}, P1, OWNER)) == "4711"
    assert for_of(over(made(P2, OWNER) | {"for": THEIRS}, P1, OWNER)) == "4711"
    assert for_of(over(made(IN_REVIEW) | {"for": THEIRS}, P1)) == "MAIN/P1"


def test_an_owner_who_took_a_patient_back_is_not_told_again() -> None:
    body = made(P1, OWNER)
    del body["for"]
    after = over(body, P1, OWNER)
    assert for_of(after) is None
    assert "patient" not in digests(after)


def test_an_owner_that_has_said_nothing_of_the_patient_is_told_and_corrected() -> None:
    known = over(made(IN_REVIEW, OWNER), P1, OWNER)
    assert for_of(known) == "MAIN/P1"
    assert for_of(over(known, P2, OWNER, 7)) == "MAIN/P2"


def test_without_a_mark_an_owners_patient_is_taken_for_its_own() -> None:
    silent = structs.replace(OWNER, revision="none")
    after = over(made(P1, silent), structs.replace(P2, service="CARD"), silent)
    assert (for_of(after), "CARD" in str(after)) == ("MAIN/P1", True)


# -- what goes together


def test_an_episode_is_made_before_the_stay_that_names_it_and_once() -> None:
    state = Encounter(patient=Reference("MAIN", "P1"), admitted_at=Millis(0), episode=Reference("MAIN", "E1"))
    request = builder().build(write_of(state), Absent())
    assert isinstance(request, Request)
    episode, stay = request.body["entry"]
    assert episode["resource"]["resourceType"] == "EpisodeOfCare"
    assert episode["request"]["ifNoneExist"].startswith("identifier=")
    assert stay["resource"]["episodeOfCare"][0]["reference"] == episode["fullUrl"]
    resolved = stay["resource"] | {"id": "7"}
    resolved["episodeOfCare"][0]["reference"] = "EpisodeOfCare/3"
    build = builder()
    again = build.build(write_of(structs.replace(state, service="MED"), 6), build.current_of(resolved, 'W/"1"'))
    assert isinstance(again, Request)
    assert (again.method, again.body["episodeOfCare"]) == ("PUT", resolved["episodeOfCare"])


@pytest.mark.parametrize("kept_back", ["patient", "admitted_at"])
def test_what_a_profile_keeps_back_reaches_nobody_through_an_episode(kept_back: str) -> None:
    stays = REPLICA.resources[EntityType.ENCOUNTER]
    fields = tuple(field for field in stays.fields if field != kept_back)
    profile = structs.replace(
        REPLICA, resources={**REPLICA.resources, EntityType.ENCOUNTER: structs.replace(stays, fields=fields)}
    )
    state = Encounter(patient=Reference("MAIN", "P4711"), admitted_at=Millis(0), episode=Reference("MAIN", "E1"))
    request = builder(profile).build(write_of(state), Absent())
    assert isinstance(request, Request)
    assert ("4711" if kept_back == "patient" else "1970") not in str(request.body)


def test_a_state_without_a_valid_form_is_refused_and_not_bent() -> None:
    assert builder().build(write_of(Procedure(status=ProcedureStatus.STARTED)), Absent()) == Refused(Reason.REFUSED_INVALID)


@pytest.mark.parametrize("create", ["put-client-id", "transaction-if-none-exist"])
def test_a_transfer_is_created_as_its_profile_fences_it(create: str) -> None:
    transfers = structs.replace(REPLICA.resources[EntityType.TRANSFER], create=create)
    profile = structs.replace(REPLICA, resources={**REPLICA.resources, EntityType.TRANSFER: transfers})
    request = builder(profile).build(write_of(IN_REVIEW), Absent())
    assert isinstance(request, Request)
    assert (request.method, dict(request.headers).get("If-None-Match")) == (
        ("PUT", "*") if create == "put-client-id" else ("POST", None)
    )


# -- addresses


async def test_a_resource_with_a_base_of_its_own_is_read_written_and_found_there_alone() -> None:
    fake = FakeFhir()
    transfers = structs.replace(REPLICA.resources[EntityType.TRANSFER], base_path="fhir")
    profile = structs.replace(
        REPLICA, resources={**REPLICA.resources, EntityType.TRANSFER: transfers}, bundle=BundleProfile(entries=10, creates=True)
    )
    async with fake.serve() as base_url:
        to = FhirDestination("replica", base_url.removesuffix("/fhir"), profile, DIGEST_KEY)
        write = write_of(IN_REVIEW)
        created = to.build(write, Absent())
        assert isinstance(created, Request)
        done = await to.send(created)
        assert isinstance(done, Confirmed)
        changed = pending(accepted(Transfer(service="CARD"), "x", 6, EntityType.TRANSFER), done.remote_id)
        found = await to.read(changed)
        assert isinstance(found, Current)
        update = to.build(changed, found)
        assert isinstance(update, Request)
        assert await to.send(update) == Confirmed(done.remote_id, 'W/"2"', changed.accepted.revision)
        assert isinstance(await to.read(pending(accepted(IN_REVIEW, "x", 6, EntityType.TRANSFER))), Current)
        await to.close()
    assert fake.urls == ["/fhir", f"/fhir/Task/{done.remote_id}", f"/fhir/Task/{done.remote_id}", "/fhir/Task/_search"]


def test_a_bed_gets_the_ehrs_own_status_codes_without_words_of_ours() -> None:
    beds = structs.replace(
        REPLICA.resources[EntityType.BED], statuses={"operational_status": StatusMap({"H": "DIRTY"}, "urn:theirs:bed")}
    )
    profile = structs.replace(REPLICA, resources={**REPLICA.resources, EntityType.BED: beds})
    body = made(Bed(environment=Environment.DIRTY, place=Place(point_of_care="ICU", bed="A")), profile)
    assert body["operationalStatus"] == {"system": "urn:theirs:bed", "code": "DIRTY"}


def test_a_place_that_our_write_completes_is_no_news_of_the_ehrs() -> None:
    stay = made(Encounter(location=Place(point_of_care="ICU", bed="A")))
    moved = over(stay, Encounter(location=Place(point_of_care="MED", bed="B")))
    assert [item["status"] for item in moved["location"]] == ["completed", "active"]
    assert {"location", "prior_location"} <= digests(moved)
    theirs = over(moved | {"status": "arrived"}, Encounter(location=Place(point_of_care="MED", bed="B")), offset=7)
    assert "prior_location" in digests(theirs)
