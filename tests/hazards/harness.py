"""What every hazard is tried with: one pipeline under its own topic prefix, a sender with its own log, and the checks.

A test sends, harms, and then asks for `settle`: everything that was acknowledged has a verdict, every revision has an
end, and the history at each EHR rises strictly and ends at the head.
"""

import itertools
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from pipeline.domain.accounts.books import Books
from pipeline.domain.accounts.deliveries import rising
from pipeline.domain.event import Bed, EntityType, Environment, Event, EventType, sealed
from pipeline.domain.identifiers import EntityKey, Millis, Revision, derive_event_id, partition_of
from pipeline.domain.records import Accepted, Decision, Outcome, OutcomeKind
from pipeline.formats.avro import Codec, Record
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.reader import read_topic
from pipeline.local.child import Child
from pipeline.local.ports import HOST, free_port
from pipeline.local.stack import Stack, Target, wait_for
from pipeline.ops.audit import read_entries, verify_all
from pipeline.ops.books import Asked
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.accounts.books import close_books
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import ACCEPTED, DECISIONS, ENTITY_PARTITIONS, LANDING, OUTCOMES
from tests.hazards import faulty
from tests.hazards.at_ehr import NAMESPACE, ask, history, revisions_of
from tests.hazards.faulty import Strike
from tests.support.stacks import apply_topics, remove_topics

SHORT: Final = os.environ.get("SURGELINE_HAZARDS", "full") == "short"
SESSION_S: Final = 6.0 if SHORT else 8.0
ANSWER_S: Final = 120.0
"""Bound of every wait for something that takes a second or two on an idle machine."""

OWNER: Final = "owner"
CODEC: Final = Codec.shipped()
STATES: Final = (Environment.DIRTY, Environment.CLEANING, Environment.CLEAN, Environment.CONTAMINATED)
_NUMBERS: Final = itertools.count(1)


