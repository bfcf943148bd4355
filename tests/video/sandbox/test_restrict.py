"""Hostile code inside a real decoder process gets nowhere; and the process decodes all the same."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sabotage import DECODER, saboteur

from spava_app.engine.video import decoder_process as client
from spava_app.engine.video.decoder_process import decoder_process, end_idle
from spava_app.engine.video.sandbox.confinement.system_calls import ALLOWED, MISSING, program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux can deny")
SUPPORT = Path(__file__).parents[2] / "support" / "processes"
ATTACK = """
sys.path.append({support!r})
import attempts, os
from spava_app.engine.video.sandbox.confinement import restrict as sandbox
from spava_app.engine.video.sandbox import service
from spava_app.engine.media import stamp
{change}
def look(file, pulse):
    secret, folder = {secret!r}, {folder!r}
    acts = attempts.tries(file.descriptor, secret, folder)
    tried = attempts.outcomes(acts)
    file.stamp = stamp(os.fstat(file.descriptor))  # where they could change its rights
    return {{
        "tried": tried,
        "environment": dict(os.environ),
        "files": sum(attempts.is_open(number) for number in range(64)),
    }}, b""
service.look = look
"""
MISSING_MEASURE = """
def refuse():
    raise OSError(38, "Function not implemented")
sandbox.{measure} = refuse
"""
NO_SECCOMP = MISSING_MEASURE.format(measure="_seccomp")
NO_LANDLOCK = MISSING_MEASURE.format(measure="_landlock")
# What Landlock denies by itself, since its version; that a socket has an owner is nothing yet.
LANDLOCKED = {"files": 1, "programs": 1, "tcp": 4, "others": 6}
BEYOND_LANDLOCK = {"others: a signal by a socket's owner"}


@pytest.fixture
def attacked(tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What came of all attempts in a new decoder process, with a change of its own before."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    media = Path(shutil.copy(videos.short, tmp_path / "media.webm"))
    secret = folder / "secret"
    secret.write_text("secret")
    before = signal.signal(signal.SIGWINCH, signal.SIG_IGN)

    def attack(change: str = "") -> tuple[dict[str, Any], list[Any]]:
        end_idle()
        code = ATTACK.format(
            support=str(SUPPORT), secret=str(secret), folder=str(folder), change=change
        )
        saboteur(tmp_path / "site", monkeypatch)(DECODER, code)
        with decoder_process() as process:
            process.ask([str(media)], {"look": str(media)}, seconds=60)
            facts, _ = process.answer()
            return facts, process.sandbox

    yield attack
    end_idle()
    signal.signal(signal.SIGWINCH, before)
    assert secret.read_text() == "secret"
    assert [path.name for path in folder.iterdir()] == ["secret"]


def holds(measures: list[Any], name: str) -> bool:
    return next(holds for measure, holds, _ in measures if measure == name)


@pytest.mark.parametrize("change", ["", NO_LANDLOCK], ids=["both", "seccomp alone"])
def test_nothing_that_is_tried_succeeds(change: str, attacked: Any) -> None:
    facts, measures = attacked(change)
    if not holds(measures, "seccomp"):
        pytest.skip(f"no seccomp here: {measures}")
    done = [name for name, what in facts["tried"].items() if what == "done"]
    assert done == []
    # Denied, and not for another reason such as a wrong argument.
    denials = {"EPERM", "EACCES", "ENOSYS", "EBADF"}
    assert {name: how for name, how in facts["tried"].items() if how not in denials} == {}


def test_landlock_alone_keeps_it_from_files_and_from_others(attacked: Any) -> None:
    facts, measures = attacked(NO_SECCOMP)
    assert not holds(measures, "seccomp")
    if not holds(measures, "Landlock"):
        pytest.skip(f"no Landlock here: {measures}")
    version = next(int(why.split()[-1]) for name, _, why in measures if name == "Landlock")
    denied = {group for group, since in LANDLOCKED.items() if version >= since}
    tried = {name: how for name, how in facts["tried"].items() if name.split(":")[0] in denied}
    assert {name for name, how in tried.items() if how == "done"} <= BEYOND_LANDLOCK


def test_nothing_of_the_user_is_in_its_environment(attacked: Any) -> None:
    facts, _ = attacked()
    environment = facts["environment"]
    assert "secret" not in environment.values()
    known = {"OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX", "SPAVA_LOG_LEVEL"}
    allowed = client._ENVIRONMENT | known
    assert {name for name in environment if not name.startswith("LC_")} <= allowed
    assert facts["files"] <= 6


def test_its_clock_still_ends_it() -> None:
    code = (
        "import signal\n"
        "from spava_app.engine.video.sandbox.confinement.restrict import lock_down\n"
        "lock_down()\n"
        "signal.alarm(1)\n"
        "while True: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGALRM


def test_what_a_kernel_lacks_is_told_and_the_rest_holds() -> None:
    """In a process of its own: what is given up is given up for good."""
    code = (
        "import os\n"
        "from spava_app.engine.video.sandbox.confinement import restrict as sandbox\n"
        "def refuse(): raise OSError(38, 'Function not implemented')\n"
        "sandbox._landlock = refuse\n"
        "sandbox.program = lambda *_, **__: None\n"
        "for measure in sandbox.lock_down(): print(*measure, sep=', ')\n"
        "os.listdir('/')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *first, landlock, seccomp = done.stdout.splitlines()
    assert all(", True," in line for line in first)
    assert landlock == "Landlock, False, Function not implemented"
    assert seccomp == f"seccomp, False, not for {os.uname().machine}"


HEADERS = (
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm-generic/unistd.h"),
)


@pytest.mark.parametrize("column", [0, 1])
def test_the_numbers_are_those_of_the_kernels_headers(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip("no headers of the kernel here")
    defined = re.findall(
        r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text(), re.MULTILINE
    )
    numbers = {name: int(number) for name, number in defined}
    mine = {name: pair[column] for name, pair in (ALLOWED | MISSING).items()}
    known = {name: number for name, number in mine.items() if name in numbers}
    assert len(known) > 80
    assert known == {name: numbers[name] for name in known}
    newer = {number for name, number in mine.items() if name not in numbers}
    assert all(number is None or number > max(numbers.values()) for number in newer)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_one_that_the_kernel_takes(machine: str) -> None:
    """Jumps stay inside it, and every way ends."""
    code = program(machine, 1000, code=False)
    assert code is not None
    lines = list(struct.iter_unpack("=HBBI", code))
    assert len(lines) < 4096
    for place, (operation, true, false, _) in enumerate(lines):
        if operation & 7 == 5:
            assert place + 1 + max(true, false) < len(lines)
    assert lines[-1][0] == 6
    assert program("riscv64", 1000, code=False) is None
