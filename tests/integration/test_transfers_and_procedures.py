"""From a source to the EHR: a transfer, a procedure and a stay with its episode, each as the resource that it becomes."""

import json
import time
import urllib.parse
import urllib.request
import uuid
from typing import Any, Final

import pytest

from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack, wait_for
from tests.support.fhir_checks import check
from tests.support.stacks import ANSWER_S, post, send_hl7

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

SYSTEM: Final = "https://surgeline.dev/fhir/id/demo/"
TAKEN: Final = 202


def said(source: str, entity_type: str, name: str, **payload: Any) -> dict[str, Any]:
    now = time.time_ns() // 1_000_000
    return {
        "facility": "GENERAL",
        "source_system": source,
        "entity_type": entity_type,
        "namespace": "GENERAL",
        "entity_id": name,
        "event_type": "UPDATE",
        "recorded_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now / 1000)) + f".{now % 1000:03d}Z",
        "payload": payload,
    }


def a01(name: str) -> bytes:
    """An admission whose PV1-54 names the episode of care."""
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    pv1 = ["PV1", *[""] * 54]
    pv1[2], pv1[3], pv1[19], pv1[54] = "I", f"ICU^{name}^A^GENERAL", f"{name}^^^GENERAL", f"E-{name}^^^GENERAL"
    head = f"MSH|^~\\&|EPICADT|GENERAL|||{now}+0000||ADT^A01|{name}|P|2.5.1\rEVN||{now}+0000"
    return "\r".join((head, f"PID|||P-{name}^^^GENERAL^MR", "|".join(pv1), "")).encode()


def shown(ehr: Ehr, resource_type: str, kind: str, name: str) -> list[dict[str, Any]]:
    form = urllib.parse.urlencode({"identifier": f"{SYSTEM}{kind}|GENERAL/{name}"}).encode()
    with urllib.request.urlopen(f"{ehr.base_url}/{resource_type}/_search", form, timeout=ANSWER_S) as answer:
        return [entry["resource"] for entry in json.load(answer).get("entry", [])]


def test_what_sources_say_is_at_the_ehr_as_task_appointment_and_episode(pipeline: Stack, ehr_replica: Ehr) -> None:
    name = uuid.uuid4().hex[:8]
    events = [
        said(
            "capacity",
            "transfer",
            name,
            kind="INCOMING",
            stage={"stage": "CLINICALLY_ACCEPTED", "at": "2026-01-01T10:00:00Z"},
            requested_at="2026-01-01T09:00:00Z",
            destination={"facility": "GENERAL", "point_of_care": "ICU"},
        ),
        said(
            "scheduling",
            "procedure",
            name,
            status="BOOKED",
            start="2026-01-01T08:00:00Z",
            end="2026-01-01T09:30:00Z",
            patient={"namespace": "GENERAL", "id": f"P-{name}"},
        ),
    ]
    for number, event in enumerate(events):
        status, answer = post(pipeline, event, f"{name}-{number}")
        assert status == TAKEN, answer
    assert b"MSA|AA" in send_hl7(pipeline, a01(name))
    wanted = (("Task", "transfer", name), ("Appointment", "procedure", name), ("Encounter", "encounter", name))
    for resource_type, kind, entity in wanted:
        wait_for(lambda at=(resource_type, kind, entity): shown(ehr_replica, *at), ANSWER_S * 2, f"a {resource_type} at the EHR")
    (task,) = shown(ehr_replica, *wanted[0])
    (appointment,) = shown(ehr_replica, *wanted[1])
    (stay,) = shown(ehr_replica, *wanted[2])
    (episode,) = shown(ehr_replica, "EpisodeOfCare", "episode", f"E-{name}")
    for body in (task, appointment, stay, episode):
        check(body)
    assert (task["status"], task["businessStatus"]["coding"][0]["code"]) == ("accepted", "CLINICALLY_ACCEPTED")
    assert (appointment["status"], appointment["minutesDuration"]) == ("booked", 90)
    assert stay["episodeOfCare"][0]["reference"].endswith(f"EpisodeOfCare/{episode['id']}")
