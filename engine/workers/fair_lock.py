"""A lock that is handed over in the order it was asked for."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spava_app.errors import Cancelled, EngineError

# How often a caller that waits asks whether it still should.
_EVERY = 0.1


class FairLock:
    """Callers from any thread wait for their turn; the first to ask is the first to go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._holder: int | None = None

    @contextmanager
    def turn(self, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold the turn for the `with` block. A caller interrupted while it waits gives up its
        place.

        Args:
            cancelled: asked while the caller waits; once true, it gives up its place.

        Raises:
            Cancelled: `cancelled` said so.
            EngineError: the caller holds the turn already, and would wait for itself.
        """
        if self._holder == threading.get_ident():
            raise EngineError("asked from a callback of a question: ask when that is answered")
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            self._waiting[0].set()
        try:
            while not mine.wait(_EVERY):
                if cancelled():
                    raise Cancelled("cancelled while it waited for its turn")
            self._holder = threading.get_ident()
            yield
        finally:
            if self._holder == threading.get_ident():
                self._holder = None
            with self._lock:
                self._waiting.remove(mine)
                if self._waiting:
                    self._waiting[0].set()
