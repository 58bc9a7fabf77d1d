"""`surgeline run files-out`: files that partners get, each made once and waited for until it is acknowledged."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from pipeline import topology
from pipeline.carriers.places import carrier_of
from pipeline.carriers.protocol import BadPlace, Carrier, Unreachable
from pipeline.destinations.files.crypto import BadRecipients
from pipeline.destinations.files.outgoing import NotKept, OutDesk, Spool
from pipeline.domain.files.outgoing import FileOutState, OutStatus, Patience
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.producer import OutRecord, PublishFailed
from pipeline.kafka.projections import outlived
from pipeline.kafka.reader import read_topic
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import emit
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.downtime.state import Standing
from pipeline.roles.files.made import Maker, Unmakable, signing_key
from pipeline.roles.policies import load_policy
from pipeline.roles.process import Process, Refused, now_ms, or_die
from pipeline.roles.publishing import WatchedPublisher
from pipeline.settings.sections.files import FileReceiver

KEEP_S: Final = 60.0
"""Longest time for one record of the ledger; after it the round is done again."""


class Ledger:
    """The part of the topic `files.out` that is about one receiver, with an audit entry for each decision.

    `keep` is called from threads that may wait; it publishes on the loop's.
    """

    def __init__(self, process: Process, receiver: str, publisher: WatchedPublisher, notes: "Notes") -> None:
        self._process = process
        self._receiver = receiver
        self._publisher = publisher
        self._notes = notes
        self._loop = asyncio.get_running_loop()
        self._files: dict[str, FileOutState] = {}

    def load(self) -> None:
        """Read to its end: another process may have served this receiver a moment ago. KafkaUnavailable."""
        found: dict[str, FileOutState] = {}
        for message in read_topic(self._process.settings.kafka, topology.FILES_OUT):
            record = decoded(self._process.codec, message) if message.value is not None else None
            if isinstance(record, FileOutState) and record.receiver == self._receiver:
                found[record.file_id] = record
        self._files = found

    def files(self) -> list[FileOutState]:
        """See `pipeline.destinations.files.outgoing.Ledger`."""
        return list(self._files.values())

    def keep(self, state: FileOutState) -> None:
        """See `pipeline.destinations.files.outgoing.Ledger`."""
        done = asyncio.run_coroutine_threadsafe(self._keep(state), self._loop)
        try:
            done.result(KEEP_S)
        except (PublishFailed, TimeoutError):
            raise NotKept from None
        before = self._files.get(state.file_id)
        self._files[state.file_id] = state
        _tell(before, state)

    async def _keep(self, state: FileOutState) -> None:
        key = f"{state.tenant}|{state.receiver}|{state.file_id}".encode()
        await self._publisher.publish([OutRecord(topology.FILES_OUT, key, self._process.codec.encode(state))])
        await or_die(self._notes.note(state))


class Notes:
    """This process's audit chain. An entry that can't be published ends the process: a chain has no hole."""

    def __init__(self, process: Process, publisher: WatchedPublisher) -> None:
        actor = f"files-out/{process.instance}"
        self._chain = AuditChain.continued(KafkaTopics(process.settings.kafka), process.codec, process.codec, actor)
        self._publisher = publisher
        self._turn = asyncio.Lock()

    async def note(self, state: FileOutState) -> None:
        """Say what was decided of a file."""
        async with self._turn:
            entry = self._chain.append(
                at=now_ms(),
                actor=self._chain.chain,
                action=f"file_out.{state.status.value.lower()}",
                subject=state.file_id,
                destination=state.receiver,
                reason=state.why.value,
                detail={
                    "kind": state.kind.value,
                    "sha256": state.sha256,
                    "records": str(state.records),
                    "sends": str(state.sends),
                },
            )
            await self._publisher.publish([entry])


class Receiver:
    """One receiver with its desk, served while its place is held. `turn` blocks."""

    def __init__(self, process: Process, name: str, section: FileReceiver, ledger: Ledger, maker: Maker) -> None:
        settings = process.settings
        self.name = name
        self._carrier: Carrier = carrier_of(section, f"files-out/{process.instance}")
        self._ledger = ledger
        self._maker = maker
        spool = Spool(settings.files_out.data_dir / name)
        patience = Patience(round(section.patience_s * 1000), section.max_sends)
        self._desk = OutDesk(self._carrier, spool, ledger, patience, now_ms, process.instance)
        self._held = False
        self._trouble = ""
        self.counts: Counter[OutStatus] = Counter()

    def turn(self) -> None:
        """One look: take the place, make what is due, go on with what is open. What fails is told, and done again later."""
        try:
            if not self._carrier.hold():
                self._held = False
                return
            if not self._held:
                self._ledger.load()
                self._desk.begin()
                self._held = True
            unmade = self._make()
            self._desk.round()
            if unmade is None:
                self._trouble = ""
            else:
                self._failed(unmade)
        except Unreachable as error:
            self._failed(error.reason)
        except (NotKept, KafkaUnavailable):
            self._held = False  # what the ledger holds is not known any more
            self._failed("LEDGER")
        except OSError:
            self._failed("NOT_WRITABLE")
        self.counts = Counter(state.status for state in self._ledger.files())

    def _make(self) -> str | None:
        """Make what is due; why the rest of it can't be made now. What is open goes on all the same."""
        try:
            for made in self._maker.due(self._ledger.files()):
                self._desk.add(made)
        except Unmakable as error:
            return error.reason
        except BadRecipients:
            return "BAD_RECIPIENTS"
        return None

    def close(self) -> None:
        """Let another process serve it."""
        self._carrier.let_go()

    @property
    def is_served(self) -> bool:
        """Whether this process serves it."""
        return self._held

    def _failed(self, reason: str) -> None:
        """Counted each time, told once for each reason until a round goes well."""
        metrics.FILES_OUT_FAILED.of(self.name).inc()
        if reason != self._trouble:
            emit(lines.FILE_OUT_FAILED, destination=self.name, reason=reason)
        self._trouble = reason


