"""The control channel between the driver and one worker: length-prefixed JSON messages of any size,
in order. Within a machine descriptors of files follow the request that is about them.

Messages are objects with one key that names them: from the driver `request` and `cancel`; from a
worker `ready`, `alive`, `stage`, `token`, `result`, `error` or `peer_failed`, and `fault` before it
ends of an internal error. A rank sends from any of its threads, and `alive` while it works, so that
a stopped rank differs from a slow one. Nothing is unpickled on either side.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from multiprocessing.connection import Connection
from typing import Any

# Longer than any message there is; what claims to be more is no message.
_LONGEST = 2**28
# What carries a descriptor.
_FILE = b"f"
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def send(connection: Connection, message: dict[str, Any]) -> None:
    """Send one message; raises OSError when the other side is gone."""
    connection.send_bytes(json.dumps(message).encode())


def send_files(connection: Connection, files: Sequence[int]) -> None:
    """Send descriptors, after a message that says how many, over a channel within this machine;
    raises OSError when the other side is gone.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        for file in files:
            socket.send_fds(end, [_FILE], [file])


def receive_files(connection: Connection, count: int) -> list[int]:
    """Wait for so many descriptors, which are to be closed; raises EOFError or OSError when the
    other side is gone.
    """
    files: list[int] = []
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            while len(files) < count:
                said, come, *_ = socket.recv_fds(end, len(_FILE), 1, _CLOEXEC)
                if said != _FILE or not come:
                    raise EOFError
                files += come
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return files


def receive(connection: Connection) -> dict[str, Any]:
    """Wait for one message; raises EOFError or OSError when the other side is gone."""
    return json.loads(connection.recv_bytes(_LONGEST))


def hang_up(connection: Connection) -> None:
    """End a connection on both sides, so that a thread that waits for a message wakes; raises
    OSError when it has ended. It is still to be closed.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def plain(value: object) -> Any:
    """A dataclass as what JSON can hold; other values as they are."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


# Seconds between two heartbeats.
EVERY = 1.0


class Reports:
    """What one rank tells the driver."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; raises OSError when the driver is gone."""
        with self._lock:
            send(self._connection, message)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Say once in a while that this process lives, during the `with` block. Not beyond it:
        nobody reads what an idle rank says.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()

    def _beat(self, done: threading.Event) -> None:
        try:
            while not done.wait(EVERY):
                self.send({"alive": True})
        except OSError:
            pass  # the driver is gone: who listens to it ends the process
