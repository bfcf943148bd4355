"""Where /proc is not mounted, as in some containers and chroots, nothing is told of other processes
and everything works.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spava_app.engine.synthetic.cards import CardScene

# Of the memory that is there, without /proc too, and what a rank says that ran out of it.
LOOKS = """
import os
from spava_app.doctor import diagnose
from spava_app.engine.processes.exit_status import is_stopped, oom_kills
from spava_app.engine.devices import host_memory
from spava_app.engine.workers.oom import _host_memory
assert not os.listdir("/proc")
total, available = host_memory()
assert 0 < available <= total
assert (_host_memory(), is_stopped(os.getpid()), oom_kills()) == ("host memory", False, 0)
assert not [check for check in diagnose().checks if check.status == "problem"]
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0 or shutil.which("unshare") is None,
    reason="takes /proc away, which only root can",
)
def test_a_question_is_answered(scene: CardScene, clip: Path, tmp_path: Path) -> None:
    card = scene.cards[0]
    code = f"{LOOKS}\nimport sys\nfrom spava_app.__main__ import main\nmain()"
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc || exit 77; exec "$@"', "sh"),
            *(sys.executable, "-c", code, "ask", str(clip), card.question, "--cpu-ranks", "1"),
        ],
        env=os.environ | {"SPAVA_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 77:
        pytest.skip("no mounts here")
    assert (done.returncode, done.stdout) == (0, f"{card.answer}\n"), done.stderr
    assert "Traceback" not in done.stderr
