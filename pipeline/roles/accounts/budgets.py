"""`surgeline run budgets`: counts what came late or had to be repaired, and opens an incident where that uses up a budget.

What is counted and every incident lie on the topic `budgets`: a restart goes on where it was, opens nothing twice and tells again
only what nobody is known to have taken. One process; a second one would tell everything twice.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec

from pipeline import topology
from pipeline.domain.accounts.budget_book import BudgetBook
from pipeline.domain.accounts.budgets import (
    LOSS,
    BudgetsFile,
    BudgetState,
    Incident,
    IncidentKind,
    Telling,
    Verdict,
    Watch,
    after_attempt,
)
from pipeline.domain.identifiers import CLOCKS_MS, Millis
from pipeline.domain.judging.merges import is_copy
from pipeline.domain.judging.policy import BadPolicy
from pipeline.domain.reconcile.record import Reconciliation, ReconciliationOrder, Scope
from pipeline.domain.records import LagReport, Outcome
from pipeline.formats.avro import Codec, Record
from pipeline.kafka.client import Message
from pipeline.kafka.producer import OutRecord, PublishFailed
from pipeline.kafka.projections import is_current, outlived
from pipeline.kafka.reader import Follower
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import emit, subject
from pipeline.ops.topics import KafkaTopics, Topics, decoded
from pipeline.ops.webhook import Message as Letter
from pipeline.ops.webhook import Told, Webhook, message_of
from pipeline.roles.policies import load_budgets
from pipeline.roles.process import Process, Refused, now_ms, or_die
from pipeline.roles.publishing import WatchedPublisher
from pipeline.roles.writers.reports import NAMED_TYPES
from pipeline.settings.model import Settings

LOOK_S: Final = 5.0
"""Time between two looks at the budgets."""

SAVE_S: Final = 15.0
"""What was counted is durable by then; what is counted again after a crash is known by its offset."""

TELL_S: Final = 1.0

LAG_BACK_MS: Final = 60_000
"""How far back at a start what is stuck is read."""

GIVEN_UP: Final = "given_up"


class Publishes(Protocol):
    """Where incidents become durable; see `Publisher`."""

    async def publish(self, records: list[OutRecord], /) -> Any: ...


class Tells(Protocol):
    """Who is told of an incident; see `Webhook`."""

    async def tell(self, message: Letter, now: Millis, /) -> Told: ...


class Incidents:
    """Opens, ends and tells incidents: durable first, told afterwards."""

    def __init__(
        self,
        policy: BudgetsFile,
        codec: Codec,
        publisher: Publishes,
        chain: AuditChain,
        webhook: Tells | None,
        reconciled: Iterable[str],
    ) -> None:
        """`reconciled`: destinations that a reconciliation can be ordered for."""
        self._policy, self._codec, self._publisher, self._chain, self._webhook = policy, codec, publisher, chain, webhook
        self._reconciled = frozenset(reconciled)
        self._watches: dict[str, Watch] = {}
        self._known: dict[str, Incident] = {}
        self._turn = asyncio.Lock()
        """Whoever changes an incident: one after the other, or one would undo what the other made durable."""

    def take_up(self, incident: Incident) -> None:
        """What an earlier process left, newest state only."""
        self._watch(incident.destination).take_up(incident)
        self._keep(incident)

    @property
    def open(self) -> tuple[Incident, ...]:
        """Incidents that are open."""
        return tuple(each for watch in self._watches.values() for each in watch.open.values())

    async def judge(self, verdicts: Mapping[str, list[Verdict]], now: Millis) -> None:
        """Open and end incidents by these verdicts. PublishFailed ends the process: the audit chain would have a hole."""
        async with self._turn:
            for destination, of_it in verdicts.items():
                for incident in self._watch(destination).judge(self._policy, of_it, now):
                    await self._changed(incident, now)
        for watch in self._watches.values():
            for kind in IncidentKind:
                metrics.INCIDENTS_OPEN.of(watch.destination, kind.value).set(float(kind in watch.open))

    async def _changed(self, incident: Incident, now: Millis) -> None:
        begins = incident.closed_at is None
        if self._webhook is None:
            told = Telling(done=True)
            incident = msgspec.structs.replace(incident, start=told, end=told)
        entry = self._entry("incident.opened" if begins else "incident.closed", incident, now)
        records = [entry, self._record(incident)]
        if begins and incident.reconciled:
            records.append(self._order(incident))
        await self._publisher.publish(records)
        self._keep(incident)
        if begins:
            emit(lines.INCIDENT_OPENED, destination=incident.destination, cause=incident.kind.value)
        else:
            lasted = float(now - incident.opened_at)
            emit(lines.INCIDENT_CLOSED, destination=incident.destination, cause=incident.kind.value, duration_ms=lasted)

    async def tell(self, now: Millis) -> None:
        """Try once to tell what is due; a begin before its end."""
        for incident in sorted(self._known.values(), key=lambda each: each.opened_at):
            stage = "start" if not incident.start.done else "end" if incident.closed_at is not None else None
            if stage is None or self._webhook is None or getattr(incident, stage).next_at > now:
                continue
            shown = incident if stage == "end" else msgspec.structs.replace(incident, closed_at=None)
            told = await self._webhook.tell(message_of(shown), now)
            async with self._turn:
                await self._attempted(incident.incident_id, stage, told, now)

    async def _attempted(self, incident_id: str, stage: str, told: Told, now: Millis) -> None:
        incident = self._known[incident_id]  # it may have ended meanwhile
        telling = after_attempt(getattr(incident, stage), told is Told.TAKEN, now)
        incident = msgspec.structs.replace(incident, **{stage: telling})
        metrics.INCIDENTS_TOLD.of(told.value).inc()
        records = [self._record(incident)]
        if told is not Told.TAKEN:
            emit(
                lines.INCIDENT_UNTOLD,
                destination=incident.destination,
                cause=incident.kind.value,
                reason=told.value,
                count=telling.attempts,
            )
            if telling.done:
                metrics.INCIDENTS_TOLD.of(GIVEN_UP).inc()
                records.insert(0, self._entry(f"incident.untold.{stage}", incident, now))
        await self._publisher.publish(records)
        self._keep(incident)

    def _keep(self, incident: Incident) -> None:
        watch = self._watch(incident.destination)
        if incident.closed_at is None:
            watch.open[incident.kind] = incident
        if incident.closed_at is not None and incident.start.done and incident.end.done:
            self._known.pop(incident.incident_id, None)
        else:
            self._known[incident.incident_id] = incident

    def _watch(self, destination: str) -> Watch:
        return self._watches.setdefault(destination, Watch(destination, destination in self._reconciled))

    def _record(self, incident: Incident) -> OutRecord:
        return OutRecord(topology.BUDGETS, f"incident|{incident.incident_id}".encode(), self._codec.encode(incident), 0)

    def _entry(self, action: str, incident: Incident, now: Millis) -> OutRecord:
        figures = {name: f"{value:g}" for name, value in incident.figures.items()}
        return self._chain.append(
            at=now,
            actor=self._chain.chain,
            action=action,
            subject=incident.incident_id,
            destination=incident.destination,
            reason=incident.kind.value,
            detail=figures | {"objectives": " ".join(incident.objectives), "reconciliation": str(incident.reconciled).lower()},
        )

    def _order(self, incident: Incident) -> OutRecord:
        """Everything is compared where the budget is used up or what is lost is the question; else what changed."""
        is_whole = incident.kind is IncidentKind.EXHAUSTED or LOSS in incident.objectives
        order = ReconciliationOrder(
            order=incident.incident_id,
            destination=incident.destination,
            scope=Scope.FULL if is_whole else Scope.INCREMENTAL,
            dry_run=False,
            actor=self._chain.chain,
            reason=f"error budget: {incident.kind.value}",
            at=incident.opened_at,
        )
        return OutRecord(topology.RECONCILIATIONS, f"order|{incident.incident_id}".encode(), self._codec.encode(order), 0)


def read_budgets(topics: Topics, codec: Codec) -> tuple[list[BudgetState], list[Incident]]:
    """The newest state of each objective and of each incident. KafkaUnavailable."""
    newest: dict[bytes, Record] = {}
    for message in topics.read(topology.BUDGETS, topics.begin(topology.BUDGETS), topics.end(topology.BUDGETS)):
        record = decoded(codec, message) if message.value is not None else None
        if message.key is not None and record is not None:
            newest[message.key] = record
    states = [each for each in newest.values() if isinstance(each, BudgetState)]
    incidents = [each for each in newest.values() if isinstance(each, Incident)]
    return states, sorted(incidents, key=lambda each: each.opened_at)


def policy_of(settings: Settings) -> BudgetsFile:
    """Policy of the settings; Refused with all that is wrong with it."""
    try:
        return load_budgets(settings.budgets.policy_file)
    except BadPolicy as bad:
        raise Refused([f"budgets.policy_file: {problem}" for problem in bad.problems]) from None


class BudgetsRole:
    """Follows outcomes, lag and reconciliations, and judges every few seconds."""

    def __init__(self, process: Process) -> None:
        settings, section = process.settings, process.settings.budgets
        self._process = process
        self._policy = policy_of(settings)
        self._publisher = WatchedPublisher(settings.kafka)
        topics = KafkaTopics(settings.kafka)
        chain = AuditChain.continued(topics, process.codec, process.codec, f"budgets/{section.instance}")
        hook = section.webhook
        webhook = Webhook(hook.url, hook.key_file, hook.timeout_s, hook.ca_file) if hook is not None else None
        digest_key = settings.digest_key()
        self._book = BudgetBook(self._policy, lambda outcome: subject_of(outcome, digest_key))
        self._incidents = Incidents(self._policy, process.codec, self._publisher, chain, webhook, settings.writers)
        states, incidents = read_budgets(topics, process.codec)
        for state in states:
            self._book.take_up(state)
        for incident in incidents:
            self._incidents.take_up(incident)
        self._lock = threading.Lock()
        now = now_ms()
        since = max((state.at for state in states), default=Millis(now - self._policy.period_days * 86_400_000))
        kafka = settings.kafka
        self._followers = (
            Follower(kafka, (topology.OUTCOMES, topology.RECONCILIATIONS), self._apply, since_ms=max(0, since - CLOCKS_MS)),
            Follower(kafka, (topology.LAG,), self._apply, since_ms=now - LAG_BACK_MS),
        )

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once what happened meanwhile was counted."""
        return {"counted": self._ready}

    def status(self) -> Any:
        """Incidents that are open."""
        return {"open": [{"destination": each.destination, "kind": each.kind.value} for each in self._incidents.open]}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then save what was counted."""
        for follower in self._followers:
            follower.start()
        tasks = [asyncio.create_task(or_die(outlived(self._publisher, *self._followers)))]
        tasks += [asyncio.create_task(or_die(service)) for service in (self._judge(), self._tell())]
        await stop.wait()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for follower in self._followers:
            await asyncio.to_thread(follower.stop)
        await self._save()
        await self._publisher.close(self._process.settings.worker.drain_s / 4)

    def _ready(self) -> bool:
        return all(is_current(follower) for follower in self._followers)

    def _apply(self, message: Message) -> None:
        record = decoded(self._process.codec, message)
        with self._lock:
            match record:
                case Outcome() if not is_copy(record, message.key):
                    self._book.on_outcome(record, message.offset)
                case LagReport():
                    self._book.on_lag(record)
                case Reconciliation():
                    self._book.on_run(record, message.offset)
                case _:
                    return

    async def _judge(self) -> None:
        saved_s = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._ready():
                continue  # with half of what happened counted, much looks late
            now = now_ms()
            with self._lock:
                verdicts = self._book.verdicts(now)
            show(verdicts)
            await self._incidents.judge(verdicts, now)
            if time.monotonic() - saved_s >= SAVE_S:
                saved_s = time.monotonic()
                await self._save()

    async def _tell(self) -> None:
        while True:
            await self._incidents.tell(now_ms())
            await asyncio.sleep(TELL_S)

    async def _save(self) -> None:
        """What can't be published now is counted again from its offset by the next process."""
        with self._lock:
            states = list(self._book.changed(now_ms()))
        records = [
            OutRecord(
                topology.BUDGETS, f"state|{each.destination}|{each.objective}".encode(), self._process.codec.encode(each), 0
            )
            for each in states
        ]
        if not records:
            return
        try:
            await self._publisher.publish(records)
        except PublishFailed:  # the publisher has told of it
            with self._lock:
                self._book.unsaved(states)


def show(verdicts: Mapping[str, Iterable[Verdict]]) -> None:
    """As metrics."""
    for destination, of_it in verdicts.items():
        for each in of_it:
            metrics.BUDGET_USED.of(destination, each.objective).set(each.used)
            for window_s, rate in each.rates.items():
                metrics.BURN_RATE.of(destination, each.objective, str(window_s)).set(rate)


def subject_of(outcome: Outcome, digest_key: bytes) -> str:
    """The name under which a writer lists the entity among what is stuck."""
    key = outcome.key.encode()
    return key.decode() if outcome.entity_type in NAMED_TYPES else subject(key, digest_key)