def now_ms() -> Millis:
    return Millis(time.time_ns() // 1_000_000)


@dataclass
class Site:
    """One pipeline. Its tenant is its own, so that tests share EHRs; thread-safe where roles are started and killed."""

    stack: Stack
    tenant: str
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    """The sender's log: event id and key of what the broker has acknowledged."""
    exits: list[tuple[str, int | None]] = field(default_factory=list)
    hands: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held by whoever starts or ends roles."""

    # -- roles

    def start(
        self,
        role: str,
        *arguments: str,
        instance: str = "0",
        with_faults: bool = False,
        unfenced: bool = False,
        wait: bool = True,
    ) -> str:
        """Start a role, anew if it ran before; its name."""
        name = "-".join((role, *arguments, instance))
        environment = self._instance_of(role, arguments, instance)
        if with_faults:
            port = self.stack.health_ports.setdefault(name, free_port())
            environment |= {"SURGELINE_HEALTH__BASE_PORT": str(port), faulty.FILE: str(self.faults(name))}
            environment |= {faulty.UNFENCED: "1"} if unfenced else {}
        with self.hands:
            self.stack.roles.pop(name, None)
            if with_faults:
                self.stack.roles[name] = self._faulty(name, ["run", role, *arguments], environment)
                self.stack.roles[name].start()
            else:
                self.stack.start(role, *arguments, instance=instance, environment=environment)
        if wait:
            self.stack.wait_ready(name, timeout_s=ANSWER_S)
        return name

    def start_all(self, *roles: Sequence[str]) -> list[str]:
        """Start these side by side, each a role and its arguments, and wait until all are ready; their names."""
        names = [self.start(*role, wait=False) for role in roles]
        self.stack.wait_ready(*names, timeout_s=ANSWER_S)
        return names

    def _instance_of(self, role: str, arguments: Sequence[str], instance: str) -> dict[str, str]:
        if role not in ("gate", "writer"):
            return {}
        section = "SURGELINE_GATE" if role == "gate" else f"SURGELINE_WRITERS__{arguments[0].upper()}"
        return {f"{section}__INSTANCE": instance, f"{section}__DATA_DIR": str(self.disk("-".join((role, *arguments, instance))))}

    def _faulty(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> Child:
        folder = self.stack.folder
        whole = {**os.environ, "SURGELINE_CONFIG": str(self.stack.settings_file), **environment}
        return Child(name, [sys.executable, faulty.__file__, *arguments], folder, folder / f"{name}.log", whole)

    def disk(self, name: str) -> Path:
        """Folder of a worker's table."""
        return self.stack.folder / "data" / name

    def wipe(self, name: str) -> None:
        """What a worker that comes back on another machine has: nothing."""
        shutil.rmtree(self.disk(name), ignore_errors=True)

    def kill(self, name: str) -> None:
        """kill -9."""
        with self.hands:
            self.stack.kill(name)

    def terminate(self, name: str) -> None:
        """SIGTERM; does not wait."""
        self.signal(name, signal.SIGTERM)

    def stop(self, name: str) -> None:
        """SIGTERM, and wait."""
        self.terminate(name)
        self.exit_code(name)

    def is_ready(self, name: str) -> bool:
        return self.stack.is_ready(name)

    def share(self, instance: str) -> set[int]:
        """Partitions that a writer of the owner says are its own, by its last report; empty where it says nothing."""
        port = self.stack.health_ports.get(f"writer-{OWNER}-{instance}")
        try:
            told = ask(f"http://{HOST}:{port}/status")
        except OSError:
            return set()
        return set(told.get("partitions", ())) if isinstance(told, dict) else set()

    def signal(self, name: str, number: signal.Signals) -> None:
        if number is signal.SIGCONT:
            faulty.resumed(self.faults(name)).touch()
        os.kill(self.stack.roles[name].pid, number)

    def ended(self, name: str) -> bool:
        return not self.stack.roles[name].running

    def exit_code(self, name: str, timeout_s: float = ANSWER_S) -> int | None:
        """Wait for the end of a role; its code, negative for a signal."""
        process = self.stack.roles[name]._process
        assert process is not None
        return process.wait(timeout_s)

    @contextmanager
    def supervised(self, *names: str) -> Iterator[None]:
        """As a supervisor would: what ends is started again."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.2):
                for name in names:
                    with self.hands:
                        child = self.stack.roles[name]
                        if not child.running and not stop.is_set():
                            self.exits.append((name, child._process.returncode if child._process else None))
                            child.start()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # -- faults

    def faults(self, name: str) -> Path:
        """File that arms a role's faults."""
        return self.stack.folder / f"{name}.faults"

    def arm(self, name: str, *strikes: Strike) -> None:
        """From now on these faults strike, in this order, each once."""
        file = self.faults(name)
        for left in (file.with_name(f"{file.name}.struck"), faulty.resumed(file)):
            left.unlink(missing_ok=True)
        new = file.with_name(f"{file.name}.armed")
        new.write_bytes(msgspec.json.encode(list(strikes)))
        new.rename(file)

    def wait_struck(self, name: str, count: int = 1) -> None:
        file = self.faults(name)
        struck = file.with_name(f"{file.name}.struck")
        wait_for(lambda: struck.exists() and len(struck.read_text().split()) >= count, ANSWER_S, f"the fault in {name}")

    # -- the sender

    def bed(self, bed: str, environment: Environment, *, at: int | None = None, number: int | None = None, **more: Any) -> Event:
        """An event about a bed. Equal numbers make equal ids; `more` are further fields of the bed."""
        key = EntityKey(self.tenant, "bed", NAMESPACE, bed)
        number = next(_NUMBERS) if number is None else number
        now = now_ms()
        return sealed(
            Event(
                event_id=derive_event_id(self.tenant, "hazards", (str(number),), key, 0),
                tenant=self.tenant,
                facility=NAMESPACE,
                source_system="capacity",
                feed="hazards",
                entity_type=EntityType.BED,
                namespace=NAMESPACE,
                entity_id=bed,
                event_type=EventType.UPDATE,
                recorded_at=Millis(now if at is None else at),
                received_at=now,
                payload=Bed(environment=environment, **more),
            )
        )

    def key(self, bed: str) -> bytes:
        return EntityKey(self.tenant, "bed", NAMESPACE, bed).encode()

    def publish(self, *events: Event) -> list[Revision]:
        """Append events to landing, in order; wait for the broker, and note what it acknowledged."""
        sent = self.append([(LANDING[e.entity_type], e.key.encode(), CODEC.encode(e)) for e in events])
        self.acknowledged |= {event.event_id: event.key.encode() for event in events}
        return sent

    def append(self, records: Iterable[tuple[str, bytes | None, bytes | None]]) -> list[Revision]:
        """Append raw records (topic, key, value); the offsets, in order. Returns when all are acknowledged."""
        producer = Producer(dict(self.kafka.producer_config()))
        offsets: list[int | None] = []
        failed: list[int | None] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            (failed if error else offsets).append(message.offset())

        for topic, key, value in records:
            partition = partition_of(key, ENTITY_PARTITIONS) if key is not None else 0
            producer.produce(self.kafka.topic_prefix + topic, value, key, partition, on_delivery=delivered)
        assert producer.flush(ANSWER_S) == 0
        assert not failed
        return [Revision(offset or 0) for offset in offsets]

    # -- looking

    @property
    def kafka(self) -> KafkaSettings:
        return self.stack.settings.kafka

    def records(self, topic: str) -> list[tuple[bytes | None, Record]]:
        """Everything on a topic, decoded, with its key."""
        return [(m.key, CODEC.decode(m.value)) for m in read_topic(self.kafka, topic) if m.value is not None]

    def accepted(self) -> list[Accepted]:
        return [record for _, record in self.records(ACCEPTED) if isinstance(record, Accepted)]

    def decisions(self) -> list[Decision]:
        return [record for _, record in self.records(DECISIONS) if isinstance(record, Decision)]

    def outcomes(self) -> list[Outcome]:
        return [record for _, record in self.records(OUTCOMES) if isinstance(record, Outcome)]

    def heads(self) -> dict[bytes, Accepted]:
        """Newest accepted revision of each entity."""
        newest: dict[bytes, Accepted] = {}
        for record in self.accepted():
            key = EntityKey(record.tenant, record.entity_type.value, record.namespace, record.entity_id).encode()
            if key not in newest or newest[key].revision < record.revision:
                newest[key] = record
        return newest

    def wait_confirmed(self, accepted: Accepted, destination: str = OWNER) -> None:
        wait_for(lambda: self.is_confirmed(accepted, destination), ANSWER_S, "a confirmation", 0.3)

    def is_confirmed(self, accepted: Accepted, destination: str = OWNER) -> bool:
        """Whether exactly this revision is; the same number may be another entity's in another partition."""
        wanted = (accepted.entity_id, accepted.revision, destination, OutcomeKind.CONFIRMED)
        return any((o.entity_id, o.revision, o.destination, o.kind) == wanted for o in self.outcomes())

    def wait_judged(self, *event_ids: str) -> None:
        """Until the gate has said what it makes of these."""
        wait_for(lambda: set(event_ids) <= self.judged(), ANSWER_S, "a verdict", 0.3)

    def judged(self) -> set[str]:
        return {a.event_id for a in self.accepted()} | {d.event_id for d in self.decisions() if d.event_id}

    def wait_head(self, bed: str, event_id: str | None = None, previous: int = 0) -> Accepted:
        """The bed's newest revision, once it is that of `event_id`, or once there are `previous` before it."""
        found: list[Accepted] = []

        def has_come() -> bool:
            found[:] = [a for a in self.accepted() if a.entity_id == bed]
            return len(found) > previous and (event_id is None or any(a.event_id == event_id for a in found))

        until(has_come, "an accepted revision")
        return max((a for a in found if event_id in (None, a.event_id)), key=lambda a: a.revision)

    def versions(self, bed: str, base_url: str | None = None) -> list[dict[str, Any]]:
        """All versions of a bed at the EHR, oldest first."""
        return history(base_url or self.ehr_url, self.tenant, bed)

    @property
    def ehr_url(self) -> str:
        return self.stack.targets[0].base_url

    # -- the verdict

    def settle(self, *, ehrs: Mapping[str, str] | None = None, forks: bool = False) -> Books:
        """Everything came to its end, and nothing was lost, doubled or taken back. `ehrs`: real address by destination."""
        books, asked = close_books(self.stack.settings, gate_s=ANSWER_S, open_s=ANSWER_S)
        self._check_books(books, asked)
        self._check_events()
        for name, url in (ehrs or {target.name: target.base_url for target in self.stack.targets}).items():
            self._check_histories(name, url)
        if not forks:
            verified = verify_all(read_entries(KafkaTopics(self.kafka), CODEC))
            assert verified.whole, [(f.chain, f.sequence, f.fault) for f in verified.findings][:5]
        return books

    def _check_books(self, books: Books, asked: list[Asked]) -> None:
        told = [(p.trouble.value, p.topic, p.partition, p.offset, p.destination, p.detail) for p in books.problems]
        assert books.balanced, told[:10]
        assert books.complete, (books.open, books.waiting, [d.open_items[:3] for d in books.destinations])
        for look in asked:
            assert (look.different, look.unanswered) == (0, 0), (look.destination, look.different, look.unanswered)

    def _check_events(self) -> None:
        """In = out by event id; and no id took effect at two positions."""
        accepted = {(a.event_id, a.revision, a.partition) for a in self.accepted()}
        ids = {event_id for event_id, _, _ in accepted} | {d.event_id for d in self.decisions()}
        lost = set(self.acknowledged) - ids
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} acknowledged events have no verdict"
        twice = [event_id for event_id, count in Counter(event_id for event_id, _, _ in accepted).items() if count > 1]
        assert not twice, f"{len(twice)} events took effect twice"

    def _check_histories(self, destination: str, url: str) -> None:
        confirmed = {o.revision for o in self.outcomes() if o.destination == destination}
        for head in self.heads().values():
            if head.entity_type is not EntityType.BED or not confirmed:
                continue
            revisions = revisions_of(history(url, head.tenant, head.entity_id))
            assert not rising(revisions), (destination, revisions)
            assert revisions, "the bed is not at the EHR"
            assert revisions[-1] == head.revision


