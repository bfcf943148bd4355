"""What a file, an array or a model is, told by hashes: names and dates of files are no proof."""

import hashlib
from collections.abc import Iterable
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from spava_app.engine.video.media_file import open_media
from spava_app.engine.video.stamp import Stamp, stamp_of
from spava_app.engine.weight_files import weight_files
from spava_app.errors import VideoError

_hash = partial(hashlib.blake2b, digest_size=20)


def file_content(path: str | Path) -> tuple[str, Stamp]:
    """A hash of all bytes of a file, and its stamp at that time; empty if it has none, cannot be
    read, or is being written. Read once as long as its stamp stays.
    """
    stamp = stamp_of(path)
    content = _file_hash(str(path), stamp) if stamp else ""
    return (content, stamp) if content else ("", ())


@lru_cache(maxsize=1024)
def _file_hash(path: str, stamp: Stamp) -> str:
    try:
        with closing(open_media(path, stamp)) as file, file.open() as stream:
            digest = hashlib.file_digest(stream, _hash).hexdigest()
    except (OSError, VideoError):
        return ""
    return digest if stamp_of(path) == stamp else ""


def array_content(array: np.ndarray) -> str:
    """A hash of the values, shape and type of an array."""
    digest = _hash(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def joined_content(contents: Iterable[str]) -> str:
    """The hash of several in their order; empty if one of them is."""
    parts = list(contents)
    return _hash(" ".join(parts).encode()).hexdigest() if all(parts) else ""


def model_identity(folder: Path) -> str:
    """A hash of a checkpoint's config.json and of the headers, sizes and times of its weights; all
    bytes of the weights would take as long as loading them.

    Raises:
        CheckpointError: the folder holds no weights.
    """
    digest = _hash((folder / "config.json").read_bytes())
    for path in weight_files(folder, allow_pickle=True):
        header = b""
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = file.read(8)
                header = file.read(int.from_bytes(length, "little"))
        found = path.stat()
        digest.update(f" {path.name} {found.st_size} {found.st_mtime_ns} ".encode() + header)
    return digest.hexdigest()
