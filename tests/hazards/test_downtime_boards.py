"""A broker that dies under the boards: they go on with what is known, say that they are old, and get new again by themselves."""

from pathlib import Path
from typing import Final

import pytest
from joserfc.jwk import OKPKey

from pipeline.local.servers.broker import Broker
from pipeline.local.stack import wait_for
from tests.support.downtime import ago, page, sections, type_in
from tests.support.stacks import ANSWER_S, stack_at, stopped_at_end

EVERY_S: Final = 15.0
"""Longer than it takes to learn that everything is known."""


@pytest.mark.long
@pytest.mark.timeout(290)
def test_boards_go_on_without_a_broker_grow_old_and_come_back(broker: Broker, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    overrides = sections(folder, OKPKey.generate_key("Ed25519"), EVERY_S)
    with stopped_at_end(stack_at(folder, broker.bootstrap, overrides=overrides)) as stack:
        stack.wait_ready(stack.start("gate"), stack.start("downtime"))
        type_in(stack, f"{ago(5)},MAIN,ICU,4,A,dirty,blocked,leak")
        wait_for(lambda: "leak" in page(stack), ANSWER_S * 2, "the board shows the bed", poll_s=0.5)
        wait_for(lambda: "Complete up to then" in page(stack), ANSWER_S, "the board is new", poll_s=0.5)
        broker.kill()
        try:
            wait_for(lambda: "OLD: nothing was heard" in page(stack), ANSWER_S * 2, "a board says that it is old", poll_s=0.5)
            assert "leak" in page(stack), "what was known stays"
            assert stack.roles["downtime-0"].running
        finally:
            broker.start()
        type_in(stack, f"{ago(1)},MAIN,ICU,4,A,clean,blocked,mended")
        stack.wait_ready(stack.start("gate"))
        wait_for(lambda: "mended" in page(stack), ANSWER_S * 4, "boards show what came since", poll_s=0.5)
        wait_for(lambda: "Complete up to then" in page(stack), ANSWER_S * 2, "boards are new again", poll_s=0.5)
