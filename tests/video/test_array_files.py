"""Frames of arrays on their way to other processes: files without a name, which end with who has
them open.
"""

import gc
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from spava_app.engine.media import FrameSource
from spava_app.engine.video.array_files import ArrayFiles, descriptors, open_array
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.workers import channel
from spava_app.errors import InvalidInput, VideoError

FRAMES = np.random.default_rng(0).integers(0, 256, (12, 20, 30, 3), dtype=np.uint8)


@pytest.fixture
def arrays() -> Iterator[ArrayFiles]:
    with ArrayFiles() as arrays:
        yield arrays


def num_open() -> int:
    gc.collect()
    return len(os.listdir("/dev/fd"))


def pictures(source: FrameSource) -> np.ndarray:
    return np.concatenate([group.pictures for group in decode_frames(source, group=5)])


@pytest.mark.parametrize("chosen", [range(12), [3], [0, 7, 7, 2]])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("tensor", [False, True])
def test_what_was_chosen_is_read(
    arrays: ArrayFiles, chosen: Sequence[int], first: bool, tensor: bool
) -> None:
    given = FRAMES.transpose(0, 3, 1, 2) if first else FRAMES
    source = arrays.source(torch.from_numpy(given) if tensor else given, chosen)
    assert source.shape == (20, 30)
    np.testing.assert_array_equal(pictures(source), FRAMES[list(chosen)])
    np.testing.assert_array_equal(pictures(source.pick([0])), FRAMES[[chosen[0]]])


def test_frames_are_written_once_as_long_as_they_stay(arrays: ArrayFiles) -> None:
    """However often a conversation asks; and what is changed in between is seen."""
    own = FRAMES.copy()
    source, before = arrays.source(own, [1, 2]), num_open()
    assert all(arrays.source(own, [1, 2]) is source for _ in range(5))
    assert num_open() == before
    own[2] += 1
    changed = arrays.source(own, [1, 2])
    np.testing.assert_array_equal(pictures(changed), own[[1, 2]])
    np.testing.assert_array_equal(pictures(source), FRAMES[[1, 2]])


@pytest.mark.parametrize("way", ["close", "forget"])
def test_nothing_stays_open(way: str) -> None:
    before = num_open()
    arrays = ArrayFiles()
    source = arrays.source(FRAMES, [0])
    if way == "close":
        arrays.close()
        arrays.close()
    del arrays
    assert num_open() == before
    with pytest.raises(VideoError, match="it is gone"):
        open_array(source)


def test_another_file_under_its_number_is_none_of_its_frames(tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", FRAMES[:1])
    with open(tmp_path / "other.npy", "rb") as other:
        with ArrayFiles() as arrays:
            source = arrays.source(FRAMES, [0])
        [number] = descriptors([source])
        os.dup2(other.fileno(), number)
    try:
        with pytest.raises(VideoError, match="it is gone"):
            open_array(source)
    finally:
        os.close(number)


# Another process: it gets the files and says what it sees.
READER = """
import json, sys
from multiprocessing.connection import Connection
from spava_app.engine.workers import channel
from spava_app.engine.video.array_files import open_array
from spava_app.engine.media import FrameSource
connection = Connection(int(sys.argv[1]))
message = channel.receive(connection)
files = channel.receive_files(connection, message["files"])
sources = [FrameSource.from_dict(one) for one in message["sources"]]
sums = [int(open_array(one.with_file(file)).sum()) for one, file in zip(sources, files)]
channel.send(connection, {"sums": sums})
"""


def test_another_process_gets_the_files(arrays: ArrayFiles) -> None:
    """Among messages in both directions; and it needs nothing but the channel for it."""
    sources = [arrays.source(FRAMES, [number]) for number in range(4)]
    ours, theirs = socket.socketpair()
    with theirs:
        words = [sys.executable, "-c", READER, str(theirs.fileno())]
        reader = subprocess.Popen(words, pass_fds=(theirs.fileno(),))
    connection = Connection(ours.detach())
    told = {"files": len(sources), "sources": [source.to_dict() for source in sources]}
    channel.send(connection, told)
    channel.send_files(connection, descriptors(sources))
    assert channel.receive(connection) == {"sums": [int(one.sum()) for one in FRAMES[:4]]}
    assert reader.wait(30) == 0
    connection.close()


def test_a_sender_that_is_gone_leaves_no_file_open(arrays: ArrayFiles) -> None:
    source = arrays.source(FRAMES, [0])
    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
    before = num_open()
    channel.send_files(ours, descriptors([source]))
    ours.close()
    with pytest.raises(EOFError):
        channel.receive_files(theirs, 2)
    assert num_open() == before - 1
    theirs.close()


def test_no_room_is_told(arrays: ArrayFiles) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(InvalidInput, match=r"no room for 0 MiB of frames .*look at fewer"):
            arrays.source(FRAMES, range(12))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_files_in_memory_they_have_no_name_either(
    arrays: ArrayFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = arrays.source(FRAMES, [4, 2])
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(pictures(source), FRAMES[[4, 2]])
    again = replace(source).with_file(os.dup(descriptors([source])[0]))
    np.testing.assert_array_equal(pictures(again), FRAMES[[4, 2]])
    os.close(descriptors([again])[0])
