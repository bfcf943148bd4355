"""The ffmpeg program: it makes files that PyAV cannot, and says what the right pictures are."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest


@cache
def ffmpeg() -> str | None:
    """The program: the one on the path, else the one that imageio-ffmpeg brings."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # not installed, or not for this system
        return None


needs_ffmpeg = pytest.mark.skipif(
    ffmpeg() is None, reason="no ffmpeg: put it on the path, or pip install imageio-ffmpeg"
)


def run_ffmpeg(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    """Run it, overwriting files, and return what it wrote to stdout.

    Raises:
        AssertionError: it failed; with what it said.
    """
    program = ffmpeg()
    assert program, "there is no ffmpeg; mark the test with needs_ffmpeg"
    command = [program, "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120, input=stdin or b"")
    said = done.stderr.decode(errors="replace").strip()
    assert done.returncode == 0, f"{' '.join(command)}: {said}"
    return done.stdout


def shown_by_ffmpeg(path: Path, size: tuple[int, int], *filters: str | Path) -> np.ndarray:
    """Every picture of a file as ffmpeg shows it, `[N, height, width, 3]` uint8, none repeated or
    left out for the sake of a rate. `size` is (width, height); `filters` go before the output.
    """
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = run_ffmpeg("-i", f"file:{path}", "-map", "0:v:0", *filters, *raw)
    return np.frombuffer(pixels, np.uint8).reshape(-1, size[1], size[0], 3)
