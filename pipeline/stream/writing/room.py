"""What an attempt needs of the delivery around it: the destination, the turns, the flags, and the bodies kept."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.destinations.protocol import Current, Destination
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from pipeline.stream.writing.bodies import Bodies
from pipeline.stream.writing.contact import Contact
from pipeline.stream.writing.shadows import Rollout
from pipeline.stream.writing.throttle import Throttle


@dataclass(frozen=True)
class DeliveryRoom:
    """Of one delivery; see `pipeline.stream.writing.attempt.Room`."""

    destination: Destination
    throttle: Throttle
    rollout: Rollout
    bodies: Bodies
    contact: Contact
    now: Callable[[], Millis]
    attempt_timeout_s: float

    def deadline(self) -> Millis:
        """End of an attempt that begins now."""
        return Millis(self.now() + int(self.attempt_timeout_s * 1000))

    async def pace(self, critical: bool) -> None:
        """Wait for the turn that the rate allows."""
        await self.throttle.pace(critical)

    def pause_s(self) -> float:
        """What is left of a pause that the destination asked for."""
        return self.throttle.pause_s()

    def may_write(self, accepted: Accepted) -> bool:
        """Whether the flags let this state be written at this moment; asked again just before sending."""
        return self.rollout.may_write(accepted)

    def cached(self, key: bytes) -> Current | None:
        """Body of the last confirmed write, if it is still kept and the destination was there all the time since."""
        self.contact.era()
        return self.bodies.get(key)

    def forget(self, key: bytes) -> None:
        """The body kept is out of date."""
        self.bodies.forget(key)
