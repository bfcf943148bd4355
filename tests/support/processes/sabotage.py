"""Real processes with a fault: code that runs in each process of one kind before its own."""

import os
from collections.abc import Callable
from pathlib import Path
from textwrap import indent

import pytest

DECODER, WORKER = "spava_app.engine.video.sandbox.server", "spava_app.engine.workers.worker"
_START = """import sys
if any({module!r} == word for word in sys.orig_argv):
{code}
"""
Sabotage = Callable[[str, str], None]


def saboteur(folder: Path, patch: pytest.MonkeyPatch) -> Sabotage:
    """What makes all processes of a module that are started from now on run some code first."""

    def sabotage(module: str, code: str) -> None:
        folder.mkdir(exist_ok=True)
        start = _START.format(module=module, code=indent(code, "    "))
        (folder / "sitecustomize.py").write_text(start)
        if str(folder) not in (before := os.environ.get("PYTHONPATH", "")):
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))

    return sabotage
