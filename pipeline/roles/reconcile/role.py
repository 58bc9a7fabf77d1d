"""`surgeline run reconcile`: compares what we hold with what destinations show, when it is due, and has drift repaired.

Of several processes one works, by a Kafka group. All that it has to know it reads from topics, so a restart amid a run begins
that run anew: what was repaired is in time, what was not is found again.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pipeline import topology
from pipeline.destinations.fhir.build import JSON_TYPE, Builder
from pipeline.destinations.fhir.export import BulkExport
from pipeline.destinations.fhir.survey import Survey
from pipeline.destinations.fhir_http import FhirHttp
from pipeline.domain.event import PAYLOADS, EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.policy import Policy
from pipeline.domain.reconcile.compare import NEVER, Repairs, Settled
from pipeline.domain.reconcile.record import MAX_REPAIRED, Drift, Reconciliation, Remedy, Scope, Stage
from pipeline.domain.reconcile.schedule import Due, Schedule, Times
from pipeline.formats.fhir.naming import RESOURCE_TYPE
from pipeline.formats.fhir.profile import Profile
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.holdings import Holdings
from pipeline.kafka.leader import Leader
from pipeline.kafka.projections import is_current, outlived
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import emit, subject
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.policies import load_policy
from pipeline.roles.process import Process, Refused, now_ms, or_die
from pipeline.roles.publishing import WatchedPublisher
from pipeline.roles.reconcile.orders import ACTOR, Orders, Signer, record_of
from pipeline.roles.reconcile.run import Meant, Ports, Run, StoppedByMode
from pipeline.roles.reconcile.snapshots import compare_snapshots
from pipeline.roles.reconcile.view import View
from pipeline.roles.reconcile.watch import Watch, feeds_at
from pipeline.roles.ways_in.feeds import in_force
from pipeline.roles.writers.borders import BorderedSurvey
from pipeline.roles.writers.destinations import access_to
from pipeline.roles.writers.profiles import profile_for
from pipeline.settings.model import Settings
from pipeline.settings.rules.evidence import borders_of, place_of

LOOK_S: Final = 1.0
"""How late a run that is due may begin."""
MODE_WAIT_S: Final = 60.0
"""A run waits so long for a mode that lets it go on; then it is broken off."""
OVERLAP_MS: Final = 120_000
"""How much further back a comparison of what changed begins: clocks differ, and a change is seen late."""
MAX_RUN_S: Final = 6 * 3_600.0
"""A run that takes longer is broken off."""


class ReconcileRole:
    """The comparison of all FHIR destinations in one process."""

    def __init__(self, process: Process) -> None:
        settings, section = process.settings, process.settings.reconcile
        self._process = process
        self._names = section.destinations or tuple(sorted(settings.writers))
        self._signer = _signer(settings)
        self._profiles = {name: profile_for(name, settings.writers[name]) for name in self._names}
        self._access = {
            name: access_to(f"writers.{name}", name, settings.writers[name], self._profiles[name]) for name in self._names
        }
        self._topics = KafkaTopics(settings.kafka)
        self._chain: AuditChain | None = None
        by_value = any(profile.revision == "none" for profile in self._profiles.values())
        self._holdings = Holdings(self._topics, self._names, keeps_heads=by_value)
        self._repairs = Repairs(section.repairs_of_one, round(section.repairs_window_s * 1000))
        hours, minutes = map(int, section.nightly_at.split(":"))
        schedule = Schedule(Times(round(section.every_s * 1000), (hours * 60 + minutes) * 60_000), self._names)
        self._publisher = WatchedPublisher(settings.kafka)
        self._watch = Watch(process, schedule, self._repairs, now_ms())
        group, timeout_s = topology.RECONCILE_GROUP, settings.worker.session_timeout_s
        self._leader = Leader(settings.kafka, group, topology.RECONCILIATIONS, timeout_s).start()
        self._now: Reconciliation | None = None
        self._last: dict[str, Reconciliation] = {}
        metrics.RECONCILE_LEADS.of().set_function(lambda: float(self._leader.leads))

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once earlier runs, modes and orders are known. One that stands by is ready as well."""
        return {"history": self._is_current}

    def status(self) -> Any:
        """The run under way and the last of each destination, by their counts."""
        runs = [*([self._now] if self._now else []), *self._last.values()]
        return {"leads": self._leader.leads, "runs": [shown(run) for run in runs]}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`; a run under way is broken off then."""
        service = asyncio.create_task(or_die(self._serve()))
        watching = asyncio.create_task(or_die(outlived(self._publisher, *self._watch.followers)))
        await stop.wait()
        for task in (service, watching):
            task.cancel()
        await asyncio.gather(service, watching, return_exceptions=True)
        await asyncio.to_thread(self._leader.stop)
        for follower in self._watch.followers:
            await asyncio.to_thread(follower.stop)
        await self._publisher.close(self._process.settings.worker.drain_s / 4)

    def _is_current(self) -> bool:
        return all(map(is_current, self._watch.followers))

    async def _serve(self) -> None:
        while True:
            if self._leader.failure is not None:
                raise self._leader.failure
            if not self._leader.leads:
                self._chain = None  # whoever leads now may continue it
            elif self._is_current() and (due := self._watch.due(now_ms())) is not None:
                await self._begin(due)
            await asyncio.sleep(LOOK_S)

    async def _audit(self) -> AuditChain:
        """Continued where this process begins to lead: until then another of its name may have written it."""
        if self._chain is None:
            name = f"reconcile/{self._process.settings.reconcile.instance}"
            codec = self._process.codec
            self._chain = await asyncio.to_thread(AuditChain.continued, self._topics, codec, codec, name)
        return self._chain

    # -- one run

    async def _begin(self, due: Due) -> None:
        await self._end_left_over()
        begun = now_ms()
        record = Reconciliation(
            run=f"{begun}-{due.destination}",
            destination=due.destination,
            instance=self._process.settings.reconcile.instance,
            scope=due.scope,
            cause=due.cause,
            order=due.order.order if due.order else None,
            dry_run=due.order.dry_run if due.order else False,
            stage=Stage.RUNNING,
            begun_at=begun,
            changed_until=NEVER,
        )
        emit(lines.RECONCILIATION_BEGUN, destination=due.destination, cause=due.cause.value, mode=due.scope.value)
        await self._tell(record, "begun", due.order.actor if due.order else ACTOR)
        ended, read_by = await self._carried_out(record)
        if self._signer is not None and ended.scope is Scope.FULL and ended.stage is not Stage.BROKEN_OFF:
            ended = self._signer.signed(ended)
        await self._tell(ended, "ended", ACTOR, read_by)
        self._show(ended)

    async def _end_left_over(self) -> None:
        """Runs of a process that is gone: they will not end by themselves."""
        for run in self._watch.ask(lambda schedule: schedule.running()):
            over = msgspec.structs.replace(run, stage=Stage.BROKEN_OFF, stopped_by="RESTARTED", ended_at=now_ms())
            await self._tell(over, "ended", ACTOR)

    async def _carried_out(self, record: Reconciliation) -> tuple[Reconciliation, str]:
        """The record at its end, whatever happened, and how the server was read; only a fault of ours and a cancellation come
        through."""
        self._now, stopped_by = record, ""
        survey, run = self._built(record, await self._audit(), await asyncio.to_thread(in_force, self._topics, load_policy()))
        stage = Stage.BROKEN_OFF
        try:
            async with asyncio.timeout(MAX_RUN_S):
                await run.carry_out()
                if record.scope is Scope.FULL:
                    await self._snapshots(run)
            stage = Stage.PARTIAL if run.unread_because is not None or run.left else Stage.DONE
            stopped_by = run.unread_because.value if run.unread_because else "REPAIRS_LEFT" if run.left else ""
        except StoppedByMode:
            stopped_by = "MODE" if self._leader.leads else "ANOTHER_LEADS"
        except KafkaUnavailable:
            stopped_by = "KAFKA"
        except TimeoutError:
            stopped_by = "TOO_LONG"
        finally:
            await survey.close()
            self._now = None
        if survey.export_refused is not None:
            emit(lines.EXPORT_REFUSED, destination=record.destination, reason=survey.export_refused.value)
        ended = msgspec.structs.replace(
            figures_of(record, run), stage=stage, stopped_by=stopped_by, ended_at=now_ms(), changed_until=run.changed_until
        )
        return ended, survey.read_by

    def _built(self, record: Reconciliation, chain: AuditChain, policy: Policy) -> tuple[BorderedSurvey, Run]:
        settings, section, name = self._process.settings, self._process.settings.reconcile, record.destination
        writer, profile, access = settings.writers[name], self._profiles[name], self._access[name]
        digest_key = settings.digest_key()
        builder = Builder(profile, digest_key)
        http = FhirHttp(writer.base_url, {"Accept": JSON_TYPE, **profile.headers}, access.credentials, now_ms, access.tls)
        timeout_s = section.request_timeout_s
        export = BulkExport(http, exported(profile), timeout_s) if profile.export and exported(profile) else None
        reads = Survey(http, builder, section.page_count, section.requests_at_once, timeout_s, export=export)
        survey = BorderedSurvey(reads, borders_of(settings), place_of(writer))
        orders = Orders(
            self._process.codec,
            chain,
            self._publisher.publish,
            lambda: self._may_go(name),
            section.repairs_per_s,
            now_ms,
            record,
        )
        ports = Ports(survey, lambda key: subject(key, digest_key), orders, lambda: self._may_go(name), now_ms)
        since, here = self._since(record)
        meant = Meant(
            since=since,
            here_since=here,
            settle_ms=round(section.settle_s * 1000),
            dry_run=record.dry_run,
            max_repairs=min(section.max_repairs, MAX_REPAIRED),
        )
        view = View(builder, adoptable(settings, policy, name))
        run = Run(ports, self._holdings, view, name, self._repairs, meant)

        async def noted() -> None:
            self._now = figures_of(record, run)
            await self._publisher.publish([record_of(self._process.codec, self._now)])

        run.noted = noted
        return survey, run

    def _since(self, record: Reconciliation) -> tuple[Millis | None, Millis]:
        """From when on is compared, by the destination's clock and by ours; None for everything."""
        if record.scope is Scope.FULL:
            return None, NEVER
        name = record.destination
        there, here = self._watch.ask(lambda schedule: (schedule.changed_until(name), schedule.begun_at(name)))
        settle_ms = round(self._process.settings.reconcile.settle_s * 1000)
        return Millis(max(0, there - OVERLAP_MS)), Millis(max(0, here - settle_ms - OVERLAP_MS))

    async def _snapshots(self, run: Run) -> None:
        section = self._process.settings.reconcile
        since = Millis(now_ms() - round(section.snapshots_s * 1000))
        until = Millis(now_ms() - round(section.settle_s * 1000))
        await asyncio.to_thread(compare_snapshots, run, self._topics, self._process.codec, since, until)

    async def _may_go(self, destination: str) -> bool:
        """Whether this process still leads and the mode lets it go on; waits a while where the mode doesn't."""
        ends_at = asyncio.get_running_loop().time() + MODE_WAIT_S
        while self._leader.leads and asyncio.get_running_loop().time() < ends_at:
            if self._watch.allows(destination, now_ms()):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def _tell(self, run: Reconciliation, stage: str, actor: str, read_by: str = "") -> None:
        """The run on its topic, and in the audit log, which says how the server was read as well.

        PublishFailed ends the process: the next one begins the run anew.
        """
        counts = {name: str(getattr(run, name)) for name in ("entities", "equal", "drifted", "repaired", "extra", "unread")}
        detail = {"run": run.run, "scope": run.scope.value, "stage": run.stage.value} | (counts if stage == "ended" else {})
        detail |= {"read_by": read_by} if read_by else {}
        entry = (await self._audit()).append(
            at=run.ended_at or run.begun_at,
            actor=actor,
            action=f"reconcile.{stage}",
            subject=run.destination,
            destination=run.destination,
            reason=run.stopped_by or run.cause.value,
            detail=detail,
        )
        await self._publisher.publish([entry, record_of(self._process.codec, run)])

    def _show(self, run: Reconciliation) -> None:
        name = run.destination
        self._last[name] = run
        emit(
            lines.RECONCILIATION_ENDED,
            destination=name,
            cause=run.cause.value,
            mode=run.scope.value,
            reason=run.stopped_by or run.stage.value,
            count=run.entities,
            duration_ms=float((run.ended_at or run.begun_at) - run.begun_at),
        )
        for found in run.findings:
            emit(
                lines.DRIFT_FOUND,
                destination=name,
                entity_type=found.entity_type.value,
                cause=found.rule.value,
                reason=found.kind.value,
                count=found.count,
            )
            if found.remedy is Remedy.ESCALATE:
                metrics.DRIFT_ESCALATED.of(name).inc(found.count)
        for each in run.drifts:
            if each.remedy is Remedy.ESCALATE:
                emit(
                    lines.DRIFT_ESCALATED,
                    destination=name,
                    entity_type=each.entity_type.value,
                    subject=each.subject,
                    cause=each.rule.value,
                )
        if run.stage is Stage.BROKEN_OFF:
            return
        for stood in ("equal", "waiting", "parked", "shadowed", "drifted", "unread"):
            metrics.RECONCILED.of(name, stood).set(getattr(run, stood))
        for kind in Drift:
            metrics.DRIFT_FOUND.of(name, kind.value).set(sum(each.count for each in run.findings if each.kind is kind))
        if run.stage is Stage.DONE:
            metrics.RECONCILED_AT.of(name, run.scope.value).set(run.begun_at / 1000)


def exported(profile: Profile) -> tuple[str, ...]:
    """Resource types that an export at the server's base has; one at a base of its own is read by pages."""
    found = {RESOURCE_TYPE[entity_type] for entity_type, resource in profile.resources.items() if not resource.base_path}
    return tuple(sorted(found - {RESOURCE_TYPE[each] for each, resource in profile.resources.items() if resource.base_path}))


def figures_of(record: Reconciliation, run: Run) -> Reconciliation:
    """The record with what was counted so far."""
    tally = run.tally
    return msgspec.structs.replace(
        record,
        entities=run.entities,
        equal=tally.settled[Settled.EQUAL],
        waiting=tally.settled[Settled.WAITING],
        parked=tally.settled[Settled.PARKED],
        shadowed=tally.settled[Settled.SHADOWED],
        drifted=tally.drifted,
        unread=tally.unread,
        resources=tally.resources,
        foreign=tally.foreign,
        extra=tally.extra,
        snapshots=run.snapshots,
        repaired=len(run.repaired),
        left=run.left,
        findings=tally.counts(),
        drifts=tally.drifts(),
        repairs=tuple(run.repaired),
    )


def shown(run: Reconciliation) -> dict[str, Any]:
    """A run's counts, for people."""
    named: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(run, drifts=(), repairs=(), report=None, signature=None))
    for name in ("drifts", "repairs", "report", "signature"):
        del named[name]
    return named


def adoptable(settings: Settings, policy: Policy, destination: str) -> dict[EntityType, frozenset[str]]:
    """Fields that the server's own system may say by the policy, where a feed brings its word, by entity type."""
    feeds = [name for name, destinations in feeds_at(settings).items() if destination in destinations]
    roles = {policy.role_of(settings.fhir.feeds[name].server) for name in feeds} - {None}
    return {
        entity_type: frozenset(
            field
            for field in PAYLOADS[entity_type].__struct_fields__
            if any(policy.rank(entity_type, field, role) is not None for role in roles if role)
        )
        for entity_type in EntityType
    }


def _signer(settings: Settings) -> Signer | None:
    section = settings.reconcile
    if section.sign_key_file is None:
        return None
    try:
        return Signer(section.sign_key_file, section.sign_key_id)
    except ValueError:
        remedy = "Write: openssl genpkey -algorithm ed25519 -out FILE"
        raise Refused([f"reconcile.sign_key_file: {section.sign_key_file} holds no private Ed25519 key. {remedy}"]) from None
