"""The one renderer of card videos: test and demo files and the training of the embedded model draw
with it.

B = clips, N = cards of a clip, F = frames of a clip, S = frame side in pixels, K = noise fields, G
= their side, C = frames that show a card. Places and lengths are fractions of the frame side, times
are seconds.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Eight colours that stay apart after 4:2:0 chroma subsampling and a coarse quantiser.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.10, 0.65, 0.18),
    "blue": (0.12, 0.25, 0.90),
    "yellow": (0.96, 0.90, 0.12),
    "orange": (0.98, 0.52, 0.05),
    "purple": (0.58, 0.12, 0.80),
    "cyan": (0.10, 0.85, 0.90),
    "white": (0.97, 0.97, 0.97),
}
DARK_INK, LIGHT_INK = 0.04, 0.97
# Luminance above which a digit is dark.
DARK_INK_ABOVE = 0.5
LUMA = (0.299, 0.587, 0.114)

DIGITS = (
    "01110 10001 10001 10001 10001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
ROWS, COLUMNS = 7, 5

NOISE_FIELDS, NOISE_SIDE = 6, 7
DRIFT = 0.015
CORNER = 0.18


@dataclass(frozen=True)
class Look:
    """Everything random about how clips look, apart from which card shows when."""

    noise: Tensor  # [B, K, 3, G, G], the background is their sum, each beating at its own frequency
    noise_beat: Tensor  # [B, K, 2]: radians per second, phase
    centre: Tensor  # [B, N, 2]: x, y
    half: Tensor  # [B, N, 2]: half width, half height
    drift: Tensor  # [B, N, 2, 2]: radians per second and phase, of x and y
    shade: Tensor  # [B, N]: brightness of the card

    def to(self, device: torch.device | str) -> "Look":
        """The same look on another device."""
        return Look(*(getattr(self, field.name).to(device) for field in fields(self)))


def random_look(
    clips: int, cards: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Look:
    """Draw the look of `clips` clips of `cards` cards from `generator`, which lives on `device`."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) * (high - low) + low

    grey = torch.randn(
        (clips, NOISE_FIELDS, 1, NOISE_SIDE, NOISE_SIDE), generator=generator, device=device
    )
    tint = torch.randn(
        (clips, NOISE_FIELDS, 3, NOISE_SIDE, NOISE_SIDE), generator=generator, device=device
    )
    half = uniform(clips, cards, 2, low=0.45, high=0.75) / 2
    room = 0.5 - half - DRIFT
    return Look(
        noise=(0.22 * grey + 0.10 * tint) / math.sqrt(NOISE_FIELDS),
        noise_beat=torch.stack(
            (
                uniform(clips, NOISE_FIELDS, low=0.2, high=2.0),
                uniform(clips, NOISE_FIELDS, high=2 * math.pi),
            ),
            dim=-1,
        ),
        centre=0.5 + uniform(clips, cards, 2, low=-1.0, high=1.0) * room,
        half=half,
        drift=torch.stack(
            (
                uniform(clips, cards, 2, low=0.3, high=2.5),
                uniform(clips, cards, 2, high=2 * math.pi),
            ),
            dim=-1,
        ),
        shade=uniform(clips, cards, low=0.88, high=1.0),
    )


def draw(
    look: Look, colors: Tensor, digits: Tensor, shown: Tensor, times: Tensor, side: int
) -> Tensor:
    """Draw every frame of some clips.

    Args:
        look: of B clips of N cards, on the device to draw on.
        colors: index into `COLORS`, int64 `[B, N]`.
        digits: int64 `[B, N]`.
        shown: which card each frame shows, -1 for none, int64 `[B, F]`.
        times: of each frame, `[B, F]`.
        side: S.

    Returns:
        RGB in 0..1, float32 `[B, F, 3, S, S]`.
    """
    frames = _background(look, times, side)
    clip, frame = (shown >= 0).nonzero(as_tuple=True)
    if clip.numel():
        card = shown[clip, frame]
        ink, cover = _shapes(look, clip, card, digits[clip, card], times[clip, frame], side)
        palette = torch.tensor(list(COLORS.values()), device=shown.device)
        paint = palette[colors[clip, card]]
        dark = (paint @ paint.new_tensor(LUMA)) > DARK_INK_ABOVE
        ink_grey = torch.where(dark, DARK_INK, LIGHT_INK)[:, None, None, None]
        paint = (paint * look.shade[clip, card, None])[..., None, None]
        painted = torch.lerp(paint, ink_grey.expand_as(paint), ink[:, None])
        frames[clip, frame] = torch.lerp(frames[clip, frame], painted, cover[:, None])
    return frames