# -- making a site


@contextmanager
def site(folder: Path, bootstrap: str, targets: Mapping[str, str], **overrides: Any) -> Iterator[Site]:
    """A pipeline with its topics made, nothing started; everything is killed at the end."""
    number = f"{time.time_ns():x}"
    parts = tuple(Target(name, "owner" if name == OWNER else "replica", _profile(name), url) for name, url in targets.items())
    worker = {"session_timeout_s": SESSION_S, "heartbeat_s": 1.5, **overrides.pop("worker", {})}
    stack = Stack(folder, bootstrap, parts, prefix=f"h{number}.", overrides={"worker": worker, **overrides})
    stack.write_settings()
    until(lambda: _applied(stack), "the topics")
    made = Site(stack, f"h{number}")
    try:
        yield made
    finally:
        for name in stack.roles:
            made.kill(name)
        remove_topics(stack)


def _applied(stack: Stack) -> bool:
    """Just after its start, and on a busy machine, a broker has topics without a leader."""
    try:
        apply_topics(stack)
    except KafkaUnavailable:
        return False
    return True


def _profile(name: str) -> str:
    return "sekmet-owner" if name == OWNER else "sekmet-replica"


def until(condition: Callable[[], bool], what: str, timeout_s: float = ANSWER_S) -> None:
    """`wait_for` with a poll that does not load the broker."""
    wait_for(condition, timeout_s, what, 0.3)
