"""`surgeline run fhir`: subscriptions at FHIR servers, with what they need of Kafka."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipeline import topology
from pipeline.destinations.fhir.profile import InvalidProfile, load_profile
from pipeline.destinations.fhir_http import OK, Answer, FhirHttp, NotSent
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import FeedState, Reason
from pipeline.domain.subscriptions.life import State, SubscriptionStatus, Watch
from pipeline.formats.fhir.forms import FORMS
from pipeline.formats.fhir.inbound import events_of, needed
from pipeline.formats.fhir.inbound_verdict import Origin, Verdict
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.profile import Profile
from pipeline.kafka.producer import OutRecord, PublishFailed
from pipeline.kafka.reader import read_topic
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import code_of, emit, where
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.process import Process, Refused, now_ms
from pipeline.roles.ways_in.intake import Intake
from pipeline.roles.writers.destinations import Access, access_to
from pipeline.settings.model import Settings
from pipeline.settings.sections.ways_in import FhirFeed
from pipeline.sources.fhir.feed import Feed, FeedConfig, Known
from pipeline.sources.fhir.keeper import Plan
from pipeline.sources.fhir.receiver import FhirSource, Listener
from pipeline.sources.fhir.resource import Wanted
from pipeline.sources.fhir.secret import HookSecret
from pipeline.sources.fhir.server import Exchange, FhirServer, Reply
from pipeline.sources.mllp.source import server_context

NO_ANSWER: Final = 0
"""Status of a request that got no whole answer."""


class FhirRole:
    """The FHIR way in."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        if not settings.fhir.feeds:
            raise Refused(["fhir.feeds: there is no subscription; name a feed"])
        servers = servers_of(settings)
        self._process = process
        self._intake = Intake(process, "fhir")
        self._connections: list[FhirHttp] = []
        known = _known(process)
        self._ledger = _Ledger(process, self._intake)
        observer = _Observer()
        secrets = {name: HookSecret(section.hook_token_file) for name, section in settings.fhir.feeds.items()}
        self._feeds = {
            name: self._feed(name, section, servers[name], secrets[name], known.get(name), observer)
            for name, section in settings.fhir.feeds.items()
        }
        self._source = FhirSource(
            _listener(settings), {name: (feed, secrets[name]) for name, feed in self._feeds.items()}, observer
        )
        metrics.INTAKE_CONNECTIONS.of("fhir").set_function(lambda: self._source.connections)
        metrics.INTAKE_BYTES.of("fhir").set_function(lambda: self._source.held_bytes)

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once earlier answers are known and notifications are taken."""
        return {"receipts": self._intake.ready, "listening": self._source.listening.is_set}

    def status(self) -> Any:
        """Address, pressure, and how each feed stands."""
        return {
            "port": self._source.port,
            "pressure": self._intake.sink.pressure(),
            "feeds": {name: feed.status() for name, feed in self._feeds.items()},
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        watching = self._intake.followed()
        await self._source.run(self._intake.sink, stop)
        watching.cancel()
        for connection in self._connections:
            await connection.close()
        await self._intake.close()

    def _feed(
        self,
        name: str,
        section: FhirFeed,
        server: tuple[Profile, Access],
        secret: HookSecret,
        known: Known | None,
        observer: "_Observer",
    ) -> Feed:
        settings = self._process.settings
        tenant = section.tenant or settings.tenant_default
        profile, access = server
        connection = FhirHttp(section.base_url, profile.headers, access.credentials, now_ms, access.tls)
        self._connections.append(connection)
        config = FeedConfig(Plan(name, wanted_of(name, section), section.searches), tenant, section.server, watch_of(section))
        origin = Origin(tenant, section.facility, section.server, name, section.version)
        return Feed(
            config,
            secret,
            FhirServer(section.base_url, exchange_over(connection, section.request_timeout_s)),
            _Mapper(origin, profile, settings.digest_key()),
            self._ledger,
            known,
            observer,
            now_ms,
        )


def wanted_of(name: str, section: FhirFeed) -> Wanted:
    """The subscription that a feed's section describes."""
    heartbeat = section.heartbeat_s if section.channel == "backport" else None
    return Wanted(
        version=section.version,
        channel=section.channel,
        criteria=section.criteria,
        filters=section.filters,
        endpoint=section.endpoint,
        content=section.content,
        heartbeat_s=heartbeat,
        timeout_s=None,
        reason=f"surgeline feed {name}",
    )


def watch_of(section: FhirFeed) -> Watch:
    """The rules of its life."""
    numbered = section.channel == "backport"
    return Watch(
        heartbeat_ms=section.heartbeat_s * 1000 if numbered and section.heartbeat_s is not None else None,
        numbered=numbered,
        unique=section.unique_numbers,
        fetches=numbered,
        poll_ms=round(section.poll_s * 1000),
        sweep_ms=round(section.sweep_s * 1000),
        audit_ms=round(section.audit_s * 1000),
    )


def servers_of(settings: Settings) -> dict[str, tuple[Profile, Access]]:
    """Each feed's server: its profile, and how it knows us. Refused with the problems of all feeds at once."""
    found: dict[str, tuple[Profile, Access]] = {}
    problems: list[str] = []
    for name, section in settings.fhir.feeds.items():
        place = f"fhir.feeds.{name}"
        try:
            profile = load_profile(section.profile)
            if FORMS[section.version] is not profile.form:
                problems.append(f"{place}.version: {section.version}, and the profile is one of FHIR {profile.fhir}")
            found[name] = profile, access_to(place, name, section, profile)
        except InvalidProfile as error:
            problems.append(f"{place}.profile: {error}")
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    return found


