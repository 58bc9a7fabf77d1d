"""The writer of each change is killed again and again in load, at a receiver that drops connections: nothing is lost, each bed
keeps its order, and a repeat is the message that went before."""

import random
import time
from pathlib import Path
from typing import Final

import pytest

from pipeline.domain.records import OutcomeKind
from pipeline.local.ports import HOST
from pipeline.local.servers.broker import Broker
from pipeline.roles.accounts.books import current_status
from tests.hazards.harness import ANSWER_S, SHORT, Site, site
from tests.hazards.stream import Stream, flowing
from tests.support.mllp_desk import Desk, desk
from tests.support.mllp_receiver import Seen, ack

pytestmark = pytest.mark.timeout(900)

KILLS: Final = 3 if SHORT else 10
STREAM: Final = Stream(seed=11, beds=12, changes=8 if SHORT else 30)
RATE_PER_S: Final = 30.0
DROPPED: Final = 0.1
"""Part of the messages after which the connection ends: for half of them before the answer, for half amid it."""


def unreliable(seed: int) -> object:
    chance = random.Random(seed)

    def say(seen: Seen) -> bytes | None:
        whole, luck = ack("AE" if chance.random() < 0.1 else "AA", seen.control_id), chance.random()
        if luck < DROPPED / 2:
            return None
        return whole[: len(whole) // 2] if luck < DROPPED else whole

    return say


def start(to: Site, instance: str) -> str:
    disk = to.stack.folder / "data" / f"adt-{instance}"
    section = "SURGELINE_HL7_OUT__ADT"
    environment = {f"{section}__INSTANCE": instance, f"{section}__DATA_DIR": str(disk)}
    return to.stack.start("writer", "adt", instance=instance, environment=environment)


def test_a_writer_of_each_change_that_is_killed_in_load_loses_nothing_and_keeps_the_order(broker: Broker, tmp_path: Path) -> None:
    profile = tmp_path / "receiver.yaml"
    text = Path("pipeline/profiles/hl7-out/replica.yaml").read_text()
    profile.write_text(text.replace("ack_timeout_s: 30", "ack_timeout_s: 2").replace("window: 1", "window: 4"))
    with desk() as at:
        at.receiver.say = unreliable(5)  # type: ignore[assignment]
        section = {
            "host": HOST,
            "port": at.port,
            "profile": str(profile),
            "role": "replica",
            "data_dir": str(tmp_path / "unused"),
        }
        with site(tmp_path / "s", broker.bootstrap, {}, hl7_out={"adt": section}) as to:
            to.start("gate")
            names = [start(to, instance) for instance in ("0", "1")]
            to.stack.wait_ready(*names, timeout_s=ANSWER_S)
            chance = random.Random(3)
            with flowing(to, STREAM.events(to), RATE_PER_S):
                for kill in range(KILLS):
                    time.sleep(chance.uniform(1.0, 4.0))  # the instant of the kill is what is tried
                    to.kill(names[kill % 2])
                    start(to, str(kill % 2))
            books = to.settle(ehrs={})
            told = books.destinations[0]
            assert (told.superseded, told.open, told.unaccounted) == (0, 0, 0)
            assert current_status(to.stack.settings).destinations[0].unreported == ()
            judge(to, at)


def judge(to: Site, at: Desk) -> None:
    outcomes = [each for each in to.outcomes() if each.kind is not OutcomeKind.FAILED]
    revision_of = {each.remote_id: each.revision for each in outcomes if each.remote_id is not None}
    confirmed = {each.remote_id for each in outcomes if each.kind is OutcomeKind.CONFIRMED}
    seen = list(at.receiver.seen)
    assert confirmed <= {each.control_id for each in seen}, "confirmed, and never seen"
    first = {}
    for each in seen:
        assert first.setdefault(each.control_id, each.data) == each.data, "a repeat is another message"
    by_bed: dict[str, list[int]] = {}
    for each in seen:
        by_bed.setdefault(each.about, []).append(revision_of[each.control_id])
    for revisions in by_bed.values():
        assert revisions == sorted(revisions), "an older change went behind a newer one"
