from __future__ import annotations

import socket

from gazetteer.distributed.interface import interface_of, local_address_towards


def test_this_machine_is_reached_over_the_loopback() -> None:
    assert local_address_towards("127.0.0.1", 29_500) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("127.0.1.1") == "lo"


def test_an_address_of_another_machine_has_no_interface_here() -> None:
    assert interface_of("192.0.2.1") is None


def test_interfaces_found_are_the_system_s() -> None:
    names = {name for _, name in socket.if_nameindex()}
    found = interface_of(socket.gethostbyname(socket.gethostname()))
    assert found is None or found in names
