"""Free ports."""

import socket

from pipeline.local.ports import FIRST_PORT, HOST, LAST_PORT, free_ports


def test_free_ports_are_different_bindable_and_below_the_range_of_outgoing_connections() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        assert FIRST_PORT <= port <= LAST_PORT
        with socket.socket() as probe:
            probe.bind((HOST, port))
