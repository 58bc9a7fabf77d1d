"""Health of one role over HTTP, from a thread of its own: a stalled event loop still gets its answer.

GET /livez, /readyz, /metrics and /status; nothing else, no bodies read, nothing of a request logged.
"""

import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any, Final

import msgspec

from pipeline.ops.metrics import exposition

MAX_REQUESTS: Final = 16
"""Requests served at once; another one is answered 503."""

REQUEST_TIMEOUT_S: Final = 5.0
PORTS_TRIED: Final = 50
CONTENT_TYPE_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

Check = Callable[[], bool]
Clock = Callable[[], float]


class Heartbeat:
    """When the event loop last showed that it runs. `beat` is called by the loop, `age_s` by any thread."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """The loop runs."""
        self._last = self._clock()

    @property
    def age_s(self) -> float:
        """Seconds since the last beat."""
        return self._clock() - self._last


class Health:
    """What a role says of itself. `live` is about the loop alone; `ready` also about what the role needs."""

    def __init__(
        self, heartbeat: Heartbeat, stall_timeout_s: float, checks: Mapping[str, Check], status: Callable[[], Any] | None = None
    ) -> None:
        """`checks` are called on a health thread and must not block; one that raises counts as false."""
        self._heartbeat = heartbeat
        self._stall_timeout_s = stall_timeout_s
        self._checks = dict(checks)
        self._status = status

    def live(self) -> bool:
        """Whether the loop's last beat is young enough."""
        return self._heartbeat.age_s < self._stall_timeout_s

    def ready(self) -> dict[str, bool]:
        """Each check with its answer; the loop's own is among them."""
        return {"loop": self.live()} | {name: _holds(check) for name, check in self._checks.items()}

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a path. Never raises."""
        match path:
            case "/livez":
                return (200 if self.live() else 503), "application/json", _json({"live": self.live()})
            case "/readyz":
                checks = self.ready()
                return (
                    (200 if all(checks.values()) else 503),
                    "application/json",
                    _json({"ready": all(checks.values()), "checks": checks}),
                )
            case "/metrics":
                return 200, CONTENT_TYPE_METRICS, exposition()
            case "/status" if self._status is not None:
                return self._show(self._status)
            case _:
                return 404, "application/json", _json({"error": "not found"})

    @staticmethod
    def _show(status: Callable[[], Any]) -> tuple[int, str, bytes]:
        try:
            return 200, "application/json", _json(status())
        except Exception:  # noqa: BLE001 - the role's code; whatever it raises, the answer is "not now", without its text
            return 503, "application/json", _json({"error": "no status now"})


def _holds(check: Check) -> bool:
    try:
        return bool(check())
    except Exception:  # noqa: BLE001 - the role's code; a check that raises does not hold
        return False


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True  # a role that comes back at once keeps its port; a port that somebody listens at stays refused
    request_queue_size = MAX_REQUESTS

    def __init__(self, address: tuple[str, int], health: Health) -> None:
        self.health = health
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            _refuse(request)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away: nothing to say."""


def _refuse(request: socket) -> None:
    try:
        request.settimeout(REQUEST_TIMEOUT_S)
        request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    except OSError:
        return


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _Server
    server_version = "surgeline"
    sys_version = ""

    def do_GET(self) -> None:
        status, content_type, body = self.server.health.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of a request is logged."""


class HealthServer:
    """Serves `Health` on its own threads. `port` is the port that was taken."""

    def __init__(self, health: Health, host: str = "127.0.0.1", base_port: int = 9400) -> None:
        """Takes `base_port` or one of the PORTS_TRIED - 1 after it; 0 takes any free one. OSError if all are taken."""
        self._server = _bind(health, host, base_port)
        self.port: Final = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="surgeline-health", daemon=True)

    def start(self) -> "HealthServer":
        """Serve; returns at once."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(REQUEST_TIMEOUT_S)


def _bind(health: Health, host: str, base_port: int) -> _Server:
    tried = range(base_port, min(base_port + PORTS_TRIED, 65_536)) if base_port else range(1)
    for port in tried[:-1]:
        try:
            return _Server((host, port), health)
        except OSError:
            continue
    return _Server((host, tried[-1]), health)
