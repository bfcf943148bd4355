"""Training clips are the product's own frames, labelled right, in the processor's patch order."""

import pytest
import torch

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.patches import patchify_frames
from spava_app.engine.training.cards.clips import (
    IGNORE,
    NO_COLOR,
    NO_DIGIT,
    SIDE,
    ClipSizes,
    ClipSource,
    patchify,
    unit_labels,
)


@pytest.mark.parametrize(
    ("units", "seconds"), [(12, (0.25, 8.0)), (12, (8.0, 8.0)), (40, (0.25, 0.3)), (64, (1.0, 1.0))]
)
def test_every_card_shows_and_only_cards_show(units, seconds):
    source = ClipSource(units, "cpu")
    sizes = ClipSizes(64, units, 1, 8, seconds)
    low, high = seconds
    interval = source.uniform(64, low=low, high=high) / 2
    counts = 1 + source.integers(8, 64)
    shown = source._schedule(sizes, interval, counts)
    assert shown.shape == (64, 2 * units)
    for row, count in zip(shown, counts.tolist(), strict=True):
        in_order = [card for card in row.unique_consecutive().tolist() if card >= 0]
        assert in_order == list(range(count)), "each card shows once, without a break"


def test_a_batch_has_the_stated_shapes_and_range():
    clips = ClipSource(0, "cpu").draw(ClipSizes(3, 12, 3, 8))
    assert clips.patches.shape == (3 * 12 * 16, 1176)
    assert clips.unit_color.shape == clips.unit_digit.shape == (3, 12)
    assert ((clips.seconds_per_unit >= 0.25) & (clips.seconds_per_unit <= 8)).all()
    assert all(len(set(row.tolist())) == 8 for row in clips.colors)
    again = ClipSource(0, "cpu").draw(ClipSizes(3, 12, 3, 8))
    assert torch.equal(clips.patches, again.patches)


def test_unit_labels():
    shown = torch.tensor([[-1, -1, 0, 0, -1, 1, 1, 0]])
    color, digit = unit_labels(shown, torch.tensor([[5, 2]]), torch.tensor([[7, 9]]))
    assert color.tolist() == [[NO_COLOR, 5, 2, IGNORE]]
    assert digit.tolist() == [[NO_DIGIT, 7, 9, IGNORE]]


def test_patches_equal_what_the_product_makes_of_the_same_frames():
    frames = torch.randint(256, (6, SIDE, SIDE, 3), dtype=torch.uint8)
    theirs, grid = patchify_frames(frames, PixelConfig.from_folder(EMBEDDED), size=(SIDE, SIDE))
    ours = patchify(frames.permute(0, 3, 1, 2)[None] / 255)
    assert grid == (3, 4, 4)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_degrading_keeps_the_picture_recognisable():
    source = ClipSource(0, "cpu")
    frames = torch.rand(4, 1, 3, 1, 1).expand(4, 2, 3, SIDE, SIDE)
    degraded = source.degrade(frames)
    assert degraded.shape == frames.shape
    assert (degraded >= 0).all()
    assert (degraded <= 1).all()
    assert (degraded.mean((3, 4)) - frames.mean((3, 4))).abs().max() < 0.3
