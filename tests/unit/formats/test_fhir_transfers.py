"""A transfer as Task: R4's status by the table, the transfer centre's stage beside it, and nobody named who isn't known."""

from typing import Any

import pytest
from msgspec import structs

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import EntityType, Place, Reference, StageState, Transfer, TransferKind, TransferStage
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body, apply_owned
from pipeline.formats.fhir.profile import StatusMap
from pipeline.formats.fhir.statuses import R4_TASK
from pipeline.formats.fhir.task import TASK
from pipeline.formats.fhir.terms import TRANSFER_KIND, TRANSFER_STAGE
from tests.support.fhir_checks import check

NAMING = Naming(load_profile("sekmet-owner"), "t1", "MAIN")
NOON = Millis(1_700_000_000_000)


def task(transfer: Transfer, current: Body | None = None, naming: Naming = NAMING) -> Body:
    body = TASK.created(transfer, naming) if current is None else current
    made = apply_owned(body, TASK.desired(transfer, naming.entity(EntityType.TRANSFER, "MAIN", "x"), naming, body))
    check(made)
    return made


def at(stage: TransferStage, reason: str | None = None, when: Millis | None = None) -> Transfer:
    return Transfer(stage=StageState(stage, reason, when))


@pytest.mark.parametrize("stage", TransferStage)
def test_every_stage_has_a_status_of_r4_and_keeps_its_own_name(stage: TransferStage) -> None:
    made = task(at(stage))
    assert made["status"] in R4_TASK
    assert made["businessStatus"]["coding"] == [{"system": TRANSFER_STAGE, "code": stage.value}]


@pytest.mark.parametrize(
    ("stage", "status"),
    [
        (TransferStage.REQUESTED, "requested"),
        (TransferStage.IN_REVIEW, "received"),
        (TransferStage.CLINICALLY_ACCEPTED, "accepted"),
        (TransferStage.BED_ASSIGNED, "accepted"),
        (TransferStage.DEPARTED, "in-progress"),
        (TransferStage.ARRIVED, "completed"),
        (TransferStage.DECLINED, "rejected"),
        (TransferStage.REDIRECTED, "cancelled"),
    ],
)
def test_a_task_is_done_only_when_the_patient_arrived(stage: TransferStage, status: str) -> None:
    assert task(at(stage))["status"] == status


def test_a_new_request_is_an_order_that_a_reader_tells_from_other_tasks() -> None:
    made = task(Transfer(kind=TransferKind.INCOMING))
    assert (made["status"], made["intent"]) == ("requested", "order")
    assert {coding["code"] for coding in made["code"]["coding"]} == {"transfer", "INCOMING"}


def test_an_unknown_patient_has_no_stand_in_and_is_named_once_known() -> None:
    unknown = task(at(TransferStage.REQUESTED))
    assert ("for" in unknown, "encounter" in unknown) == (False, False)
    known = task(Transfer(patient=Reference("MAIN", "P1"), encounter=Reference("MAIN", "V1")), unknown)
    assert known["for"]["identifier"]["value"] == "MAIN/P1"
    assert known["encounter"] == {
        "type": "Encounter",
        "identifier": {"system": "https://surgeline.dev/fhir/id/t1/encounter", "value": "MAIN/V1"},
    }


def test_a_reason_goes_with_the_stage_that_it_explained() -> None:
    declined = task(at(TransferStage.DECLINED, "NO_BED"))
    assert declined["statusReason"] == {"text": "NO_BED"}
    assert "statusReason" not in task(at(TransferStage.IN_REVIEW), declined)


def test_what_a_clinician_adds_to_a_task_stays() -> None:
    made = task(at(TransferStage.DECLINED, "NO_BED"))
    made["statusReason"]["coding"] = [{"system": "urn:theirs", "code": "7"}]
    made["businessStatus"]["coding"].insert(0, {"system": "urn:theirs", "code": "waiting"})
    made["note"] = [{"text": "call back"}]
    made["owner"] = {"reference": "Practitioner/7"}
    after = task(at(TransferStage.IN_REVIEW), made)
    assert after["statusReason"] == {"coding": [{"system": "urn:theirs", "code": "7"}]}
    assert [coding["code"] for coding in after["businessStatus"]["coding"]] == ["waiting", "IN_REVIEW"]
    assert (after["note"], after["owner"]) == (made["note"], made["owner"])


