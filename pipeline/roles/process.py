"""What every role has: logs, health, watchdog, an orderly end, and a start that refuses with all reasons at once."""

import asyncio
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import uvloop

from pipeline import __version__, resources, topology
from pipeline.domain.accounts.retention import DAY_MS, class_of
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.kafka import admin
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.epochs import read_epochs
from pipeline.kafka.registry import Registration, Registry, RegistryConfig, connect
from pipeline.kafka.registry_ids import KeptIds
from pipeline.kafka.specs import TopicSpec, load_specs
from pipeline.ops import log_catalogue as lines
from pipeline.ops.health import Health, HealthServer, Heartbeat
from pipeline.ops.logs import configure, emit, where
from pipeline.ops.watchdog import Beat, Bounds, Watchdog
from pipeline.settings.model import Settings
from pipeline.stream.worker.faults import report_with

EXIT_CONFIG: Final = 78
"""Something must be set right by a person first (sysexits.h EX_CONFIG)."""

EXIT_TRY_AGAIN: Final = 75
"""Start again later (EX_TEMPFAIL): the broker is away, or the drain took too long."""

EXIT_CRASHED: Final = 70


def now_ms() -> Millis:
    """The shells' clock."""
    return Millis(time.time_ns() // 1_000_000)


class Refused(Exception):
    """The role must not start; each line says what is wrong and what to do."""

    def __init__(self, problems: Sequence[str], code: int = EXIT_CONFIG) -> None:
        super().__init__("\n".join(problems))
        self.problems: Final = tuple(problems)
        self.code: Final = code


class Running(Protocol):
    """A role, ready to run."""

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Readiness, by name."""
        ...

    def status(self) -> Any:
        """JSON for people; no patient data."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then finish what was begun."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """What a role is built from."""

    settings: Settings
    role: str
    instance: str
    codec: Codec
    heartbeat: Heartbeat
    watchdog: Watchdog
    beat: Beat

    @property
    def prefix(self) -> str:
        """Put before each topic and group."""
        return self.settings.kafka.topic_prefix

    def topic(self, name: str) -> str:
        """Name at the broker."""
        return topology.topic(name, self.prefix)

    def epochs(self) -> dict[str, int]:
        """Epoch of each landing topic, by its name at the broker."""
        known = read_epochs(self.settings.kafka, self.codec)
        return {name: known[name].epoch for name in map(self.topic, topology.LANDING.values())}

    @property
    def cipher(self) -> RawCipher:
        """Encrypts original bytes. Reads the keys each time; a role that doesn't ask for it needs none of them."""
        key_id, _ = self.settings.raw_key()
        return RawCipher(self.settings.raw_keys(), key_id)

    @property
    def seal(self) -> Callable[[bytes, bytes], bytes]:
        """From data and context to encrypted bytes that name their key: the length of its id in a byte, its id, the sealed.

        Ask for it once, at the start: it reads the keys.
        """
        cipher = self.cipher
        return lambda data, context: cipher.seal_named(context.decode(), data)


Build = Callable[[Process], Running]


def specs_of(settings: Settings) -> tuple[TopicSpec, ...]:
    """Declared topics, with a changelog for each configured writer, each kept for as long as the settings say for its class."""
    days = {"raw": settings.retention.raw_days, "quarantine": settings.retention.quarantine_days}
    return tuple(
        msgspec.structs.replace(spec, retention_ms=kept * DAY_MS) if (kept := days.get(class_of(spec.name) or "")) else spec
        for spec in load_specs(resources.topics_dir(), settings.destinations)
    )


def codec_of(settings: Settings, folder: Path | None = None, told: Callable[[Registration], None] = lambda _: None) -> Codec:
    """Codec with ids of the registry, where there is one; else with the shipped ids. `told` hears what the registry said.

    In `folder` the registry's are kept: a role that has one reads what was written with them while the registry is away.
    """
    section = settings.schema_registry
    if section.url is None:
        return Codec.shipped()
    config = RegistryConfig(section.url, username=section.username, password_file=section.password_file, ca_file=section.ca_file)
    kept = KeptIds(folder, section.url) if folder is not None else None
    registry = Registry(connect(config), prefix=settings.kafka.topic_prefix, auto_register=config.auto_register, kept=kept)
    told(registration := registry.registration())
    return Codec(registration.ids, registry.resolve)


def _tell_registry(registration: Registration) -> None:
    if registration.away:
        emit(lines.REGISTRY_AWAY)
    if registration.missing:
        emit(lines.REGISTRY_LACKS, count=len(registration.missing), status=registration.missing[0][1])


def run_role(settings: Settings, role: str, instance: str, build: Build) -> int:
    """Run one role in this process until it is told to stop; the exit code."""
    configure(settings, role, instance)
    report_with(_crashed)
    _end_at_sigterm()
    _allow_many_files()
    emit(lines.ROLE_STARTED, version=__version__)
    try:
        process = _prepare(settings, role, instance)
        return uvloop.run(_serve(process, build))
    except Refused as refused:
        sys.stderr.write("".join(f"surgeline: {problem}\n" for problem in refused.problems))
        return refused.code
    except KafkaUnavailable as error:
        sys.stderr.write(f"surgeline: Kafka does not answer ({error}). Check kafka.bootstrap_servers, then start again.\n")
        return EXIT_TRY_AGAIN
    except Exception as error:  # noqa: BLE001 - the last fence: the type and place are logged, the text may hold patient data
        _crashed(error)
        return EXIT_CRASHED


def _end_at_sigterm() -> None:
    """Until the role serves, SIGTERM ends it: the first process of a container would otherwise not even notice it."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_TRY_AGAIN))


MAX_FILES: Final = 65_536
"""Descriptors that a role asks for: connections of a way in, files of a table."""


def _allow_many_files() -> None:
    """Many systems begin at 1,024, fewer than a way in may have connections; the process may ask for what its owner allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _folder_of(settings: Settings, role: str) -> Path | None:
    """Where a role that keeps a table keeps it."""
    folders = {"gate": settings.gate.data_dir}
    for sections in (settings.writers, settings.hl7_out):
        folders |= {f"writer-{name}": section.data_dir for name, section in sections.items()}
    return folders.get(role)


def _prepare(settings: Settings, role: str, instance: str) -> Process:
    codec = codec_of(settings, _folder_of(settings, role), _tell_registry)
    problems = admin.check(settings.kafka, specs_of(settings), codec)
    if problems:
        for problem in problems:
            emit(
                lines.TOPIC_MISSING,
                topic=topology.without_prefix(problem.topic, settings.kafka.topic_prefix),
                cause=problem.kind.value,
            )
        raise Refused([f"{problem.topic}: {problem.detail}" for problem in problems])
    worker = settings.worker
    heartbeat = Heartbeat()
    watchdog = Watchdog(heartbeat, Bounds(stall_s=worker.stall_timeout_s, jump_s=worker.session_timeout_s / 2))
    return Process(
        settings=settings,
        role=role,
        instance=instance,
        codec=codec,
        heartbeat=heartbeat,
        watchdog=watchdog,
        beat=Beat(heartbeat, watchdog),
    )


async def _serve(process: Process, build: Build) -> int:
    settings, started = process.settings, time.monotonic()
    # Before the role reads where its audit chain ends: stopped behind that and resumed, it would continue an old end.
    process.watchdog.start(loop=False)
    running = build(process)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _begin_stop, stop, settings.worker.drain_s)
    process.watchdog.watch_loop()
    checks = {**running.checks(), SERVING: lambda: not stop.is_set()}
    health = Health(process.heartbeat, settings.worker.stall_timeout_s, checks, running.status)
    server = HealthServer(health, settings.health.host, settings.health.base_port).start()
    emit(lines.SERVER_LISTENING, source="health", port=server.port)
    beating = asyncio.create_task(process.beat.run())
    ready = asyncio.create_task(_say_when_ready(health, started))
    try:
        await running.run(stop)
    finally:
        process.watchdog.stop()
        for task in (beating, ready):
            task.cancel()
        server.stop()
    emit(lines.ROLE_STOPPED, duration_ms=(time.monotonic() - started) * 1000, status=0)
    return 0


