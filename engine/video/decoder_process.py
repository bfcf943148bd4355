"""The other end of the decoder process: every wait has a deadline, every failure is a typed error.

A process is kept for the next file when it has answered, and killed otherwise. What ended it tells
whose fault it was: the file's, this program's, or that of who ended it from outside.
"""

import atexit
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from spava_app.engine.media import Stamp
from spava_app.engine.processes.exit_status import is_stopped, oom_kills, start_error
from spava_app.engine.processes.process_log import start_process
from spava_app.engine.processes.wire import CONVERT, Message, Wire
from spava_app.engine.video.decoder_exit import exit_error, silence_error
from spava_app.engine.video.media_file import open_media
from spava_app.errors import InternalError, SpavaError, VideoError, decode_error, encode_error
from spava_app.forked import is_forked

logger = logging.getLogger(__name__)
_decoder_logger = logging.getLogger("spava_app.engine.video.sandbox.server")

# Without a sign of life for so long a decoder hangs; it gives one every second. Long enough to
# start Python on a busy machine with a cold disk.
SILENCE = 30.0
# Of the environment, what Python needs to find itself and its libraries.
_ENVIRONMENT = {
    *("HOME", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "__PYVENV_LAUNCHER__"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE"),
    *("PYTHONPLATLIBDIR", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8"),
}
# How long one that has closed its end of the wire may take to end.
_EXIT_SECONDS = 5.0


class DecoderProcess:
    """A started process. It serves one caller at a time.

    Args:
        decoder: as for `decode_frames`: the one that it can use for videos.

    Attributes:
        sandbox: which measures hold in it, once it has answered.

    Raises:
        EngineDown, OutOfMemory: it cannot be started.
    """

    def __init__(self, decoder: str) -> None:
        self.decoder = decoder
        self.sandbox: list[tuple[str, bool, str]] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", "spava_app.engine.video.sandbox.server", decoder]
        with theirs:
            try:
                self.process, self._log = start_process(
                    command, "decoder", _decoder_logger, _environment(), stdin=theirs.fileno()
                )
            except (OSError, RuntimeError) as error:
                ours.close()
                raise start_error("the decoder process", error) from error
        logger.debug("decoder process %d started", self.process.pid)
        self.owner = os.getpid()
        self._wire = Wire(ours)
        self._paths: Sequence[str] = ("",)
        self._stamps: Sequence[Stamp | None] = ()
        self._unopened = set[int]()
        self._left, self._oom_kills = 0.0, 0
        self._ready = self.busy = False

    def ask(
        self,
        paths: Sequence[str],
        request: Message,
        *,
        seconds: float,
        file: int | None = None,
        stamps: Sequence[Stamp] = (),
    ) -> None:
        """Send a request about some files; its answers may be waited for so many seconds in all.

        Args:
            paths: of the files, the only ones that the process is given.
            file: a descriptor that it needs besides.
            stamps: what the files were when they were looked at before.
        """
        self._paths, self._stamps = paths, stamps or [None] * len(paths)
        self._unopened = set(range(len(paths)))
        self._left, self._oom_kills = seconds, oom_kills()
        self.busy = True
        self._send(request, file)

    def tell(self, message: Message) -> None:
        """Send something that belongs to the request."""
        self._send(message, None)

    def answer(self, *, last: bool = True) -> tuple[Message, bytes]:
        """The next answer, and after the `last` the process is free again.

        Raises:
            VideoError: what the process found wrong with the file, or that it crashed on it, hangs
                or takes too long.
            InternalError: it met a fault of this program.
            EngineDown, OutOfMemory: it was ended or stopped from outside.
        """
        message, payload = self._receive()
        # One that cannot load its libraries ends by itself.
        self.busy = not (self._ready and (last or "error" in message or "done" in message))
        if "error" in message:
            with self.checked():
                error = decode_error(message["error"])
            raise error from None
        return message, payload

    @contextmanager
    def checked(self) -> Iterator[None]:
        """For what is made of an answer, which a broken file may have written.

        Raises:
            VideoError: it makes no sense. The process is ended.
        """
        try:
            yield
        except SpavaError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError):
            self._fail_wrong()

    def usable(self) -> bool:
        """Whether it runs, here: after a fork the process is still the parent's."""
        alive = self.owner == os.getpid() and self.process.poll() is None
        return alive and not is_stopped(self.process.pid)

    def end(self) -> None:
        """Kill the process, whatever it does, and wait for it; not a parent's, after a fork."""
        if self.owner != os.getpid():
            return
        self.process.kill()  # first: a wire that ends is an error there
        self.process.wait()
        self._wire.close()
        self._log.tail()

    def _send(self, message: Message, file: int | None) -> None:
        try:
            self._wire.send(message, file=file, within=SILENCE)
        except TimeoutError:
            self._fail_silent(late=False)
        except OSError:
            self._fail_ended()

    def _receive(self) -> tuple[Message, bytes]:
        while True:
            began = time.monotonic()
            try:
                message, payload = self._wire.receive(within=min(SILENCE, self._left))
            except TimeoutError:
                self._fail_silent(late=self._left <= SILENCE)
            except (EOFError, OSError):
                self._fail_ended()
            except ValueError:
                self._fail_wrong()
            if "ready" in message and not self._ready:
                with self.checked():
                    self.sandbox = [(name, holds, why) for name, holds, why in message["ready"]]
                self._ready = True
            elif "open" in message:
                self._open(message["open"])
            elif "alive" not in message:
                self._left -= time.monotonic() - began
                return message, payload
            self._left -= time.monotonic() - began

    def _open(self, number: object) -> None:
        """Give it the file it asks for, or the error."""
        if type(number) is not int or number not in self._unopened:  # each once
            self._fail_wrong()
        self._unopened.remove(number)
        try:
            file = open_media(self._paths[number], self._stamps[number])
        except VideoError as error:
            self._send({"opened": number, **encode_error(error)}, None)
            return
        try:
            self._send({"opened": number}, file.descriptor)
        finally:
            file.close()

    def _fail_wrong(self) -> NoReturn:
        fix = f"the decoder sent no valid answer; {CONVERT}"
        self._fail(VideoError("video", self._paths[0], fix))

    def _fail_ended(self) -> NoReturn:
        try:
            code = self.process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            cause = "closed its connection and went on"
            self._fail(InternalError("the decoder process", cause, cause))
        self._fail(
            exit_error(
                code,
                self._paths[0],
                output=self._log.tail(),
                ready=self._ready,
                oom_kills_before=self._oom_kills,
            )
        )

    def _fail_silent(self, *, late: bool) -> NoReturn:
        stopped = is_stopped(self.process.pid)
        self._fail(
            silence_error(self._paths[0], SILENCE, late=late, ready=self._ready, stopped=stopped)
        )

    def _fail(self, error: SpavaError) -> NoReturn:
        pid = self.process.pid
        self.end()
        if isinstance(error, InternalError):
            logger.error("decoder process %d: %s\n%s", pid, error, error.traceback)
        else:
            logger.warning("decoder process %d is ended: %s", pid, error)
        raise error from None


def _environment() -> dict[str, str]:
    """What Python and the loader need, and nothing of the user's: no tokens, no passwords."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith("LC_")
    }
    # One thread each is what these libraries need, and their pools count as memory.
    return kept | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


# As many as one caller may use at a time.
_KEPT = 16
_idle: list[DecoderProcess] = []
_lock = threading.Lock()


@contextmanager
def decoder_process(decoder: str = "pyav") -> Iterator[DecoderProcess]:
    """A process to ask, new or kept from before, with the decoder that it is to use for videos. It
    is killed if the caller leaves before the last answer.
    """
    process = _take(decoder)
    try:
        yield process
    finally:
        with _lock:
            keep = not process.busy and len(_idle) < _KEPT and process.usable()
            if keep:
                _idle.append(process)
        if not keep:
            process.end()


def _take(decoder: str) -> DecoderProcess:
    with _lock:
        for process in [idle for idle in reversed(_idle) if idle.decoder == decoder]:
            _idle.remove(process)
            if process.usable():
                return process
            if process.owner == os.getpid():
                process.end()
    return DecoderProcess(decoder)


def sandbox_measures() -> list[tuple[str, bool, str]]:
    """What holds in a decoder process on this machine.

    Raises:
        EngineError: none can be started.
    """
    with decoder_process() as process:
        process.ask([""], {"hello": True}, seconds=SILENCE)
        process.answer()
        return process.sandbox


@atexit.register
def end_idle() -> None:
    """End the processes that are kept."""
    if is_forked():  # where another thread may have held the lock for ever
        return
    with _lock:
        while _idle:
            _idle.pop().end()
