"""Free TCP ports of this machine."""

import random
import socket
from collections import deque
from contextlib import ExitStack
from typing import Final

from pipeline.local.errors import LocalPlatformError

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 20_000
LAST_PORT: Final = 31_999
"""Below the range from which systems draw the local ports of outgoing connections (32768 and up on Linux): a server
that is killed and started again on its port never finds some client's connection there."""
MAX_TRIES: Final = 500
REMEMBERED: Final = 2_000
_given: Final[deque[int]] = deque(maxlen=REMEMBERED)
"""Ports that this process was told of last, bound yet or not: none is told twice."""


def free_port() -> int:
    """One port that nobody listens on now. See `free_ports`."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on now.

    They are not held: whoever takes one should bind it soon. The start is drawn at random, so that two processes that
    ask at the same moment are unlikely to get the same ones. LocalPlatformError if none is found within MAX_TRIES.
    """
    chance = random.SystemRandom()
    found: list[int] = []
    with ExitStack() as held:
        for _ in range(MAX_TRIES):
            if len(found) == count:
                return found
            port = chance.randint(FIRST_PORT, LAST_PORT)
            if port in _given:
                continue
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found.append(port)
            _given.append(port)
    if len(found) == count:
        return found
    raise LocalPlatformError(f"no {count} free ports between {FIRST_PORT} and {LAST_PORT}")


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on `port` of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def refuse_taken(port: int, who: str) -> None:
    """LocalPlatformError if somebody listens on `port`, or `who` would be taken for ready when another one answers."""
    if is_listening(port):
        raise LocalPlatformError(f"{who} cannot start: port {port} is taken by another process")
