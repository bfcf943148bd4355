"""Decoded frames equal a full sequential decode, bit for bit, whatever is asked for."""

from contextlib import closing
from functools import cache
from importlib.util import find_spec
from socket import socketpair

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import probe
from spava_app.engine.video.pulse import Pulse
from spava_app.engine.video.reader import VideoReader
from spava_app.engine.video.sample import sample_times
from spava_app.engine.video.wire import Wire
from spava_app.errors import InvalidInput, VideoError

NAMES = ["variable", "short_gops", "odd", "late", "old", "open_gop", "intra_refresh", "short"]


def check(info, frames, truth, **options):
    decoded = decode_frames(info.source(frames), **options)
    for number, group in zip(frames, decoded, strict=True):
        [rgb] = group.pictures
        assert rgb.dtype == np.uint8
        assert not group.damaged
        np.testing.assert_array_equal(rgb, truth[number], err_msg=f"frame {number}")


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("how", [{"num_frames": 24}, {"fps": 2.0}, {"fps": 12.0}])
def test_gop_of_250_frames_on_several_ranks(ranks, how, videos, sequential):
    times, truth = sequential(videos.gop250)
    info = probe(videos.gop250)
    sample = sample_times(info, **how)
    shown_at = {round(t, 6): rgb for t, rgb in zip(times, truth, strict=True)}
    parts = np.array_split(np.arange(len(sample)), ranks)
    gathered = []
    for part in parts:
        source = info.source(sample.frames).pick(part.tolist())
        gathered += [rgb.copy() for group in decode_frames(source) for rgb in group.pictures]
    assert len(gathered) == len(sample)
    for time, rgb in zip(sample.times, gathered, strict=True):
        np.testing.assert_array_equal(rgb, shown_at[round(time, 6)], err_msg=f"at {time} s")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_each_frame_alone_and_all_in_a_row(name, threads, videos, sequential):
    path = getattr(videos, name)
    _, truth = sequential(path)
    info = probe(path)
    check(info, range(info.num_frames), truth, threads=threads)
    for frame in range(0, info.num_frames, 7):
        check(info, [frame], truth, threads=threads)


@pytest.fixture(scope="module")
def known(videos, sequential):
    """Probed and sequentially decoded once per video."""
    return cache(lambda name: (probe(getattr(videos, name)), sequential(getattr(videos, name))[1]))


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_frames_in_any_order(data, known):
    name = data.draw(st.sampled_from(["short_gops", "variable", "open_gop", "late"]))
    info, truth = known(name)
    check(info, data.draw(st.lists(st.integers(0, info.num_frames - 1), max_size=6)), truth)


def test_rotated_pictures_stand_upright(videos, sequential):
    _, stored = sequential(videos.rotated)
    # Clockwise: the stored top row becomes the right column.
    check(probe(videos.rotated), range(5), stored[:, ::-1].transpose(0, 2, 1, 3))


def test_an_edit_list(videos, tmp_path, remux, sequential):
    def earlier(packets):
        for packet in packets:
            packet.pts -= 20 * 512
            packet.dts -= 20 * 512
        return packets

    path = tmp_path / "cut.mp4"
    remux(videos.short_gops, path, earlier)
    _, truth = sequential(path)
    check(probe(path), [0, 3, 4, 5, 30, 69], truth)
    check(probe(path), [2], truth)


@pytest.mark.parametrize(
    ("frames", "at_most"),
    [([240, 245, 249], 250), ([249], 250), ([2, 9, 251, 252, 501], 16), ([500, 0, 251], 4)],
)
def test_no_more_is_decoded_than_needed(frames, at_most, videos, sequential, monkeypatch):
    """Neighbours in one group are decoded in one go, and whole groups are skipped."""
    _, truth = sequential(videos.gop250)
    source = probe(videos.gop250).source(frames)
    decoded = []
    pictures_of = VideoReader._decoded

    def count(reader):
        for picture in pictures_of(reader):
            decoded.append(picture)
            yield picture

    monkeypatch.setattr(VideoReader, "_decoded", count)
    ours, theirs = socketpair()
    with closing(VideoReader(source, 2, Pulse(Wire(ours)))) as reader, theirs:
        out = np.empty((64, 96, 3), np.uint8)
        for place, frame in enumerate(frames):
            assert reader.read(place, out)
            np.testing.assert_array_equal(out, truth[frame])
    assert 0 < len(decoded) <= at_most


@pytest.mark.parametrize("part", [0, 0.6])
def test_damage_is_bridged_by_the_frame_before_it(part, videos, tmp_path, sequential):
    """A frame that is missing, and one of which the decoder makes up the rest."""
    _, truth = sequential(videos.gop250)
    with av.open(str(videos.gop250)) as container:
        packet = [p for p in container.demux(video=0) if p.size][120]
        assert packet.pos is not None
        damaged = round((packet.pts or 0) * packet.time_base * 30)
    start, stop = packet.pos + int(part * packet.size), packet.pos + packet.size
    broken = bytearray(videos.gop250.read_bytes())
    broken[start:stop] = bytes(stop - start)
    path = tmp_path / "broken.mp4"
    path.write_bytes(broken)
    info = probe(path)
    frames = [3, damaged - 1, damaged, 300]
    pictures = []
    for group in decode_frames(info.source(frames), group=4):
        pictures += list(group.pictures.copy())
        assert 2 in group.damaged
        assert not {0, 3} & {*group.damaged}
    # What stands in for it is a whole frame of shortly before.
    assert any((truth[n] == pictures[2]).all() for n in range(damaged - 8, damaged))
    # The damage ends with its group of pictures, and what comes before it is whole.
    check(info, [0, 50, 250, 400], truth)


def test_a_group_without_its_key_frame(videos, tmp_path, sequential):
    """All of it is damaged: one of the last frames of the group before it stands in."""
    _, truth = sequential(videos.gop250)
    with av.open(str(videos.gop250)) as container:
        keys = [p for p in container.demux(video=0) if p.size and p.is_keyframe]
    broken = bytearray(videos.gop250.read_bytes())
    broken[keys[1].pos : keys[1].pos + keys[1].size] = bytes(keys[1].size)
    path = tmp_path / "broken.mp4"
    path.write_bytes(broken)
    info = probe(path)
    [group] = decode_frames(info.source([240, 250, 400, 499, 500]), group=5)
    assert group.damaged == (1, 2, 3)
    for place, frame in ((0, 240), (4, 500)):
        np.testing.assert_array_equal(group.pictures[place], truth[frame])
    for place in group.damaged:
        assert any((truth[frame] == group.pictures[place]).all() for frame in range(242, 250))


def test_a_file_that_was_changed_after_probing(videos, tmp_path):
    path = tmp_path / "short.ts"
    path.write_bytes(videos.late.read_bytes())
    source = probe(path).source([0, 80])
    path.write_bytes(path.read_bytes()[: 188 * 20])
    with pytest.raises(VideoError, match="was changed"):
        list(decode_frames(source))
    path.unlink()
    with pytest.raises(VideoError, match="no such file"):
        list(decode_frames(source))


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"group": 0}, {"decoder": "guess"}, {"decoder": "torchcodec"}]
)
def test_wrong_arguments(wrong, videos):
    if find_spec(wrong.get("decoder", "guess")):
        pytest.skip("it is installed here")
    source = probe(videos.short_gops).source([0])
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        list(decode_frames(source, **wrong))