def _listener(settings: Settings) -> Listener:
    section = settings.fhir
    tls = None
    if section.tls_cert_file is not None and section.tls_key_file is not None:
        tls = server_context(section.tls_cert_file, section.tls_key_file, None)
    return Listener(
        section.host,
        section.port,
        section.max_body_bytes,
        section.max_requests,
        section.answer_s,
        tls,
        section.max_bytes_in_flight,
        section.max_connections,
    )


def exchange_over(connection: FhirHttp, timeout_s: float) -> Exchange:
    """What a feed asks goes over this connection, each request within `timeout_s`."""

    async def exchange(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        answer = await connection.exchange(method, target, tuple(headers.items()), body, timeout_s)
        if isinstance(answer, Answer):
            return Reply(answer.status, answer.body, answer.location, answer.retry_after_s)
        if answer.reason is Reason.OVERSIZE:
            return Reply(OK, too_large=True)
        return Reply(NO_ANSWER, retry_after_s=answer.after_s if isinstance(answer, NotSent) else 0.0)

    return exchange


class _Mapper:
    """One feed's resources to events."""

    def __init__(self, origin: Origin, profile: Profile, digest_key: bytes) -> None:
        self._origin = origin
        self._profile = profile
        self._digest_key = digest_key

    def needed(self, resource: Body, known: Mapping[str, Body]) -> Sequence[str]:
        """See `Mapper`."""
        return needed(resource, self._origin, self._profile, known)

    def events(self, resource: Body, known: Mapping[str, Body], received_at: Millis) -> Verdict:
        """See `Mapper`."""
        return events_of(resource, self._origin, self._profile, self._digest_key, received_at, known)


class _Ledger:
    """Keeps states in the compacted topic `intake.subscriptions`, by feed, and the audit chain of this process."""

    def __init__(self, process: Process, intake: Intake) -> None:
        self._process = process
        self._intake = intake
        self._actor = f"fhir/{process.instance}"
        self._chain = AuditChain.continued(KafkaTopics(process.settings.kafka), process.codec, process.codec, self._actor)
        self._turn = asyncio.Lock()

    async def note(self, feed: str, action: str, subscription: str) -> None:
        """See `Audit`. An entry that can't be published ends the process: a chain with a hole can't be continued."""
        async with self._turn:
            entry = self._chain.append(at=now_ms(), actor=self._actor, action=action, subject=subscription, destination=feed)
            await self._intake.publisher.publish([entry])

    async def keep(self, feed: str, subscription: str | None, state: bytes) -> bool:
        """See `Ledger`."""
        record = FeedState(feed=feed, instance=self._process.instance, subscription=subscription, state=state, at=now_ms())
        value = self._process.codec.encode(record)
        try:
            await self._intake.publisher.publish([OutRecord(topology.SUBSCRIPTIONS, feed.encode(), value)])
        except PublishFailed:
            return False
        return True


def _known(process: Process) -> dict[str, Known]:
    """What was kept last of each feed, whichever instance kept it: whatever a state says to have been taken is on landing."""
    found = {}
    for message in read_topic(process.settings.kafka, topology.SUBSCRIPTIONS):
        record = decoded(process.codec, message)
        if isinstance(record, FeedState):
            found[record.feed] = Known(record.subscription, record.state)
    return found


_TRY_AGAIN: Final = frozenset({408, 503})
"""Statuses that say nothing against the notification."""


class _Observer:
    def answered(self, feed: str, status: int, problem: str, seconds: float) -> None:
        """An answer was sent."""
        metrics.INTAKE_ANSWERED.of("fhir", str(status)).inc()
        metrics.INTAKE_SECONDS.of("fhir").observe(seconds)
        if problem:
            line = lines.INTAKE_UNAVAILABLE if status in _TRY_AGAIN else lines.INTAKE_REFUSED
            emit(line, source="fhir", reason=problem, status=status)

    def faulted(self, fault: Exception) -> None:
        """A fault of ours: its type and place, never its text."""
        emit(lines.INTAKE_FAULT, source="fhir", exception=code_of(type(fault).__name__), where=where(fault.__traceback__))

    def cut_off(self, connections: int) -> None:
        """Connections were refused or ended."""
        metrics.INTAKE_CUT_OFF.of("fhir").inc(connections)
        emit(lines.CONNECTION_REFUSED, source="fhir", reason="TOO_MANY_CONNECTIONS")

    def resource(self, feed: str, way: str, result: str) -> None:
        """A resource came."""
        metrics.FEED_RESOURCES.of(feed, way, result).inc()
        if result == "rejected":
            emit(lines.FEED_REJECTED, source=feed, cause=way)

    def asked(self, feed: str, what: str, result: str) -> None:
        """Something was asked of the server."""
        metrics.FEED_ASKED.of(feed, what, result).inc()
        emit(lines.FEED_ASKED if result == "done" else lines.FEED_NOT_ASKED, source=feed, cause=what, reason=result)

    def state(self, feed: str, state: State, now: Millis) -> None:
        """How the feed stands."""
        metrics.FEED_ACTIVE.of(feed).set(state.status is SubscriptionStatus.ACTIVE)
        metrics.FEED_POLLING.of(feed).set(state.polling_since is not None)
        metrics.FEED_MISSING.of(feed).set(state.missing)
        metrics.FEED_OPEN_SECONDS.of(feed).set(0 if state.open_since is None else max(now - state.open_since, 0) / 1000)
        metrics.FEED_HEARD_SECONDS.of(feed).set(-1 if state.heard_at is None else max(now - state.heard_at, 0) / 1000)
