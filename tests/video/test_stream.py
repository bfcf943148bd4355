"""The units of all ranks together are the patches of the whole video, whatever the batches."""

import numpy as np
import pytest
import torch

from spava_app.engine.video import stream as stream_file
from spava_app.engine.video.preprocess import PixelConfig, grid_for, patchify_frames
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import sample_times
from spava_app.engine.video.stream import stream_patches
from spava_app.errors import InvalidInput

CONFIG = PixelConfig(min_pixels=784, max_pixels=784 * 6)
SIZE = (56, 84)


@pytest.fixture(scope="module")
def info(videos):
    return probe(videos.gop250)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("num_frames", [20, 17])
def test_ranks_together_have_the_whole_video(ranks, num_frames, info, videos, sequential):
    times, truth = sequential(videos.gop250)
    sample = sample_times(info, num_frames=num_frames)
    t, h, w = grid_for(num_frames, info.height, info.width, CONFIG)
    assert (h * CONFIG.patch_size, w * CONFIG.patch_size) == SIZE
    whole = torch.from_numpy(truth[np.searchsorted(times, np.array(sample.times) - 1e-9)])
    expected, grid = patchify_frames(whole, CONFIG, size=SIZE)
    assert grid == (t, h, w)
    seen = []
    for part in np.array_split(np.arange(t), ranks):
        units = range(int(part[0]), int(part[-1]) + 1)
        for step, patches in stream_patches(info, sample, units, CONFIG, SIZE, batch_units=2):
            assert len(step) <= 2
            rows = slice(step.start * h * w, step.stop * h * w)
            np.testing.assert_array_equal(patches.numpy(), expected[rows].numpy())
            seen += step
    assert seen == list(range(t))


def test_only_its_own_frames_are_decoded(info, monkeypatch):
    asked = []
    real = stream_file.decode_frames

    def spy(info, frames, **options):
        asked.extend(frames)
        return real(info, frames, **options)

    monkeypatch.setattr(stream_file, "decode_frames", spy)
    sample = sample_times(info, num_frames=17)
    steps = list(stream_patches(info, sample, range(7, 9), CONFIG, SIZE, batch_units=1))
    assert [step for step, _ in steps] == [range(7, 8), range(8, 9)]
    assert asked == list(sample.frames[14:])


def test_timings_add_up(info):
    sample = sample_times(info, num_frames=4)
    timings = {"decode": 100.0}
    list(stream_patches(info, sample, range(2), CONFIG, SIZE, timings=timings))
    assert timings.keys() == {"decode", "preprocess"}
    assert timings["decode"] > 100
    assert timings["preprocess"] > 0


def test_a_rank_without_units(info):
    sample = sample_times(info, num_frames=4)
    assert list(stream_patches(info, sample, range(2, 2), CONFIG, SIZE)) == []


@pytest.mark.parametrize(
    ("units", "batch_units"),
    [(range(3), 8), (range(-1, 1), 8), (range(0, 2, 2), 8), (range(2), 0)],
)
def test_wrong_units(units, batch_units, info):
    sample = sample_times(info, num_frames=4)
    with pytest.raises(InvalidInput, match="give"):
        stream_patches(info, sample, units, CONFIG, SIZE, batch_units=batch_units)
