"""Connections of a server of ours: counted, and kept from falling to one address.

A server takes so many connections, and tells nobody who holds them. So the process looks at its own sockets: where they become
many, an address that holds more than half of what the others leave is cut off, and may send again what got no answer. A peer
that takes no byte of its answer for a while is cut off by the kernel.
"""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

UNREAD_S: Final = 20
"""A peer that takes nothing of an answer for so long is cut off."""
LOOK_S: Final = 0.5
"""How often it is looked whether connections are many."""
CROWDED: Final = 0.5
"""Part of the ceiling above which it matters who holds them."""

_DESCRIPTORS: Final = "/proc/self/fd"


class Peer(NamedTuple):
    """Who is at the other end of a descriptor of ours."""

    descriptor: int
    address: str
    port: int


def cut_off_who_never_reads(port: int) -> None:
    """Set TCP_USER_TIMEOUT at our listening socket; each connection inherits it. Linux alone knows it."""
    option: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        return
    for descriptor in _descriptors():
        with suppress(OSError), _looked_at(descriptor) as own:
            if own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and _listens_at(own) == port:
                own.setsockopt(socket.IPPROTO_TCP, option, UNREAD_S * 1000)


def peers_of(port: int) -> list[Peer]:
    """Connections that were taken at our port; none where the system doesn't tell."""
    found = []
    for descriptor in _descriptors():
        with suppress(OSError), _looked_at(descriptor) as own:
            if _listens_at(own) == port:
                found.append(Peer(descriptor, *own.getpeername()[:2]))
    return found


def cut_off_all(port: int) -> int:
    """End every connection at our port; how many there were."""
    return sum(map(_ended, peers_of(port)))


def over_share(peers: Sequence[Peer], ceiling: int) -> dict[str, list[Peer]]:
    """What each address holds beyond half of what the others leave it."""
    held = Counter(peer.address for peer in peers)
    over: dict[str, list[Peer]] = {}
    for address, count in held.items():
        share = max(1, (ceiling - (len(peers) - count)) // 2)
        if count > share:
            over[address] = [peer for peer in peers if peer.address == address][share:]
    return over


class Doorkeeper:
    """Watches the connections of one port."""

    def __init__(self, port: int, ceiling: int, on_cut_off: Callable[[int], None]) -> None:
        """`on_cut_off` is told how many connections of one address were ended."""
        self._port, self._ceiling, self._on_cut_off = port, ceiling, on_cut_off

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            for count in await asyncio.to_thread(self.look):
                self._on_cut_off(count)
            await asyncio.sleep(LOOK_S)

    def look(self) -> list[int]:
        """End what an address has beyond its share, where connections are many; how many were ended, per address."""
        if len(_descriptors()) <= self._ceiling * CROWDED:
            return []
        peers = peers_of(self._port)
        if len(peers) <= self._ceiling * CROWDED:
            return []
        return [sum(map(_ended, theirs)) for theirs in over_share(peers, self._ceiling).values()]


def _listens_at(own: socket.socket) -> int | None:
    """Port at our end; None for a socket of another family."""
    name = own.getsockname()
    return name[1] if isinstance(name, tuple) else None


def _ended(peer: Peer) -> bool:
    """Whether the connection was ended now; its descriptor may be another's by now."""
    with suppress(OSError), _looked_at(peer.descriptor) as own:
        if own.getpeername()[:2] == (peer.address, peer.port):
            own.shutdown(socket.SHUT_RDWR)
            return True
    return False


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:
        return []


@contextmanager
def _looked_at(descriptor: int) -> Iterator[socket.socket]:
    """A socket of ours through a descriptor of its own: closing that leaves the connection as it is. OSError for no socket."""
    duplicate = os.dup(descriptor)
    try:
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
    with own:
        yield own
