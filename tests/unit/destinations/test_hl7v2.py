"""HL7 v2 out: which acknowledgement decides is the profile's to say."""

from typing import Any, Final

import msgspec
import pytest

from pipeline.destinations.hl7v2.destination import Hl7v2Destination
from pipeline.destinations.hl7v2.profile import load_out_profile
from pipeline.destinations.protocol import Confirmed, Refused, Retry
from pipeline.domain.records import Reason
from pipeline.formats.hl7v2.out_messages import Letter
from pipeline.local.ports import HOST
from tests.support.mllp_receiver import Receiver, ack, listening

REPLICA: Final = load_out_profile("replica")
BOUND_S: Final = 60.0


def letter(control_id: str) -> Letter:
    text = f"MSH|^~\\&|S|F|R||20260101||ADT^A08|{control_id}|P|2.5.1||||AL|AL\rPID|||1^^^G^MR\r"
    return Letter(control_id, "ADT^A08", text.encode())


@pytest.mark.parametrize(
    ("mode", "answers", "outcome"),
    [
        ("application", (("CA",), ("AA",)), Confirmed),
        ("application", (("CA",), ("AR", "101")), Refused(Reason.REFUSED_INVALID)),
        ("application", (("CA",), ("AE",)), Retry(Reason.ASKED_AGAIN)),
        ("application", (("CR",),), Refused(Reason.REFUSED_OTHER)),
        ("enhanced", (("CA",), ("AR", "101")), Confirmed),
    ],
)
async def test_the_answer_that_the_profile_names_decides(mode: Any, answers: tuple[tuple[str, ...], ...], outcome: Any) -> None:
    receiver = Receiver(lambda seen: b"".join(ack(code, seen.control_id, *errors) for code, *errors in answers))
    profile = msgspec.structs.replace(REPLICA, acknowledgement=mode, ack_timeout_s=BOUND_S, connect_timeout_s=BOUND_S)
    async with listening(receiver):
        destination = Hl7v2Destination("adt", HOST, receiver.port, profile)
        said = await destination.send(letter("C1"))
        await destination.close()
    assert isinstance(said, Confirmed) if outcome is Confirmed else said == outcome
