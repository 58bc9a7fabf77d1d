"""Repairs, expiries and replays carry no values, and can't take anything back."""

from pathlib import Path

import msgspec
import pytest

from pipeline.domain.event import Allocation, AllocationStatus, Bed, EventType, sealed
from pipeline.domain.identifiers import EventId, Millis, Revision
from pipeline.domain.records import Control, ControlKind, DecisionKind, Reason
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from tests.hazards.at_ehr import revisions_of
from tests.hazards.harness import CODEC, OWNER, STATES, Site, now_ms, site, until

LANDING_BED = "landing.bed"


def order(to: Site, bed: str, number: int, kind: ControlKind, **more: object) -> str:
    """Append a control record for a bed; its id."""
    control = Control(kind=kind, event_id=EventId(f"{number:032x}"), actor="hazards", at=now_ms(), **more)  # type: ignore[arg-type]
    to.append([(LANDING_BED, to.key(bed), CODEC.encode(control))])
    to.wait_judged(control.event_id)
    return control.event_id


@pytest.mark.timeout(240)
def test_reassert_expiry_and_replay_do_what_they_say_and_no_more(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        gate = to.start("gate")
        to.start("writer", OWNER)
        until_ms = Millis(now_ms() + 2_000)
        reserved = Allocation(AllocationStatus.RESERVED, until=until_ms)
        to.publish(to.bed("R/1/A", STATES[2], allocation=reserved), to.bed("R/2/A", STATES[0]))
        first = to.wait_head("R/1/A")
        to.wait_confirmed(first)

        order(to, "R/1/A", 1, ControlKind.REASSERT, seen_revision=first.revision)
        again = to.wait_head("R/1/A", previous=1)
        assert (again.event_type, again.state, again.changed) == (EventType.REASSERT, first.state, ())
        to.wait_confirmed(again)

        order(to, "R/1/A", 2, ControlKind.REASSERT, seen_revision=first.revision)  # the head has moved
        order(to, "R/9/A", 3, ControlKind.REASSERT, seen_revision=Revision(1))  # nobody knows it
        order(to, "R/1/A", 4, ControlKind.EXPIRE, field="allocation", until=Millis(until_ms + 1))  # another end
        until(lambda: now_ms() > until_ms, "the end of the promise")
        to.kill(gate)
        to.wipe(gate)
        to.start("gate")
        order(to, "R/1/A", 5, ControlKind.EXPIRE, field="allocation", until=until_ms)
        order(to, "R/1/A", 6, ControlKind.EXPIRE, field="allocation", until=until_ms)  # it ended already
        ended = to.wait_head("R/1/A", previous=2)
        assert isinstance(ended.state, Bed)
        assert ended.state.allocation == Allocation(AllocationStatus.NONE)
        reasons = sorted(d.reason for d in to.decisions() if d.kind is DecisionKind.STALE)
        assert reasons == sorted([Reason.HEAD_MOVED, Reason.UNKNOWN_ENTITY, Reason.NOT_EXPIRED, Reason.NOT_EXPIRED])
        to.settle()
        assert revisions_of(to.versions("R/1/A"))[-1] == ended.revision


@pytest.mark.timeout(200)
def test_an_id_that_was_quarantined_is_judged_anew_and_one_that_was_accepted_is_not(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start_all(("gate",), ("writer", OWNER))
        good = to.bed("Q/1/A", STATES[0])
        broken = msgspec.structs.replace(good, recorded_at=Millis(good.recorded_at + 3_600_000))
        to.publish(sealed(broken))
        to.wait_judged(good.event_id)
        assert [d.reason for d in to.decisions()] == [Reason.FUTURE_TIME]
        to.publish(good)
        to.wait_head("Q/1/A", good.event_id)
        to.publish(good, sealed(msgspec.structs.replace(good, reason="other")))
        until(lambda: len(to.decisions()) == 3, "two more decisions")
        kinds = [d.kind for d in to.decisions()]
        assert kinds == [DecisionKind.QUARANTINED, DecisionKind.DUPLICATE, DecisionKind.CONFLICT]
        to.settle()
