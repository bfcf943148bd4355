"""The log of a command: on stderr with `-v`; and its warnings, as lines of their own."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import typer

from spava_app.cli.terminal import speaks
from spava_app.errors import SpavaWarning

logger = logging.getLogger(__name__)
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Loggers that are shown: the package's, and that of Python's warnings.
_SHOWN = ("spava_app", "py.warnings")


class _Stderr(logging.Handler):
    """To what stderr is now: while a stage is drawn on a terminal, lines go above it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            typer.echo(self.format(record), err=True)
        except Exception:  # noqa: BLE001 (as every handler does)
            self.handleError(record)


@contextmanager
def command_log(verbose: int, *, as_json: bool) -> Iterator[None]:
    """Show the log and the warnings of what runs in the `with` block.

    Args:
        verbose: 0 shows warnings alone, 1 the log from INFO on, 2 from DEBUG on.
        as_json: the command prints JSON: warnings then go to the log alone.
    """
    handler: logging.Handler = _Stderr() if verbose else logging.NullHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    loggers = [logging.getLogger(name) for name in _SHOWN]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        if verbose:
            one.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    with warnings.catch_warnings():
        # Anything less than an error would show a line of source code.
        warnings.showwarning = _as_line(to_log=bool(verbose) or as_json)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.removeHandler(handler)
                one.setLevel(level)


def _as_line(*, to_log: bool) -> Callable[..., None]:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, SpavaWarning):
            where = f"{filename}:{lineno}: {category.__name__}"
            logging.getLogger("py.warnings").warning("%s: %s", where, message)
        elif to_log:
            logger.warning("%s", message)
        elif speaks():
            typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    return show
