"""Which resources a server fails to show again and again while it shows others, and when to give one up. Pure.

A server that is away fails for everything, and is waited for however long it takes. One resource that it can't show (broken
content, a reader that hangs on it) must not hold back all others for ever. So a failure counts against a resource only where
the server showed another one of the same type in the same moment, and one that was shown since starts anew.
"""

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from pipeline.domain.identifiers import Millis

OWN_FAULTS: Final = frozenset({0, 500, 502, 504})
"""Answers that may be about one resource for good: none at all, and faults while it was made."""
BUSY: Final = frozenset({408, 425, 503})
"""Answers that may be about one resource, and say that it will be shown later. Others that pass (401, 429) are about us."""
GIVE_UP_TRIES: Final = 8
"""Failures that count, at least, before a resource is given up: under load some fail by chance, hardly one so often in a row."""
GIVE_UP_MS: Final = 600_000
"""Time from the first of them to the last, at least."""
MAX_FAILING: Final = 1_000
"""Resources whose failures are counted; beyond it the one that failed longest ago is forgotten, and counted anew."""
WITNESSES: Final = 4
"""Resources of one type that are remembered, to be asked for where another one fails."""


def type_of(reference: str) -> str:
    """The type in `Type/id`."""
    return reference.partition("/")[0]


@dataclass(slots=True)
class _Failing:
    since: Millis
    tries: int


class Patience:
    """With the resources of one server, each by `Type/id`."""

    def __init__(self) -> None:
        self._failing: OrderedDict[str, _Failing] = OrderedDict()
        self._witnesses: dict[str, deque[str]] = {}

    def shown(self, reference: str) -> None:
        """The server showed it when it was asked for by name."""
        self._failing.pop(reference, None)
        self.spoken_of(reference)

    def spoken_of(self, reference: str) -> None:
        """The server has it: it may be asked for where another one fails."""
        known = self._witnesses.setdefault(type_of(reference), deque(maxlen=WITNESSES))
        if reference not in known:
            known.append(reference)

    def absent(self, reference: str) -> None:
        """It was not shown, and asking again would not help: it is gone, not for us, or too large."""
        self._failing.pop(reference, None)
        known = self._witnesses.get(type_of(reference))
        if known is not None and reference in known:
            known.remove(reference)

    def witness(self, kind: str, besides: Collection[str]) -> str | None:
        """A resource of this type that should be shown: none of those `besides`, nor one that fails. Another one each time, as
        one that is asked for may be failing by now."""
        known = self._witnesses.get(kind, deque())
        found = next((name for name in reversed(known) if name not in besides and name not in self._failing), None)
        if found is not None:
            known.remove(found)
            known.appendleft(found)
        return found

    def is_over(self, reference: str, now: Millis) -> bool:
        """Whether to give it up, after it has failed once more, at `now`, while another one of its type was shown."""
        failing = self._failing.setdefault(reference, _Failing(now, 0))
        self._failing.move_to_end(reference)
        failing.tries += 1
        while len(self._failing) > MAX_FAILING:
            self._failing.popitem(last=False)
        return failing.tries >= GIVE_UP_TRIES and now - failing.since >= GIVE_UP_MS
