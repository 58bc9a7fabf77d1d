"""`surgeline run http` and `surgeline run mllp`: the ways in, with the sink that makes what they take durable."""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.domain.event import EntityType, Event
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.profile_file import profile_of
from pipeline.kafka.projections import follow_history, follow_receipts, is_current, outlived
from pipeline.kafka.reader import Follower
from pipeline.kafka.receipts import Receipts
from pipeline.kafka.sink import KafkaSink
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import code_of, emit, where
from pipeline.roles.process import Process, Refused, now_ms, or_die
from pipeline.roles.publishing import BusyPublisher
from pipeline.roles.writers.profiles import entity_types_of
from pipeline.settings.model import Settings
from pipeline.sources.http.source import HttpSource
from pipeline.sources.http.tracker import Tracker
from pipeline.sources.mllp.source import MllpLimits, MllpSource, server_context
from pipeline.sources.protocol import Broken, RawMessage, Receipted, Sink, Stored

DEFAULT_PROFILE: Final = "default"
PROFILE_SUFFIXES: Final = (".yaml", ".yml")
"""A profile named so is a file; any other name is of one that ships."""
PUBLISHER_BYTES: Final = 32 * 1024 * 1024
"""Most bytes on the way to the broker in a way in; beyond it nothing more is taken."""
CLOSE_S: Final = 2.0
"""Longest time for the rest to be delivered at the end. Nothing of it was answered yes: each answer waited for its own."""


class Intake:
    """The durable side of a way in: publisher, receipts and sink."""

    def __init__(self, process: Process, source: str) -> None:
        settings = process.settings
        self.publisher = BusyPublisher(settings.kafka, max_bytes=PUBLISHER_BYTES)
        receipts = Receipts(now_ms)
        self._follower = follow_receipts(settings.kafka, process.codec, receipts, now_ms())
        durable = KafkaSink(
            self.publisher,
            process.codec,
            process.cipher,
            receipts,
            ready=self.ready,
            clock=now_ms,
            max_event_bytes=settings.gate.max_record_bytes,
            is_quick=self.publisher.is_quick,
        )
        self.sink = _CountedSink(durable, source)
        metrics.INTAKE_PRESSURE.of(source).set_function(self.sink.pressure)

    def ready(self) -> bool:
        """Whether earlier answers are known."""
        return is_current(self._follower)

    def followed(self, *others: Follower) -> "asyncio.Task[None]":
        """Ends the process where a projection ended, or the producer is beyond repair: it would refuse everything for ever."""
        return asyncio.create_task(or_die(outlived(self.publisher, self._follower, *others)))

    async def close(self) -> None:
        """Deliver what is still on its way, within `CLOSE_S`."""
        await asyncio.gather(self.publisher.close(CLOSE_S), asyncio.to_thread(self._follower.stop, CLOSE_S))


class _CountedSink:
    """The sink, with the events counted that it took in."""

    def __init__(self, sink: Sink, source: str) -> None:
        self._sink = sink
        self._source = source

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        """See `Sink`."""
        receipted = await self._sink.accept(raw, events, answer, broken)
        if isinstance(receipted, Stored):
            for event in events:
                metrics.INTAKE_EVENTS.of(self._source, event.entity_type.value).inc()
        return receipted

    def pressure(self) -> float:
        """See `Sink`."""
        return self._sink.pressure()


class HttpRole:
    """The HTTP way in, with the status of each event."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        if not settings.http.clients:
            raise Refused(["http.clients: nobody may send; name a client with its token"])
        self._intake = Intake(process, "http")
        tracker = Tracker(expectations(settings))
        self._history = follow_history(settings.kafka, process.codec, tracker, now_ms())
        self._source = HttpSource(settings.http, tracker, ready=self._intake.ready, clock=now_ms, observer=_HttpObserver())
        metrics.INTAKE_CONNECTIONS.of("http").set_function(lambda: self._source.connections)
        metrics.INTAKE_BYTES.of("http").set_function(lambda: self._source.held_bytes)

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once earlier answers are known."""
        return {"receipts": self._intake.ready}

    def status(self) -> Any:
        """Address and pressure."""
        return {"port": self._source.port, "pressure": self._intake.sink.pressure(), "history": is_current(self._history)}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        watching = self._intake.followed(self._history)
        await self._source.run(self._intake.sink, stop)
        watching.cancel()
        await asyncio.gather(asyncio.to_thread(self._history.stop, CLOSE_S), self._intake.close())


