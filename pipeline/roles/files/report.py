"""`surgeline report`: bed capacity as it is reported, and where the files that go out stand."""

import time
from collections.abc import Callable
from typing import Final

from pipeline import topology
from pipeline.domain.files.outgoing import FileOutState
from pipeline.domain.identifiers import Millis
from pipeline.domain.ward.capacity import capacity_of
from pipeline.domain.ward.census import Unit
from pipeline.formats.avro import Codec
from pipeline.formats.reports.safr import safr_bundle
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.reader import read_topic
from pipeline.ops.topics import decoded
from pipeline.roles.downtime.state import Standing
from pipeline.roles.policies import load_policy
from pipeline.roles.process import now_ms
from pipeline.settings.model import Settings

WAIT_S: Final = 60.0
"""Longest time until everything that was landed is known."""
POLL_S: Final = 0.2


def safr(settings: Settings, facility: str, tenant: str | None, period_s: float, wait_s: float = WAIT_S) -> bytes | None:
    """The SAFR report of one site, complete up to the moment of the call; None where nothing is known of the site.

    KafkaUnavailable, also where the gate has not judged within `wait_s` what was landed before: the counts would be old.
    """
    standing = known_now(Standing(settings.kafka), wait_s, time.monotonic)
    whose = tenant or settings.tenant_default
    units: list[Unit] = [unit for unit in standing.units() if unit[:2] == (whose, facility)]
    if not units or standing.as_of is None:
        return None
    boards = standing.boards(units, now_ms()).values()
    start = Millis(standing.as_of - round(period_s * 1000))
    return safr_bundle(facility, capacity_of(boards, load_policy()), start, standing.as_of)


def known_now(standing: Standing, wait_s: float, clock: Callable[[], float]) -> Standing:
    """The state once it is complete. KafkaUnavailable where it isn't in time."""
    deadline = clock() + wait_s
    try:
        while standing.as_of is None:
            standing.look()
            if clock() > deadline:
                raise KafkaUnavailable("what was landed is not judged yet: is the gate running?")
            time.sleep(POLL_S if standing.as_of is None else 0)
    finally:
        standing.close()
    return standing


def sent(settings: Settings, codec: Codec) -> list[FileOutState]:
    """Files that go out, the newest first. KafkaUnavailable."""
    found: dict[str, FileOutState] = {}
    for message in read_topic(settings.kafka, topology.FILES_OUT):
        record = decoded(codec, message) if message.value is not None else None
        if isinstance(record, FileOutState):
            found[record.file_id] = record
    return sorted(found.values(), key=lambda each: (each.created_at, each.name), reverse=True)
