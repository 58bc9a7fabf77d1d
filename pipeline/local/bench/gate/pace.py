"""`surgeline bench pace`: how late the gate tells its verdicts at a steady rate, and what a longer `within` would save.

Both times are the broker's: when it took the landing record, and when it took the verdict (accepted or decided). So what is
measured is the gate with both of its ways to the broker, and nothing of the sender or of whoever reads.
"""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from pipeline import topology
from pipeline.domain.records import Accepted, Decision
from pipeline.formats.avro import Codec
from pipeline.kafka.client import LOG, Message
from pipeline.local.bench.frame import LEFT_BY_US, emptied, ended, write_report
from pipeline.local.bench.gate.load import Landed, Landing
from pipeline.local.bench.gate.run import FLUSH_S, SETTINGS, load_landing, through
from pipeline.local.bench.processor import look
from pipeline.local.errors import LocalPlatformError
from pipeline.local.provenance import commit, machine, shown
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack, wait_for
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.process import codec_of, now_ms
from pipeline.settings.sections.kafka import KafkaSettings

BOUND_S: Final = 120.0
POLL_S: Final = 0.25
ENTITIES: Final = 2_000
TURN_S: Final = 0.01
"""Records of so long a time are sent together: a sender that sleeps for each of 5,000 would take the processor itself."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is run: each rate (events/s) with each `within` (ms), for so long."""

    rates: tuple[int, ...] = (10, 500, 5_000)
    within_ms: tuple[int, ...] = (1, 2, 5, 20)
    seconds: int = 10


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """One rate with one `within`: ms from landing to the verdict, and µs of processor time per event."""

    rate: int
    within_ms: int
    verdicts: int
    p50_ms: int
    p99_ms: int
    max_ms: int
    us: float


class PaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, in the order in which they were run."""

    commit: str
    machine: dict[str, str | int]
    options: Options
    paces: tuple[Pace, ...]


def bench_gate_pace(options: Options, folder: Path, console: Console, json_file: Path | None) -> int:
    """Run each in `folder`, which is emptied. The exit code: 2 where it could not be run."""
    paces = ended(lambda: _paces(options, folder, console), console)
    if isinstance(paces, int):
        return paces
    report = PaceReport(commit=commit("pipeline"), machine=machine(), options=options, paces=paces)
    write_report(json_file, report)
    tell(report, console)
    return 0


def _paces(options: Options, folder: Path, console: Console) -> tuple[Pace, ...]:
    """Each on a broker of its own: one that keeps the topics of a dozen gates is the slower for it."""
    paces: list[Pace] = []
    for rate in options.rates:
        for within_ms in options.within_ms:
            emptied(folder)
            with Broker(folder / LEFT_BY_US) as broker:
                paces.append(_measure(rate, within_ms, options.seconds, broker, folder))
            told = f"{rate} events/s, within {within_ms} ms: p99 {paces[-1].p99_ms} ms, {paces[-1].us:.0f} µs an event"
            console.print(told)
    return tuple(paces)


def _measure(rate: int, within_ms: int, seconds: int, broker: Broker, folder: Path) -> Pace:
    name = f"pace-{rate}-{within_ms}"
    settings = {**SETTINGS, "gate": {"within_s": within_ms / 1000}}
    stack = Stack(folder / name, broker.bootstrap, (), f"{name}.", settings)
    stack.write_settings()
    stack.complete("topics", "apply")
    kafka, codec = stack.settings.kafka, codec_of(stack.settings)
    topics, landing = KafkaTopics(kafka), Landing(ENTITIES, codec)
    load_landing(kafka, landing.first(now_ms()))
    try:
        pid = stack.roles[stack.start("gate")].pid
        _wait_through(topics, landing)
        marks = {topic: topics.end(topic) for topic in (topology.ACCEPTED, topology.DECISIONS)}
        records = landing.more(rate * seconds, now_ms())
        before_s, _ = look(pid)
        send_paced(kafka, records, rate)
        _wait_through(topics, landing)
        after_s, _ = look(pid)
        said = [message for topic, begin in marks.items() for message in topics.read(topic, begin, topics.end(topic))]
    finally:
        stack.stop()
        shutil.rmtree(folder / name, ignore_errors=True)
    delays = sorted(delay_ms(codec, message) for message in said)
    return Pace(
        rate=rate,
        within_ms=within_ms,
        verdicts=len(delays),
        p50_ms=percentile(delays, 0.5),
        p99_ms=percentile(delays, 0.99),
        max_ms=percentile(delays, 1.0),
        us=(after_s - before_s) / max(1, len(records)) * 1e6,
    )


def _wait_through(topics: KafkaTopics, landing: Landing) -> None:
    wait_for(lambda: through(topics, topology.GATE_APP, landing.ends), BOUND_S, "the gate at the end", POLL_S)


def send_paced(kafka: KafkaSettings, records: Sequence[Landed], rate: int) -> None:
    """Send each record when it is due; LocalPlatformError where they are not acknowledged in the end."""
    producer = Producer({**kafka.producer_config(), "linger.ms": 0, "delivery.report.only.error": True}, logger=LOG)
    began, sent = time.monotonic(), 0
    while sent < len(records):
        due = min(len(records), int((time.monotonic() - began) * rate) + 1)
        for record in records[sent:due]:
            name = topology.topic(record.topic, kafka.topic_prefix)
            producer.produce(name, record.value, record.key, record.partition)
        sent = due
        producer.poll(0)
        time.sleep(max(TURN_S, 1 / rate) if sent < len(records) else 0)
    if producer.flush(FLUSH_S):
        raise LocalPlatformError("the landing topics could not be loaded")


def delay_ms(codec: Codec, message: Message) -> int:
    """From the broker's time of the landing record to its time of the verdict."""
    match decoded(codec, message):
        case Accepted() as accepted:
            return message.timestamp_ms - accepted.accepted_at
        case Decision() as decision:
            return message.timestamp_ms - decision.decided_at
        case _:
            raise LocalPlatformError(f"{message.topic} holds what is no verdict")


def percentile(ordered: Sequence[int], share: float) -> int:
    """The least value that so great a share of all does not exceed; 0 of none."""
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * share // 1) - 1))] if ordered else 0


COLUMNS: Final = ("events/s", "within, ms", "verdicts", "p50, ms", "p99, ms", "max, ms", "µs per event")


def _rows(paces: Sequence[Pace]) -> Iterator[tuple[str, ...]]:
    for each in paces:
        figures = (each.rate, each.within_ms, each.verdicts, each.p50_ms, each.p99_ms, each.max_ms)
        yield (*(f"{figure:,}" for figure in figures), f"{each.us:,.0f}")


def headline(report: PaceReport) -> str:
    """What was run, and on what."""
    return (
        f"{ENTITIES:,} entities, {report.options.seconds} s each. {report.machine['cores']} cores; "
        f"Python {report.machine['python']}; commit {shown(report.commit)}."
    )


def markdown(report: PaceReport) -> str:
    """The headline and the table of the documentation."""
    lines = (COLUMNS, ("---",) * len(COLUMNS), *_rows(report.paces))
    return "\n\n".join((headline(report), "\n".join(f"| {' | '.join(line)} |" for line in lines)))


def tell(report: PaceReport, console: Console) -> None:
    """For the terminal."""
    table = Table(*COLUMNS, title=headline(report), title_justify="left")
    for row in _rows(report.paces):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    sys.stdout.write(markdown(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=PaceReport)) + "\n")
