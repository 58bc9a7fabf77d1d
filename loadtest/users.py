"""Locust's users: senders by HTTP and MLLP, and an observer that reads from Kafka what became of it.

A sender's response time runs from when the message was due until it was answered "yes", repeats included: what a source
system's user waits for. The observer's runs from receipt to the moment a reader sees the confirmation.
"""

import time
from typing import Any, ClassVar, Final

import gevent
import msgspec
from gevent.queue import SimpleQueue
from locust import User, task
from locust.contrib.fasthttp import FastHttpUser

from loadtest.feeder import HTTP_NAME, MLLP_NAME, Due, Feeder
from loadtest.mllp import MllpConnection
from loadtest.observer import Observer
from loadtest.target import Opened
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Mapped
from pipeline.local.demo.drive import ANSWER_S, GIVE_UP_S, NEVER, RETRY_S
from pipeline.roles.ways_in.intake import hl7_profile

MAX_RETRY_S: Final = 2.0
MAX_ASKED_S: Final = 30.0
"""A server that asks for a longer pause is asked again after this one."""

POLL_S: Final = 0.002
"""Longer, and what is measured is the poll: 45 ms were read for 6."""


class RefusedFor(Exception):
    """Why a message counts as an error: a status or code, never content."""


class Answer(msgspec.Struct):
    """What is needed of a 202."""

    event_id: str


class Shared:
    """What the users of one process share; set before the first is made."""

    opened: ClassVar[Opened]
    feeder: ClassVar[Feeder]
    observer: ClassVar[Observer]


def fire(user: User, kind: str, name: str, took_ms: float, size: int = 0, error: Exception | None = None) -> None:
    """One line of Locust's statistics."""
    user.environment.events.request.fire(
        request_type=kind, name=name, response_time=took_ms, response_length=size, exception=error, context={}, response=None
    )


class HttpSender(FastHttpUser):
    """Takes the next event that is due. Many of them share one queue, as a platform's workers do."""

    insecure = False
    network_timeout = ANSWER_S
    connection_timeout = ANSWER_S
    max_retries = 0

    def __init__(self, environment: Any) -> None:
        self.host = Shared.opened.target.http.url
        self.ssl_context_factory = Shared.opened.http_tls if self.host.startswith("https") else None
        super().__init__(environment)
        self._headers = {"Authorization": f"Bearer {Shared.opened.token()}", "Content-Type": "application/json"}

    @task
    def send_next(self) -> None:
        """One event until it is answered for good."""
        feeder, due = Shared.feeder, Shared.feeder.http.get()
        delay_s = RETRY_S
        while True:
            status, event_id, wait_s = self._post(due)
            took_ms = (time.monotonic() - due.at) * 1000
            if event_id is not None:
                feeder.answered(str(status), [event_id])
                fire(self, "HTTP", HTTP_NAME, took_ms, len(due.step.body))
                return
            if status in NEVER or took_ms > GIVE_UP_S * 1000:
                feeder.refused(str(status))
                fire(self, "HTTP", HTTP_NAME, took_ms, error=RefusedFor(f"answered {status}"))
                return
            feeder.answers.slowed += status in (429, 503)
            feeder.answers.unanswered += status == 0
            gevent.sleep(max(delay_s, wait_s))
            delay_s = min(MAX_RETRY_S, delay_s * 2)

    def _post(self, due: Due) -> tuple[int, str | None, float]:
        """Status, the event's id if the answer is yes, and how long the server asked to wait."""
        # never entered, so that Locust counts messages and not attempts
        response = self.client.post(
            "/v1/events",
            data=due.step.body,
            headers={**self._headers, "Idempotency-Key": due.step.identity},
            catch_response=True,
        )
        status = response.status_code or 0
        if status == 202:
            try:
                return status, msgspec.json.decode(response.content or b"", type=Answer).event_id, 0.0
            except msgspec.DecodeError:
                return 0, None, 0.0
        asked = str(response.headers.get("retry-after", "")) if response.headers else ""
        return status, None, min(float(asked), MAX_ASKED_S) if asked.isdecimal() else 0.0


class MllpSender(User):
    """One connection. A patient's messages keep theirs."""

    def on_start(self) -> None:
        """Take a queue of subjects."""
        target, section = Shared.opened.target.mllp, Shared.opened.settings()
        self._queue: SimpleQueue[Due] = Shared.feeder.connection()
        self._connection = MllpConnection(target.host, target.port, Shared.opened.mllp_tls(), ANSWER_S)
        self._tenant = section.mllp.tenant or section.tenant_default or ""
        self._profile = hl7_profile(section.mllp.profile or "default", section.mllp.facility)

    def on_stop(self) -> None:
        """Hang up."""
        self._connection.close()

    @task
    def send_next(self) -> None:
        """One message until it is acknowledged; AE and CE are repeated, AR and CR are not."""
        feeder, due = Shared.feeder, self._queue.get()
        delay_s = RETRY_S
        while True:
            code = self._exchange(due)
            took_ms = (time.monotonic() - due.at) * 1000
            if code in ("AA", "CA"):
                feeder.answered(code, hl7_event_ids(due.step.body, self._profile, self._tenant))
                fire(self, "MLLP", MLLP_NAME, took_ms, len(due.step.body))
                return
            if code in ("AR", "CR") or took_ms > GIVE_UP_S * 1000:
                feeder.refused(code or "no answer")
                fire(self, "MLLP", MLLP_NAME, took_ms, error=RefusedFor(f"answered {code or 'nothing'}"))
                return
            feeder.answers.slowed += code in ("AE", "CE")
            feeder.answers.unanswered += code == ""
            gevent.sleep(delay_s)
            delay_s = min(MAX_RETRY_S, delay_s * 2)

    def _exchange(self, due: Due) -> str:
        try:
            return self._connection.exchange(due.step.body.encode())
        except OSError:
            return ""


class Watcher(User):
    """Reads the outcomes, once in all of a run."""

    fixed_count = 1

    @task
    def watch(self) -> None:
        """Look, count, and yield."""
        for closed, seen_ms in Shared.observer.look():
            name = f"{closed.lane.value} at {closed.destination}"
            fire(self, "EHR", name, float(max(0, seen_ms - closed.received_at)))
        gevent.sleep(POLL_S)


def hl7_event_ids(body: str, profile: Profile, tenant: str) -> list[str]:
    """Ids of the events that an HL7 message makes; none where the profile ignores it."""
    _, verdict = map_bytes(body.encode(), profile, tenant, Millis(0))
    return [event.event_id for event in verdict.events] if isinstance(verdict, Mapped) else []
