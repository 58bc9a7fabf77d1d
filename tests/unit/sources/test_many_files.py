"""Many files, one in five broken in each of the ways: every one ends right, every row counts once. Without a broker."""

import asyncio
import time
from pathlib import Path

from pipeline.domain.files.life import FileStatus, Waits
from pipeline.domain.identifiers import Millis
from tests.property.test_files_machine import Bomb, Log
from tests.support.files_desk import Office
from tests.support.files_in import PUBLIC
from tests.support.many_files import BROKEN_EVERY, WAYS, Partner, judge

FILES = BROKEN_EVERY * len(WAYS) + 4


def now_ms(later_ms: int = 0) -> Millis:
    return Millis(time.time_ns() // 1_000_000 + later_ms)


async def test_every_file_of_many_ends_right_and_every_row_counts_once(tmp_path: Path) -> None:
    office = Office(tmp_path, waits=Waits(patience_ms=1_000, give_up_ms=120_000))
    office.keys, office.valid_until = {**office.keys, "old": PUBLIC}, {"old": Millis(1)}
    partner = Partner("folder", office.root, {})
    for number in range(1, FILES + 1):
        partner.send(number)
    sink, desk, stop = Log(Bomb()), office.desk(), asyncio.Event()
    assert desk.locked()
    office.now = now_ms()
    await desk.begin(sink, stop)
    for later_ms in (0, 10_000, 200_000):
        office.now = now_ms(later_ms)
        await desk.round(sink, stop)
    judge(partner)
    partner.send_again()
    office.now = now_ms(10_000)
    await desk.round(sink, stop)
    judge(partner)
    desk.unlock()
    landed, rejected = partner.rows
    taken = office.ledger.files.every(FileStatus.TAKEN)
    assert (len(sink.events), len(sink.broken), sink.conflicts) == (landed, rejected, 0)
    assert (sum(each.landed for each in taken), sum(each.rejected for each in taken)) == (landed, rejected)
    assert all(each.records == each.landed + each.rejected == each.rows_done for each in taken)
