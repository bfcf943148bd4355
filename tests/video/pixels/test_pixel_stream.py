"""The units of all ranks together are the patches of the whole video, whatever the batches."""

import numpy as np
import pytest
import torch

from spava_app.engine.multimodal import pixel_stream as stream_file
from spava_app.engine.multimodal.pixel_stream import stream_units
from spava_app.engine.multimodal.pixels.patches import PixelConfig, patchify_frames
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.multimodal.single_video import video_alone
from spava_app.engine.video import decoder_process as client

CONFIG = PixelConfig(min_pixels=784, max_pixels=784 * 6)
PROCESSOR = QwenProcessor(CONFIG, CONFIG, frozenset((1, 2)))
SIZE = (56, 84)


@pytest.fixture(scope="module")
def media_of(videos):
    def media(num_frames):
        found = video_alone(videos.gop250, PROCESSOR, num_frames=num_frames)
        assert found.size == SIZE
        return found

    return media


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("num_frames", [20, 17])
def test_ranks_together_have_the_whole_video(ranks, num_frames, media_of, videos, sequential):
    times, truth = sequential(videos.gop250)
    media = media_of(num_frames)
    whole = torch.from_numpy(truth[np.searchsorted(times, np.array(media.times) - 1e-9)])
    expected, (t, h, w) = patchify_frames(whole, CONFIG, size=SIZE)
    assert media.grid == (t, h, w)
    seen = []
    for part in np.array_split(np.arange(t), ranks):
        units = range(int(part[0]), int(part[-1]) + 1)
        for step, patches in stream_units(media, units, PROCESSOR, batch_units=2):
            assert len(step) <= 2
            rows = slice(step[0] * h * w, (step[-1] + 1) * h * w)
            np.testing.assert_array_equal(patches.numpy(), expected[rows].numpy())
            seen += step
    assert seen == list(range(t))


def test_only_its_own_frames_are_decoded(media_of, monkeypatch):
    asked = []
    real = stream_file.decode_frames

    def spy(source, **options):
        asked.extend(source.rows)
        return real(source, **options)

    monkeypatch.setattr(stream_file, "decode_frames", spy)
    media = media_of(17)
    steps = list(stream_units(media, range(7, 9), PROCESSOR, batch_units=1))
    assert [step for step, _ in steps] == [[7], [8]]
    assert asked == list(media.source.rows[14:])


def test_timings_add_up(media_of):
    timings = {"decode": 100.0}
    list(stream_units(media_of(4), range(2), PROCESSOR, batch_units=8, timings=timings))
    assert timings.keys() == {"decode", "preprocess"}
    assert timings["decode"] > 100
    assert timings["preprocess"] > 0


def test_a_rank_without_units(media_of):
    assert list(stream_units(media_of(4), range(2, 2), PROCESSOR, batch_units=8)) == []


@pytest.mark.parametrize("num_frames", [20, 17])
def test_several_processes_decode_parts_of_the_units(num_frames, media_of):
    """Six threads are three processes: the same pixels, each unit once, in any order."""
    media = media_of(num_frames)
    units = [0, 1, 2, 4, 5, 7, media.num_units - 1]
    alone = dict(one_by_one(stream_units(media, units, PROCESSOR, batch_units=3)))
    together = dict(one_by_one(stream_units(media, units, PROCESSOR, batch_units=2, threads=6)))
    assert list(together) != sorted(together)
    assert sorted(together) == list(alone) == units
    for unit, pixels in alone.items():
        np.testing.assert_array_equal(together[unit].numpy(), pixels.numpy())


def one_by_one(steps):
    """The units of all steps and the pixels of each."""
    for step, pixels in steps:
        yield from zip(step, pixels.chunk(len(step)), strict=True)


def test_a_decoding_process_serves_the_next_stream(media_of):
    media = media_of(6)
    list(stream_units(media, range(3), PROCESSOR, batch_units=8))
    kept = [process.process.pid for process in client._idle]
    assert kept
    list(stream_units(media, range(2), PROCESSOR, batch_units=1))
    assert [process.process.pid for process in client._idle] == kept
