"""Decoded frames equal a full sequential decode, bit for bit, whatever is asked for."""

from contextlib import closing
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from socket import socketpair

import av
import numpy as np
import pytest
from clips import write_video
from hypothesis import given, settings
from hypothesis import strategies as st

from spava_app.engine.processes.wire import Wire
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.media_file import open_media
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import sample_times
from spava_app.engine.video.sandbox.pulse import Pulse
from spava_app.engine.video.sandbox.reader import VideoReader, marks_references
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


@pytest.fixture
def reading(monkeypatch):
    """Read frames in this process: whether each is whole, the pictures, and what was decoded."""
    decoded = []
    pictures_of = VideoReader._decoded

    def count(reader, start):
        for picture in pictures_of(reader, start):
            decoded.append(picture)
            yield picture

    def read(path, frames):
        source = probe(path).source(frames)
        decoded.clear()
        ours, theirs = socketpair()
        pulse = Pulse(Wire(ours))
        with (
            closing(open_media(str(path))) as file,
            closing(VideoReader(source, file, 2, pulse)) as reader,
            theirs,
        ):
            out = np.empty((len(frames), *source.shape, 3), np.uint8)
            return [reader.read(place, out[place]) for place in range(len(frames))], out, decoded

    monkeypatch.setattr(VideoReader, "_decoded", count)
    return read


@pytest.mark.parametrize(
    ("name", "frames", "at_most"),
    [
        ("gop250", [240, 245, 249], 250),
        ("gop250", [249], 250),
        ("gop250", [2, 9, 251, 252, 501], 16),
        ("gop250", [500, 0, 251], 4),
        ("intra_refresh", [50, 60, 70, 80], 83),
    ],
)
def test_no_more_is_decoded_than_needed(name, frames, at_most, videos, sequential, reading):
    """Neighbours in one group are decoded in one go, and whole groups are skipped. Where key frames
    are none, that is learned once.
    """
    _, truth = sequential(getattr(videos, name))
    whole, pictures, decoded = reading(getattr(videos, name), frames)
    assert all(whole)
    np.testing.assert_array_equal(pictures, truth[frames])
    assert 0 < len(decoded) <= at_most


def test_damage_is_not_looked_for_from_the_start_of_the_file(videos, tmp_path, reading, break_):
    path = break_(videos.short_gops, tmp_path, keyframe=6)
    whole, _, decoded = reading(path, [10, 75, 80, 89])
    assert whole == [True, False, False, True]
    # Each of the two: its own group, and the one before it with it.
    assert len(decoded) < 12 + 2 * 3 * 12 + 12


def test_only_pictures_that_are_no_reference_are_left_out(videos, tmp_path):
    """HEVC's mark means that only where there is one temporal layer."""
    layers = tmp_path / "layers.mp4"
    options = {"x265-params": "bframes=4:b-adapt=0:temporal-layers=3:log-level=none"}
    write_video(layers, list(range(20)), Fraction(1, 30), codec="libx265", options=options)
    flat = tmp_path / "flat.mp4"
    options = {"x265-params": "bframes=4:log-level=none"}
    write_video(flat, list(range(20)), Fraction(1, 30), codec="libx265", options=options)
    found = {}
    for path in (layers, flat, videos.gop250, videos.short, videos.old, videos.late):
        with av.open(str(path)) as container:
            found[path.stem] = marks_references(container.streams.video[0].codec_context)
    marked = {name for name, marks in found.items() if marks}
    assert marked == {"flat", "gop250", "late"}


@pytest.fixture
def break_():
    """A copy of a file in which the packet of one key frame is gone."""

    def break_(source, folder, keyframe):
        with av.open(str(source)) as container:
            keys = [p for p in container.demux(video=0) if p.size and p.is_keyframe]
        broken, key = bytearray(source.read_bytes()), keys[keyframe]
        assert key.pos is not None
        broken[key.pos : key.pos + key.size] = bytes(key.size)
        path = folder / "broken.mp4"
        path.write_bytes(broken)
        return path

    return break_


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


def test_a_group_without_its_key_frame(videos, tmp_path, sequential, break_):
    """All of it is damaged: one of the last frames of the group before it stands in."""
    _, truth = sequential(videos.gop250)
    path = break_(videos.gop250, tmp_path, keyframe=1)
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
