"""Who is let in, and who is not."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from spava_app.engine import channel
from spava_app.engine.joined.door import Address, Door, knock
from spava_app.errors import EngineDown


@pytest.fixture
def door() -> Iterator[Door]:
    opened = Door("127.0.0.1")
    yield opened
    opened.close()


def connect(door: Door) -> socket.socket:
    return socket.create_connection((door.address.host, door.address.port), timeout=10)


def test_a_guest_is_let_in_by_name(door: Door) -> None:
    with knock(door.address, "agent/1") as end:
        connection = door.take("agent/1", 10)
        channel.send(connection, {"hello": "there"})
        data = end.recv(100)
        assert data[4:] == b'{"hello": "there"}'
        connection.close()


@pytest.mark.parametrize(
    "hello",
    [
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x03{{{",
        b"\xff\xff\xff\xff" + b"x" * 1000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_stranger_is_dropped(door: Door, hello: bytes) -> None:
    with connect(door) as stranger:
        stranger.sendall(hello)
        with suppress(ConnectionResetError):  # what it sent was not even read
            assert stranger.recv(1) == b""
    with pytest.raises(TimeoutError):
        door.take("agent/1", 0.2)


@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_a_wrong_token_is_dropped(door: Door, token: str) -> None:
    with knock(replace(door.address, token=token), "agent/1") as stranger:
        stranger.settimeout(10)
        assert stranger.recv(1) == b""
    with pytest.raises(TimeoutError):
        door.take("agent/1", 0.2)


def test_one_who_says_nothing_is_dropped_and_keeps_nobody_waiting(door: Door) -> None:
    with connect(door) as silent, knock(door.address, "agent/2"):
        door.take("agent/2", 3).close()
        assert silent.recv(1) == b""


def test_many_strangers_are_not_all_waited_for(door: Door) -> None:
    strangers = [connect(door) for _ in range(80)]
    dropped = 0
    for stranger in strangers:
        stranger.settimeout(0.2)
        with suppress(TimeoutError):
            dropped += stranger.recv(1) == b""
        stranger.close()
    assert dropped >= 16
    until = time.monotonic() + 10
    while True:  # as soon as the strangers' time is over
        try:
            knock(door.address, "agent/1").close()
            door.take("agent/1", 1).close()
            return
        except (OSError, TimeoutError):
            assert time.monotonic() < until


def test_nobody_listens_after_close(door: Door) -> None:
    door.close()
    with pytest.raises(OSError, match="refused"):
        connect(door)
    with pytest.raises(EngineDown):
        door.take("agent/1", 10)


def test_the_length_of_a_message_is_bounded(door: Door) -> None:
    """Even a guest cannot make the other side take memory for what it only announces."""
    with knock(door.address, "agent/1") as end:
        connection = door.take("agent/1", 10)
        end.sendall(struct.pack("!i", -1) + struct.pack("!Q", 2**40))
        with pytest.raises(OSError, match="message length"):
            channel.receive(connection)


def test_an_address_of_no_interface_here() -> None:
    with pytest.raises(OSError, match="assign"):
        Door("192.0.2.1")


def test_only_one_address_is_listened_on(door: Door) -> None:
    assert door.address.host == "127.0.0.1"
    with pytest.raises(OSError, match="refused"):
        knock(Address("127.0.0.2", door.address.port, door.address.token), "agent/1", 1).close()
