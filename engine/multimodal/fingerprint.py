"""What a file or a model is, told by hashes: names and dates of files are no proof."""

import hashlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from spava_app.engine.checkpoints.weight_files import weight_files
from spava_app.engine.media import Media, Stamp, stamp_of
from spava_app.engine.video.media_file import open_media
from spava_app.errors import VideoError

# Of a file of weights, evenly spaced from its first byte to its last.
_BLOCKS, _BLOCK = 16, 4096

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


def joined_content(contents: Iterable[str]) -> str:
    """The hash of several in their order; empty if one of them is."""
    parts = list(contents)
    return _hash(" ".join(parts).encode()).hexdigest() if all(parts) else ""


def with_content(media: Media) -> Media:
    """The same with the fingerprint that its embeddings are cached under; with none where one of
    its files was changed since it was probed.
    """
    files = [file_content(path) for path in media.source.paths]
    if tuple(stamp for _, stamp in files) != media.source.stamps:
        return replace(media, content="")
    contents = [content for content, _ in files]
    content = contents[0] if len(files) == 1 else joined_content(contents)
    return replace(media, content=content)


def on_this_machine(media: Media) -> Media:
    """On a rank: the same about the files as they are here; copies that may hold something else
    are fingerprinted again.
    """
    here = replace(media, source=media.source.on_this_machine())
    return with_content(here) if media.content and here.source != media.source else here


def model_identity(folder: Path) -> str:
    """A hash of a checkpoint's config.json and, of its weights, of headers, sizes, times and some
    blocks of each file; all bytes would take as long as loading them.

    Raises:
        CheckpointError: the folder holds no weights.
    """
    digest = _hash((folder / "config.json").read_bytes())
    for path in weight_files(folder, allow_pickle=True):
        found = path.stat()
        digest.update(f" {path.name} {found.st_size} {found.st_mtime_ns} ".encode())
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                digest.update(file.read(int.from_bytes(file.read(8), "little")))
            for block in range(_BLOCKS):
                file.seek(max(0, found.st_size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
