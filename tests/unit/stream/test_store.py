"""A table's store on disk: what an orderly end keeps, and what a kill leaves."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.settings.sections.workers import WorkerSettings
from pipeline.stream.worker import app as stream_app
from pipeline.stream.worker.app import AppSpec
from pipeline.stream.worker.batch import Cycle
from pipeline.stream.worker.store import STORE_OPTIONS, BatchStore, BatchTable

PARTITION = 3
CHANGELOG = TP("changelog", PARTITION)
HEAD = b"h" * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "alive"


def store_in(folder: Path) -> BatchStore:
    spec = AppSpec("gate", "0", folder, ("landing.bed",), "heads", max, 8, Cycle(), 500, 64)
    app = stream_app._create_app(spec, KafkaSettings(), WorkerSettings())
    table = app.Table("heads", partitions=8, key_type=bytes, value_type=bytes, options=dict(STORE_OPTIONS))
    assert isinstance(table, BatchTable)
    table.latest_of = max
    return table.store


def write(store: BatchStore, first: int, last: int) -> None:
    """One batch a number: an entity's head, and the offset of its changelog record."""
    for number in range(first, last):
        store.keep(PARTITION, store.handle(PARTITION), {f"entity {number}".encode(): HEAD}, number)


def state(store: BatchStore) -> tuple[int | None, int]:
    """Changelog offset, and entities there."""
    keys = [key for key in store.handle(PARTITION).keys() if isinstance(key, bytes) and key.startswith(b"entity")]  # noqa: SIM118 - no dict
    return store.persisted_offset(CHANGELOG), len(keys)


async def test_an_orderly_end_keeps_all_that_was_written(folder: Path) -> None:
    store = store_in(folder)
    write(store, 0, 100)
    held = store.handle(PARTITION)  # by whoever else still knows of it: it is not closed then
    await store.stop()
    copied = shutil.copytree(folder, folder.parent / "copied")
    assert state(store_in(copied)) == (99, 100)
    del held
    assert state(store_in(folder)) == (99, 100)


def test_a_kill_leaves_no_offset_ahead_of_its_heads_and_the_changelog_has_the_rest(folder: Path) -> None:
    """Of 6 MB at most three of the store's buffers are still in memory. Faust's own way to note an offset counts too."""
    killed = subprocess.run([sys.executable, "-c", DIES, str(folder), "6000"], timeout=100, check=False)
    assert killed.returncode == 9
    offset, entities = state(store_in(folder))
    assert offset is not None
    assert 0 < entities == offset + 1


def poll(first: int, *records: tuple[bytes, bytes | None]) -> Any:
    """What Faust brings of one poll: the records of one partition, from an offset on."""
    value = [SimpleNamespace(offset=first + n, key=key, value=record) for n, (key, record) in enumerate(records)]
    return SimpleNamespace(message=SimpleNamespace(partition=PARTITION, offset=value[-1].offset, value=value))


def recover(store: BatchStore, *polls: Any) -> None:
    store.apply_changelog_batch(polls, lambda key: key, lambda value: value)


RECORDS: Sequence[tuple[bytes, bytes | None]] = [
    (b"a", b"1"),
    (b"b", b"7"),
    (b"a", b"3"),
    (b"a", b"2"),
    (b"c", None),
    (b"b", b"8"),
]


@pytest.mark.parametrize("cuts", [(6,), (1, 2, 3, 4, 5, 6), (3, 6), (2, 5, 6)])
@pytest.mark.parametrize("at_once", [True, False])
def test_however_polls_cut_a_changelog_the_latest_record_of_each_key_is_kept(
    folder: Path, cuts: tuple[int, ...], at_once: bool
) -> None:
    """Not the last one: b"2" came late, from a writer that no longer had the partition."""
    store = store_in(folder)
    polls = [poll(begin, *RECORDS[begin:end]) for begin, end in zip((0, *cuts[:-1]), cuts, strict=True)]
    for some in [polls] if at_once else [[one] for one in polls]:
        recover(store, *some)
    held = store.handle(PARTITION)
    assert [held.get(key) for key in (b"a", b"b", b"c")] == [b"3", b"8", None]
    assert (store.regressed[PARTITION], store.late[PARTITION]) == ({b"a"}, 1)
    assert store.persisted_offset(CHANGELOG) == 5


def test_a_recovery_that_reads_records_again_changes_nothing(folder: Path) -> None:
    """One that was interrupted begins at the last offset of the store, which it has already."""
    store = store_in(folder)
    recover(store, poll(0, (b"a", b"1"), (b"a", b"2")))
    recover(store, poll(1, (b"a", b"2"), (b"b", b"1")))
    assert [store.handle(PARTITION).get(key) for key in (b"a", b"b")] == [b"2", b"1"]
    assert (store.regressed[PARTITION], store.late[PARTITION]) == (set(), 0)
    assert store.persisted_offset(CHANGELOG) == 2


DIES = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location("store_test", {__file__!r})
tests = module_from_spec(spec)
spec.loader.exec_module(tests)
store, count = tests.store_in(Path(sys.argv[1])), int(sys.argv[2])
tests.write(store, 0, count)
store.set_persisted_offset(tests.CHANGELOG, count - 1)
os._exit(9)
"""
