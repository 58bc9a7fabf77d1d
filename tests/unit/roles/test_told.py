"""What the ways in, the publisher and a destination's answers leave in metrics and log."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.destinations.protocol import VersionMismatch
from pipeline.domain.event import EntityType
from pipeline.domain.judging.gate import Redelivered
from pipeline.kafka.producer import OutRecord, Publisher, PublishError, PublishFailed
from pipeline.ops import log_catalogue as lines
from pipeline.ops.log_catalogue import LogEvent
from pipeline.ops.metrics import REGISTRY
from pipeline.roles import publishing
from pipeline.roles.gates.counts import Counts
from pipeline.roles.publishing import WatchedPublisher
from pipeline.roles.ways_in import files, intake
from pipeline.roles.ways_in.files import _Observer as _FilesObserver
from pipeline.roles.ways_in.intake import _CountedSink, _HttpObserver, _MllpObserver
from pipeline.roles.writers.timed import Timed
from pipeline.sources.protocol import Repeated, Stored, Unavailable

Said = list[tuple[LogEvent, dict[str, Any]]]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    kept: Said = []
    for module in (files, intake, publishing):
        monkeypatch.setattr(module, "emit", lambda line, **fields: kept.append((line, fields)))
    return kept


async def test_an_event_is_counted_once_it_is_stored_and_not_when_its_message_is_repeated_or_not_taken() -> None:
    answers: list[Any] = [Stored(b""), Repeated(b""), Unavailable(1.0)]

    async def accept(*_: Any) -> Any:
        return answers.pop(0)

    inner: Any = SimpleNamespace(accept=accept, pressure=lambda: 0.25)
    sink = _CountedSink(inner, "http")
    events: Any = [SimpleNamespace(entity_type=EntityType.BED)] * 3
    before = sample("surgeline_intake_events_total", source="http", entity_type="bed")
    raw: Any = None
    for _ in range(3):
        await sink.accept(raw, events, b"")
    assert sample("surgeline_intake_events_total", source="http", entity_type="bed") == before + 3
    assert sink.pressure() == 0.25


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("UNAVAILABLE", lines.INTAKE_UNAVAILABLE),
        ("TOO_MANY_CONNECTIONS", lines.CONNECTION_REFUSED),
        ("UNSUPPORTED_EVENT", lines.INTAKE_REFUSED),
    ],
)
def test_a_message_that_is_to_be_sent_again_is_not_called_refused(said: Said, reason: str, line: LogEvent) -> None:
    _MllpObserver().rejected(reason)
    assert said == [(line, {"source": "mllp", "reason": reason})]


def test_the_number_of_connections_is_shown_and_each_coming_and_going_is_logged(said: Said) -> None:
    observer = _MllpObserver()
    observer.connected(1)
    observer.connected(2)
    observer.disconnected(1)
    assert sample("surgeline_intake_connections", source="mllp") == 1
    assert [(line.name, fields["count"]) for line, fields in said] == [
        ("connection.opened", 1),
        ("connection.opened", 2),
        ("connection.closed", 1),
    ]


def test_http_says_unavailable_where_the_request_was_not_at_fault(said: Said) -> None:
    observer = _HttpObserver()
    observer.answered(503, "UNAVAILABLE", 0.1)
    observer.answered(422, "INVALID", 0.1)
    observer.answered(202, "", 0.1)
    assert [(line, fields["status"]) for line, fields in said] == [(lines.INTAKE_UNAVAILABLE, 503), (lines.INTAKE_REFUSED, 422)]


def test_a_fault_in_a_sender_s_folder_says_whose_and_never_what(said: Said) -> None:
    _FilesObserver().faulted("north", OSError("SECRET"))
    ((line, fields),) = said
    assert (line, fields["source"], fields["exception"]) == (lines.INTAKE_FAULT, "north", "OSError")
    assert "SECRET" not in str(fields)


async def test_a_publication_that_failed_is_counted_and_logged_and_still_fails(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise PublishFailed(PublishError.TIMED_OUT)

    monkeypatch.setattr(Publisher, "publish", fail)
    publisher = WatchedPublisher.__new__(WatchedPublisher)
    before = sample("surgeline_publish_failures_total", reason="TIMED_OUT")
    with pytest.raises(PublishFailed):
        await publisher.publish([OutRecord("outcomes", None, b""), OutRecord("audit", None, b"")])
    assert sample("surgeline_publish_failures_total", reason="TIMED_OUT") == before + 1
    assert said == [(lines.PUBLISH_FAILED, {"topic": "outcomes", "reason": "TIMED_OUT", "count": 2})]


async def test_a_request_is_timed_also_where_it_was_given_up() -> None:
    async def send(_: Any) -> Any:
        return VersionMismatch()

    async def read(_: Any) -> Any:
        await asyncio.Event().wait()

    inner: Any = SimpleNamespace(name="timed-ehr", role="replica", delivery="latest", send=send, read=read)
    timed, nothing = Timed(inner), SimpleNamespace()
    assert await timed.send(nothing) == VersionMismatch()  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(timed.read(nothing), 0.01)  # type: ignore[arg-type]
    counted = {
        operation: sample("surgeline_writer_request_seconds_count", destination="timed-ehr", operation=operation)
        for operation in ("read", "send", "read_back")
    }
    assert counted == {"read": 1, "send": 1, "read_back": 0}


def test_a_redelivered_position_is_counted_apart_from_the_decisions() -> None:
    before = sample("surgeline_gate_redelivered_total")
    counts = Counts()
    counts.observe(Redelivered())
    assert sample("surgeline_gate_redelivered_total") == before, "told once a cycle"
    counts.tell()
    assert sample("surgeline_gate_redelivered_total") == before + 1
