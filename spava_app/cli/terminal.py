"""What the commands share: errors as one line, progress on a terminal, results for people or as
JSON.

stdout holds the result and nothing else, so it can be piped. Everything that tells how things go is
on stderr: progress only when stderr is a terminal, errors always.
"""

import errno
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from traceback import format_exception
from types import TracebackType
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from spava_app.errors import InternalError, SpavaError
from spava_app.terminal_text import guard_terminal, shown, shown_json, unguarded

logger = logging.getLogger(__name__)

# What typer builds on, which newer versions bring along and older ones take from click.
ClickError: Any = typer.BadParameter.__mro__[2]
# 128 + SIGINT and 128 + SIGTERM, what a shell reports for a program that these ended.
INTERRUPTED, TERMINATED = 130, 143
# Stages that find out whether the input is good.
_INPUT_STAGES = {"load", "probe", "write video"}
# What stdout says when nothing can be written to it any more.
_NO_WRITING = {errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT}


def speaks() -> bool:
    """Whether this process shows what comes out: of those that torchrun started, rank 0 alone."""
    return os.environ.get("RANK", "") in {"", "0"}


def hush() -> None:
    """Leave stdout to rank 0; errors of this very process are still told on stderr."""
    if not speaks():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)


@contextmanager
def reported_errors(*, as_json: bool, debug: bool) -> Iterator[None]:
    """Turn an error into one line on stderr and an exit code.

    A `SpavaError` becomes `error: ...`, or with `as_json` one JSON line `{"error": {type, message,
    field}}`; with `debug` its traceback comes before. Any other exception is a fault of this
    program and becomes an `InternalError`. Ctrl-C exits 130.

    SIGTERM exits 143, and in between whatever is open is closed as after Ctrl-C.

    Raises:
        typer.Exit: with `error.exit_code`: 2 for what the user gave, 1 for what went wrong inside.
    """
    try:
        with _terminable():
            yield
    except _Terminated:
        typer.echo("terminated", err=True)
        raise typer.Exit(TERMINATED) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, ClickError):
        raise
    except SpavaError as error:
        _end(error, as_json=as_json, debug=debug)
    except OSError as error:
        if error.errno == errno.EPIPE:  # `spava ... | head`: click ends it without a word
            raise
        if error.errno not in _NO_WRITING:
            _end(_fault(error), as_json=as_json, debug=debug)
        # What is left in the buffer cannot be written either, and would be told at the end.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        tell_error("OSError", f"cannot write: {error.strerror}", as_json=as_json)
        raise typer.Exit(1) from None
    except Exception as error:  # noqa: BLE001 (whatever it is, it is one line)
        _end(_fault(error), as_json=as_json, debug=debug)


def _fault(error: Exception) -> InternalError:
    logger.error("internal error", exc_info=error)
    return InternalError.of("spava", error)


def _end(error: SpavaError, *, as_json: bool, debug: bool) -> NoReturn:
    """Show an error and exit with its code."""
    if debug:
        # An error of another process brings its traceback along.
        remote = error.traceback if isinstance(error, InternalError) else ""
        typer.echo(remote or "".join(format_exception(error)).rstrip(), err=True)
    if not error.elsewhere:
        field = getattr(error, "field", None)
        tell_error(type(error).__name__, str(error), field, as_json=as_json)
    raise typer.Exit(error.exit_code) from None


def tell_error(kind: str, message: str, field: str | None = None, *, as_json: bool) -> None:
    """An error as one line on stderr, for people or as JSON."""
    message = " ".join(message.splitlines())
    if as_json:
        described = {"type": kind, "message": message, "field": field}
        typer.echo(json.dumps({"error": described}), err=True)
    else:
        typer.echo(f"error: {message}", err=True)


class _Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise what SIGTERM asks for, so that `with` blocks end; only the main thread hears it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_it(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_json(value: Mapping[str, Any]) -> None:
    """The one object that `--json` puts on stdout."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # A byte of a file name that is no UTF-8 is a lone surrogate: JSON can only escape it.
    text = text.encode("utf-8", "backslashreplace").decode()
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    typer.echo(shown_json(text) if on_terminal else text)


def format_timings(timings: Mapping[str, float]) -> str:
    """`decode 0.41 s, vision 0.32 s, total 1.90 s`, in the order given."""
    return ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in timings.items())


def format_moment(seconds: float) -> str:
    """A place in a video as a player shows it: `1:05`, or `1:02:05` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Stages:
    """Shows which stage runs now and for how long: on a terminal as it runs, elsewhere as a line of
    each when it has ended.

    `begin` is what `VideoQA.ask(on_event=...)` calls. It keeps time itself, so that what comes
    before a request, as starting the workers, shows too.

    Args:
        keep: on a terminal, leave a line for each finished stage.
        quiet: show nothing.
    """

    def __init__(self, *, keep: bool = True, quiet: bool = False) -> None:
        forced = None if speaks() else False
        # It draws with control characters of its own; every text is passed through `shown` here.
        self.console = Console(
            file=unguarded(sys.stderr), stderr=True, highlight=False, force_terminal=forced
        )
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        quiet = quiet or not speaks()
        self._on_terminal = self.console.is_terminal and not quiet
        self._progress = Progress(
            *columns, console=self.console, transient=True, disable=not self._on_terminal
        )
        self._keep, self._plain = keep, not quiet and not self.console.is_terminal
        # Until the input is known to be good, an error is the only line on stderr.
        self._held: list[str] = []
        self._task: TaskID | None = None
        self._stage, self._since = "", 0.0

    def __enter__(self) -> "Stages":
        self._progress.start()
        guard_terminal()  # while stages are drawn, rich is in the place of the streams
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.end()
            self._release()
        self._progress.stop()

    def begin(self, stage: str, seconds: float = 0.0) -> None:
        """A stage begins, and with it the one before ends."""
        self.end()
        self._stage, self._since = stage, monotonic()
        self._task = self._progress.add_task(shown(stage))

    def end(self) -> float:
        """The present stage, if any, ends. Returns how long it took, in seconds."""
        if self._task is None:
            return 0.0
        self._progress.remove_task(self._task)
        self._task = None
        took = monotonic() - self._since
        if self._keep and self._on_terminal:
            self.note(f"  {self._stage:<14}{took:8.2f} s")
        if self._plain:
            self._held.append(f"{self._stage} {took:.2f} s")
        if self._stage not in _INPUT_STAGES:
            self._release()
        return took

    def _release(self) -> None:
        for line in self._held:
            typer.echo(line, err=True)
        self._held.clear()

    def hide(self) -> None:
        """Draw nothing any more: something else is written on the terminal."""
        self._progress.stop()

    def note(self, text: str) -> None:
        """A line on the terminal, above the running stage."""
        if self._on_terminal:
            self.console.print(shown(text), style="dim", markup=False)
