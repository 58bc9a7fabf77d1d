"""FHIR subscriptions against a real broker and a real EHR: what a clinician writes is on landing, what we wrote is not."""

import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

import pytest

from pipeline.domain.event import Event, Patient, Sex
from pipeline.domain.records import Accepted, FeedState, Quarantined, Raw
from pipeline.kafka.crypto import RawCipher
from pipeline.local.ports import free_port
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack, Target, wait_for
from tests.support.feeds import SECRET, feed
from tests.support.stacks import ANSWER_S, health, messages, records, send_hl7, stack_at, stopped_at_end

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

SYSTEM: Final = "https://surgeline.dev/fhir/id/demo/patient"
NUMBERS: Final = itertools.count(1)
RESTORE_S: Final = 120.0
"""A subscription that the EHR gave up is found by its silence, restored, and the missed time read."""


@pytest.fixture(scope="module")
def fed(broker: Broker, ehr_replica: Ehr, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The gate, a writer and the HL7 way in, and the receiver, all at one EHR; two feeds of one topic."""
    folder = tmp_path_factory.mktemp("fed")
    port = free_port()
    feeds = {
        "full": feed(ehr_replica, folder, port, "full", "full-resource"),
        "ids": feed(ehr_replica, folder, port, "ids", "id-only"),
    }
    overrides = {"fhir": {"port": port, "feeds": feeds}}
    target = Target("ehr", "replica", "sekmet-replica", ehr_replica.base_url)
    with stopped_at_end(stack_at(folder, broker.bootstrap, target, overrides=overrides)) as stack:
        stack.wait_ready(stack.start("gate"), stack.start("writer", "ehr"), stack.start("mllp"), stack.start("fhir"))
        all_active(stack)
        yield stack


def feeds_of(stack: Stack) -> dict[str, Any]:
    status, text = health(stack, "fhir-0", "/status")
    return dict(json.loads(text)["feeds"]) if status == 200 else {}


def all_active(stack: Stack, timeout_s: float = ANSWER_S) -> None:
    def active() -> bool:
        feeds = feeds_of(stack)
        return bool(feeds) and all(each["status"] == "active" and each["reading_again"] is None for each in feeds.values())

    wait_for(active, timeout_s, "both feeds are active")


def ask(ehr: Ehr, method: str, target: str, body: Any = None) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{ehr.base_url}/{target}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/fhir+json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return dict(json.load(answer))


def active_at(ehr: Ehr) -> set[str]:
    """Ids of the subscriptions that the EHR has and calls active."""
    found = [entry["resource"] for entry in ask(ehr, "GET", "Subscription?_count=100")["entry"]]
    return {str(each["id"]) for each in found if each["status"] == "active"}


def patient(number: int, gender: str = "female") -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"c{number}",
        "identifier": [{"system": SYSTEM, "value": f"GENERAL/C{number}"}],
        "name": [{"family": "Zzyzxqv", "given": ["Jane"]}],
        "gender": gender,
    }


def landed(stack: Stack, own: str, source: str | None = None) -> list[Event]:
    found = [each for each in records(stack, "landing.patient") if isinstance(each, Event) and each.entity_id == own]
    return [each for each in found if source is None or each.source_system == source]


def until_landed(stack: Stack, own: str, timeout_s: float = ANSWER_S) -> list[Event]:
    wait_for(lambda: landed(stack, own, "ehr-main"), timeout_s, "the change is on landing")
    return landed(stack, own, "ehr-main")


def test_a_clinicians_change_is_on_landing_with_its_bytes_encrypted(fed: Stack, ehr_replica: Ehr) -> None:
    number = next(NUMBERS)
    written = ask(ehr_replica, "PUT", f"Patient/c{number}", patient(number))
    event = until_landed(fed, f"C{number}")[0]
    assert isinstance(event.payload, Patient)
    assert event.payload.sex is Sex.FEMALE
    assert (event.tenant, event.namespace, event.feed in ("full", "ids")) == ("demo", "GENERAL", True)
    assert event.provenance is not None
    assert event.provenance.topic == "raw.fhir"
    (raw,) = [
        each
        for message in messages(fed, "raw.fhir")
        if (message.partition, message.offset) == (event.provenance.partition, event.provenance.offset)
        for each in records(fed, "raw.fhir")
        if isinstance(each, Raw) and each.identity.encode() == message.key
    ][:1]
    cipher = RawCipher(fed.settings.raw_keys(), raw.key_id)
    assert b"Zzyzxqv" in cipher.open(raw.key_id, raw.identity, raw.ciphertext)
    assert not [message for message in messages(fed, "raw.fhir") if b"Zzyzxqv" in (message.value or b"")]
    # The two feeds show the same version: one event, whichever came first; the gate finds the second to be a repeat.
    wait_for(lambda: all(state["cursor"] == state["front"] for state in feeds_of(fed).values()), ANSWER_S, "nothing is missing")
    assert {each.event_id for each in landed(fed, f"C{number}")} == {event.event_id}
    assert written["meta"]["versionId"] == "1"


def test_our_own_write_makes_no_event_and_an_edit_of_it_makes_one_of_what_was_edited(fed: Stack, ehr_replica: Ehr) -> None:
    number = next(NUMBERS)
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    message = (
        f"MSH|^~\\&|EPICADT|GENERAL|||{now}+0000||ADT^A04|F{number}|P|2.5.1\rEVN|A04|{now}+0000\r"
        f"PID|||M{number}^^^GENERAL^MR||DOE^JANE||19700101|F\rPV1||E|ED^{number}^A^GENERAL{'|' * 16}V{number}^^^GENERAL^VN\r"
    )
    assert b"|AA|" in send_hl7(fed, message.encode())
    own = f"M{number}"

    def found() -> dict[str, Any] | None:
        bundle = ask(ehr_replica, "GET", f"Patient?identifier={SYSTEM}%7CGENERAL%2F{own}")
        return next((entry["resource"] for entry in bundle.get("entry", [])), None)

    wait_for(found, ANSWER_S, "our writer wrote the patient")
    before = {name: state["front"] for name, state in feeds_of(fed).items()}
    assert before
    # A later change is heard after the echo of ours: by then the echo was judged.
    marker = next(NUMBERS)
    ask(ehr_replica, "PUT", f"Patient/c{marker}", patient(marker))
    until_landed(fed, f"C{marker}")
    wait_for(lambda: all(state["cursor"] == state["front"] for state in feeds_of(fed).values()), ANSWER_S, "nothing is missing")
    assert landed(fed, own, "ehr-main") == []

    edited = found()
    assert edited is not None
    ask(ehr_replica, "PUT", f"Patient/{edited['id']}", {**edited, "gender": "male"})
    (event,) = {each.event_id: each for each in until_landed(fed, own)}.values()
    assert isinstance(event.payload, Patient)
    assert event.payload == Patient(sex=Sex.MALE), "nothing but what the clinician changed"
    wait_for(
        lambda: [
            each for each in records(fed, "events.accepted") if isinstance(each, Accepted) and each.event_id == event.event_id
        ],
        ANSWER_S,
        "the gate took the edit",
    )


def test_a_resource_that_breaks_a_rule_is_in_quarantine_and_the_subscription_goes_on(fed: Stack, ehr_replica: Ehr) -> None:
    number = next(NUMBERS)
    bad = patient(number) | {"identifier": [{"system": "urn:nobody-knows", "value": "Zzyzxqv"}]}
    ask(ehr_replica, "PUT", f"Patient/c{number}", bad)

    def quarantined() -> list[Quarantined]:
        found = [each for each in records(fed, "quarantine") if isinstance(each, Quarantined)]
        return [each for each in found if each.topic == "raw.fhir"]

    wait_for(quarantined, ANSWER_S, "it is in quarantine")
    kept = quarantined()[0]
    assert (kept.reason.value, kept.field) == ("BAD_RESOURCE", "Patient.identifier")
    assert kept.rule.startswith("AMBIGUOUS_IDENTITY")
    assert kept.remedy
    assert not [message for message in messages(fed, "quarantine") if b"Zzyzxqv" in (message.value or b"")]
    after = next(NUMBERS)
    ask(ehr_replica, "PUT", f"Patient/c{after}", patient(after))
    until_landed(fed, f"C{after}")
    assert {each["status"] for each in feeds_of(fed).values()} == {"active"}


def test_killed_and_started_again_nothing_is_missed_and_no_second_subscription_is_made(fed: Stack, ehr_replica: Ehr) -> None:
    before, during, after = (next(NUMBERS) for _ in range(3))
    wait_for(lambda: len(active_at(ehr_replica)) == 2, ANSWER_S, "the EHR calls both subscriptions active")
    known = active_at(ehr_replica)
    ask(ehr_replica, "PUT", f"Patient/c{before}", patient(before))
    fed.kill("fhir-0")
    ask(ehr_replica, "PUT", f"Patient/c{during}", patient(during))
    fed.wait_ready(fed.start("fhir"))
    ask(ehr_replica, "PUT", f"Patient/c{after}", patient(after))
    for number in (before, during, after):
        until_landed(fed, f"C{number}", RESTORE_S)
    all_active(fed, RESTORE_S)
    # A new process doesn't know the secret that the EHR has, puts its own, and the EHR shakes hands again before it is active.
    wait_for(lambda: active_at(ehr_replica) == known, RESTORE_S, "the same subscriptions are active, and no other")
    kept = {each.feed: each for each in records(fed, "intake.subscriptions") if isinstance(each, FeedState)}
    assert kept.keys() == {"full", "ids"}


def test_an_ehr_that_is_restarted_while_it_notifies_loses_nothing(fed: Stack, ehr_replica: Ehr) -> None:
    numbers = [next(NUMBERS) for _ in range(12)]
    for place, number in enumerate(numbers):
        if place == 6:
            ehr_replica.kill()
            ehr_replica.start()
        try:
            ask(ehr_replica, "PUT", f"Patient/c{number}", patient(number))
        except urllib.error.URLError:
            ask(ehr_replica, "PUT", f"Patient/c{number}", patient(number))
    for number in numbers:
        until_landed(fed, f"C{number}", RESTORE_S)
    all_active(fed, RESTORE_S)


def test_nothing_of_a_patient_is_in_logs_metrics_or_status(fed: Stack) -> None:
    said = (fed.folder / "fhir-0.log").read_text() + health(fed, "fhir-0", "/metrics")[1] + health(fed, "fhir-0", "/status")[1]
    assert "Zzyzxqv" not in said
    assert SECRET not in said
    assert 'surgeline_feed_subscription_active{feed="full"} 1.0' in said
