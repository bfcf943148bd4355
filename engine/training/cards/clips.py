"""Batches of card clips, drawn, augmented and cut into patches on the training device, without
loops.

B = clips, U = units (frame pairs) of a clip, F = 2 U frames, N = card slots of a clip, S = frame
side.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spava_app.engine.synthetic.card_drawing import COLORS, LUMA, draw, random_look
from spava_app.engine.synthetic.cards import GAP, LONGEST, SHORTEST
from spava_app.engine.training.cards.assets import (
    IMAGE_MEAN,
    IMAGE_STD,
    MERGE_SIZE,
    PATCH_SIZE,
    TEMPORAL_PATCH_SIZE,
)

SIDE = 56
GRID_SIDE = SIDE // PATCH_SIZE
TOKENS_PER_UNIT = (GRID_SIDE // MERGE_SIZE) ** 2
NUM_DIGITS = 10
# Labels of a unit that shows no card, and of one whose two frames show different cards.
NO_COLOR, NO_DIGIT, IGNORE = len(COLORS), NUM_DIGITS, -100
# Part of the clips whose cards show for only one to four frames, whatever the sampling rate.
BRIEF_SHARE = 0.3


@dataclass(frozen=True)
class ClipSizes:
    """How large a batch is and how it was sampled from its video."""

    clips: int
    units: int
    min_cards: int = 3
    max_cards: int = 8
    seconds_per_unit: tuple[float, float] = (0.25, 8.0)  # drawn log-uniformly
    brief_share: float = BRIEF_SHARE


@dataclass(frozen=True)
class Clips:
    """A batch: what the vision tower sees and what is true about it."""

    patches: Tensor  # [B * U * 16, 1176]
    seconds_per_unit: Tensor  # float64 [B]
    counts: Tensor  # cards of each clip, [B]
    colors: Tensor  # [B, N]
    digits: Tensor  # [B, N]
    unit_color: Tensor  # [B, U]
    unit_digit: Tensor  # [B, U]


class ClipSource:
    """Draws batches from one random generator on one device."""

    def __init__(self, seed: int, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform float32 numbers on the device."""
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers below `high` on the device."""
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    @torch.no_grad()
    def draw(self, sizes: ClipSizes) -> Clips:
        """Make a batch. Every card shows in at least one frame."""
        clips, slots = sizes.clips, sizes.max_cards
        low, high = (torch.tensor(bound).log().item() for bound in sizes.seconds_per_unit)
        seconds_per_unit = self.uniform(clips, low=low, high=high).exp()
        interval = seconds_per_unit / TEMPORAL_PATCH_SIZE
        counts = sizes.min_cards + self.integers(sizes.max_cards - sizes.min_cards + 1, clips)
        colors = self.uniform(clips, len(COLORS)).argsort(dim=1)[:, :slots]
        digits = self.integers(NUM_DIGITS, clips, slots)
        shown = self._schedule(sizes, interval, counts)
        frame = torch.arange(shown.shape[1], device=self.device)
        look = random_look(clips, slots, self.generator, self.device)
        frames = draw(look, colors, digits, shown, frame * interval[:, None], SIDE)
        unit_color, unit_digit = unit_labels(shown, colors, digits)
        return Clips(
            patches=patchify(self.degrade(frames)),
            seconds_per_unit=seconds_per_unit.double(),
            counts=counts,
            colors=colors,
            digits=digits,
            unit_color=unit_color,
            unit_digit=unit_digit,
        )

    def _schedule(self, sizes: ClipSizes, interval: Tensor, counts: Tensor) -> Tensor:
        """Which card each frame shows, `[B, F]`; -1 for none. Times here count frames."""
        clips, slots = sizes.clips, sizes.max_cards
        frames = sizes.units * TEMPORAL_PATCH_SIZE
        used = torch.arange(slots, device=self.device) < counts[:, None]
        lengths = self.uniform(clips, slots, low=SHORTEST, high=LONGEST) / interval[:, None]
        brief = self.uniform(clips, 1) < sizes.brief_share
        lengths = torch.where(brief, self.uniform(clips, slots, low=1.0, high=4.0), lengths)
        # A span just over one frame long holds at least one frame.
        fitting = (0.85 * frames / counts[:, None]).clamp(min=1.01)
        lengths = lengths.clamp(min=1.01).minimum(fitting) * used
        spare = frames - lengths.sum(1)
        gap = (GAP / interval).minimum(spare / (2 * counts))
        free = spare - gap * (counts - 1)
        offsets = torch.where(used, self.uniform(clips, slots), 2.0).sort(dim=1).values
        before = lengths.cumsum(1) - lengths
        before = before + gap[:, None] * torch.arange(slots, device=self.device)
        starts = offsets * free[:, None] + before
        frame = torch.arange(frames, device=self.device)[:, None]
        showing = (frame >= starts[:, None]) & (frame < (starts + lengths)[:, None]) & used[:, None]
        return torch.where(showing.any(2), showing.to(torch.uint8).argmax(2), -1)

    def degrade(self, frames: Tensor) -> Tensor:
        """What a codec, a resize and a camera do, `[B, F, 3, S, S]` to the same; each clip
        differently.
        """
        clips, count = frames.shape[:2]

        def per_clip(low: float, high: float) -> Tensor:
            values = self.uniform(clips, low=low, high=high)
            return values.repeat_interleave(count, output_size=clips * count)[:, None, None, None]

        x = frames.flatten(0, 1)
        x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), per_clip(-0.3, 0.9))
        luma = (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        chroma = x - luma
        coarse = F.interpolate(F.avg_pool2d(chroma, 2), scale_factor=2.0)
        chroma = torch.lerp(chroma, coarse, per_clip(0.0, 1.0))
        # Turning the chroma plane by a small angle about grey: Rodrigues' rotation with sin ~ the
        # angle.
        turned = chroma.roll(1, dims=1) - chroma.roll(-1, dims=1)
        chroma = (chroma + per_clip(-0.07, 0.07) * turned) * per_clip(0.75, 1.2)
        contrast, brightness = per_clip(0.8, 1.15), per_clip(-0.07, 0.07)
        x = (luma - 0.5) * contrast + (0.5 + brightness) + chroma * contrast
        noise = torch.randn(x.shape, generator=self.generator, device=self.device)
        return (x + noise * per_clip(0.0, 0.05)).clamp(0, 1).unflatten(0, (clips, count))


def unit_labels(shown: Tensor, colors: Tensor, digits: Tensor) -> tuple[Tensor, Tensor]:
    """Colour and digit of each unit, two `[B, U]`: a card counts if one of the two frames shows
    it.
    """
    first, second = shown.unflatten(1, (-1, TEMPORAL_PATCH_SIZE)).unbind(2)
    card = torch.maximum(first, second)
    mixed = (first >= 0) & (second >= 0) & (first != second)
    index = card.clamp(min=0)
    color = torch.where(card >= 0, colors.gather(1, index), NO_COLOR)
    digit = torch.where(card >= 0, digits.gather(1, index), NO_DIGIT)
    return color.masked_fill(mixed, IGNORE), digit.masked_fill(mixed, IGNORE)


def patchify(frames: Tensor) -> Tensor:
    """Normalise and cut `[B, F, 3, S, S]` into `[B * U * patches, 1176]`, in the published
    processor's order: unit, merged row, merged column, row and column inside it; then channel,
    frame, row, column of pixels.
    """
    mean, std = (frames.new_tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    side, merge = frames.shape[-1], MERGE_SIZE
    merged = side // (PATCH_SIZE * merge)
    cut = ((frames - mean) / std).reshape(
        -1, TEMPORAL_PATCH_SIZE, 3, merged, merge, PATCH_SIZE, merged, merge, PATCH_SIZE
    )
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(0, 4).flatten(1)
