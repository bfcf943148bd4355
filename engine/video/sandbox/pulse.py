"""Signs of life from a process that decodes, and its end when it gives none."""

import signal
import time

from spava_app.engine.processes.wire import Wire

# Between two signs, as long as work goes on.
_EVERY = 1.0
# Without progress for so long the kernel ends the process, whatever it hangs in, even when nobody
# is left to kill it. Above what the other side waits for.
_HANGS_AFTER = 60


class Pulse:
    """Told of every step of progress.

    Args:
        wire: where the other side waits for an answer.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._last = 0.0

    def beat(self) -> None:
        """Work goes on: call it once per packet or picture."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            signal.alarm(_HANGS_AFTER)
            if self._last:
                self._wire.send({"alive": True})
            self._last = now

    def rest(self) -> None:
        """Nothing to do until the other side says so."""
        signal.alarm(0)
        self._last = 0.0
