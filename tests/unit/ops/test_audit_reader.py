"""A restarted process continues its chain; a zombie's entry shows; what is shown holds no more than was asked for."""

import io
from typing import Any

import pytest
from rich.console import Console

from pipeline.domain.accounts.audit import Fault
from pipeline.domain.identifiers import Millis, Revision, partition_of
from pipeline.ops.audit import (
    FIRST_WINDOW,
    AuditChain,
    AuditFilter,
    as_json,
    last_entry,
    read_entries,
    render_entries,
    render_verified,
    show,
    verify_all,
)

CHAIN = "writer-ehr/0"


def append(topics: Any, chain: AuditChain, number: int, action: str = "write.confirmed", actor: str = "writer") -> None:
    record = chain.append(
        at=Millis(number),
        actor=actor,
        action=action,
        subject="00112233445566aa",
        destination="ehr",
        revision=Revision(17_592_186_044_416 + number),
        detail={"attempts": "1"},
    )
    topics.put(record.topic, record.partition, record.key, record.value)


def started(topics: Any, name: str = CHAIN) -> AuditChain:
    return AuditChain.continued(topics, topics.codec, topics.codec, name)


def text_of(table: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_restarted_process_continues_behind_the_topics_end(topics: Any) -> None:
    for life in range(3):
        chain = started(topics)
        for number in range(5):
            append(topics, chain, 10 * life + number)
    verified = verify_all(read_entries(topics, topics.codec))
    assert verified.whole
    assert [(head.chain, head.sequence) for head in verified.heads] == [(CHAIN, 15)]
    assert chain.head == verified.heads[0]


def test_entries_go_to_the_partition_of_the_chains_key(topics: Any) -> None:
    append(topics, started(topics), 1)
    assert list(topics.logs) == [("audit", partition_of(CHAIN.encode(), 8))]


def test_an_entry_that_was_never_acknowledged_leaves_no_gap_after_a_restart(topics: Any) -> None:
    chain = started(topics)
    append(topics, chain, 1)
    chain.append(at=Millis(2), actor="writer", action="write.confirmed", subject="lost")
    append(topics, started(topics), 3)
    assert verify_all(read_entries(topics, topics.codec)).whole


def test_a_zombies_entry_is_a_named_fork(topics: Any) -> None:
    zombie = started(topics)
    append(topics, zombie, 1)
    append(topics, started(topics), 2)
    append(topics, zombie, 3, actor="zombie")
    append(topics, started(topics), 4)
    verified = verify_all(read_entries(topics, topics.codec))
    assert not verified.whole
    assert [(finding.chain, finding.sequence, finding.fault) for finding in verified.findings] == [(CHAIN, 2, Fault.FORKED)]


def test_a_long_log_of_other_chains_does_not_make_a_start_read_it_all(topics: Any) -> None:
    same_partition = next(
        f"gate/{n}" for n in range(99) if partition_of(f"gate/{n}".encode(), 8) == partition_of(CHAIN.encode(), 8)
    )
    other, chain = started(topics, same_partition), started(topics)
    for number in range(3 * FIRST_WINDOW):
        append(topics, other, number)
    append(topics, chain, 1)
    for number in range(FIRST_WINDOW // 2):
        append(topics, other, number)
    topics.records_read = 0
    last, _ = last_entry(topics, topics.codec, CHAIN)
    assert last is not None
    assert topics.records_read == FIRST_WINDOW
    assert last_entry(topics, topics.codec, "never-begun")[0] is None


def test_a_record_that_does_not_decode_shows_as_missing(topics: Any) -> None:
    chain = started(topics)
    for number in range(4):
        append(topics, chain, number)
    log = topics.logs["audit", partition_of(CHAIN.encode(), 8)]
    log[2] = (log[2][0], b"rubbish")
    findings = verify_all(read_entries(topics, topics.codec)).findings
    assert [(finding.sequence, finding.fault) for finding in findings] == [(3, Fault.MISSING)]


@pytest.mark.parametrize(
    ("wanted", "times"),
    [
        (AuditFilter(), [1, 2, 3]),
        (AuditFilter(action="write"), [1, 3]),
        (AuditFilter(chain="gate"), [2]),
        (AuditFilter(destination="none"), []),
        (AuditFilter(since=Millis(2), until=Millis(3)), [2]),
    ],
)
def test_show_picks_what_was_asked_for(topics: Any, wanted: AuditFilter, times: list[int]) -> None:
    chain, gate = started(topics), started(topics, "gate/0")
    append(topics, chain, 1)
    append(topics, gate, 2, action="policy.applied")
    append(topics, chain, 3)
    assert [entry.at for entry in show(read_entries(topics, topics.codec), wanted)] == times


def test_show_is_bounded_to_the_newest(topics: Any) -> None:
    chain = started(topics)
    for number in range(50):
        append(topics, chain, number)
    assert [entry.at for entry in show(read_entries(topics, topics.codec), AuditFilter(), 3)] == [47, 48, 49]


def test_tables_say_in_words_whether_the_chains_are_whole(topics: Any) -> None:
    chain = started(topics)
    append(topics, chain, 1)
    append(topics, chain, 2)
    entries = list(read_entries(topics, topics.codec))
    assert "every chain is whole" in text_of(render_verified(verify_all(entries)))
    broken = verify_all(entries[1:])
    assert "NOT WHOLE" in text_of(render_verified(broken))
    assert b'"fault":"MISSING"' in as_json(broken)
    assert "attempts=1" in text_of(render_entries(entries))
