"""Where rank 0 takes connections, and from whom: a token tells the other processes from strangers.

A guest says hello once, `{"token": ..., "name": ...}` as JSON behind its length in four bytes, and
hears one byte when it is let in; behind that comes the ordinary control channel. What is longer,
slower or without the token is dropped unread. So are the oldest of too many that have not said
hello, never the newest: however many connections a stranger holds, a guest gets in, and one that
was dropped knocks again.

On one machine the door is a socket in a private folder, which nobody else reaches at all.
"""

import hmac
import json
import os
import secrets
import selectors
import shutil
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from spava_app.engine.folders import ScratchFolder
from spava_app.errors import EngineDown

# What a hello may take from the connection on, and its length.
_HELLO_SECONDS, _HELLO_BYTES = 1.0, 512
# Connections that have not said hello yet: of all peers, and of one.
_MOST_UNKNOWN, _MOST_OF_PEER = 64, 32
_WELCOME = b"+"
_BACKLOG = 1024
# How long a thread that listens may take to notice that the door was closed.
_TICK_SECONDS = 0.2
# Between two knocks, at first and at most.
_PAUSE_SECONDS, _LONGEST_PAUSE = 0.02, 0.5
# Bytes that fit into the address of a socket in a folder on every system.
_LONGEST_PATH = 100
_SEND_SECONDS = 30
# A machine that is gone is noticed after about 12 seconds: three probes, three seconds apart.
_ALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 12_000}


@dataclass(frozen=True)
class Address:
    """Where rank 0 waits for the other processes, and what they say there.

    Attributes:
        host, port: of its door.
        token: what tells them from strangers.
        path: of the door in a folder of this machine; empty where it is at a port.
    """

    host: str
    port: int
    token: str
    path: str = ""


