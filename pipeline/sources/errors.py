"""What a sink raises beside its answers."""


class Oversize(ValueError):
    """A record of the message is larger than the broker or the gate would take; nothing was published.

    `item` is the event's place in `events`, or None where the raw bytes or the answer are too large. HTTP answers 413,
    MLLP answers AR or CR: sending it again can't help.
    """

    def __init__(self, item: int | None, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"a record of {size_bytes} bytes, the limit is {limit_bytes}")
        self.item = item
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
