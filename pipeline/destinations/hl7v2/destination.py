"""HL7 v2 out: each accepted change as one message over MLLP, in order per entity, at least once.

A receiver of HL7 v2 can't be asked what it shows, and carries no revision: nothing fences a write. What stands in for both is
the control id: a repeat is the same message byte for byte, and a receiver that keeps MSH-10 does nothing the second time.
"""

import ssl
from collections.abc import Callable
from typing import Literal, assert_never

from pipeline.destinations.hl7v2.mllp_client import (
    Acknowledged,
    Address,
    Bounds,
    MllpClient,
    NotSent,
    Observe,
    Unanswered,
    unheard,
)
from pipeline.destinations.protocol import Ambiguous, Confirmed, Refused, Retry, always
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.hl7v2.ack import Code
from pipeline.formats.hl7v2.out_messages import REFUSALS, Letter, letter_of, name_of
from pipeline.formats.hl7v2.out_profile import OutProfile, Role
from pipeline.formats.hl7v2.out_values import Held


class Hl7v2Destination:
    """One receiver."""

    delivery: Literal["every"] = "every"

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        profile: OutProfile,
        tls: Callable[[], ssl.SSLContext] | None = None,
        observe: Observe = unheard,
    ) -> None:
        self.name = name
        self.role: Role = profile.role
        self.window = profile.window
        self._profile = profile
        bounds = Bounds(profile.connect_timeout_s, profile.ack_timeout_s)
        self._client = MllpClient(Address(host, port, tls), bounds, observe)

    @property
    def entity_types(self) -> frozenset[EntityType]:
        """What the profile sends anything about."""
        return frozenset(entity_type for entity_type, names in self._profile.sends.items() if names)

    def expects(self, accepted: Accepted) -> bool:
        """Whether the receiver is told of this change at all."""
        return name_of(accepted, self._profile) is not None

    def build(self, accepted: Accepted) -> Letter | Refused:
        """The message; Refused with the reason where the state can't go out as it is. Pure."""
        match letter_of(accepted, self._profile, self.name):
            case Letter() as letter:
                return letter
            case Held(reason):
                return Refused(reason)
            case None:
                return Refused(Reason.UNTELLABLE)
            case never:
                assert_never(never)

    async def send(self, letter: Letter, may_go: Callable[[], bool] = always) -> Confirmed | Refused | Retry | Ambiguous:
        """Send once. Ambiguous where no answer came: it goes again, under the same control id."""
        until_applied = self._profile.acknowledgement == "application"
        answer = await self._client.send(letter.control_id, letter.data, until_applied=until_applied, may_go=may_go)
        match answer:
            case NotSent(timed_out):
                return Retry((Reason.TIMEOUT if timed_out else Reason.CONNECTION) if may_go() else Reason.NONE)
            case Unanswered():
                return Ambiguous()
            case Acknowledged():
                return _judged(letter, answer)
            case _:
                assert_never(answer)

    def cut(self) -> None:
        """Give the connection up at once; what is under way on it is ambiguous."""
        self._client.cut()

    async def close(self) -> None:
        """End the connection."""
        await self._client.close()


def _judged(letter: Letter, answer: Acknowledged) -> Confirmed | Refused | Retry:
    """What a code of table 0008 says, whether of a commit or of an application."""
    match answer.code:
        case Code.AA | Code.CA:
            return Confirmed(letter.control_id, None, NO_REVISION)
        case Code.AE | Code.CE:
            return Retry(Reason.ASKED_AGAIN)
        case Code.AR | Code.CR:
            found = [REFUSALS[error] for error in answer.errors if error in REFUSALS]
            return Refused(found[0] if found else Reason.REFUSED_OTHER)
        case _:
            assert_never(answer.code)
