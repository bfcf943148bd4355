"""The other end of `template_process`: one process for all chat templates of this one, started when
it is needed, and replaced when a template makes it hang.
"""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

from spava_app.engine.processes.exit_status import how_it_ended, is_stopped, start_error
from spava_app.engine.processes.process_log import start_process
from spava_app.engine.processes.wire import Wire
from spava_app.errors import EngineDown, InternalError

logger = logging.getLogger(__name__)

# Loading the library that renders, and rendering one prompt: seconds until it counts as hung.
START_SECONDS, RENDER_SECONDS = 60.0, 10.0
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM}
_NAME = "the process that renders chat templates"


class TemplateFailed(Exception):
    """A template that raises an error, or exceeds its time or memory.

    Args:
        limit: whether it was its time or memory.
    """

    def __init__(self, why: str, *, limit: bool = False) -> None:
        super().__init__(why)
        self.limit = limit


class _Process:
    """A started process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", "spava_app.requests.tokenization.template_process"]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            try:
                self.process, self.log = start_process(
                    command, "template renderer", logger, environment, stdin=theirs.fileno()
                )
            except (OSError, RuntimeError) as error:
                ours.close()
                raise start_error(_NAME, error) from error
        self.wire, self.owner, self.ready = Wire(ours), os.getpid(), False

    @property
    def usable(self) -> bool:
        """Whether it runs, not stopped, and is this process's own."""
        alive = self.owner == os.getpid() and self.process.poll() is None
        return alive and not is_stopped(self.process.pid)

    def end(self) -> None:
        """Kill it, unless it is a parent's."""
        if self.owner == os.getpid():
            self.wire.close()
            self.process.kill()
            self.process.wait()


class Renderer:
    """Renders templates one at a time; callers from several threads wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def start(self) -> None:
        """Start the process without waiting for it: loading its library takes a second."""
        with self._lock:
            self._started()

    def render(self, request: Mapping[str, Any], *, most: int) -> str:
        """The text of a request as `template_process` takes it.

        Args:
            most: characters that the text may have.

        Raises:
            TemplateFailed: the template's own fault.
            InternalError: the process does not work.
            EngineDown: it was killed from outside, twice, or stopped, or does not start in time.
        """
        with self._lock:
            answer = self._answer(dict(request))
        if "error" in answer:
            raise TemplateFailed(answer["error"], limit=answer["limit"])
        if len(answer["text"]) > most:
            raise TemplateFailed("it writes far more than it is given", limit=True)
        return answer["text"]

    def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _started(self) -> _Process:
        if self._process is None or not self._process.usable:
            self.end()
            self._process = _Process()
        return self._process

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        code = None
        for _ in range(2):
            process = self._started()
            try:
                return self._exchange(process, request)
            except TimeoutError:
                stopped, ready = is_stopped(process.process.pid), process.ready
                self.end()
                if stopped:
                    raise EngineDown(f"{_NAME} was stopped (SIGSTOP): ask again") from None
                if not ready:
                    why = f"has not started within {START_SECONDS:g} s: the machine is busy"
                    raise EngineDown(f"{_NAME} {why}, ask again") from None
                why = f"it takes longer than {RENDER_SECONDS:g} s"
                raise TemplateFailed(why, limit=True) from None
            except (EOFError, OSError):
                code = process.process.wait()
                self.end()
                if code not in _FROM_OUTSIDE:
                    output = process.log.tail()
                    cause = output.rpartition("\n")[2] or f"it ended with code {code}"
                    raise InternalError(_NAME, cause, output) from None
        raise EngineDown(f"{_NAME} {how_it_ended(code)}, from outside: ask again")

    def _exchange(self, process: _Process, request: dict[str, Any]) -> dict[str, Any]:
        if not process.ready:
            process.wire.receive(within=START_SECONDS)
            process.ready = True
        process.wire.send(request, within=RENDER_SECONDS)
        return process.wire.receive(within=RENDER_SECONDS)[0]


RENDERER = Renderer()
atexit.register(RENDERER.end)
