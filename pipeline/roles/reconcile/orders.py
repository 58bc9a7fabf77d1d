"""Repairs that go out, what an operator orders, and the signed report: what reconciliation writes to topics."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id
from pipeline.domain.reconcile.record import Reconciliation, ReconciliationOrder, Scope
from pipeline.domain.records import Control, ControlKind
from pipeline.formats.avro import Codec
from pipeline.formats.manifest import sign
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.kafka.producer import OutRecord
from pipeline.ops.audit import AuditChain
from pipeline.roles.operator_log import operator_chain, publish_at_once
from pipeline.roles.reconcile.run import Repair
from pipeline.settings.model import Settings

ACTOR: Final = "reconcile"
PORTIONS_PER_S: Final = 10
"""Repairs go out in so many portions a second, so that they can be stopped between any two."""


class Orders:
    """Publishes repairs: for each the order to its gate, with the audit entry, at a rate below that of live changes."""

    def __init__(
        self,
        codec: Codec,
        chain: AuditChain,
        publish: Callable[[Sequence[OutRecord]], Awaitable[object]],
        may_go: Callable[[], Awaitable[bool]],
        per_s: float,
        clock: Callable[[], Millis],
        run: Reconciliation,
    ) -> None:
        self._codec = codec
        self._chain = chain
        self._publish = publish
        self._may_go = may_go
        self._per_s = per_s
        self._clock = clock
        self._run = run

    async def __call__(self, repairs: Sequence[Repair]) -> int:
        """How many went out; fewer where the mode came to forbid it. PublishFailed: none of the last portion is known to have."""
        portion, done = max(1, int(self._per_s / PORTIONS_PER_S)), 0
        loop = asyncio.get_running_loop()
        while done < len(repairs) and await self._may_go():
            due = loop.time() + portion / self._per_s
            part = repairs[done : done + portion]
            await self._publish([record for repair in part for record in self._records(repair)])
            done += len(part)
            await asyncio.sleep(max(0.0, due - loop.time()))
        return done

    def _records(self, repair: Repair) -> tuple[OutRecord, OutRecord]:
        order = reassertion(repair, self._run.run, self._clock())
        topic = topology.LANDING[EntityType(EntityKey.decode(repair.key).entity_type)]
        entry = self._chain.append(
            at=order.at,
            actor=ACTOR,
            action="reconcile.reassert",
            subject=repair.subject,
            destination=self._run.destination,
            revision=repair.finding.revision,
            event_id=order.event_id,
            reason=repair.finding.rule.value,
            detail={"run": self._run.run, "kind": repair.finding.kind.value},
        )
        return OutRecord(topic, repair.key, self._codec.encode(order)), entry


def reassertion(repair: Repair, run: str, at: Millis) -> Control:
    """The order to send an entity's state again, unless its head has moved. Of one run the same entity has the same one."""
    key = EntityKey.decode(repair.key)
    return Control(
        kind=ControlKind.REASSERT,
        event_id=derive_event_id(key.tenant, "surgeline-reconcile", (str(repair.finding.revision), run), key, 0),
        actor=ACTOR,
        reason=repair.finding.rule.value,
        at=at,
        seen_revision=repair.finding.revision,
        seen_etag=repair.seen_etag,
    )


def record_of(codec: Codec, run: Reconciliation) -> OutRecord:
    """A run's record on its topic: the newest of a run stays."""
    return OutRecord(topology.RECONCILIATIONS, f"run|{run.run}".encode(), codec.encode(run))


def order_run(
    settings: Settings, codec: Codec, destination: str, scope: Scope, dry_run: bool, actor: str, reason: str, at: Millis
) -> ReconciliationOrder:
    """Publish an operator's order with its audit entry; returns when both are acknowledged. KafkaUnavailable."""
    name = hashlib.blake2b(f"{destination}|{actor}|{at}".encode(), digest_size=4).hexdigest()
    order = ReconciliationOrder(
        order=f"{at}-{destination}-{name}",
        destination=destination,
        scope=scope,
        dry_run=dry_run,
        actor=actor,
        reason=reason,
        at=at,
    )
    entry = operator_chain(settings, codec, actor).append(
        at=at,
        actor=actor,
        action="reconcile.order",
        subject=destination,
        destination=destination,
        reason=reason,
        detail={"order": order.order, "scope": scope.value, "dry_run": str(dry_run).lower()},
    )
    key = f"order|{order.order}".encode()
    publish_at_once(settings, [OutRecord(topology.RECONCILIATIONS, key, codec.encode(order)), entry])
    return order


# -- the signed report


class Signer:
    """Signs the reports of full runs by an Ed25519 key. ValueError where the file holds none."""

    def __init__(self, path: Path, key_id: str) -> None:
        try:
            self._key = OKPKey.import_key(path.read_bytes())
        except (JoseError, OSError, ValueError, TypeError, AttributeError):
            raise ValueError("no Ed25519 key") from None
        if self._key.curve_name != "Ed25519" or not self._key.is_private:
            raise ValueError("no private Ed25519 key")
        self._key_id = key_id

    def signed(self, run: Reconciliation) -> Reconciliation:
        """The run with its report and the detached signature over it (RFC 7515, appendix F)."""
        report = report_of(run)
        return msgspec.structs.replace(run, report=report, signature=sign(report, self._key, self._key_id).decode().strip())


def report_of(run: Reconciliation) -> bytes:
    """What a report says: the run's counts, times and findings, JSON with times by RFC 3339. No entity is named in it."""
    named = msgspec.to_builtins(msgspec.structs.replace(run, report=None, signature=None))
    for absent in ("report", "signature"):
        del named[absent]
    named["balances"] = run.balances
    for name in ("begun_at", "ended_at", "changed_until"):
        named[name] = rfc3339_of(Millis(named[name])) if named[name] else None
    return msgspec.json.format(msgspec.json.encode(named), indent=2) + b"\n"
