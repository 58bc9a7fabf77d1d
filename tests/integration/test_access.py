"""Every role with a login of its own, on a broker that allows each what `surgeline topics access` says and nothing else."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from confluent_kafka import KafkaError, Message, Producer
from joserfc.jwk import OKPKey

from pipeline.domain.event import Event
from pipeline.domain.files.life import FileState, FileStatus
from pipeline.domain.reconcile.record import Reconciliation, Stage
from pipeline.domain.records import Accepted, Control, ControlKind, FeedState, Outcome, OutcomeKind
from pipeline.kafka.access import Access
from pipeline.local.ports import free_port
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack, Target, wait_for
from pipeline.settings.sections.kafka import KafkaSettings
from tests.support.downtime import page, sections
from tests.support.feeds import feed
from tests.support.files_in import census, manifest_of, one_partner, put
from tests.support.secured import SecuredBroker
from tests.support.stacks import ANSWER_S, CODEC, records, send_hl7, surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

FIRST: Final = ("gate", "http", "mllp", "fhir", "files", "timers")
LATER: Final = ("reconcile", "files-out", "downtime", "auditor", "budgets")
PREFIX: Final = "ward."
NOT_ALLOWED: Final = "AUTHORIZATION_FAILED"


class Guarded:
    """A pipeline whose settings are a bystander's, who may see everything; each role logs in as itself."""

    def __init__(self, broker: SecuredBroker, stack: Stack, folder: Path) -> None:
        self.broker, self.stack, self._folder = broker, stack, folder

    def login(self, role: str) -> dict[str, Any]:
        return self.broker.section(self._folder / "logins", role)

    def environment(self, role: str) -> dict[str, str]:
        return {f"SURGELINE_KAFKA__{name.upper()}": value for name, value in self.login(role).items()}

    def start(self, *role: str) -> str:
        return self.stack.start(*role, environment=self.environment("-".join(role)))

    def says(self, role: str, *command: str) -> str:
        told = surgeline(self.stack, *command, environment=self.environment(role))
        assert told.returncode == 0, f"{command[0]} ended with {told.returncode}: {told.stderr[-1000:]}"
        return told.stdout


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """With an EHR of its own: at the common one other tests write the same beds, which no books of ours could balance."""
    folder = tmp_path_factory.mktemp("guarded")
    with Ehr(folder / "ehr-server") as ehr:
        yield from running(folder, ehr)


def running(folder: Path, ehr: Ehr) -> Iterator[Guarded]:
    port = free_port()
    overrides = {
        "audit": {"checkpoint_s": 1},
        "files": one_partner(folder),
        "fhir": {"port": port, "feeds": {"ehr": feed(ehr, folder, port, "ehr", "full-resource")}},
        **sections(folder, OKPKey.generate_key("Ed25519"), facility="GENERAL"),
    }
    target = Target("ehr", "replica", "sekmet-replica", ehr.base_url)
    with SecuredBroker(folder / "broker", free_port(), asks_for_rights=True) as broker:
        stack = Stack(folder, broker.bootstrap, (target,), prefix=PREFIX, overrides=overrides)
        stack.write_settings()
        told = surgeline(stack, "topics", "access", "--json").stdout
        access = msgspec.json.decode(told, type=list[Access])
        broker.let_in(*{each.role for each in access})
        broker.allow(access)
        scene = Guarded(broker, stack, folder)
        scene.says("operator", "topics", "apply")
        try:
            names = [scene.start(role) for role in FIRST]
            stack.wait_ready(*names, scene.start("writer", "ehr"), timeout_s=ANSWER_S * 2)
            yield scene
        finally:
            for child in stack.roles.values():
                child.kill()


def adt(trigger: str, control_id: str, mrn: str, *more: str) -> bytes:
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    lines = (
        f"MSH|^~\\&|EPICADT|GENERAL|||{now}+0000||ADT^{trigger}|{control_id}|P|2.5.1",
        f"EVN|{trigger}|{now}+0000",
        f"PID|1||{mrn}^^^GENERAL^MR||DOE^JANE||19700101|F",
        *more,
    )
    return "".join(f"{line}\r" for line in lines).encode()


