"""How full the way to a broker is said to be, where there is no broker at all."""

import asyncio
import threading
from typing import Final

from pipeline.kafka.producer import OutRecord, Publisher, PublishError, PublishFailed
from pipeline.local.ports import HOST, free_port
from pipeline.settings.sections.kafka import KafkaSettings

DELIVERY_S: Final = 1.5
BOUND_S: Final = 30.0
RECORD: Final = OutRecord("landing.bed", b"key", b"x" * 10_000)


async def test_what_was_given_up_leaves_no_pressure_behind_and_any_thread_may_ask_meanwhile() -> None:
    publisher = Publisher(KafkaSettings(bootstrap_servers=f"{HOST}:{free_port()}", delivery_timeout_s=DELIVERY_S))
    asked: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.0005):
            asked.append(publisher.pressure())

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        async with asyncio.timeout(BOUND_S):
            tries = (publisher.publish([RECORD]) for _ in range(300))
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
    finally:
        ended.set()
        asking.join()
    assert {error.reason for error in outcomes if isinstance(error, PublishFailed)} == {PublishError.TIMED_OUT}
    assert max(asked) >= 1.0, "three megabytes that nobody takes are more than what may be on its way"
    assert publisher.pressure() == 0.0
    await publisher.close(0.1)