def test_a_stage_reached_before_the_request_is_no_last_modification_and_still_told() -> None:
    early = task(structs.replace(at(TransferStage.IN_REVIEW, None, Millis(NOON - 1)), requested_at=NOON))
    assert "lastModified" not in early
    assert [item["valueDateTime"] for item in early["extension"]] == ["2023-11-14T22:13:19.999Z"]
    later = task(structs.replace(at(TransferStage.IN_REVIEW, None, Millis(NOON + 1)), requested_at=NOON))
    assert (later["authoredOn"], later["lastModified"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20.001Z")


def test_a_modification_before_a_request_that_becomes_known_later_is_withdrawn() -> None:
    made = task(at(TransferStage.IN_REVIEW, None, NOON))
    assert "lastModified" in made
    assert "lastModified" not in task(Transfer(requested_at=Millis(NOON + 5)), made)


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        (TransferKind.INTERNAL, Place(point_of_care="ED"), "si:MAIN/wa:ED"),
        (TransferKind.INCOMING, Place(facility="EAST", point_of_care="ED"), "si:EAST/wa:ED"),
        (TransferKind.INCOMING, Place(point_of_care="ED"), None),
    ],
)
def test_a_ward_elsewhere_is_never_taken_for_ours_of_the_same_name(kind: TransferKind, place: Place, value: str | None) -> None:
    made = task(Transfer(kind=kind, origin=place, destination=Place(point_of_care="ICU", bed="A")))
    origins = [item["valueReference"]["identifier"]["value"] for item in made.get("extension", [])]
    assert origins == ([value] if value else [])
    assert made["location"]["identifier"]["value"] == "MAIN/ICU//A"


def with_statuses(**statuses: StatusMap) -> Naming:
    profile = NAMING.profile
    mapped = structs.replace(profile.resources[EntityType.TRANSFER], statuses=statuses)
    return Naming(structs.replace(profile, resources={**profile.resources, EntityType.TRANSFER: mapped}), "t1", "MAIN")


def test_an_ehr_gets_its_own_codes() -> None:
    theirs = with_statuses(
        status=StatusMap({"requested": "draft"}), stage=StatusMap({"BED_ASSIGNED": "BA"}, system="urn:theirs:stage")
    )
    assert task(Transfer(), None, theirs)["status"] == "draft"
    made = task(at(TransferStage.BED_ASSIGNED), None, theirs)
    assert (made["status"], made["businessStatus"]["coding"]) == ("accepted", [{"system": "urn:theirs:stage", "code": "BA"}])
    assert task(at(TransferStage.IN_REVIEW), None, theirs)["businessStatus"]["coding"][0]["code"] == "IN_REVIEW"


def test_an_ehr_gets_our_extensions_under_its_own_urls() -> None:
    profile = structs.replace(NAMING.profile, extensions={"transfer-service": "urn:theirs:service"})
    naming = Naming(profile, "t1", "MAIN")
    made = task(Transfer(service="CARD"), None, naming)
    assert made["extension"] == [{"url": "urn:theirs:service", "valueString": "CARD"}]
    assert TASK.shown(made, naming.entity(EntityType.TRANSFER, "MAIN", "x"), naming)["service"] == "CARD"


def test_a_cleared_kind_leaves_the_code_that_says_what_the_task_is() -> None:
    made = task(Transfer(kind=None), task(Transfer(kind=TransferKind.INTERNAL)))
    codes: list[dict[str, Any]] = made["code"]["coding"]
    assert [coding["code"] for coding in codes] == ["transfer"]
    assert not [coding for coding in codes if coding["system"] == TRANSFER_KIND]
