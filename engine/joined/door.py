"""Where rank 0 takes connections, and from whom: a token tells the other processes from strangers.

A guest says hello once, `{"token": ..., "name": ...}` as JSON behind its length in four bytes. What
is longer, slower or without the token is dropped unread; behind the hello comes the ordinary
control channel.
"""

import hmac
import json
import secrets
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from spava_app.errors import EngineDown

_HELLO_SECONDS, _HELLO_BYTES = 5.0, 512
# Connections that have not said hello yet; more are dropped.
_MOST_UNKNOWN = 64
_SEND_SECONDS = 30
# A machine that is gone is noticed after about 12 seconds: three probes, three seconds apart.
_ALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 12_000}


@dataclass(frozen=True)
class Address:
    """Where rank 0 waits for the other processes, and what they say there.

    Attributes:
        host, port: of its door.
        token: what tells them from strangers.
    """

    host: str
    port: int
    token: str


def listen(host: str, port: int = 0) -> socket.socket:
    """Listen on the one address that `host` is; by default on any free port.

    Raises:
        OSError: it is no address of this machine, or the port is taken.
    """
    [(family, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return socket.create_server((address[0], port), family=family, backlog=1024)


def knock(address: Address, name: str, within: float = 10.0) -> socket.socket:
    """Connect to a door and say hello as `name`.

    Raises:
        OSError: nobody is there within so many seconds.
    """
    end = socket.create_connection((address.host, address.port), timeout=within)
    try:
        hello = json.dumps({"token": address.token, "name": name}).encode()
        end.sendall(struct.pack("!I", len(hello)) + hello)
        _tune(end)
    except BaseException:
        end.close()
        raise
    return end


class Door:
    """Listens on the address that `host` is, and keeps who said hello until it is asked for.

    Raises:
        OSError: `host` is no address of this machine.
    """

    def __init__(self, host: str) -> None:
        self._listener = listen(host)
        address = self._listener.getsockname()
        self.address = Address(address[0], address[1], secrets.token_hex(32))
        self._guests: dict[str, Connection] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._unknown = threading.Semaphore(_MOST_UNKNOWN)
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
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # out of file descriptors: later there may be some
                continue
            if self._unknown.acquire(blocking=False):
                threading.Thread(target=self._admit, args=(end,), daemon=True).start()
            else:
                end.close()

    def _admit(self, end: socket.socket) -> None:
        try:
            name = self._hello(end)
            _tune(end)
        except (OSError, ValueError):
            end.close()
            return
        finally:
            self._unknown.release()
        with self._changed:
            if self._closed or name in self._guests:
                end.close()
                return
            self._guests[name] = Connection(end.detach())
            self._changed.notify_all()

    def _hello(self, end: socket.socket) -> str:
        """The name in a hello; ValueError if it is none, or has not the token."""
        until = time.monotonic() + _HELLO_SECONDS
        (size,) = struct.unpack("!I", _read(end, 4, until))
        if size > _HELLO_BYTES:
            raise ValueError
        hello = json.loads(_read(end, size, until))
        if not isinstance(hello, dict):
            raise ValueError
        token, name = str(hello.get("token")), hello.get("name")
        known = hmac.compare_digest(token.encode(), self.address.token.encode())
        if not known or not isinstance(name, str):
            raise ValueError
        return name


def _read(end: socket.socket, size: int, until: float) -> bytes:
    data = b""
    while len(data) < size:
        end.settimeout(max(0.001, until - time.monotonic()))
        more = end.recv(size - len(data))
        if not more:
            raise ValueError
        data += more
    return data


def _tune(end: socket.socket) -> None:
    """Make a connection notice that the other machine is gone, and blocking otherwise."""
    end.settimeout(None)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):  # Linux has them all
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    # A process that lives and does not read must not keep the others from going on.
    wait = struct.pack("ll", _SEND_SECONDS, 0)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