class MllpRole:
    """The HL7 v2 way in."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        section = settings.mllp
        self._intake = Intake(process, "mllp")
        self._source = MllpSource(
            host=section.host,
            port=section.port,
            share_port=section.share_port,
            tenant=section.tenant or settings.tenant_default,
            profile=hl7_profile(section.profile or DEFAULT_PROFILE, section.facility, section.max_frame_bytes),
            tls=_tls(settings),
            limits=MllpLimits(
                max_connections=section.max_connections,
                max_long_frames=section.max_long_frames,
                idle_timeout_s=section.idle_timeout_s,
                ack_timeout_s=section.ack_timeout_s,
            ),
            observer=_MllpObserver(),
            clock=now_ms,
        )

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once earlier answers are known and connections are taken."""
        return {"receipts": self._intake.ready, "listening": self._source.listening.is_set}

    def status(self) -> Any:
        """Pressure."""
        return {"port": self._source.port, "pressure": self._intake.sink.pressure()}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        watching = self._intake.followed()
        await self._source.run(self._intake.sink, stop)
        watching.cancel()
        await self._intake.close()


def expectations(settings: Settings) -> dict[str, frozenset[EntityType]]:
    """Entity types that each destination's profile maps: only there an outcome is due."""
    return {name: entity_types_of(name, section) for name, section in settings.writers.items()}


def hl7_profile(name: str, facility: str | None = None, max_message_bytes: int | None = None) -> Profile:
    """The HL7 profile at a path, or the shipped one of that name, with what the settings say better.

    Refused where there is none or it has problems.
    """
    try:
        profile = profile_of(_profile_text(name))
    except OSError as error:
        raise Refused([f"mllp.profile {name}: {error.strerror or 'can not be read'}"]) from None
    except ValueError as error:
        raise Refused([f"mllp.profile {name}, {error}"]) from None
    return msgspec.structs.replace(
        profile,
        facility=facility or profile.facility,
        max_message_bytes=min(max_message_bytes or profile.max_message_bytes, profile.max_message_bytes),
    )


def _profile_text(name: str) -> bytes:
    if Path(name).suffix in PROFILE_SUFFIXES:
        return Path(name).read_bytes()
    shipped = {file.name.removesuffix(".yaml"): file for file in (files("pipeline") / "profiles" / "hl7").iterdir()}
    if name not in shipped:
        remedy = f"name one of {', '.join(sorted(shipped))}, or a file of yours as ./{name}.yaml"
        raise Refused([f"mllp.profile: there is no HL7 profile {name}; {remedy}"])
    return shipped[name].read_bytes()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    section = settings.mllp
    if section.tls_cert_file is None or section.tls_key_file is None:
        return None
    return server_context(section.tls_cert_file, section.tls_key_file, section.tls_client_ca_file)


_SAID_OF: Final = {"UNAVAILABLE": lines.INTAKE_UNAVAILABLE, "TOO_MANY_CONNECTIONS": lines.CONNECTION_REFUSED}
"""Reasons of the MLLP way in that say nothing against the message."""

_TRY_AGAIN: Final = frozenset({408, 429, 503})
"""HTTP statuses that say nothing against the request."""


class _MllpObserver:
    def connected(self, connections: int) -> None:
        """A sender connected."""
        metrics.INTAKE_CONNECTIONS.of("mllp").set(connections)
        emit(lines.CONNECTION_OPENED, source="mllp", count=connections)

    def disconnected(self, connections: int) -> None:
        """A sender's connection ended."""
        metrics.INTAKE_CONNECTIONS.of("mllp").set(connections)
        emit(lines.CONNECTION_CLOSED, source="mllp", count=connections)

    def message_in(self) -> None:
        """Counted when it is answered."""

    def long_frames(self, held: int) -> None:
        """Long messages are held."""
        metrics.INTAKE_LONG_FRAMES.of("mllp").set(held)

    def answered(self, code: str, seconds: float) -> None:
        """An answer was sent."""
        metrics.INTAKE_ANSWERED.of("mllp", code).inc()
        metrics.INTAKE_SECONDS.of("mllp").observe(seconds)

    def rejected(self, reason: str) -> None:
        """A message was rejected, could not be taken now, or a sender was not let in."""
        if reason == "TOO_MANY_CONNECTIONS":
            metrics.INTAKE_CUT_OFF.of("mllp").inc()
        emit(_SAID_OF.get(reason, lines.INTAKE_REFUSED), source="mllp", reason=reason)


class _HttpObserver:
    def answered(self, status: int, problem: str, seconds: float) -> None:
        """An answer was sent."""
        metrics.INTAKE_ANSWERED.of("http", str(status)).inc()
        metrics.INTAKE_SECONDS.of("http").observe(seconds)
        if problem:
            line = lines.INTAKE_UNAVAILABLE if status in _TRY_AGAIN else lines.INTAKE_REFUSED
            emit(line, source="http", reason=problem, status=status)

    def faulted(self, operation: str, fault: Exception) -> None:
        """A fault of ours: its type and place, never its text."""
        emit(lines.INTAKE_FAULT, source="http", exception=code_of(type(fault).__name__), where=where(fault.__traceback__))

    def cut_off(self, connections: int) -> None:
        """Connections of one address were ended."""
        metrics.INTAKE_CUT_OFF.of("http").inc(connections)
        emit(lines.CONNECTION_REFUSED, source="http", reason="TOO_MANY_CONNECTIONS")