def listen(host: str, port: int = 0) -> socket.socket:
    """Listen on the one address that `host` is; by default on any free port.

    Raises:
        OSError: it is no address of this machine, or the port is taken.
    """
    [(family, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return socket.create_server((address[0], port), family=family, backlog=_BACKLOG)


def knock(address: Address, name: str, within: float = 10.0) -> socket.socket:
    """Connect to a door, say hello as `name` and wait to be let in. Who is dropped before that, as
    by a crowd of strangers, knocks again.

    Raises:
        OSError: nobody listens there, or this one is not let in within so many seconds.
    """
    until, pause = time.monotonic() + within, _PAUSE_SECONDS
    while True:
        try:
            return _knock_once(address, name, until)
        except (ConnectionRefusedError, FileNotFoundError):
            raise  # rank 0 is gone
        except OSError:
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def clear_away(address: Address, within: float = 1.0) -> None:
    """Remove the folder of a door whose process was killed; nothing happens while that listens."""
    if not address.path:
        return
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            _connect(address, until).close()
        except FileNotFoundError:
            return
        except OSError:
            shutil.rmtree(Path(address.path).parent, ignore_errors=True)
            return
        time.sleep(0.05)  # it may be about to end


@dataclass(eq=False)
class _Stranger:
    """A connection that has not said all of its hello."""

    end: socket.socket
    peer: str
    until: float
    said: bytearray = field(default_factory=bytearray)

    def listen(self) -> bytes | None:
        """Its hello, once that is complete.

        Raises:
            OSError, ValueError: it is gone, or says something else.
        """
        with suppress(BlockingIOError):
            while left := self._left():
                more = self.end.recv(left)
                if not more:
                    raise ValueError
                self.said += more
            return bytes(self.said[4:])
        return None

    def _left(self) -> int:
        """Bytes of the hello that are still to come, as far as can be told."""
        if len(self.said) < 4:
            return 4 - len(self.said)
        (size,) = struct.unpack("!I", self.said[:4])
        if size > _HELLO_BYTES:
            raise ValueError
        return 4 + size - len(self.said)


class Door:
    """Listens, and keeps who said hello until it is asked for.

    Args:
        host: an address of this machine, to listen on unless all come from this machine.
        here: whether they do: the door is then in a private folder.

    Raises:
        OSError: `host` is no address of this machine.
        InvalidInput: there is no place for a folder.
    """

    def __init__(self, host: str, *, here: bool = False) -> None:
        self._folder: ScratchFolder | None = None
        token = secrets.token_hex(32)
        if here:
            self._folder, self._listener, path = _in_folder()
            self.address = Address(host, 0, token, path)
        else:
            self._listener = listen(host)
            own = self._listener.getsockname()
            self.address = Address(own[0], own[1], token)
        self._listener.setblocking(False)
        self._guests: dict[str, Connection] = {}
        self._changed = threading.Condition()
        self._closed = False
        # Oldest first; of the thread that listens alone.
        self._strangers: dict[socket.socket, _Stranger] = {}
        threading.Thread(target=self._serve, name="spava-door", daemon=True).start()

    def take(self, name: str, within: float) -> Connection:
        """The connection of the guest called `name`, waited for so many seconds.

        Raises:
            TimeoutError: it has not come.
            EngineDown: the door was closed meanwhile.
        """
        with self._changed:
            come = self._changed.wait_for(lambda: self._closed or name in self._guests, within)
            if self._closed:
                raise EngineDown("the engine was closed")
            if not come:
                raise TimeoutError
            return self._guests.pop(name)

    def close(self) -> None:
        """Let nobody in any more, and send away who was not asked for."""
        with self._changed:
            self._closed = True
            guests, self._guests = self._guests, {}
            self._changed.notify_all()
        for guest in guests.values():
            guest.close()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that listens
        self._listener.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _serve(self) -> None:
        try:
            while not self._closed:
                self._serve_once()
        finally:
            for stranger in list(self._strangers.values()):
                self._drop(stranger)

    def _serve_once(self) -> None:
        # Made anew each time: it costs little beside what it waits for, and nothing goes stale.
        with selectors.PollSelector() as waiting:
            try:
                waiting.register(self._listener, selectors.EVENT_READ)
            except ValueError:
                return  # closed
            for end in self._strangers:
                waiting.register(end, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in waiting.select(_TICK_SECONDS)]
        # Who has something to say comes before any newcomer could take its place.
        for stranger in list(self._strangers.values()):
            if stranger.end in ready:
                self._hear(stranger)
        if self._listener in ready:
            self._accept()
        now = time.monotonic()
        for stranger in list(self._strangers.values()):
            if stranger.until < now:
                self._drop(stranger)

    def _accept(self) -> None:
        """Take the connections that wait."""
        for _ in range(_MOST_UNKNOWN):
            try:
                end, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                if self._closed:
                    return
                # Out of file descriptors: later there may be some.
                if self._strangers:
                    self._drop(next(iter(self._strangers.values())))
                else:
                    time.sleep(0.1)
                return
            end.setblocking(False)
            name = peer[0] if isinstance(peer, tuple) else ""
            stranger = _Stranger(end, name, time.monotonic() + _HELLO_SECONDS)
            self._strangers[end] = stranger
            self._hear(stranger)
            same = [one for one in self._strangers.values() if one.peer == name]
            if len(same) > _MOST_OF_PEER:
                self._drop(same[0])
            elif len(self._strangers) > _MOST_UNKNOWN:
                self._drop(next(iter(self._strangers.values())))

    def _hear(self, stranger: _Stranger) -> None:
        """Let a stranger in if it has said its hello, and drop it if that is wrong."""
        try:
            hello = stranger.listen()
            if hello is None:
                return
            name = self._name(hello)
            stranger.end.send(_WELCOME)
            _tune(stranger.end)
        except (OSError, ValueError):
            self._drop(stranger)
            return
        del self._strangers[stranger.end]
        with self._changed:
            if self._closed:
                stranger.end.close()
                return
            # A guest that comes again has given up its connection before.
            if (before := self._guests.pop(name, None)) is not None:
                before.close()
            self._guests[name] = Connection(stranger.end.detach())
            self._changed.notify_all()

    def _drop(self, stranger: _Stranger) -> None:
        self._strangers.pop(stranger.end, None)
        stranger.end.close()

    def _name(self, said: bytes) -> str:
        """The name in a hello; ValueError if it is none, or has not the token."""
        hello = json.loads(said)
        if not isinstance(hello, dict):
            raise ValueError
        token, name = str(hello.get("token")), hello.get("name")
        known = hmac.compare_digest(token.encode(), self.address.token.encode())
        if not known or not isinstance(name, str):
            raise ValueError
        return name


def _in_folder() -> tuple[ScratchFolder, socket.socket, str]:
    """A door in a private folder: the folder, who listens, and its path."""
    folder = ScratchFolder("door")
    if len(os.fsencode(folder.name)) + len("/door") > _LONGEST_PATH:
        folder.cleanup()
        folder = ScratchFolder("door", "/tmp")
    path = str(Path(folder.name, "door"))
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        folder.cleanup()
        raise
    return folder, listener, path


def _connect(address: Address, until: float) -> socket.socket:
    within = max(0.001, until - time.monotonic())
    if not address.path:
        return socket.create_connection((address.host, address.port), timeout=within)
    end = socket.socket(socket.AF_UNIX)
    try:
        end.settimeout(within)
        end.connect(address.path)
    except BaseException:
        end.close()
        raise
    return end


def _knock_once(address: Address, name: str, until: float) -> socket.socket:
    end = _connect(address, until)
    try:
        hello = json.dumps({"token": address.token, "name": name}).encode()
        end.sendall(struct.pack("!I", len(hello)) + hello)
        end.settimeout(max(0.001, until - time.monotonic()))
        if end.recv(len(_WELCOME)) != _WELCOME:
            raise ConnectionAbortedError("not let in")
        _tune(end)
    except BaseException:
        end.close()
        raise
    return end


def _tune(end: socket.socket) -> None:
    """Make a connection notice that the other machine is gone, and blocking otherwise."""
    end.settimeout(None)
    if end.family != socket.AF_UNIX:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _ALIVE.items():
            if hasattr(socket, name):  # Linux has them all
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    # A process that lives and does not read must not keep the others from going on.
    wait = struct.pack("ll", _SEND_SECONDS, 0)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
