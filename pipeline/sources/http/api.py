"""Routes of the HTTP way in, and how every failure becomes a problem."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from pipeline.domain.identifiers import EventId
from pipeline.sources.http.answers import HealthBody, status_body
from pipeline.sources.http.intake import Answer, Intake, discard
from pipeline.sources.http.openapi import API_VERSION, document
from pipeline.sources.http.problems import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    PROBLEM_TYPE,
    UNKNOWN_EVENT,
    Problem,
    Refusal,
)
from pipeline.sources.http.tracker import TRACKED, Tracker

JSON_TYPE: Final = "application/json"
SAFE_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""On every answer: a state is never cached, a body never guessed at."""


class HttpObserver(Protocol):
    """Is told of every answer; for metrics and logs. All arguments but `fault` are bounded sets."""

    def answered(self, status: int, problem: str, seconds: float) -> None:
        """`problem` is empty where there is none."""
        ...

    def faulted(self, operation: str, fault: Exception) -> None:
        """A fault of ours, which was answered 500. Its text may hold what was sent: tell its type and place only."""
        ...

    def cut_off(self, connections: int) -> None:
        """So many connections of one address were ended: it held more than its share."""
        ...


class NoObserver:
    """Watches nothing."""

    def answered(self, status: int, problem: str, seconds: float) -> None:
        """See `HttpObserver`."""

    def faulted(self, operation: str, fault: Exception) -> None:
        """See `HttpObserver`."""

    def cut_off(self, connections: int) -> None:
        """See `HttpObserver`."""


Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The handlers. Each ends with an answer, also after a fault of ours: nothing of a request gets into a log."""

    def __init__(self, intake: Intake, tracker: Tracker, ready: Callable[[], bool], observer: HttpObserver) -> None:
        self._intake = intake
        self._tracker = tracker
        self._ready = ready
        self._observer = observer

    async def post_event(self, request: Request) -> Response:
        """POST /v1/events."""
        return _answered(await self._intake.take_event(request))

    async def post_batch(self, request: Request) -> Response:
        """POST /v1/events:batch."""
        return _answered(await self._intake.take_batch(request))

    async def get_event(self, request: Request) -> Response:
        """GET /v1/events/{event_id}."""
        client = self._intake.client_of(request)
        event_id = EventId(request.path_params["event_id"])
        status = self._tracker.status(client.tenant, event_id)
        if status is None:
            remedy = f"if it was accepted, ask again in a moment; it may also be older than {TRACKED}"
            raise Refusal(Problem(UNKNOWN_EVENT, remedy))
        return _json(200, msgspec.json.encode(status_body(event_id, status)))

    async def livez(self, _: Request) -> Response:
        """GET /livez."""
        return _health({"live": True})

    async def readyz(self, _: Request) -> Response:
        """GET /readyz."""
        return _health(
            {
                "receipts": self._ready(),
                "broker": self._intake.pressure() < 1.0,
                "serving": not self._intake.admission.draining,
            }
        )

    def guarded(self, operation: str, handler: Handler) -> Handler:
        """The handler with every failure answered, timed and told to the observer."""

        async def handle(request: Request) -> Response:
            begun = time.perf_counter()
            problem: Problem | None = None
            try:
                response = await handler(request)
            except Refusal as refusal:
                problem = refusal.problem
                await discard(request)
                response = problem_response(problem)
            except Exception as fault:  # noqa: BLE001 - its text may hold what was sent; the server would log it
                self._observer.faulted(operation, fault)
                problem = Problem(INTERNAL, "send the same request again; tell the operator if it fails again")
                response = problem_response(problem)
            name = "" if problem is None else problem.kind.name
            self._observer.answered(response.status_code, name, time.perf_counter() - begun)
            return response

        return handle


def create_app(api: Api, max_batch_items: int) -> FastAPI:
    """The application; its OpenAPI document is at /openapi.json."""
    app = FastAPI(title="surgeline", version=API_VERSION, docs_url=None, redoc_url=None, redirect_slashes=False)
    described = document(max_batch_items)
    app.openapi = lambda: described  # type: ignore[method-assign]
    for method, path, operation, handler in (
        ("POST", "/v1/events", "postEvent", api.post_event),
        ("POST", "/v1/events:batch", "postEventBatch", api.post_batch),
        ("GET", "/v1/events/{event_id}", "getEvent", api.get_event),
        ("GET", "/livez", "live", api.livez),
        ("GET", "/readyz", "ready", api.readyz),
    ):
        app.add_route(path, api.guarded(operation, handler), methods=[method], include_in_schema=False)
    app.add_exception_handler(HTTPException, _not_here)
    return app


def problem_response(problem: Problem) -> Response:
    """A problem as RFC 9457 wants it."""
    return Response(
        msgspec.json.encode(problem.body()),
        problem.kind.status.value,
        {**SAFE_HEADERS, **problem.headers},
        PROBLEM_TYPE,
    )


async def _not_here(_: Request, error: Exception) -> Response:
    """Routing found no such path (404), or the path without the method (405)."""
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    if getattr(error, "status_code", 404) == 405:
        return problem_response(Problem(METHOD_NOT_ALLOWED, "see /openapi.json", headers=headers))
    return problem_response(Problem(NOT_FOUND, "see /openapi.json", headers=headers))


def _answered(answer: Answer) -> Response:
    return _json(answer.status, answer.body)


def _json(status: int, body: bytes) -> Response:
    return Response(body, status, SAFE_HEADERS, JSON_TYPE)


def _health(checks: dict[str, bool]) -> Response:
    good = all(checks.values())
    return _json(200 if good else 503, msgspec.json.encode(HealthBody("ok" if good else "not ready", checks)))
