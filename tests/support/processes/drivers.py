"""Scripts and commands that ask, in processes of their own, to be ended in the middle."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import MARK

# Says which stage begins, and goes on to the end if nobody stops it.
SCRIPT = """
import sys
from spava_app import Sampling, VideoQA

def show(stage, seconds):
    print(stage, flush=True)

with VideoQA(method="spava", cache=False) as qa:
    long = {"max_new_tokens": 2000, "sampling": Sampling(temperature=50.0, seed=1)}
    while True:
        qa.ask(sys.argv[1], "What digit is on the red card?", on_event=show, **long)
"""


@contextmanager
def started(words: list[str], mark: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`python words`, marked, with `folder` for temporary files; both ends are killed after it."""
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MARK: mark, "TMPDIR": str(folder)},
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], stage: str) -> None:
    """Return when a script has said that `stage` begins."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == stage:
            return
    raise AssertionError(f"it ended before {stage}: {process.communicate()[1]}")