def test_every_role_does_its_work_with_the_rights_that_are_listed_for_it(guarded: Guarded) -> None:
    stack = guarded.stack
    stay = f"PV1|1|I|ICU^12^A^GENERAL{'|' * 16}V1^^^GENERAL^VN"
    assert b"\rMSA|AA|" in send_hl7(stack, adt("A01", "C1", "M1", stay))
    assert b"\rMSA|AA|" in send_hl7(stack, adt("A04", "C2", "M2", stay.replace("V1^^^", "V2^^^").replace("^12^", "^13^")))
    assert b"\rMSA|AA|" in send_hl7(stack, adt("A40", "C3", "M1", "MRG|M2^^^GENERAL^MR"))
    at = int(time.time() * 1000)
    rows, times = (
        census(200, broken=frozenset({2})),
        {"created_at": at, "not_before": at - 3_600_000, "not_after": at + 3_600_000},
    )
    put(stack.folder / "epic" / "incoming", rows, manifest_of(rows, **times))

    def of(topic: str, kind: type[Any]) -> list[Any]:
        return [each for each in records(stack, topic) if isinstance(each, kind)]

    wait_for(
        lambda: any(each.kind is OutcomeKind.CONFIRMED for each in of("outcomes", Outcome)), ANSWER_S, "a write is confirmed"
    )
    wait_for(lambda: any(each.status is FileStatus.TAKEN for each in of("files", FileState)), ANSWER_S, "the file is taken")
    wait_for(lambda: records(stack, "quarantine"), ANSWER_S, "its broken row is in quarantine")
    wait_for(lambda: of("intake.subscriptions", FeedState), ANSWER_S, "the feed's state is kept")

    later = [guarded.start(role) for role in LATER]
    stack.wait_ready(*later, timeout_s=ANSWER_S * 2)
    ended = (Stage.DONE, Stage.PARTIAL)
    wait_for(
        lambda: any(each.stage in ended for each in of("reconciliations", Reconciliation)), ANSWER_S * 2, "a comparison has ended"
    )
    wait_for(lambda: "V1" in page(stack), ANSWER_S * 2, "a board shows the visit")
    wait_for(lambda: any((stack.folder / "region").rglob("*.csv.age")), ANSWER_S * 2, "a file is out")
    wait_for(lambda: records(stack, "checkpoints"), ANSWER_S, "a checkpoint is signed")
    assert any(
        each.kind is ControlKind.ALIAS for topic in ("landing.patient", "landing.encounter") for each in of(topic, Control)
    )
    assert of("events.accepted", Accepted)
    assert of("landing.bed", Event)
    unheard = [name for name, child in stack.roles.items() if not child.running or "authoriz" in child.log.read_text().lower()]
    assert unheard == []


def test_who_only_looks_gets_along_with_less(guarded: Guarded) -> None:
    json.loads(guarded.says("status", "status", "--json"))
    told = surgeline(guarded.stack, "books", "--json", "--no-ask", environment=guarded.environment("books"))
    assert told.returncode in (0, 1), "1: something is still on its way"
    assert json.loads(told.stdout)["books"]["balanced"]


def test_an_operator_gets_along_with_an_operator_s_rights(guarded: Guarded) -> None:
    guarded.says("operator", "topics", "check")
    guarded.says("operator", "audit", "verify")
    guarded.says("operator", "mode", "force", "ehr", "slow", "--for", "90s", "--reason", "test", "--yes")


@pytest.mark.parametrize(("role", "topic"), [("status", "landing.bed"), ("gate", "outcomes"), ("timers", "landing.patient")])
def test_nobody_writes_where_nothing_of_theirs_belongs(guarded: Guarded, role: str, topic: str) -> None:
    told: list[KafkaError | None] = []

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        told.append(error)

    settings = KafkaSettings.model_validate(guarded.login(role))
    producer = Producer({**settings.client_config(), "message.timeout.ms": 20_000, "log_level": 0})
    producer.produce(f"{PREFIX}{topic}", CODEC.encode(records(guarded.stack, "outcomes")[0]), on_delivery=on_delivery)
    assert producer.flush(ANSWER_S) == 0
    assert [NOT_ALLOWED in (error.name() if error is not None else "") for error in told] == [True]
