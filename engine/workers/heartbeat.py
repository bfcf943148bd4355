"""A rank's end of the control channel: messages from any of its threads, and a heartbeat while it
works, so that a stopped rank is told from a slow one.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from spava_app.engine.workers import channel

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
            channel.send(self._connection, message)

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
