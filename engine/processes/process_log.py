"""What a child process logs and writes reaches the log of its parent.

The child sends its records as lines on stderr, each behind a prefix. Other lines there and on
stdout are raw: what C libraries write, or a traceback of Python. A thread of the parent reads both,
so that the child never waits for long, and its last lines can be quoted when it has died.
"""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

# What of the log of a process is passed on: a level of `logging`, for `send_records`.
LEVEL_VARIABLE = "SPAVA_LOG_LEVEL"
_PREFIX = b"\x1espava-log "
# Characters of a record and of a raw line; bytes of a line that is still without an end.
_LONGEST_RECORD, _LONGEST_RAW, _LONGEST_LINE = 8_192, 2_000, 2**17
_TAIL_LINES = 60
# Lines of each kind that one process may log within so many seconds; the rest is counted.
_MOST_LINES, _WINDOW_SECONDS = 200, 10.0
# How long the last lines of a process that has ended may take to arrive.
_DRAIN_SECONDS = 2.0
# What would move a terminal's cursor, or turn the direction of its text.
_UNPRINTABLE = re.compile(
    r"[^\t\n\x20-\x7e\xa0-\U0010ffff]|[\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


def level() -> int:
    """The lowest level that the log of this process keeps."""
    return logging.getLogger("spava_app").getEffectiveLevel()


def send_records(lowest: int) -> None:
    """In a child process: send its log to its parent, which reads its stderr.

    Args:
        lowest: level of the package's own records; others are sent from WARNING on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Record())
    logging.getLogger().addHandler(handler)
    logging.getLogger("spava_app").setLevel(lowest)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # once the parent is gone nobody is left to read it
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] (a TextIOWrapper)


class _Record(logging.Formatter):
    """A record, its traceback included, as one line."""

    def format(self, record: logging.LogRecord) -> str:
        text = _cut(super().format(record), _LONGEST_RECORD)
        if not getattr(record, "forwarded", False):
            text = f"{record.name.removeprefix('spava_app.')}: {text}"
        return _PREFIX.decode() + json.dumps([record.levelno, text])


def start_process(
    words: Sequence[str],
    name: str,
    logger: logging.Logger,
    environment: Mapping[str, str],
    *,
    stdin: int,
    pass_fds: Sequence[int] = (),
) -> tuple[subprocess.Popen[bytes], "ProcessLog"]:
    """Start a child in a session of its own, its stdout and stderr read by a thread.

    Args:
        words: its command line.
        name: of the process in the log.
        logger: gets its lines.
        environment: of the process; which level it logs is added.
        stdin, pass_fds: as in `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
        RuntimeError: no thread can be started.
    """
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            words,
            stdout=theirs,
            stderr=theirs,
            env={**environment, LEVEL_VARIABLE: str(level()), "PYTHONSAFEPATH": "1"},
            # Ctrl-C is for the caller, who then ends this process.
            start_new_session=True,
            stdin=stdin,
            pass_fds=pass_fds,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        return process, ProcessLog(ours, f"{name}, pid {process.pid}", logger)
    except BaseException as error:
        if isinstance(error, RuntimeError):  # no thread; one that was interrupted closes it itself
            os.close(ours)
        process.kill()
        process.wait()
        raise


class ProcessLog:
    """The lines of one child process, read until all who may write them have ended.

    Args:
        pipe: to read from; owned from here on.
        name: of the process.
        logger: gets the lines.
    """

    def __init__(self, pipe: int, name: str, logger: logging.Logger) -> None:
        self._pipe, self._name, self._logger = pipe, name, logger
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._budgets = {"raw": _Budget(), "record": _Budget()}
        self._thread = threading.Thread(target=self._read, name="spava-log", daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """The last raw lines and errors of a process that has ended; empty if there were none."""
        if self._thread is not threading.current_thread():  # where garbage is collected in any
            self._thread.join(_DRAIN_SECONDS)
        return "\n".join(tuple(self._tail))

    def _read(self) -> None:
        line, skips = b"", False
        with open(self._pipe, "rb", buffering=0) as pipe:
            while chunk := pipe.read(2**16):
                *lines, line = (line + chunk).split(b"\n")
                for whole in lines:
                    if not skips:
                        self._take(whole)
                    skips = False
                if len(line) > _LONGEST_LINE:
                    if not skips:
                        self._take(line)
                    line, skips = b"", True
            if line and not skips:
                self._take(line)
        for kind, budget in self._budgets.items():
            self._tell_dropped(kind, budget)

    def _take(self, line: bytes) -> None:
        kind, number, text = _parsed(line)
        if not text:
            return
        if kind == "raw" or number >= logging.ERROR:
            self._tail.extend(text.splitlines())
        if not self._logger.isEnabledFor(number):
            return
        budget = self._budgets[kind]
        if budget.renewed():
            self._tell_dropped(kind, budget)
        if budget.take():
            self._log(number, text)

    def _tell_dropped(self, kind: str, budget: "_Budget") -> None:
        dropped, budget.dropped = budget.dropped, 0
        if dropped:
            what = "lines of output" if kind == "raw" else "log records"
            self._log(logging.WARNING, f"{dropped} more {what} dropped")

    def _log(self, number: int, text: str) -> None:
        # Whatever a handler of the caller raises, reading goes on: a process whose lines nobody
        # reads would stand still.
        with suppress(Exception):
            self._logger.log(number, "[%s] %s", self._name, text, extra={"forwarded": True})


class _Budget:
    """How many lines may still be logged, renewed every so often."""

    def __init__(self) -> None:
        self._left, self._until, self.dropped = 0, 0.0, 0

    def renewed(self) -> bool:
        """Whether a new window begins."""
        now = time.monotonic()
        if now < self._until:
            return False
        self._left, self._until = _MOST_LINES, now + _WINDOW_SECONDS
        return True

    def take(self) -> bool:
        self._left -= 1
        self.dropped += self._left < 0
        return self._left >= 0


def _parsed(line: bytes) -> tuple[str, int, str]:
    """Its kind, "record" or "raw", its level, and its text, which is safe to show."""
    if line.startswith(_PREFIX):
        try:
            number, text = json.loads(line[len(_PREFIX) :])
            if type(number) is int and isinstance(text, str):
                return "record", min(number, logging.CRITICAL), _clean(text, 2 * _LONGEST_RECORD)
        except (ValueError, TypeError, RecursionError):
            pass  # C libraries write in between: as it is, then
    # Of a progress bar that draws over itself, what is seen at last.
    shown = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode(errors="replace").rstrip()
    return "raw", logging.INFO, _clean(shown, _LONGEST_RAW)


def _clean(text: str, most: int) -> str:
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", _cut(text, most))


def _cut(text: str, most: int) -> str:
    """The start and, for the sake of tracebacks, most of the end."""
    if len(text) <= most:
        return text
    return f"{text[: most // 4]} ... {text[-(most - most // 4) :]}"
