"""An hour of video through the command, and what all its processes take."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from spava_app.engine.synthetic.long_clip import repeat, write_minute

GIB = 2**30


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process and all that it started, shared pages counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total


@pytest.mark.slow
def test_3600_frames_on_two_processes_take_less_than_3_gib(tmp_path: Path) -> None:
    write_minute(tmp_path / "minute.mp4", size=(360, 640), fps=30, key_every=250)
    repeat(tmp_path / "minute.mp4", tmp_path / "hour.mp4", 60)
    words = ["ask", "hour.mp4", "What is on the red card?", "--fps", "1", "--gpus", "0", "--json"]
    command = subprocess.Popen(
        [sys.executable, "-m", "spava_app", *words, "--cpu-ranks", "2", "--no-cache"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    watched, most = psutil.Process(command.pid), 0
    while command.poll() is None:
        try:
            most = max(most, memory_of(watched))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    out, _ = command.communicate()
    assert command.returncode == 0
    answer = json.loads(out)
    assert answer["plan"]["media"][0]["num_frames"] == 3600
    assert answer["plan"]["world_size"] == 2
    assert answer["usage"]["frames_encoded"] == 3600
    assert most < 3 * GIB
