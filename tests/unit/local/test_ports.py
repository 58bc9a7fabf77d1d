"""Free ports."""

import socket

from pipeline.local.ports import FIRST_PORT, HOST, LAST_PORT, free_port, free_ports


def test_free_ports_are_different_bindable_and_below_the_range_of_outgoing_connections() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        assert FIRST_PORT <= port <= LAST_PORT
        with socket.socket() as probe:
            probe.bind((HOST, port))


def test_a_port_that_was_given_and_is_not_bound_yet_is_not_given_again() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == 500