async def or_die(service: Coroutine[Any, Any, None]) -> None:
    """A service that ends by a fault ends the process: without it the role would go on and do nothing."""
    try:
        await service
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, the role must not go on without this service
        _crashed(error)
        os._exit(EXIT_CRASHED)


async def _say_when_ready(health: Health, started: float) -> None:
    while not all(health.ready().values()):
        await asyncio.sleep(READY_POLL_S)
    emit(lines.ROLE_READY, duration_ms=(time.monotonic() - started) * 1000)


READY_POLL_S: Final = 0.1
SERVING: Final = "serving"
"""Readiness check of every role: false from the moment on in which it is told to stop."""


def _begin_stop(stop: asyncio.Event, drain_s: float) -> None:
    """Ask the role to stop, and end the process if it has not within the drain time."""
    if stop.is_set():
        return
    emit(lines.ROLE_STOPPING, cause="signal")
    stop.set()
    timer = threading.Timer(drain_s, os._exit, (EXIT_TRY_AGAIN,))
    timer.daemon = True
    timer.start()


def _crashed(error: BaseException) -> None:
    """Type and place only: the text of an exception may hold what was being worked on."""
    emit(lines.ROLE_CRASHED, exception=type(error).__name__, where=where(error.__traceback__))
    if os.environ.get(SHOW_FAULTS):
        traceback.print_exception(error)


SHOW_FAULTS: Final = "SURGELINE_SHOW_FAULTS"
"""Developers set it to see whole tracebacks; never where there is patient data."""
