"""From RGB frames to the patches a Qwen2-VL style vision encoder reads.

Legend: N = frames, H, W = height and width, P = patch size, TP = temporal patch size, and the grid
(t, h, w) counts patches. Equal bit for bit to `Qwen2VLVideoProcessor` of transformers 5 on a CPU;
on a GPU fewer than 1 value in 100 differs, by 1 or 2 levels of 255 (measured on noise).
"""

import math

import torch
from torch.nn import functional

from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.errors import InvalidInput, VideoError

__all__ = ["FLOOR_TOKENS", "PixelConfig", "grid_for", "patchify_frames", "resize", "smart_resize"]

_MAX_ASPECT = 200
# Frames are not shrunk below this for the sake of a budget: the smallest of qwen-vl-utils' videos.
FLOOR_TOKENS = 128


def smart_resize(
    height: int,
    width: int,
    config: PixelConfig,
    *,
    num_frames: int | None = None,
    max_tokens: int | None = None,
) -> tuple[int, int]:
    """The (height, width) in pixels that frames are resized to.

    Multiples of patch x merge size, between the smallest and the largest number of pixels, as near
    the aspect ratio as that allows (the rule of qwen-vl-utils and transformers). `num_frames`, of
    the whole video, is needed where the checkpoint caps the pixels of a video. `max_tokens` of a
    frame lower the largest number of pixels, to no less than `FLOOR_TOKENS` are worth.

    Raises:
        VideoError: a picture more than 200 times as long as wide.
        InvalidInput: `num_frames` is needed and missing.
    """
    if max(height, width) > _MAX_ASPECT * min(height, width):
        fix = f"the longer side may be at most {_MAX_ASPECT} times the shorter one"
        raise VideoError("video", f"{width}x{height} pixels", fix)
    factor, most = config.factor, _max_pixels(config, num_frames)
    if max_tokens is not None:
        floor = max(config.min_pixels, min(config.max_pixels, FLOOR_TOKENS * factor * factor))
        most = max(floor, min(most, max_tokens * factor * factor))
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > most:
        shrink = math.sqrt((height * width) / most)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def _max_pixels(config: PixelConfig, num_frames: int | None) -> int:
    if not config.cap_pixels_per_frame:
        return config.max_pixels
    if num_frames is None:
        fix = "give the video's number of frames: this checkpoint caps the pixels of a video"
        raise InvalidInput("num_frames", num_frames, fix)
    budget = int(config.max_video_tokens * config.factor * config.factor * 0.9)
    share = budget * config.temporal_patch_size // num_frames
    return max(min(config.max_pixels, share), int(config.min_pixels * 1.05))


def grid_for(
    num_frames: int,
    height: int,
    width: int,
    config: PixelConfig,
    *,
    max_tokens: int | None = None,
) -> tuple[int, int, int]:
    """The grid (t, h, w) in patches of a video, known before any pixel is read.

    Raises: as `smart_resize`.
    """
    new_height, new_width = smart_resize(
        height, width, config, num_frames=num_frames, max_tokens=max_tokens
    )
    units = -(-num_frames // config.temporal_patch_size)
    return units, new_height // config.patch_size, new_width // config.patch_size


def patchify_frames(
    frames: torch.Tensor, config: PixelConfig, *, size: tuple[int, int]
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Resize, normalise and cut frames into patches, on the device they are on.

    Args:
        frames: [N, H, W, 3] uint8 RGB, N >= 1; the last is repeated to fill its temporal patch.
        config: the checkpoint's settings.
        size: (height, width) to resize to, from `smart_resize`.

    Returns:
        Patches [t * h * w, 3 * TP * P * P] float32, and the grid (t, h, w). Rows go by time, then
        by merged square of patches, then within it; columns by channel, frame, row, column.

    Raises:
        InvalidInput: frames of another shape or type, or a size that does not divide into patches.
    """
    _check(frames, config, size)
    patch, merge, span = config.patch_size, config.merge_size, config.temporal_patch_size
    pictures = resize(frames.permute(0, 3, 1, 2), size)
    if missing := -len(pictures) % span:
        pictures = torch.cat([pictures, pictures[-1:].expand(missing, -1, -1, -1)])
    t, h, w = len(pictures) // span, size[0] // patch, size[1] // patch
    squares = pictures.reshape(t, span, 3, h // merge, merge, patch, w // merge, merge, patch)
    # Cut while the values are still bytes: a quarter of the memory moved.
    cut = squares.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, 3, span * patch * patch)
    mean = torch.tensor(config.mean, device=frames.device)[:, None] * 255.0
    std = torch.tensor(config.std, device=frames.device)[:, None] * 255.0
    return cut.to(torch.float32).sub_(mean).div_(std).flatten(1), (t, h, w)


def resize(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 pictures [N, 3, H, W] to `size` (height, width): bicubic, antialiased, still uint8."""
    if pictures.shape[-2:] == size:
        return pictures
    if pictures.device.type == "cpu":
        return functional.interpolate(pictures, size, mode="bicubic", antialias=True)
    return _resize_floats(pictures, size)


def _resize_floats(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The CPU's resize of bytes where only floats can be interpolated; up to 2 levels of 255 off.

    Like the CPU: width first, and bytes in between. Bicubic weights overshoot, and rounding off to
    bytes only at the end would differ by 8 levels where edges are sharp.
    """
    for step in ((pictures.shape[-2], size[1]), size):
        if pictures.shape[-2:] != step:
            floats = functional.interpolate(pictures.float(), step, mode="bicubic", antialias=True)
            pictures = floats.round_().clamp_(0, 255).to(torch.uint8)
    return pictures


def _check(frames: torch.Tensor, config: PixelConfig, size: tuple[int, int]) -> None:
    right = frames.dtype == torch.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
    if not right or 0 in frames.shape:
        value = (tuple(frames.shape), frames.dtype)
        raise InvalidInput("frames", value, "give uint8 RGB, [frames, height, width, 3]")
    if min(size) < 1 or any(side % config.factor for side in size):
        fix = f"give positive multiples of {config.factor}, from smart_resize"
        raise InvalidInput("size", size, fix)
