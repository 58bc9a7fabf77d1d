"""Locust's users against servers of a test. They run in a process of their own: Locust changes the whole of it."""

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from loadtest.target import HttpTarget, MllpTarget, Target, write
from pipeline.local.ports import HOST
from tests.support.certificates import Authority, server_context

REPOSITORY: Final = Path(__file__).resolve().parents[3]
ENDS_S: Final = 60.0
ASK: Final = """
import json, sys
from pathlib import Path
from loadtest.users import HttpSender, Shared
from locust.env import Environment
from loadtest.feeder import Due
from loadtest.target import Opened
from pipeline.domain.identifiers import Millis
from pipeline.local.demo.trace import Step

Shared.opened = Opened(Path(sys.argv[1]))
environment = Environment(user_classes=[HttpSender])
counted = []
environment.events.request.add_listener(lambda **line: counted.append(line["name"]))
sender = HttpSender(environment)
due = Due(Step(0.0, "http", "key-1", '{"a":1}', Millis(0)), 0.0)
print(json.dumps([[sender._post(due) for _ in range(int(sys.argv[2]))], counted]))
"""


class Answers(BaseHTTPRequestHandler):
    """503 with a pause, then yes, then a yes without an id."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        heard: list[Any] = self.server.heard  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        heard.append((self.path, self.headers["Idempotency-Key"], self.headers["Authorization"], body))
        status, answer = [(503, b"{}"), (202, b'{"event_id":"abc"}'), (202, b"what")][(len(heard) - 1) % 3]
        self.send_response(status)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def server(tls: ssl.SSLContext | None) -> Iterator[tuple[str, list[Any]]]:
    listening = ThreadingHTTPServer((HOST, 0), Answers)
    listening.heard = []  # type: ignore[attr-defined]
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http{'s' if tls else ''}://{HOST}:{listening.server_port}", listening.heard  # type: ignore[attr-defined]
    finally:
        listening.shutdown()
        listening.server_close()


def ask(folder: Path, url: str, ca_file: str | None, times: int) -> tuple[list[Any], list[str]]:
    """What `times` attempts were answered, and what Locust counted of them."""
    (folder / "token").write_text("secret\n")
    write(Target("s.yaml", HttpTarget(url, "token", ca_file), MllpTarget(HOST, 1)), folder / "target.yaml")
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(folder / "target.yaml"), str(times)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=ENDS_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    answers, counted = json.loads(done.stdout.splitlines()[-1])
    return answers, counted


def server_tls(authority: Authority, folder: Path) -> ssl.SSLContext:
    return server_context(*authority.issue(HOST).put(folder, "server"))


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_an_attempt_carries_key_and_token_and_hears_yes_and_for_how_long_to_wait(tmp_path: Path, secured: bool) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    with server(server_tls(authority, tmp_path) if secured else None) as (url, heard):
        answers, counted = ask(tmp_path, url, "ca.pem" if secured else None, 3)
    assert answers == [[503, None, 7.0], [202, "abc", 0.0], [0, None, 0.0]]
    assert heard == [("/v1/events", "key-1", "Bearer secret", b'{"a":1}')] * 3
    assert counted == [], "Locust counts messages, not attempts"


def test_a_server_that_the_targets_authority_did_not_sign_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority("other").certificate)
    with server(server_tls(Authority(), tmp_path)) as (url, heard):
        answers, _ = ask(tmp_path, url, "ca.pem", 1)
    assert answers == [[0, None, 0.0]]
    assert heard == []
