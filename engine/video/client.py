"""The other end of the decoder process: every wait has a deadline, every failure is a typed error.

A process is kept for the next file when it has answered, and killed otherwise.
"""

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from spava_app.engine.channel import decode_error
from spava_app.engine.video.wire import Message, Wire
from spava_app.errors import VideoError

# Without a sign of life for so long a decoder hangs; it gives one every second. Long enough to
# start Python on a busy machine with a cold disk.
SILENCE = 30.0
CONVERT = "convert the file: ffmpeg -i video out.mp4"


class DecoderProcess:
    """A started process. It serves one caller at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # One thread each is what these libraries need, and their pools count as memory.
        quiet = {"PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spava_app.engine.video.server"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | quiet,
                # Ctrl-C is for the caller, who then ends this process.
                start_new_session=True,
            )
        self.owner = os.getpid()
        self._wire = Wire(ours)
        self._path, self._left = "", 0.0
        self.busy = False

    def ask(self, path: str, request: Message, *, seconds: float, file: int | None = None) -> None:
        """Send a request about `path`; its answers may be waited for so many seconds in all."""
        self._path, self._left = path, seconds
        self.busy = True
        self._send(request, file)

    def tell(self, message: Message) -> None:
        """Send something that belongs to the request."""
        self._send(message, None)

    def answer(self, *, last: bool = True) -> tuple[Message, bytes]:
        """The next answer, and after the `last` the process is free again.

        Raises:
            VideoError: what the process found wrong with the file, or that it died, hangs or takes
                too long.
        """
        message, payload = self._receive()
        self.busy = not (last or "error" in message or "done" in message)
        if "error" in message:
            raise decode_error(message["error"]) from None
        return message, payload

    def end(self) -> None:
        """Kill the process, whatever it does, and wait for it."""
        self._wire.close()
        self.process.kill()
        self.process.wait()

    def _send(self, message: Message, file: int | None) -> None:
        try:
            self._wire.send(message, file=file, within=SILENCE)
        except TimeoutError:
            self._fail("does not react")
        except OSError:
            self._fail("failed on this file")

    def _receive(self) -> tuple[Message, bytes]:
        while True:
            began = time.monotonic()
            try:
                message, payload = self._wire.receive(within=min(SILENCE, self._left))
            except TimeoutError:
                late = self._left <= SILENCE
                self._fail("takes too long" if late else f"has hung for {SILENCE:.0f} s")
            except (EOFError, OSError, ValueError):
                self._fail("failed on this file")
            self._left -= time.monotonic() - began
            if "alive" not in message:
                return message, payload

    def _fail(self, how: str) -> NoReturn:
        self.end()
        raise VideoError("video", self._path, f"the decoder {how}; {CONVERT}") from None


# As many as one caller may use at a time.
_KEPT = 16
_idle: list[DecoderProcess] = []
_lock = threading.Lock()


@contextmanager
def decoder_process() -> Iterator[DecoderProcess]:
    """A process to ask, new or kept from before. It is killed if the caller leaves before the last
    answer.
    """
    process = _take()
    try:
        yield process
    finally:
        with _lock:
            keep = not process.busy and len(_idle) < _KEPT and process.process.poll() is None
            if keep:
                _idle.append(process)
        if not keep:
            process.end()


def _take() -> DecoderProcess:
    with _lock:
        while _idle:
            process = _idle.pop()
            # After a fork the process is still the parent's.
            if process.owner == os.getpid() and process.process.poll() is None:
                return process
    return DecoderProcess()


@atexit.register
def end_idle() -> None:
    """End the process that is kept."""
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.owner == os.getpid():
                process.end()
