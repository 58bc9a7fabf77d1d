"""An incident is durable before anybody is told, told once at its begin and its end, and survives a restart between any two."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from pipeline import topology
from pipeline.domain.accounts.budgets import (
    MAX_TELLINGS,
    Count,
    Incident,
    IncidentKind,
    Verdict,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.record import ReconciliationOrder, Scope
from pipeline.domain.records import Audit
from pipeline.formats.avro import Codec, Record
from pipeline.kafka.producer import OutRecord
from pipeline.local.ports import free_port
from pipeline.ops.audit import AuditChain
from pipeline.ops.webhook import DELIVERY, SIGNATURE, Message, Told, Webhook, message_of, signature_of
from pipeline.roles.accounts.budgets import Incidents
from pipeline.roles.policies import load_budgets

CODEC: Final = Codec.shipped()
POLICY: Final = load_budgets()
T0: Final = Millis(1_700_000_000_000)
KEY: Final = b"k" * 32


class Log:
    """What was published, in order."""

    def __init__(self) -> None:
        self.records: list[OutRecord] = []

    async def publish(self, records: list[OutRecord], /) -> None:
        self.records += records

    def all(self) -> list[Record]:
        return [CODEC.decode(each.value) for each in self.records]

    def incidents(self) -> list[Incident]:
        newest = {each.incident_id: each for each in self.all() if isinstance(each, Incident)}
        return list(newest.values())

    def actions(self) -> list[str]:
        return [each.action for each in self.all() if isinstance(each, Audit)]


class Receiver:
    """Who is told; answers as it is set."""

    def __init__(self, answer: Told = Told.TAKEN) -> None:
        self.answer = answer
        self.heard: list[str] = []

    async def tell(self, message: Message, now: Millis, /) -> Told:
        self.heard.append(message.delivery)
        return self.answer


def started(log: Log, receiver: Receiver | None) -> Incidents:
    """A process that takes up what lies on the topic."""
    entries = [each for each in log.all() if isinstance(each, Audit)]
    chain = AuditChain("budgets/0", CODEC, entries[-1] if entries else None, 0)
    incidents = Incidents(POLICY, CODEC, log, chain, receiver, ["ehr"])
    for incident in log.incidents():
        incidents.take_up(incident)
    return incidents


def verdict(*kinds: IncidentKind, objective: str = "critical") -> Verdict:
    return Verdict(objective, Count(100, 50), 2.0, {3600: 20.0}, frozenset(kinds), frozenset(kinds))


BURNING: Final = {"ehr": [verdict(IncidentKind.BURNING_FAST)]}
CALM: Final = {"ehr": [verdict()]}


def test_begin_and_end_are_durable_audited_and_told_once_each() -> None:
    async def run() -> None:
        log, receiver = Log(), Receiver()
        incidents = started(log, receiver)
        for second in range(30):
            await incidents.judge(BURNING, Millis(T0 + second * 1000))
            await incidents.tell(Millis(T0 + second * 1000))
        for second in range(30, 2 * POLICY.calm_s):
            await incidents.judge(CALM, Millis(T0 + second * 1000))
            await incidents.tell(Millis(T0 + second * 1000))
        assert [each.rpartition("-")[2] for each in receiver.heard] == ["begin", "end"]
        assert log.actions() == ["incident.opened", "incident.closed"]
        assert incidents.open == ()

    asyncio.run(run())


def test_an_incident_orders_a_reconciliation_in_the_same_publication() -> None:
    log = Log()
    asyncio.run(started(log, Receiver()).judge(BURNING, T0))
    assert [each.topic for each in log.records] == [topology.AUDIT, topology.BUDGETS, topology.RECONCILIATIONS]
    (order,) = [each for each in log.all() if isinstance(each, ReconciliationOrder)]
    assert (order.destination, order.scope, order.dry_run) == ("ehr", Scope.INCREMENTAL, False)
    exhausted = Log()
    asyncio.run(started(exhausted, None).judge({"ehr": [verdict(IncidentKind.EXHAUSTED)]}, T0))
    assert [each.scope for each in exhausted.all() if isinstance(each, ReconciliationOrder)] == [Scope.FULL]
    other = Log()
    asyncio.run(started(other, None).judge({"lab": [verdict(IncidentKind.EXHAUSTED)]}, T0))
    assert [each for each in other.all() if isinstance(each, ReconciliationOrder)] == []


def test_a_restart_between_any_two_steps_neither_repeats_an_incident_nor_forgets_to_tell() -> None:
    async def run(cut_after: int) -> None:
        log, receiver = Log(), Receiver()
        steps: list[Callable[[Incidents, Millis], object]] = [
            lambda process, now: process.judge(BURNING, now),
            lambda process, now: process.tell(now),
            lambda process, now: process.judge(BURNING, now),
            lambda process, now: process.judge(CALM, now),
            lambda process, now: process.judge(CALM, Millis(now + POLICY.calm_s * 1000)),
            lambda process, now: process.tell(Millis(now + POLICY.calm_s * 1000)),
        ]
        process = started(log, receiver)
        for number, step in enumerate(steps):
            await step(process, Millis(T0 + number * 1000))  # type: ignore[misc]
            if number == cut_after:
                process = started(log, receiver)
        for late in range(3):
            now = Millis(T0 + (late + 2) * POLICY.calm_s * 1000)
            await process.judge(CALM, now)
            await process.tell(now)
        assert [each.rpartition("-")[2] for each in receiver.heard] == ["begin", "end"], cut_after
        assert log.actions() == ["incident.opened", "incident.closed"], cut_after
        entries = [each for each in log.all() if isinstance(each, Audit)]
        assert [each.sequence for each in entries] == [1, 2]

    for cut_after in range(6):
        asyncio.run(run(cut_after))


def test_who_does_not_answer_is_asked_a_bounded_number_of_times_and_that_is_audited() -> None:
    async def run() -> None:
        log, receiver = Log(), Receiver(Told.NO_ANSWER)
        incidents = started(log, receiver)
        await incidents.judge(BURNING, T0)
        for minute in range(3 * 60):
            await incidents.tell(Millis(T0 + minute * 60_000))
        assert len(receiver.heard) == MAX_TELLINGS
        assert len(set(receiver.heard)) == 1
        assert log.actions() == ["incident.opened", "incident.untold.start"]
        (incident,) = log.incidents()
        assert incident.start.done

    asyncio.run(run())


def test_an_incident_that_ends_while_its_begin_is_being_told_stays_ended() -> None:
    async def run() -> None:
        log = Log()

        class Slow(Receiver):
            async def tell(self, message: Message, now: Millis, /) -> Told:
                told = await super().tell(message, now)
                if len(self.heard) == 1:
                    await incidents.judge(CALM, T0)
                    await incidents.judge(CALM, Millis(T0 + POLICY.calm_s * 1000))
                return told

        receiver = Slow()
        incidents = started(log, receiver)
        await incidents.judge(BURNING, T0)
        await incidents.tell(T0)
        assert incidents.open == ()
        await incidents.tell(Millis(T0 + 1_000))
        assert [each.rpartition("-")[2] for each in receiver.heard] == ["begin", "end"]
        (incident,) = log.incidents()
        assert incident.closed_at is not None
        assert incident.start.done
        assert incident.end.done

    asyncio.run(run())


def test_nobody_to_tell_leaves_nothing_waiting() -> None:
    log = Log()
    asyncio.run(started(log, None).judge(BURNING, T0))
    (incident,) = log.incidents()
    assert incident.start.done
    assert incident.end.done


@asynccontextmanager
async def listening(handle: Callable[[web.Request], object]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/hook", handle)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/hook"
    finally:
        await runner.cleanup()


def incident() -> Incident:
    return Incident(
        incident_id="1" * 32,
        destination="ehr",
        kind=IncidentKind.BURNING_FAST,
        opened_at=T0,
        objectives=("critical",),
        figures={"critical_used": 0.2},
    )


def test_a_message_is_signed_names_its_delivery_and_follows_no_redirect(tmp_path: Path) -> None:
    key_file = tmp_path / "hook.key"
    key_file.write_bytes(KEY + b"\n")
    seen: list[tuple[str, str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((request.headers[SIGNATURE], request.headers[DELIVERY], await request.read()))
        return web.Response(status=204)

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/other"})

    async def run() -> list[Told]:
        async with listening(take) as url, listening(elsewhere) as away:
            told = [await Webhook(each, key_file, 5.0).tell(message_of(incident()), T0) for each in (url, away)]
        return [*told, await Webhook(url, key_file, 5.0).tell(message_of(incident()), T0)]

    assert asyncio.run(run()) == [Told.TAKEN, Told.REFUSED, Told.NO_ANSWER]
    ((signature, delivery, body),) = seen
    expected = hmac.new(KEY, f"{T0 // 1000}.".encode() + body, hashlib.sha256).hexdigest()
    assert signature == f"t={T0 // 1000},v1={expected}" == signature_of(KEY, body, T0)
    assert delivery == f"{'1' * 32}-begin"
    assert msgspec.json.decode(body)["stage"] == "begin"
