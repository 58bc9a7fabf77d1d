"""The local broker and EHR keep what they took, and none outlives whoever started it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.local.errors import LocalPlatformError
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.delay import FaultProxy
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind

pytestmark = pytest.mark.integration

TOPIC: Final = "local-platform-test"
WAIT_S: Final = 30.0
PATIENT: Final = {"resourceType": "Patient", "id": "local-1", "gender": "unknown"}
START_AND_HANG: Final = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.broker import Broker
folder = Path(sys.argv[1])
ehr, broker = Ehr(folder / "ehr"), Broker(folder / "broker")
with ThreadPoolExecutor() as short_lived:
    list(short_lived.map(lambda part: part.start(), [ehr, broker]))
print(ehr.pid, broker.pid, flush=True)
time.sleep(600)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not true after {WAIT_S} s"
        time.sleep(0.05)


def produce(bootstrap: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "partitioner": "murmur2_random"})
    failures: list[str] = []
    producer.produce(TOPIC, value, key=b"k", on_delivery=lambda error, _: failures.append(str(error)) if error else None)
    assert producer.flush(WAIT_S) == 0
    assert failures == []


def last_offset(consumer: Consumer) -> int:
    """End of the topic, once its leader is there: a broker that has just started may not lead its partitions yet."""
    ends: list[int] = []

    def looked() -> bool:
        with contextlib.suppress(KafkaException):
            ends.append(consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=WAIT_S)[1])
        return bool(ends)

    wait_for(looked)
    return ends[0]


def consume_all(bootstrap: str) -> list[bytes]:
    """All records of the topic, in order."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False})
    try:
        end = last_offset(consumer)
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        values: list[bytes] = []
        deadline = time.monotonic() + WAIT_S
        while len(values) < end and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                values.append(message.value() or b"")
        return values
    finally:
        consumer.close()


def test_broker_killed_and_started_again_still_has_what_it_acknowledged(own_broker: Broker) -> None:
    admin = AdminClient({"bootstrap.servers": own_broker.bootstrap})
    (made,) = admin.create_topics([NewTopic(TOPIC, 1, 1)]).values()
    made.result(WAIT_S)
    produce(own_broker.bootstrap, b"before")
    assert consume_all(own_broker.bootstrap) == [b"before"]
    address = own_broker.bootstrap

    own_broker.kill()
    own_broker.start()

    assert own_broker.bootstrap == address
    assert consume_all(address) == [b"before"]
    produce(address, b"after")
    assert consume_all(address) == [b"before", b"after"]


async def test_ehr_killed_and_started_again_still_has_the_patient(ehr_owner: Ehr) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{ehr_owner.base_url}/Patient/local-1", json=PATIENT) as put:
            assert put.status == 201, await put.text()
        ehr_owner.kill()
        ehr_owner.start()
        async with session.get(f"{ehr_owner.base_url}/Patient/local-1") as got:
            assert got.status == 200
            assert (await got.json())["meta"]["versionId"] == "1"


async def test_write_whose_answer_is_cut_off_is_done_at_the_ehr(ehr_replica: Ehr) -> None:
    async with FaultProxy(ehr_replica.base_url) as proxy, aiohttp.ClientSession() as session:
        # Twice: aiohttp repeats a PUT once by itself.
        proxy.faults.set(Fault(kind=FaultKind.RESET_AFTER_COMMIT, methods=("PUT",), times=2))
        with pytest.raises(aiohttp.ClientError):
            await session.put(f"{proxy.url}/Patient/local-1", json=PATIENT)
        async with session.get(f"{proxy.url}/Patient/local-1") as got:
            assert got.status == 200


def test_two_ehrs_share_nothing(ehr_owner: Ehr, ehr_replica: Ehr) -> None:
    assert ehr_owner.base_url != ehr_replica.base_url
    assert ehr_owner.pid != ehr_replica.pid


def test_nothing_outlives_a_killed_starter(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", START_AND_HANG, str(tmp_path)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    children = [int(pid) for pid in starter.stdout.readline().split()]
    assert len(children) == 2
    assert all(alive(pid) for pid in children)

    starter.send_signal(signal.SIGKILL)
    starter.wait()

    wait_for(lambda: not any(alive(pid) for pid in children))


def alive(pid: int) -> bool:
    """A process that has ended but whom nobody has waited for yet is not alive."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_broker_whose_port_is_taken_is_not_mistaken_for_the_one_that_answers_there(own_broker: Broker, tmp_path: Path) -> None:
    second = Broker(tmp_path, port=int(own_broker.bootstrap.rpartition(":")[2]))
    with pytest.raises(LocalPlatformError, match="is taken by another process"):
        second.start()


def test_broker_that_cannot_start_names_its_log_and_the_cause(own_broker: Broker, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=somebody-elses\n")
    foreign = Broker(tmp_path)
    with pytest.raises(LocalPlatformError) as failure:
        foreign.start()
    assert str(foreign.log) in str(failure.value)
    assert "node id" in str(failure.value)
