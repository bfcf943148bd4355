"""What reaches a terminal is text: control characters are shown and not obeyed. A leaf, because
commands of every layer write there.

Answers, file names and templates are other people's, and a terminal does what some characters say:
it writes the clipboard, changes its title, goes back over what it has shown. They are shown as they
are written in Python: C0 and C1 controls but newline and tab, DEL, half characters that stand for
bytes of a file name, and the marks that override or isolate the direction of writing, with which a
line reads as another than it is. Marks that only help right-to-left text along stay.

Streams that are no terminal are left alone: a file or a pipe gets every character.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_OBEYED = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_UNSAFE = re.compile(_OBEYED)
# What draws a progress bar (back to the start of the line, a line up), and what colours a help.
_BAR = re.compile(rf"\r|\x1b\[A|({_OBEYED})")
_STYLE = re.compile(rf"\x1b\[[0-9;]*m|({_OBEYED})")


def shown(text: str) -> str:
    """The text as a terminal may have it."""
    return _UNSAFE.sub(lambda found: _name(found.group()), text)


def shown_json(text: str) -> str:
    """JSON as a terminal may have it: what it means stays the same."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def guard_terminal() -> None:
    """From now on all that Python writes to stdout and stderr passes through `shown`, where these
    are terminals. May be called again, after another has put itself in their place.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _Guarded) or not stream.isatty():
            continue
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a terminal that has not all characters shows their numbers
            reconfigure(errors="backslashreplace")
        setattr(sys, name, _Guarded(stream))
        # Python's own tracebacks would come with colours, which would be shown as text.
        os.environ.setdefault("PYTHON_COLORS", "0")


def unguarded(stream: TextIO | None) -> TextIO | None:
    """What is behind a stream, for what draws and passes its texts through `shown` itself."""
    return stream._stream if isinstance(stream, _Guarded) else stream


@contextmanager
def bars_drawn() -> Iterator[None]:
    """Let another library draw its progress bars on stderr in the `with` block."""
    stream = sys.stderr
    if isinstance(stream, _Guarded):
        sys.stderr = _Guarded(stream._stream, _BAR)
    try:
        yield
    finally:
        sys.stderr = stream


class _Guarded:
    """A terminal that gets text only; everything else about it is as it was."""

    def __init__(self, stream: TextIO, pattern: re.Pattern[str] = _UNSAFE) -> None:
        self._stream, self._pattern = stream, pattern

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._stream.write(self._pattern.sub(self._replaced, text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    @property
    def rich_proxied_file(self) -> "_Guarded":
        """What rich writes to when it is told to write here: a help text, with its colours."""
        return _Guarded(self._stream, _STYLE)

    def _replaced(self, found: re.Match[str]) -> str:
        if self._pattern.groups and found.group(1) is None:
            return found.group()
        return _name(found.group())

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # a way around, for bytes
            raise AttributeError(name)
        return getattr(self._stream, name)


def _name(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
