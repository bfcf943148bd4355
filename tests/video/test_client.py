"""The decoder process: it can hang, die or be left alone, and costs one file and no more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import socketpair
from threading import Thread

import numpy as np
import pytest

from spava_app.engine.video import client, ring
from spava_app.engine.video.client import decoder_process, end_idle
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import probe
from spava_app.engine.video.ring import PREFETCH_BYTES, num_slots
from spava_app.engine.video.server import MEMORY
from spava_app.engine.video.wire import Wire
from spava_app.errors import VideoError


def idle_process() -> int:
    """The id of the process that is kept."""
    with decoder_process() as process:
        return process.process.pid


def children() -> set[int]:
    """Processes of this one that run the decoder."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == os.getpid() and b"video.server" in words and state != "Z":
            found.add(int(folder.name))
    return found


@pytest.fixture(autouse=True)
def none_kept():
    """Each test starts its own processes."""
    client.end_idle()


def test_a_process_is_kept_for_the_next_file(videos):
    probe(videos.short)
    first = idle_process()
    list(decode_frames(probe(videos.odd).source([0])))
    with pytest.raises(VideoError):
        probe(videos.folder / "missing.mp4")
    assert idle_process() == first
    assert children() == {first}


@pytest.mark.parametrize("stopped", [False, True])
def test_a_decoder_that_hangs_is_killed_at_the_deadline(stopped, videos, monkeypatch):
    """Stopped before it is asked, and in the middle."""
    info = probe(videos.gop250)
    monkeypatch.setattr(client, "SILENCE", 1.5)
    pid = idle_process()
    groups = decode_frames(info.source(range(620)))
    if not stopped:
        next(groups)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(VideoError, match=r"has hung|does not react") as caught:
        list(groups)
    assert (caught.value.field, caught.value.value) == ("video", str(videos.gop250))
    assert pid not in children()
    monkeypatch.undo()
    assert len(list(decode_frames(info.source([3, 400])))) == 2


def test_a_decoder_that_dies_is_told_and_replaced(videos):
    info = probe(videos.gop250)
    pid = idle_process()
    source = info.source(range(0, 620, 5))
    monkey = iter(decode_frames(source))
    next(monkey)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(VideoError, match="the decoder failed on this file"):
        list(monkey)
    assert probe(videos.gop250).num_frames == 620
    assert pid not in children()


def test_one_that_died_while_idle_is_not_noticed(videos):
    probe(videos.short)
    pid = idle_process()
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert probe(videos.short).num_frames == 14


@pytest.mark.parametrize("how", ["closed", "raised", "dropped"])
def test_frames_that_are_not_taken_leave_no_process(how, videos):
    pid = None
    groups = decode_frames(probe(videos.gop250).source(range(620)))
    next(groups)
    [pid] = children()
    if how == "closed":
        groups.close()
    elif how == "raised":
        with pytest.raises(RuntimeError, match="mine"):
            groups.throw(RuntimeError("mine"))
    else:
        del groups
    assert pid not in children()


def test_it_ends_with_its_parent(videos, tmp_path):
    """Killed in the middle, the parent cannot clean up."""
    code = (
        "import sys, time\n"
        "from spava_app.engine.video.decode import decode_frames\n"
        "from spava_app.engine.video.probe import probe\n"
        f"groups = decode_frames(probe({str(videos.gop250)!r}).source(range(620)))\n"
        "next(groups)\n"
        "from spava_app.engine.video import client\n"
        "import gc, subprocess\n"
        "[p] = [o for o in gc.get_objects() if isinstance(o, client.DecoderProcess)]\n"
        "print(p.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_several_threads_at_once(videos):
    counts, info = [], probe(videos.gop250)

    def read() -> None:
        counts.append(len(list(decode_frames(info.source(range(0, 620, 40)), group=2))))

    threads = [Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [8] * 3
    assert len(children()) == len(client._idle) <= 3


def test_two_at_once_do_not_mix(videos, sequential):
    _, truth = sequential(videos.gop250)
    info = probe(videos.gop250)
    first = decode_frames(info.source(range(0, 60, 2)))
    second = decode_frames(info.source(range(1, 60, 2)))
    for number, (even, odd) in enumerate(zip(first, second, strict=True)):
        np.testing.assert_array_equal(even.pictures[0], truth[2 * number])
        np.testing.assert_array_equal(odd.pictures[0], truth[2 * number + 1])


def test_work_is_told_and_a_hang_ends_by_itself():
    """Even with nobody left to kill it."""
    code = (
        "import socket\n"
        "from spava_app.engine.video import pulse, wire\n"
        "pulse._EVERY, pulse._HANGS_AFTER = 0.0, 1\n"
        "beats = pulse.Pulse(wire.Wire(socket.socket(fileno=0)))\n"
        "for _ in range(3): beats.beat()\n"
        "while True: pass\n"
    )
    ours, theirs = socketpair()
    with ours, theirs:
        done = subprocess.run([sys.executable, "-c", code], stdin=theirs.fileno(), timeout=60)
        assert done.returncode == -signal.SIGALRM
        wire = Wire(ours)
        assert [wire.receive(within=5)[0] for _ in range(2)] == [{"alive": True}] * 2


def test_a_full_ring_waits_for_who_takes_the_frames(videos, sequential, monkeypatch):
    """Two slots: a group stays as it is for as long as it is held, and none is lost."""
    monkeypatch.setattr(ring, "PREFETCH_BYTES", 1)
    _, truth = sequential(videos.short_gops)
    source = probe(videos.short_gops).source(range(90))
    for number, group in enumerate(decode_frames(source, group=4)):
        if number % 5 == 0:
            time.sleep(0.1)
        assert len(group.pictures) == (4 if number < 22 else 2)
        np.testing.assert_array_equal(group.pictures, truth[4 * number :][:4])
    assert number == 22


def test_the_last_frames_may_be_taken_as_slowly_as_any(videos, monkeypatch, tmp_path):
    """A decoder that has decoded all does not hang: it waits."""
    impatient = tmp_path / "python"
    impatient.write_text(
        f"#!{sys.executable}\n"
        "from spava_app.engine.video import pulse, server\n"
        "pulse._HANGS_AFTER = 1\n"
        "server.main()\n"
    )
    impatient.chmod(0o700)
    end_idle()
    monkeypatch.setattr(sys, "executable", str(impatient))
    try:
        groups = decode_frames(probe(videos.short_gops).source(range(90)), group=30)
        count = 0
        for group in groups:
            time.sleep(1.2)  # the first of them: all is decoded by then
            count += len(group.pictures)
        assert count == 90
    finally:
        end_idle()


def test_what_runs_ahead_is_bounded():
    frame = 1080 * 1920 * 3
    assert num_slots(2 * frame, 1000) * 2 * frame <= PREFETCH_BYTES
    assert num_slots(2**30, 1000) == 2
    assert num_slots(2**30, 1) == 1


def test_limits_of_the_process(videos):
    """Memory, no core dumps, no written files, no more descriptors than it needs, its own session,
    and nothing of torch in it.
    """
    end_idle()
    probe(videos.short)
    list(decode_frames(probe(videos.gop250).source(range(40))))
    pid = idle_process()
    limits = Path(f"/proc/{pid}/limits").read_text()
    lines = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert lines["Max address space"] == [str(MEMORY)] * 2
    assert lines["Max core file size"] == lines["Max file size"] == ["0", "0"]
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 5
    assert os.getsid(pid) == pid
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "libav" in maps
    assert "torch" not in maps
