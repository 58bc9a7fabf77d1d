"""Nothing of a patient gets out of the payloads: a canary is sent through every way to fail, then looked for everywhere."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Producer
from joserfc.jwk import OKPKey

from pipeline.domain.identifiers import EntityKey
from pipeline.domain.reconcile.record import Reconciliation, Stage
from pipeline.domain.records import Outcome, OutcomeKind, Quarantined, Raw
from pipeline.kafka.client import Message
from pipeline.kafka.crypto import RawCipher
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack, Target, wait_for
from pipeline.roles.process import specs_of
from tests.support.between import Between
from tests.support.downtime import page, sections
from tests.support.stacks import ANSWER_S, health, messages, post, records, send_hl7, stack_at, stopped_at_end, surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(290)]

CANARY: Final = "zqxjk"
"""In every token, in no word of ours; looked for in any case."""
MRN, FAMILY, GIVEN, VISIT, STREET = (f"{CANARY.upper()}{kind}" for kind in ("MRN", "FAMILY", "GIVEN", "VISIT", "STREET"))
LIMIT_BYTES: Final = 20_000
AT_ONCE: Final = 4
"""Commands that are run side by side."""
LATER: Final = ("reconcile", "files-out", "downtime", "auditor", "budgets")
"""Roles that read what the others did."""
HEALTH_PATHS: Final = ("/metrics", "/status", "/readyz", "/livez", f"/{MRN}?name={FAMILY}")


@dataclass
class Found:
    """Where the canary was, without showing it."""

    looked_at: int = 0
    places: set[str] = field(default_factory=set)

    def look(self, place: str, *data: bytes | str | None) -> None:
        for each in data:
            self.looked_at += 1
            text = each if isinstance(each, bytes) else (each or "").encode()
            if CANARY.encode() in text.lower():
                self.places.add(place)


def adt(trigger: str, control_id: str, mrn: str = MRN, given: str = GIVEN) -> bytes:
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    return (
        f"MSH|^~\\&|EPICADT|GENERAL|||{now}+0000||ADT^{trigger}|{control_id}|P|2.5.1\rEVN|{trigger}|{now}+0000\r"
        f"PID|1||{mrn}^^^GENERAL^MR||{FAMILY}^{given}||19700101|F|||1 {STREET}^^CITY\r"
        f"PV1|1|I|ICU^12^A^GENERAL{'|' * 16}{VISIT}^^^GENERAL^VN\r"
    ).encode()


def transfer(**changes: object) -> dict[str, Any]:
    moment = time.time_ns() // 1_000_000
    return {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "transfer",
        "namespace": "GENERAL",
        "entity_id": f"{VISIT}-T",
        "event_type": "UPDATE",
        "recorded_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment / 1000)) + f".{moment % 1000:03d}Z",
        "payload": {"stage": {"stage": "REQUESTED"}, "patient": {"namespace": "GENERAL", "id": MRN}},
        **changes,
    }


def person(**changes: object) -> dict[str, Any]:
    """What a capacity platform may not say: who somebody is."""
    return transfer(entity_type="patient", entity_id=MRN, payload={"name": {"family": FAMILY, "given": GIVEN}}) | changes


@dataclass
class Scene:
    """One pipeline at level DEBUG before an EHR that can refuse and be away."""

    stack: Stack
    between: Between
    ehr: Ehr

    def outcomes(self, kind: OutcomeKind) -> list[Outcome]:
        return [each for each in records(self.stack, "outcomes") if isinstance(each, Outcome) and each.kind is kind]

    def quarantined(self) -> list[Quarantined]:
        return [each for each in records(self.stack, "quarantine") if isinstance(each, Quarantined)]

    def restart(self, name: str) -> None:
        """kill -9, and start it again; does not wait."""
        self.stack.kill(name)
        role, *rest = name.split("-")
        self.stack.start(role, *rest[:-1])


@pytest.fixture
async def scene(broker: Broker, ehr_replica: Ehr, tmp_path: Path) -> AsyncIterator[Scene]:
    async with Between(ehr_replica.base_url) as between:
        target = Target("ehr", "replica", "sekmet-replica", between.url)
        overrides = {
            "logging": {"level": "DEBUG"},
            "http": {"max_body_bytes": LIMIT_BYTES},
            "mllp": {"max_frame_bytes": LIMIT_BYTES},
            "gate": {"max_record_bytes": LIMIT_BYTES},
            "audit": {"checkpoint_s": 1},
            **sections(tmp_path, OKPKey.generate_key("Ed25519"), facility="GENERAL"),
        }
        stack = await asyncio.to_thread(stack_at, tmp_path, broker.bootstrap, target, overrides=overrides)
        with stopped_at_end(stack):
            await asyncio.to_thread(stack.start_all)
            await asyncio.to_thread(stack.wait_ready, timeout_s=ANSWER_S * 2)
            yield Scene(stack, between, ehr_replica)


async def test_the_canary_is_in_payloads_and_nowhere_else(scene: Scene) -> None:
    for step in (
        taken_and_repeated,
        refused_by_http,
        refused_by_mllp,
        broken_on_landing,
        refused_by_the_ehr,
        ehr_away,
        killed,
        looked_after,
    ):
        await asyncio.to_thread(step, scene)
    await asyncio.to_thread(it_went_every_way, scene)
    found = Found()
    for look in (look_into_topics, look_at_roles, look_at_commands, look_at_files, look_at_the_ehr):
        await asyncio.to_thread(look, scene, found)
    assert found.looked_at > 300
    assert not found.places, f"the canary was found in: {sorted(found.places)}"


# -- every way to fail


def taken_and_repeated(scene: Scene) -> None:
    for _ in range(2):
        assert b"\rMSA|AA|" in send_hl7(scene.stack, adt("A01", "C1"))
        assert post(scene.stack, transfer(recorded_at="2026-01-31T08:00:00.000Z"), "k-1")[0] == 202
    assert b"\rMSA|AR|" in send_hl7(scene.stack, adt("A01", "C1", given=f"{GIVEN}2"))
    assert post(scene.stack, transfer(user=FAMILY), "k-1")[0] == 422
    assert post(scene.stack, person(), "k-2")[0] == 202, "taken in; the gate says that it is not theirs to say"
    wait_for(lambda: len(scene.outcomes(OutcomeKind.CONFIRMED)) >= 3, ANSWER_S, "patient, encounter and bed are confirmed", 0.1)


def refused_by_http(scene: Scene) -> None:
    stack = scene.stack
    assert post(stack, person(), "k-3", token=MRN)[0] == 401
    assert post(stack, person(), "k-3", token=f"{FAMILY} {GIVEN}")[0] == 401
    assert post(stack, f'{{"payload": {{"name": "{FAMILY}"'.encode(), "k-4")[0] == 422
    assert post(stack, person(**{FAMILY: GIVEN}), "k-5")[0] == 422
    assert post(stack, person(recorded_at=MRN, source_system=GIVEN), "k-6")[0] == 422
    assert post(stack, person(tenant=MRN), "k-7")[0] == 403
    assert post(stack, person(reason=FAMILY * 10_000), "k-8")[0] == 413
    assert post(stack, {"events": [person(), {"event_type": MRN}]}, "k-9", path="/v1/events:batch")[0] == 207
    for path in (f"/v1/events/{MRN}", f"/{FAMILY}?name={GIVEN}"):
        request = urllib.request.Request(stack.http_url + path, headers={"Authorization": f"Bearer {stack.token}"})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=ANSWER_S)


def refused_by_mllp(scene: Scene) -> None:
    for broken in (
        adt("A99", "C2"),
        adt("A01", "C3").replace(b"PID|1||", b"PID|1||^^^"),
        adt("A01", "C4").replace(b"|P|2.5.1", f"|{CANARY}|2.5.1".encode()),
        adt("A01", "C5").replace(b"ADT^A01", f"{FAMILY}^{GIVEN}".encode()),
        adt("A01", "C6").replace(b"PID|", f"{MRN}|".encode()),
        f"{FAMILY}^{GIVEN} is no message".encode(),
        adt("A01", "C7") + f"NTE|1||{STREET * 5_000}\r".encode(),
        adt("A01", "C8") + b"\xff\xfe" + STREET.encode(),
    ):
        assert b"\rMSA|AR" in send_hl7(scene.stack, broken)


def broken_on_landing(scene: Scene) -> None:
    key = EntityKey("demo", "patient", "GENERAL", MRN).encode()
    broken: tuple[tuple[bytes | None, bytes | None], ...] = (
        (key, f"{FAMILY} undecodable".encode()),
        (key, b"\x00\x00\x00\x00\x01" + FAMILY.encode()),
        (key, FAMILY.encode() * LIMIT_BYTES),
        (None, GIVEN.encode()),
        (MRN.encode(), GIVEN.encode()),
        (key, None),
    )
    before = len(scene.quarantined())
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": scene.stack.bootstrap, "message.max.bytes": 1_000_000})
    for number, (each, value) in enumerate(broken):
        topic = f"{scene.stack.prefix}landing.patient"
        producer.produce(topic, value, each, number % 8, on_delivery=lambda error, _: failures.append(error) if error else None)
    assert producer.flush(ANSWER_S) == 0
    assert failures == []
    wait_for(lambda: len(scene.quarantined()) >= before + len(broken), ANSWER_S, "every broken record is in quarantine", 0.1)


def refused_by_the_ehr(scene: Scene) -> None:
    scene.between.mood = "refuse"
    assert b"\rMSA|AA|" in send_hl7(scene.stack, adt("A08", "C20", given=f"{GIVEN}3"))
    wait_for(lambda: scene.outcomes(OutcomeKind.PARKED), ANSWER_S, "the refused write is parked", 0.1)
    assert scene.between.refused > 0
    scene.between.mood = "pass"


def ehr_away(scene: Scene) -> None:
    scene.between.mood = "away"
    assert b"\rMSA|AA|" in send_hl7(scene.stack, adt("A08", "C21", given=f"{GIVEN}4"))
    wait_for(lambda: scene.outcomes(OutcomeKind.FAILED), ANSWER_S, "an attempt has failed", 0.1)
    scene.between.mood = "pass"


def killed(scene: Scene) -> None:
    for number, name in enumerate(("gate-0", "writer-ehr-0", "mllp-0", "http-0")):
        assert b"\rMSA|AA|" in send_hl7(scene.stack, adt("A08", f"C3{number}", given=f"{GIVEN}5{number}"))
        scene.restart(name)
        if name.startswith("mllp"):
            scene.stack.wait_ready(name, timeout_s=ANSWER_S * 2)
    scene.stack.wait_ready(timeout_s=ANSWER_S * 2)
    assert b"\rMSA|AA|" in send_hl7(scene.stack, adt("A08", "C40", given=f"{GIVEN}6"))

    def settled() -> bool:
        told = surgeline(scene.stack, "books", "--json", "--no-ask")
        closed = json.loads(told.stdout)["books"]
        return bool(closed["balanced"] and not closed["open"] and not closed["waiting"])

    wait_for(settled, ANSWER_S * 2, "everything has come to its end", 1.0)


def looked_after(scene: Scene) -> None:
    """By the roles that read what the others did: all of them at once, each until it has made something of it."""
    stack = scene.stack
    names = [stack.start(role) for role in LATER]
    stack.wait_ready(*names, timeout_s=ANSWER_S * 2)
    wait_for(lambda: records(stack, "reconciliations"), ANSWER_S * 2, "a comparison has begun")
    wait_for(lambda: _is_compared(scene), ANSWER_S * 2, "a comparison has ended", 0.2)
    wait_for(lambda: VISIT in page(stack), ANSWER_S * 2, "a board shows the visit", 0.2)
    wait_for(lambda: any((stack.folder / "region").rglob("*.csv.age")), ANSWER_S * 2, "a file is out")


def _is_compared(scene: Scene) -> bool:
    runs = [each for each in records(scene.stack, "reconciliations") if isinstance(each, Reconciliation)]
    return any(each.stage in (Stage.DONE, Stage.PARTIAL) and each.resources for each in runs)


def it_went_every_way(scene: Scene) -> None:
    """Without this the search would prove nothing."""
    stack, text = scene.stack, "".join(file.read_text() for file in scene.stack.folder.glob("*.log"))
    for line in ("gate.quarantined", "intake.refused", "write.parked", "write.failed"):
        assert f'"{line}"' in text, f"no {line} was logged"
    assert stack.settings.logging.level == "DEBUG"
    for topic in ("landing.patient", "landing.encounter", "landing.transfer", "events.accepted", "outcomes", "decisions"):
        held = Found()
        for message in messages(stack, topic):
            held.look(topic, message.key, message.value)
        assert held.places, f"{topic} holds no canary"
    settings = stack.settings
    cipher = RawCipher(settings.raw_keys(), settings.raw_key()[0])
    bodies = [cipher.open(raw.key_id, raw.identity, raw.ciphertext) for raw in records(stack, "raw.mllp") if isinstance(raw, Raw)]
    assert any(STREET.encode() in body for body in bodies), "what was sent is kept, encrypted"


# -- everywhere


def look_into_topics(scene: Scene, found: Found) -> None:
    for spec in specs_of(scene.stack.settings):
        encrypted = spec.name.startswith("raw.") or spec.name == "quarantine"
        for message in messages(scene.stack, spec.name):
            found.look(f"headers on {spec.name}", *_headers(message))
            if encrypted or not spec.holds_patient_data:
                found.look(f"keys of {spec.name}", message.key)
                found.look(f"values of {spec.name}", message.value)
        found.look("the name of a topic", spec.name)


def _headers(message: Message) -> Iterable[bytes]:
    for name, value in message.headers:
        yield name.encode()
        yield value or b""


def look_at_roles(scene: Scene, found: Found) -> None:
    for name in scene.stack.roles:
        for path in HEALTH_PATHS:
            found.look(f"{path[:8]} of {name}", health(scene.stack, name, path)[1])


def look_at_commands(scene: Scene, found: Found) -> None:
    commands = (
        "status", "status --json", "books", "books --json", "audit show --limit 1000", "audit show --json --limit 1000",
        "audit verify", "audit verify --json", "topics check", "topics plan", "config show",
    )  # fmt: skip
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for command, told in zip(commands, pool.map(lambda each: surgeline(scene.stack, *each.split()), commands), strict=True):
            assert told.stdout, command
            found.look(f"surgeline {command}", told.stdout, told.stderr)


def look_at_files(scene: Scene, found: Found) -> None:
    """Names under the data folders, what leaves the pipeline as files, and every line of every log."""
    for file in scene.stack.folder.rglob("*"):
        found.look("the name of a file", str(file.relative_to(scene.stack.folder)))
    for folder in ("desk", "region", "spool"):
        for file in (scene.stack.folder / folder).rglob("*"):
            found.look(f"a file under {folder}", _content(file))
    for log in scene.stack.folder.glob("*.log"):
        for line in log.read_text(errors="replace").splitlines():
            found.look(f"{log.name}: {_event_of(line)}", line)


def _content(file: Path) -> bytes:
    """Empty for a folder, and for what was replaced meanwhile."""
    try:
        return file.read_bytes() if file.is_file() else b""
    except FileNotFoundError:
        return b""


def _event_of(line: str) -> str:
    """Name of a log line, which says where the canary got out without showing it."""
    parse: Callable[[str], Any] = json.loads
    try:
        event = parse(line).get("event", "?")
    except (ValueError, AttributeError):
        return "a line that is no JSON"
    return str(event) if CANARY not in str(event).lower() else "?"


def look_at_the_ehr(scene: Scene, found: Found) -> None:
    """Addresses and headers that the EHR saw, and what its own log keeps of them."""
    for address in scene.between.addresses:
        found.look("an address at the EHR", address)
    found.look("the EHR's log", scene.ehr.log.read_text(errors="replace"))
