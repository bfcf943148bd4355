"""The other end of `template_process`: one process for all chat templates of this one, started when
it is needed, and replaced when a template makes it hang.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from spava_app.errors import EngineError

# Loading the library that renders, and rendering one prompt: seconds until it counts as hung.
START_SECONDS, RENDER_SECONDS = 60.0, 10.0
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM}


class TemplateFailed(Exception):
    """A template that raises an error, or exceeds its time or memory."""


class _Ended(Exception):
    """The process is gone."""


class Renderer:
    """Renders templates one at a time; callers from several threads wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner, self._ready = 0, False

    def start(self) -> None:
        """Start the process without waiting for it: loading its library takes a second."""
        with self._lock:
            self._started()

    def render(self, request: Mapping[str, Any], *, most_added: int) -> str:
        """The text of a request as `template_process` takes it.

        Args:
            most_added: characters that the text may have beyond those of the request.

        Raises:
            TemplateFailed: the template's own fault.
            EngineError: the process cannot be started, or was ended twice from outside.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            answer = self._answer(line)
        if "error" in answer:
            raise TemplateFailed(answer["error"])
        if len(answer["text"]) > len(line) + most_added:
            raise TemplateFailed("it writes far more than it is given")
        return answer["text"]

    def end(self) -> None:
        """End the process, if it is this process's own."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._owner == os.getpid():
            if self._process.poll() is None:
                return self._process
            self.end()
        self._owner, self._ready = os.getpid(), False
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "spava_app.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"},
            # Ctrl-C is for the caller; this process ends with its standard input.
            start_new_session=True,
        )
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        return process

    def _answer(self, line: bytes) -> dict[str, Any]:
        for _ in range(2):
            process = self._started()
            try:
                if not self._ready:
                    self._exchange(process, b"", START_SECONDS)
                    self._ready = True
                return json.loads(self._exchange(process, line, RENDER_SECONDS))
            except _Ended:
                code = process.wait()
                self.end()
                if code not in _FROM_OUTSIDE:
                    raise EngineError(
                        f"the process that renders chat templates ended with status {code}"
                    ) from None
        raise EngineError("the process that renders chat templates was killed: ask again")

    def _exchange(self, process: "subprocess.Popen[bytes]", line: bytes, seconds: float) -> bytes:
        """Write `line` and read the line that comes back, within so many seconds."""
        assert process.stdin is not None
        assert process.stdout is not None
        writes, reads = process.stdin.fileno(), process.stdout.fileno()
        until, unsent, answer = time.monotonic() + seconds, memoryview(line), bytearray()
        while not answer.endswith(b"\n"):
            left = until - time.monotonic()
            watched = select.poll()  # not select(), which takes no descriptor above 1023
            watched.register(reads, select.POLLIN)
            if unsent:
                watched.register(writes, select.POLLOUT)
            ready = dict(watched.poll(max(0.0, left) * 1000))
            if left <= 0 or not ready:
                self.end()
                raise TemplateFailed(f"it takes longer than {seconds:g} s")
            if writes in ready:
                try:
                    unsent = unsent[os.write(writes, unsent[: 2**16]) :]
                except BrokenPipeError:
                    raise _Ended from None
            if reads in ready:
                if not (part := os.read(reads, 2**20)):
                    raise _Ended
                answer += part
        return bytes(answer)


RENDERER = Renderer()
atexit.register(RENDERER.end)