class FilesOutRole:
    """The way out of managed files."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        problems = [problem for name, each in settings.files_out.receivers.items() for problem in _problems(name, each)]
        if problems:
            raise Refused(problems)
        self._poll_s = settings.files_out.poll_s
        self._standing = Standing(settings.kafka)
        self._publisher = WatchedPublisher(settings.kafka)
        notes = Notes(process, self._publisher)
        policy = load_policy()
        self._lock = threading.Lock()
        self._receivers = []
        for name, section in settings.files_out.receivers.items():
            maker = Maker(settings, name, section, self._standing, policy, process.codec)
            try:
                receiver = Receiver(process, name, section, Ledger(process, name, self._publisher, notes), maker)
            except BadPlace as error:
                raise Refused([f"files_out.receivers.{name}.{error}"]) from None
            self._receivers.append(receiver)
            self._watch(receiver)

    def _watch(self, receiver: Receiver) -> None:
        metrics.FILES_OUT_SERVED.of(receiver.name).set_function(lambda: receiver.is_served)
        for status in OutStatus:
            metrics.FILES_OUT.of(receiver.name, status.value).set_function(partial(_count, receiver, status))

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once the state of all beds was read. Another instance may serve the receivers."""
        return {"state": lambda: self._standing.is_whole}

    def status(self) -> Any:
        """Where the files of each receiver stand."""
        return {
            "as_of": self._standing.as_of,
            "serving": sorted(each.name for each in self._receivers if each.is_served),
            "files": {each.name: {status.value: count for status, count in each.counts.items()} for each in self._receivers},
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`; the turn in hand is finished."""
        watching = asyncio.create_task(or_die(outlived(self._publisher)))
        following = asyncio.create_task(or_die(self._standing.run(stop)))
        await asyncio.gather(*(self._serve(each, stop) for each in self._receivers))
        await following
        watching.cancel()
        await self._publisher.close(2.0)

    async def _serve(self, receiver: Receiver, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await or_die(_in_thread(receiver.turn))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._poll_s)
        await asyncio.to_thread(receiver.close)


async def _in_thread(work: Callable[[], None]) -> None:
    await asyncio.to_thread(work)


def _problems(name: str, section: FileReceiver) -> list[str]:
    if signing_key(section.key_file) is None:
        return [f"files_out.receivers.{name}.key_file: no Ed25519 private key in PEM. Write: openssl genpkey -algorithm ed25519"]
    return []


def _count(receiver: Receiver, status: OutStatus) -> float:
    return float(receiver.counts[status])


def _tell(before: FileOutState | None, state: FileOutState) -> None:
    """A line for what was sent or settled, and a louder one for what somebody has to look after."""
    if before is not None and (before.status, before.why, before.sends) == (state.status, state.why, state.sends):
        return
    if state.status in (OutStatus.OVERDUE, OutStatus.REFUSED, OutStatus.LOST):
        emit(
            lines.FILE_OUT_LATE, destination=state.receiver, file=state.file_id, cause=state.status.value, reason=state.why.value
        )
    else:
        emit(lines.FILE_OUT, destination=state.receiver, file=state.file_id, cause=state.status.value, count=state.records)