def _background(look: Look, times: Tensor, side: int) -> Tensor:
    """Smooth noise `[B, F, 3, S, S]`, less saturated than any card."""
    rate, phase = look.noise_beat.unbind(-1)
    weights = torch.cos(times[..., None] * rate[:, None] + phase[:, None])
    low = 0.45 + torch.einsum("bfk,bkchw->bfchw", weights, look.noise)
    return _enlarged(_enlarged(low.clamp(0.05, 0.80), side, -2), side, -1)


def _enlarged(low: Tensor, side: int, dim: int) -> Tensor:
    """Linear interpolation of cells along one dimension to `side` pixels.

    `torch.nn.functional.interpolate` does the same, in another order of operations where there is
    one thread than where there are several.
    """
    cells = low.shape[dim]
    place = (torch.arange(side, device=low.device) + 0.5) * (cells / side) - 0.5
    place = place.clamp(0, cells - 1)
    first = place.long().clamp(max=cells - 2)
    share = place - first
    if dim == -2:
        share = share[:, None]
    return torch.lerp(low.index_select(dim, first), low.index_select(dim, first + 1), share)


def _shapes(
    look: Look, clip: Tensor, card: Tensor, digits: Tensor, times: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """How much of each pixel is ink, and how much is card: two `[C, S, S]`, antialiased."""
    rate, phase = look.drift[clip, card].unbind(-1)
    centre = look.centre[clip, card] + DRIFT * torch.sin(times[:, None] * rate + phase)
    half = look.half[clip, card]
    # A digit fills a good part of its card and keeps roughly the shape of its bitmap.
    half_rows = 0.76 * half[:, 1]
    half_columns = torch.minimum(0.70 * half[:, 0], 0.85 * half_rows)
    bitmaps = torch.tensor(
        [[[float(bit) for bit in row] for row in digit.split()] for digit in DIGITS],
        device=look.centre.device,
    )
    rows = _overlap(centre[:, 1], half_rows, ROWS, side)
    columns = _overlap(centre[:, 0], half_columns, COLUMNS, side)
    ink = rows @ bitmaps[digits] @ columns.transpose(1, 2)

    pixel = (torch.arange(side, device=centre.device) + 0.5) / side
    corner = CORNER * half.amin(1)[:, None]
    across = (pixel - centre[:, :1]).abs() - half[:, :1] + corner
    down = (pixel - centre[:, 1:]).abs() - half[:, 1:] + corner
    outside = torch.hypot(down.relu()[:, :, None], across.relu()[:, None, :])
    inside = torch.maximum(down[:, :, None], across[:, None, :]).clamp(max=0)
    distance = outside + inside - corner[:, :, None]
    return ink, (0.5 - distance * side).clamp(0, 1)


def _overlap(centre: Tensor, half: Tensor, cells: int, side: int) -> Tensor:
    """The share of each pixel that each of `cells` equal cells covers along one axis, `[C, S,
    cells]`.
    """
    edges = torch.linspace(-1, 1, cells + 1, device=centre.device)
    edges = ((centre[:, None] + half[:, None] * edges) * side)[:, None, :]
    pixel = torch.arange(side, device=centre.device, dtype=edges.dtype)[:, None]
    start = torch.maximum(edges[..., :-1], pixel)
    return (torch.minimum(edges[..., 1:], pixel + 1) - start).clamp(min=0)
