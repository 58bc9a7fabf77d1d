"""Places in object storage: what they need of the server."""

from typing import cast

import pytest

from pipeline.carriers.objects import ObjectCarrier
from pipeline.carriers.protocol import Unreachable
from tests.support.carrier_adapters import MemoryPlace


def test_a_server_that_gives_no_tags_is_told_of_and_not_served_from(monkeypatch: pytest.MonkeyPatch) -> None:
    place = MemoryPlace()
    first, second = (cast("ObjectCarrier", place.carrier(owner)) for owner in ("0/1/a", "0/2/b"))
    assert first.hold()
    lock, read = second._lock, second._lock.read

    def without_tags() -> bytes | None:
        content = read()
        lock._tags = dict.fromkeys(lock._tags)
        return content

    monkeypatch.setattr(lock, "read", without_tags)
    for _ in range(2):
        with pytest.raises(Unreachable, match="NO_TAGS"):
            second._lock.replace(lock.read() or b"", lock.read() or b"")
    with pytest.raises(Unreachable, match="NO_TAGS"):
        second.hold()
    first.let_go()
