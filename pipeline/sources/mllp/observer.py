"""What the MLLP way in tells metrics and logs."""

from typing import Protocol


class Observer(Protocol):
    """What metrics and logs are told; never patient data."""

    def connected(self, connections: int) -> None:
        """A sender connected; so many are connected now."""
        ...

    def disconnected(self, connections: int) -> None:
        """A sender's connection ended; so many are left."""
        ...

    def message_in(self) -> None:
        """A whole block was received."""
        ...

    def long_frames(self, held: int) -> None:
        """So many long messages are held now."""
        ...

    def answered(self, code: str, seconds: float) -> None:
        """An answer was sent: AA, AE or AR; the time is from the message's last byte on."""
        ...

    def rejected(self, reason: str) -> None:
        """A message was rejected, or a connection refused or cut off; a bounded set of names."""
        ...


class Silent:
    """An observer that does nothing."""

    def connected(self, connections: int) -> None:
        """Nothing."""

    def disconnected(self, connections: int) -> None:
        """Nothing."""

    def message_in(self) -> None:
        """Nothing."""

    def long_frames(self, held: int) -> None:
        """Nothing."""

    def answered(self, code: str, seconds: float) -> None:
        """Nothing."""

    def rejected(self, reason: str) -> None:
        """Nothing."""
