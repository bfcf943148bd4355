"""Memory that runs out, of the host or of a GPU: the question fails with an error that says on
which rank, in which stage and what to do, and the next one is answered.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
import pytest
import torch
from faults import strike
from processes import check_no_orphans

from spava_app.api.video_qa import VideoQA
from spava_app.engine.workers.oom import reported_when_out_of_memory
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


def test_the_host_refuses_memory_for_the_model(
    qa: VideoQA, clip: Path, mark: str, answers: Callable[[], None]
) -> None:
    with pytest.raises(OutOfMemory, match=r"rank 1 ran out of .*memory .*in start"):
        strike(qa, clip, mark, "start", 1, no_more_address_space)
    check_no_orphans(mark)
    answers()


@pytest.mark.parametrize("take", [torch.empty, np.empty, bytearray])
def test_what_libraries_raise(take: Callable[[int], object]) -> None:
    """For a petabyte; each says it in its own way."""
    with (
        pytest.raises(OutOfMemory, match=r"rank 3 ran out of host memory \(.* free\) in vision: "),
        reported_when_out_of_memory(3, torch.device("cpu"), lambda: "vision"),
    ):
        take(2**50)


def test_other_errors_pass() -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        reported_when_out_of_memory(0, torch.device("cpu"), lambda: "vision"),
    ):
        raise RuntimeError("mine")


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
