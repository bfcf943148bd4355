"""What a checkpoint asks of its pixels: patch sizes, normalisation and limits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from spava_app.engine.checkpoints.files import read_object
from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.errors import CheckpointError, finite_number

# The order of precedence is that of transformers 5. A file that serves several kinds has the
# settings of each under a key.
_ALL, _VIDEO, _PICTURE = (
    "processor_config.json",
    "video_preprocessor_config.json",
    "preprocessor_config.json",
)
# Of Qwen2VLImageProcessor where a file leaves them out; PixelConfig has those for videos.
_PICTURE_LIMITS = {"min_pixels": 4 * 28 * 28, "max_pixels": 1280 * 28 * 28}
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# The steps that are done here are these; a checkpoint that wants others must not be read wrongly.
_FIXED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "do_pad": False,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def refuse_other_steps(settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a preprocessor file asks for a step that is not done here."""
    for name, done in _FIXED.items():
        value = settings.get(name)
        if value is not None and value != done:
            raise CheckpointError(name, value, f"only {done!r} is supported")


@dataclass(frozen=True)
class PixelConfig:
    """Pixel settings of a Qwen2-VL style vision encoder; the defaults are transformers' own.

    Attributes:
        patch_size: pixels along a side of a spatial patch.
        temporal_patch_size: frames in a temporal patch, a "unit".
        merge_size: patches along a side that the encoder merges into one token.
        mean, std: per channel RGB, of values from 0 to 1.
        min_pixels, max_pixels: allowed pixels (height x width) of a resized frame.
        cap_pixels_per_frame: whether frames also share a budget for the whole video.
        max_video_tokens: that budget; 90 % of so many merged patches.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, float, float] = _CLIP_MEAN
    std: tuple[float, float, float] = _CLIP_STD
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    cap_pixels_per_frame: bool = False
    max_video_tokens: int = 128_000

    def __post_init__(self) -> None:
        counts = ("patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels")
        for name in (*counts, "max_video_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(name, value, "must be a positive whole number")
        if self.min_pixels > self.max_pixels:
            fix = f"must not be above max_pixels={self.max_pixels}"
            raise CheckpointError("min_pixels", self.min_pixels, fix)
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            fix = "must be three numbers each, no std of 0"
            raise CheckpointError("image_mean, image_std", (self.mean, self.std), fix)

    @property
    def factor(self) -> int:
        """What height and width of a resized frame are multiples of, in pixels."""
        return self.patch_size * self.merge_size

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], *, picture: bool = False) -> "PixelConfig":
        """Read the dictionary of a Hugging Face video preprocessor file, or that of pictures.

        Raises:
            CheckpointError: a setting asks for a step that is not done here, or is malformed.
        """
        refuse_other_steps(settings)
        read = Settings(settings)
        size = read.part("size")
        given: dict[str, Any] = dict(_PICTURE_LIMITS) if picture else {}
        found = {
            "min_pixels": size.raw("shortest_edge", size.raw("min_pixels")),
            "max_pixels": size.raw("longest_edge", size.raw("max_pixels")),
            "mean": channels(read, "image_mean", _CLIP_MEAN),
            "std": channels(read, "image_std", _CLIP_STD),
        }
        # Top-level names win over `size`: that is how older checkpoints override it.
        found |= {
            name: read.raw(name)
            for name in cls.__dataclass_fields__
            if name not in {"mean", "std"} and name in read
        }
        given |= {name: value for name, value in found.items() if value is not None}
        return cls(**given)

    def limited(self, max_pixels: int) -> Self:
        """With `max_pixels` a frame instead of the checkpoint's own limits, lower or higher."""
        most = max(max_pixels, self.min_pixels)
        return replace(self, max_pixels=most, cap_pixels_per_frame=False)

    @classmethod
    def from_folder(cls, folder: str | Path, *, picture: bool = False) -> "PixelConfig":
        """Read the settings of the checkpoint in `folder`, for videos or for pictures. Where it has
        none for pictures, those for videos serve.

        Where it has none for videos, those for pictures serve except for their limits of pixels:
        videos then have the limits of qwen-vl-utils, which the models were evaluated with.

        Raises:
            CheckpointError: the folder holds no preprocessor file, or a broken one.
        """
        found = read_settings(folder, picture=picture)
        if found is None:
            files = ", ".join((_ALL, _VIDEO, _PICTURE))
            raise CheckpointError("model", str(folder), f"must hold one of {files}")
        file, settings = found
        if not picture and file.name == _PICTURE:
            limits = {"size", "min_pixels", "max_pixels"}
            settings = {name: value for name, value in settings.items() if name not in limits}
            settings["cap_pixels_per_frame"] = True
        with in_file(file):
            return cls.from_dict(settings, picture=picture)


def channels(
    settings: Settings, name: str, usual: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Three numbers, one for each of RGB."""
    given = settings.raw(name, usual)
    if not isinstance(given, list | tuple) or len(given) != 3:
        settings.refuse(name, "must be three numbers")
    if any(isinstance(it, str) or finite_number(it) is None for it in given):
        settings.refuse(name, "must be three numbers")
    return tuple(map(float, given))  # type: ignore[return-value] (three of them)


def read_settings(folder: str | Path, *, picture: bool) -> tuple[Path, dict[str, Any]] | None:
    """The preprocessor file of a checkpoint folder and its settings; None where it has none.

    Raises:
        CheckpointError: a file that is not JSON, or not an object.
    """
    files = (_ALL, _PICTURE, _VIDEO) if picture else (_ALL, _VIDEO, _PICTURE)
    for name in files:
        file = Path(folder) / name
        settings = read_object(file)
        if settings and name == _ALL:
            with in_file(file):
                part = "image_processor" if picture else "video_processor"
                settings = dict(Settings(settings).part(part).items())
        if settings:
            return file, settings
    return None
