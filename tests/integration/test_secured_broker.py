"""Kafka with TLS and a login: every client of ours gets in by the settings alone, Faust's too."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.kafka.reader import end_offsets
from pipeline.local.ports import free_port
from pipeline.local.stack import Stack, wait_for
from pipeline.topology import ACCEPTED
from tests.support.secured import PASSWORD, USER, SecuredBroker

pytestmark = pytest.mark.integration

EVENT = {
    "facility": "GENERAL",
    "source_system": "capacity",
    "feed": "http",
    "entity_type": "bed",
    "namespace": "GENERAL",
    "entity_id": "ICU/1/A",
    "event_type": "UPDATE",
    "recorded_at": "2026-01-01T12:00:00Z",
    "payload": {"environment": "CLEAN"},
}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    with SecuredBroker(tmp_path_factory.mktemp("secured"), free_port()) as broker:
        broker.let_in(USER)
        yield broker


def stack_of(broker: SecuredBroker, folder: Path, password: str) -> Stack:
    stack = Stack(folder, broker.secured, (), overrides={"kafka": broker.section(folder, password=password)})
    stack.write_settings()
    return stack


def test_an_event_passes_from_http_through_the_gate_over_tls_and_scram(secured: SecuredBroker, tmp_path: Path) -> None:
    stack = stack_of(secured, tmp_path / "stack", PASSWORD)
    stack.complete("topics", "apply")
    names = stack.start("gate"), stack.start("http")
    try:
        stack.wait_ready(*names)
        request = urllib.request.Request(
            f"{stack.http_url}/v1/events",
            data=json.dumps(EVENT).encode(),
            headers={"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json", "Idempotency-Key": "k1"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 202
        wait_for(lambda: sum(end_offsets(stack.settings.kafka, ACCEPTED).values()) == 1, 60, "the gate accepts the event")
    finally:
        stack.stop()


def test_a_wrong_password_is_told_as_kafka_not_answering_and_shows_no_password(secured: SecuredBroker, tmp_path: Path) -> None:
    stack = stack_of(secured, tmp_path / "stack", "wrong-password")
    name = stack.start("gate")
    child = stack.roles[name]
    wait_for(lambda: not child.running, 90, "the gate refuses to start")
    log = child.log.read_text()
    assert "Kafka does not answer" in log
    assert "wrong-password" not in log
