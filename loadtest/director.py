"""Makes a shape's trouble at its times: through the fault proxies' control addresses, and a command that kills."""

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import gevent
import msgspec

from loadtest.shapes import SLOW_FACTOR, Act, Deed
from loadtest.target import Target
from pipeline.domain.identifiers import Millis
from pipeline.local.servers.faults import Fault, FaultKind

CONTROL_S: Final = 5.0
KILL_S: Final = 30.0
FAULTS: Final = {
    Deed.SLOW: Fault(kind=FaultKind.SLOW_FACTOR, amount=SLOW_FACTOR),
    Deed.OUT: Fault(kind=FaultKind.RESET_BEFORE),
}


class Done(msgspec.Struct, frozen=True):
    """A deed as it was done, seconds after the shape's begin; `held` is false where it could not be done."""

    deed: str
    role: str
    from_s: float
    to_s: float
    held: bool


@dataclass(slots=True)
class Director:
    """Plays acts against a target. What it can't do it notes: a run without its trouble proves nothing."""

    target: Target
    begins_at: Millis

    def play(self, acts: Iterable[Act]) -> list[Done]:
        """Every act at its time, several at once where they overlap; returns when the last has ended."""
        running = [gevent.spawn(self._act, act, role) for act in acts for role in self._roles(act)]
        gevent.joinall(running)
        return [done.value for done in running if isinstance(done.value, Done)]

    def calm(self) -> None:
        """No faults any more, whatever was going on."""
        self._put_all([])

    def _put_all(self, faults: list[Fault]) -> bool:
        """Whether there are proxies and each took it."""
        taken = [_put(control, faults) for control in self.target.ehr_faults]
        return bool(taken) and all(taken)

    def _roles(self, act: Act) -> list[str]:
        """For a kill the roles of that kind, else one nameless entry."""
        if act.deed is not Deed.KILL:
            return [""]
        known = self.target.kill.roles if self.target.kill is not None else ()
        return [role for role in known if role.split("-")[0] == act.role][:1] or [act.role]

    def _act(self, act: Act, role: str) -> Done:
        self._until(act.at_s)
        from_s = self._now_s()
        if act.deed is Deed.KILL:
            held = self._kill(role)
            return Done(act.deed.value, role, from_s, self._now_s(), held)
        held = self._put_all([FAULTS[act.deed]])
        self._until(act.at_s + act.for_s)
        held = self._put_all([]) and held
        return Done(act.deed.value, "", from_s, self._now_s(), held)

    def _kill(self, role: str) -> bool:
        kill = self.target.kill
        if kill is None or role not in kill.roles:
            return False
        command = [part.replace("{role}", role) for part in kill.command]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, timeout=KILL_S, check=False)  # noqa: S603 - the operator's own
            return done.returncode == 0
        return False

    def _now_s(self) -> float:
        return round(time.time() - self.begins_at / 1000, 2)

    def _until(self, at_s: float) -> None:
        gevent.sleep(max(0.0, at_s - self._now_s()))


def _put(control: str, faults: list[Fault]) -> bool:
    request = urllib.request.Request(control, msgspec.json.encode(faults), method="PUT")  # noqa: S310 - the operator's own
    try:
        with urllib.request.urlopen(request, timeout=CONTROL_S) as answer:  # noqa: S310 - see above
            return int(answer.status) == 200
    except OSError:
        return False
