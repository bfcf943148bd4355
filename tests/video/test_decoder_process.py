"""The decoder process: it can hang, die or be left alone, and costs one file and no more."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import socketpair
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from sabotage import DECODER, saboteur

from spava_app.engine.processes.exit_status import oom_kills
from spava_app.engine.processes.wire import Wire
from spava_app.engine.video import decoder_process as client
from spava_app.engine.video import shared_ring as ring
from spava_app.engine.video.decode import FrameGroup, decode_frames
from spava_app.engine.video.decoder_exit import exit_error
from spava_app.engine.video.decoder_process import decoder_process, end_idle
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sandbox.server import MEMORY
from spava_app.engine.video.shared_ring import PREFETCH_BYTES, num_slots
from spava_app.errors import EngineDown, InternalError, OutOfMemory, VideoError


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
        if int(parent) == os.getpid() and b"sandbox.server" in words and state != "Z":
            found.add(int(folder.name))
    return found


@pytest.fixture(autouse=True)
def none_kept():
    """Each test starts its own processes."""
    client.end_idle()


@pytest.fixture
def broken_decoder(tmp_path, monkeypatch) -> Iterator[Callable[[str], None]]:
    """Processes that run some code before their own."""
    sabotage = saboteur(tmp_path / "site", monkeypatch)
    modules = (
        "from spava_app.engine.video.sandbox import pulse, service\n"
        "from spava_app.engine.video.sandbox.container import source\n"
    )
    yield lambda code: sabotage(DECODER, modules + code)
    end_idle()


def test_a_process_is_kept_for_the_next_file(videos):
    probe(videos.short)
    first = idle_process()
    list(decode_frames(probe(videos.odd).source([0])))
    with pytest.raises(VideoError):
        probe(videos.folder / "missing.mp4")
    assert idle_process() == first
    assert children() == {first}


def decoded_halfway(path: Path) -> tuple[int, Iterator[FrameGroup]]:
    """The process that decodes a file, and the frames that are still to come."""
    info = probe(path)
    pid = idle_process()
    groups = decode_frames(info.source(range(620)))
    next(groups)
    return pid, groups


def test_a_decoder_that_hangs_is_killed_at_the_deadline(videos, broken_decoder, monkeypatch):
    monkeypatch.setattr(client, "SILENCE", 3.0)
    broken_decoder("import time; service.look = lambda path, pulse: time.sleep(60)")
    with pytest.raises(VideoError, match="has hung for 3 s; convert") as caught:
        probe(videos.gop250)
    assert (caught.value.field, caught.value.value) == ("video", str(videos.gop250))
    assert not children()


def test_one_that_was_stopped_is_not_the_files_fault(videos, monkeypatch):
    pid, groups = decoded_halfway(videos.gop250)
    monkeypatch.setattr(client, "SILENCE", 1.5)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineDown, match="the decoder process was stopped"):
        list(groups)
    assert pid not in children()
    monkeypatch.undo()
    assert probe(videos.gop250).num_frames == 620


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_ended_from_outside_is_not_the_files_fault(number, videos):
    pid, groups = decoded_halfway(videos.gop250)
    os.kill(pid, number)
    says = f"the decoder process was ended by {number.name}, from outside: ask again"
    with pytest.raises(EngineDown, match=says):
        list(groups)
    assert probe(videos.gop250).num_frames == 620
    assert pid not in children()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE])
def test_a_crash_is_the_files_fault(number, videos):
    pid, groups = decoded_halfway(videos.gop250)
    os.kill(pid, number)
    says = rf"the decoder crashed on this file \({number.name}\); convert the file"
    with pytest.raises(VideoError, match=says) as caught:
        list(groups)
    assert (caught.value.field, caught.value.value) == ("video", str(videos.gop250))
    assert probe(videos.gop250).num_frames == 620


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("service.look = None", "TypeError: 'NoneType' object is not callable"),
        ("del service.look", "NameError: name 'look' is not defined"),
        ("service.look = lambda path, pulse: 1 / 0", "ZeroDivisionError: division by zero"),
        (
            "import av; real = av.open; source.av.open = lambda file: real(file)",
            r"TypeError: .* got an unexpected keyword argument",
        ),
        (
            "from spava_app.engine.video.sandbox.pictures import animation\n"
            "animation.picture_format = None",
            "TypeError: 'NoneType' object is not callable",
        ),
    ],
)
def test_a_fault_of_ours_is_called_one_and_costs_no_process(
    fault, says, videos, broken_decoder, caplog, tmp_path
):
    path = videos.short
    if "PIL" in fault:  # which is not given what is no picture
        path = tmp_path / "picture.png"
        Image.new("RGB", (8, 8)).save(path)
    broken_decoder(fault)
    for _ in range(2):
        with pytest.raises(
            InternalError, match=f"internal error in the decoder process: {says}"
        ) as caught:
            probe(path)
        assert "\n" not in str(caught.value)
        assert "convert" not in str(caught.value)
        assert caught.value.traceback.startswith("Traceback")
        assert "service.py" in caught.value.traceback
    pid = idle_process()
    assert children() == {pid}
    end_idle()  # waits for what it logged
    logged = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.name for record in logged] == [DECODER] * 2
    assert f"[decoder, pid {pid}]" in logged[0].getMessage()
    assert "Traceback" in logged[0].getMessage()


def test_a_fault_while_frames_are_sent(videos, broken_decoder):
    """In the middle, with frames in the ring that the caller gives back; the process serves on."""
    broken_decoder(
        "from spava_app.engine.video.sandbox.reader import VideoReader\n"
        "real = VideoReader.read\n"
        "def read(self, frame, out):\n"
        "    return frame.nothing if frame == 9 else real(self, frame, out)\n"
        "VideoReader.read = read\n"
    )
    groups = decode_frames(probe(videos.gop250).source(range(40)), group=2)
    with pytest.raises(InternalError, match="AttributeError: 'int' object has no attribute"):
        list(groups)
    pid = idle_process()
    assert len(list(decode_frames(probe(videos.gop250).source(range(4))))) == 4
    assert idle_process() == pid


def test_what_the_library_raises_for_odd_data_is_the_files_fault(videos, broken_decoder):
    broken_decoder(
        "import av\n"
        "def look(path, pulse):\n"
        "    raise av.error.InvalidDataError(1, 'Invalid data')\n"
        "service.look = look\n"
    )
    says = "the decoder failed on this file .Invalid data.; convert"
    with pytest.raises(VideoError, match=says) as caught:
        probe(videos.short)
    assert caught.value.value == str(videos.short)


def test_a_library_that_cannot_be_imported_is_named(videos, broken_decoder, tmp_path):
    broken_decoder("pass")
    (tmp_path / "site" / "sitecustomize.py").unlink()
    (tmp_path / "site" / "av.py").write_text("raise ImportError('libavcodec.so.61: not found')")
    for _ in range(2):
        says = "the decoder process, when it started: ImportError: libavcodec.so.61: not found"
        with pytest.raises(InternalError, match=says) as caught:
            probe(videos.short)
        assert "av.py" in caught.value.traceback
    assert not children()


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("sys.exit('no python here')", "SystemExit|no python here"),
        ("print('no such library', file=sys.stderr, flush=True); os._exit(3)", "no such library"),
        ("os._exit(3)", "ended with code 3"),
        ("os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
    ],
)
def test_one_that_dies_before_it_can_talk_is_quoted(end, says, videos, monkeypatch, tmp_path):
    saboteur(tmp_path / "site", monkeypatch)(DECODER, f"import os\n{end}")
    with pytest.raises(InternalError, match=f"when it started: ({says})") as caught:
        probe(videos.short)
    assert "\n" not in str(caught.value)
    assert not children()


def test_one_that_cannot_be_started(videos, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineDown, match=r"the decoder process cannot be started: .*No such file"):
        probe(videos.short)


def test_what_it_writes_reaches_the_log_and_a_flood_is_cut(videos, broken_decoder, caplog):
    """Far more than a pipe holds, by a C library that writes while it decodes."""
    broken_decoder(
        "import os\n"
        "real = service.look\n"
        "def look(path, pulse):\n"
        "    for number in range(20_000):\n"
        "        os.write(2, b'frame %d is odd\\x1b[2J\\n' % number)\n"
        "    os.write(1, b'x' * 1_000_000 + b'\\nlast words')\n"
        "    return real(path, pulse)\n"
        "service.look = look\n"
    )
    caplog.set_level("INFO", "spava_app")
    assert probe(videos.short).num_frames == 14
    end_idle()
    told = [record.getMessage() for record in caplog.records if record.name == DECODER]
    assert told[0].endswith("] frame 0 is odd\\x1b[2J")
    assert len(told) < 1000
    assert max(map(len, told)) < 3000
    dropped = sum(int(line.split("] ")[1].split()[0]) for line in told if "dropped" in line)
    assert len(told) + dropped - sum("dropped" in line for line in told) == 20_002


def test_files_and_threads_are_given_back(videos):
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    probe(videos.short)
    end_idle()
    before = held()
    for _ in range(5):
        probe(videos.short)
        end_idle()
    assert held() == before


def test_the_kernel_ended_it_for_memory(videos):
    """Which of the processes that ended the kernel ended, is told by its count alone."""
    code, path = -signal.SIGKILL, str(videos.short)
    count = oom_kills()
    told = exit_error(code, path, output="", ready=True, oom_kills_before=count - 1)
    assert isinstance(told, OutOfMemory)
    assert isinstance(
        exit_error(code, path, output="", ready=True, oom_kills_before=count), EngineDown
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_died_or_was_stopped_while_idle_is_not_noticed(how, videos):
    probe(videos.short)
    pid = idle_process()
    os.kill(pid, how)
    time.sleep(0.2)
    assert probe(videos.short).num_frames == 14
    assert pid not in children()


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
        "from spava_app.engine.video import decoder_process as client\n"
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
        "from spava_app.engine.video.sandbox import pulse\n"
        "from spava_app.engine.processes import wire\n"
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


def test_the_last_frames_may_be_taken_as_slowly_as_any(videos, broken_decoder):
    """A decoder that has decoded all does not hang: it waits."""
    broken_decoder("pulse._HANGS_AFTER = 1")
    groups = decode_frames(probe(videos.short_gops).source(range(90)), group=30)
    count = 0
    for group in groups:
        time.sleep(1.2)  # the first of them: all is decoded by then
        count += len(group.pictures)
    assert count == 90


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
    assert os.getsid(pid) == pid
    if os.getuid() != 0:
        return  # the rest it shows to nobody else
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 5
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "libav" in maps
    assert "libtorch" not in maps
