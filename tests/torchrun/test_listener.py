"""Who is let in, and who is not."""

import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from spava_app.engine.workers import channel
from spava_app.engine.workers.torchrun.listener import Address, Door, clear_away, knock
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
    with pytest.raises(OSError, match=r"not let in|reset"):
        knock(replace(door.address, token=token), "agent/1", 0.1)
    with pytest.raises(TimeoutError):
        door.take("agent/1", 0.2)


def test_one_who_says_nothing_is_dropped_and_keeps_nobody_waiting(door: Door) -> None:
    with connect(door) as silent, knock(door.address, "agent/2"):
        door.take("agent/2", 3).close()
        assert silent.recv(1) == b""


# What another process does to a door at the port given: hold connections that say nothing, or send
# a byte now and then, or have ended their side, or come again and again. It says when it has begun.
CROWD = """
import socket, sys, time
port, number, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def one():
    end = socket.create_connection(("127.0.0.1", port), timeout=10)
    if way == "half-open":
        end.sendall(bytes(2))
        end.shutdown(socket.SHUT_WR)
    return end

ends = [one() for _ in range(number)]
print("here", flush=True)
while True:
    if way in ("again", "trickle"):
        for place, end in enumerate(ends):
            try:
                if way == "again":
                    raise OSError
                end.send(bytes(1))
            except OSError:
                end.close()
                ends[place] = one()
    time.sleep(0.01)
"""


@pytest.mark.parametrize("way", ["silent", "trickle", "half-open", "again"])
@pytest.mark.parametrize("number", [80, 300])
def test_a_crowd_of_strangers_keeps_nobody_out(door: Door, number: int, way: str) -> None:
    words = [sys.executable, "-c", CROWD, str(door.address.port), str(number), way]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout is not None
        try:
            assert crowd.stdout.readline() == b"here\n"
            began = time.monotonic()
            for guest in range(8):
                with knock(door.address, f"agent/{guest}") as end:
                    connection = door.take(f"agent/{guest}", 5)
                    channel.send(connection, {})
                    assert end.recv(100)[4:] == b"{}"
                    connection.close()
            # Far less than what any of the strangers is given, times their number.
            assert time.monotonic() - began < 5
        finally:
            crowd.kill()


def test_a_guest_that_was_dropped_knocks_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    real, turned_away = door._name, []

    def name(said: bytes) -> str:
        if len(turned_away) < 3:
            turned_away.append(said)
            raise ValueError
        return real(said)

    monkeypatch.setattr(door, "_name", name)
    with knock(door.address, "agent/1"):
        door.take("agent/1", 3).close()
    assert len(turned_away) == 3


def test_a_guest_that_comes_again_is_the_one_that_counts(door: Door) -> None:
    with knock(door.address, "agent/1") as gone, knock(door.address, "agent/1") as end:
        assert gone.recv(1) == b""
        connection = door.take("agent/1", 3)
        channel.send(connection, {})
        assert end.recv(100)[4:] == b"{}"
        connection.close()


def test_strangers_do_not_use_up_the_file_descriptors(door: Door) -> None:
    ends = [connect(door) for _ in range(200)]
    try:
        with knock(door.address, "agent/1"):
            door.take("agent/1", 3).close()
        assert len(door._strangers) <= 64
    finally:
        for end in ends:
            end.close()


@pytest.mark.parametrize("long", [False, True])
def test_on_one_machine_the_door_is_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    place = tmp_path / ("x" * 120 if long else "x")
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    door = Door("127.0.0.1", here=True)
    folder = Path(door.address.path).parent
    assert (door.address.port, folder.parent == place) == (0, not long)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with knock(door.address, "agent/1") as end:
        connection = door.take("agent/1", 3)
        channel.send(connection, {})
        assert end.recv(100)[4:] == b"{}"
        connection.close()
    clear_away(door.address, 0.2)
    assert folder.exists()
    door.close()
    assert not folder.exists()
    with pytest.raises(OSError, match="No such file"):
        knock(door.address, "agent/1")
    clear_away(door.address)


def test_a_killed_driver_s_folder_is_cleared_away() -> None:
    code = "import os; from spava_app.engine.workers.torchrun.listener import Door; "
    code += "print(Door('127.0.0.1', here=True).address.path, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    path = done.stdout.strip()
    assert Path(path).exists()
    clear_away(Address("127.0.0.1", 0, "", path))
    assert not Path(path).parent.exists()


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
