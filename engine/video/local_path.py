"""From what users write for a file to its path: paths, `~`, and file:// addresses."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from spava_app.errors import VideoError

# Two letters at least: C: is a drive.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")


def local_path(given: str | Path) -> str:
    """The absolute path of a file or folder that a user names.

    Raises:
        VideoError: an address of something that is not on this machine.
    """
    text = str(given)
    with suppress(OSError, ValueError):
        if Path(text).exists():  # a name may look like anything
            return str(Path(text).absolute())
    if text.lower().startswith("file:"):
        return _of_address(text)
    if address := _ADDRESS.match(text):
        kind = address[0].rstrip("/")
        fix = f"{kind} addresses are not read; download it, and give the path of the file"
        raise VideoError("video", text, fix)
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError:  # nobody of that name, or no home
        return str(Path(text).absolute())


@contextmanager
def as_given(given: Sequence[str | Path], paths: Sequence[str]) -> Iterator[None]:
    """Errors about one of the paths in the `with` block tell what the user wrote for it."""
    try:
        yield
    except VideoError as error:
        if error.value not in paths:
            raise
        written = str(given[paths.index(error.value)])
        raise VideoError(error.field, written, error.fix) from error.__cause__


def _of_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.netloc not in {"", "localhost"}:
        fix = "a file:// address names no other machine; give file:///path or the path itself"
        raise VideoError("video", text, fix)
    # A question mark or a hash is part of a name here.
    rest = text[len("file:") :].removeprefix(f"//{parts.netloc}")
    path = Path(url2pathname(rest))
    if not path.is_absolute():
        raise VideoError("video", text, "give file:// and the whole path from the root on")
    return str(path)
