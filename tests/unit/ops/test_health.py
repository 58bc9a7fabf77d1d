"""A role's health is answered from a thread of its own, whatever its loop does."""

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.ops import health as module
from pipeline.ops.health import Health, HealthServer, Heartbeat


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def get(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, json.loads(body) if response.headers["Content-Type"] == "application/json" else body


class Role:
    def __init__(self) -> None:
        self.clock, self.assigned = Clock(), True
        self.heartbeat = Heartbeat(self.clock)

    def broken(self) -> bool:
        raise ValueError("CANARY")


@pytest.fixture
def role() -> Role:
    return Role()


@pytest.fixture
def port(role: Role) -> Iterator[int]:
    health = Health(role.heartbeat, 5.0, {"assigned": lambda: role.assigned}, lambda: {"pending": 3})
    server = HealthServer(health, base_port=0).start()
    yield server.port
    server.stop()


def test_a_stalled_loop_is_told_while_it_is_stalled(role: Role, port: int) -> None:
    assert get(port, "/livez") == (200, {"live": True})
    role.clock.now += 6
    assert get(port, "/livez") == (503, {"live": False})
    role.heartbeat.beat()
    assert get(port, "/livez") == (200, {"live": True})


def test_readiness_names_what_does_not_hold(role: Role, port: int) -> None:
    assert get(port, "/readyz") == (200, {"ready": True, "checks": {"loop": True, "assigned": True}})
    role.assigned = False
    assert get(port, "/readyz?verbose") == (503, {"ready": False, "checks": {"loop": True, "assigned": False}})


def test_metrics_and_status_are_served_and_nothing_else(port: int) -> None:
    status, metrics = get(port, "/metrics")
    assert status == 200
    assert b"surgeline_gate_decisions_total" in metrics
    assert get(port, "/status") == (200, {"pending": 3})
    assert get(port, "/acme|patient|MRN|1")[0] == 404


def test_a_check_or_status_that_raises_shows_no_text(role: Role) -> None:
    health = Health(role.heartbeat, 5.0, {"broken": role.broken}, role.broken)
    assert health.ready() == {"loop": True, "broken": False}
    status, _, body = health.answer("/status")
    assert (status, b"CANARY" in body) == (503, False)


def test_a_taken_port_gives_way_to_the_next(role: Role) -> None:
    health = Health(role.heartbeat, 5.0, {})
    first = HealthServer(health, base_port=0).start()
    second = HealthServer(health, base_port=first.port).start()
    try:
        assert first.port < second.port < first.port + module.PORTS_TRIED
    finally:
        first.stop()
        second.stop()


def test_requests_beyond_the_bound_are_refused_and_free_their_place_later(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 1)
    entered, leave = threading.Event(), threading.Event()

    def slow() -> str:
        entered.set()
        leave.wait(10)
        return "done"

    server = HealthServer(Health(role.heartbeat, 5.0, {}, slow), base_port=0).start()
    answers: list[tuple[int, Any]] = []
    waiting = threading.Thread(target=lambda: answers.append(get(server.port, "/status")))
    waiting.start()
    assert entered.wait(10)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 503
    connection.close()
    leave.set()
    waiting.join(10)
    server.stop()
    assert answers == [(200, "done")]
