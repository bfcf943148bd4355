"""Memory that runs out, of the host or of a GPU: the question fails with an error that says on
which rank, in which stage and what to do, and the next one is answered.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from faults import strike
from processes import check_no_orphans

from spava_app.api import VideoQA
from spava_app.errors import OutOfMemory

FIRST_IMPORTS = 128 * 2**20


def no_more_address_space(pid: int) -> None:
    """Whatever the process asks the system for from now on is refused."""
    most = psutil.Process(pid).memory_info().vms
    if most < FIRST_IMPORTS:  # it has only just been started
        most = FIRST_IMPORTS
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A control group whose processes are killed by the kernel when they take more."""
    for root, limits in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"spava-{uuid4().hex}"
        try:
            group.mkdir()
            (group / limits).write_text(str(limit))
        except OSError:
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    pytest.skip("needs the right to make control groups")


@pytest.mark.parametrize("stage", ["start", "decode"])
def test_the_host_refuses_memory(
    qa: VideoQA, clip: Path, mark: str, answers: Callable[[], None], stage: str
) -> None:
    with pytest.raises(OutOfMemory) as caught:
        strike(qa, clip, mark, stage, 1, no_more_address_space, fps=10)
    told = str(caught.value)
    assert told.startswith(("rank 1 ran out of host memory (", "rank 1 ran out of memory in "))
    # Some libraries end the process: then nobody is left to tell how much there was.
    assert f" in {stage}" in told or stage != "start"
    assert "host memory (" not in told or "its address space" in told
    check_no_orphans(mark)
    answers()


def test_the_kernel_ends_a_rank(
    qa: VideoQA, clip: Path, mark: str, answers: Callable[[], None]
) -> None:
    with memory_group(2**20) as group:
        with pytest.raises(OutOfMemory, match="rank 1 was ended by the kernel in "):
            strike(
                qa,
                clip,
                mark,
                "decode",
                1,
                lambda pid: (group / "cgroup.procs").write_text(str(pid)),
                fps=10,
            )
        check_no_orphans(mark)
    answers()
