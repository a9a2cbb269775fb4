"""A preferred port is taken when it is free; when it is not, the holder is named or the next one taken."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.procs import bind_listening, describe_holder, port_holder


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A listening socket of this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_port_zero_takes_any_free_port_and_answers_there() -> None:
    with bind_listening("127.0.0.1", 0) as first, bind_listening("127.0.0.1", 0) as second:
        assert port_of(first) != port_of(second)
        with socket.create_connection(("127.0.0.1", port_of(first)), timeout=5):
            pass


def test_a_free_port_is_taken_as_asked() -> None:
    with bind_listening("127.0.0.1", 0) as probe:
        free = port_of(probe)
    with bind_listening("127.0.0.1", free) as listener:
        assert port_of(listener) == free


def test_the_next_free_port_is_taken_within_the_span(taken: socket.socket) -> None:
    with bind_listening("127.0.0.1", port_of(taken), span=50) as listener:
        assert port_of(taken) < port_of(listener) < port_of(taken) + 50


def test_a_taken_port_is_refused_with_its_holder(taken: socket.socket) -> None:
    with pytest.raises(RbeeError) as caught:
        bind_listening("127.0.0.1", port_of(taken))
    error = caught.value
    me = psutil.Process().name()
    assert error.code is Code.PORT_IN_USE
    assert error.message == f"port {port_of(taken)} on 127.0.0.1 is held by {me} (pid {os.getpid()})"
    assert error.details["pid"] == os.getpid()
    assert error.details["port"] == port_of(taken)


def test_a_span_of_taken_ports_is_refused_with_its_bounds(taken: socket.socket) -> None:
    first = port_of(taken)
    try:
        neighbour = socket.create_server(("127.0.0.1", first + 1))
    except OSError:
        neighbour = socket.socket()  # somebody else holds it, which is as good
    with neighbour, pytest.raises(RbeeError, match=f"all of the ports {first} to {first + 1} .* are taken"):
        bind_listening("127.0.0.1", first, span=2)


def test_a_span_does_not_run_past_the_last_port() -> None:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(socket.create_server(("127.0.0.1", 65_535)))
        except OSError:
            pass  # somebody else holds it, which is as good
        with pytest.raises(RbeeError) as caught:
            bind_listening("127.0.0.1", 65_535, span=10)
    assert caught.value.code is Code.PORT_IN_USE
    assert caught.value.details["ports_tried"] == 1


def test_an_address_that_is_not_ours_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(RbeeError) as caught:
        bind_listening("192.0.2.1", 0)  # TEST-NET-1, RFC 5737
    assert caught.value.code is Code.CONFIG_INVALID
    assert "192.0.2.1" in caught.value.message


def test_a_host_name_that_does_not_resolve_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(RbeeError) as caught:
        bind_listening("no such host", 0)
    assert caught.value.code is Code.CONFIG_INVALID


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_ipv6_loopback_works() -> None:
    with bind_listening("::1", 0) as listener:
        assert listener.family is socket.AF_INET6


def test_nobody_holds_a_port_on_which_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert port_holder(port_of(bound)) is None
        assert describe_holder(port_of(bound)) == "another program"
