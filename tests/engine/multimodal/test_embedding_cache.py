"""What the cache gives back is what was put in, bit for bit, and only for the very same thing."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from bare_media import bare_media
from torch import Tensor

from spava_app.engine.media import Media
from spava_app.engine.multimodal.embedding_cache import EmbeddingCache, Kind
from spava_app.engine.multimodal.fingerprint import file_content
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.errors import SpavaWarning

UNITS, TOKENS, HIDDEN = 150, 6, 16
KIND = Kind("a model", HIDDEN, torch.float32, "cpu")
MEDIA = bare_media(
    (UNITS, 4, 6),
    TOKENS,
    range(3, 3 + UNITS * TOKENS, TOKENS),
    frames=tuple(range(0, 4 * UNITS, 2)),
    times=tuple(float(time) for time in range(2 * UNITS)),
    size=(56, 84),
    content="1234",
)
UNIT_BYTES = TOKENS * HIDDEN * 4


def cache(folder: Path | None, kind: Kind = KIND, *, disk: int = 10**8, memory: int = 0):
    return EmbeddingCache(kind, folder=folder, disk_bytes=disk, memory_bytes=memory)


def embeddings(units: range, kind: Kind = KIND, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    rows = torch.randn(UNITS, TOKENS, kind.hidden).to(kind.dtype)
    return rows[units.start : units.stop].reshape(-1, kind.hidden)


def put(kept: EmbeddingCache, units: range, media: Media = MEDIA) -> None:
    with kept.entry(media) as entry:
        entry.write(units, embeddings(units, kept.kind or KIND))


def got(kept: EmbeddingCache, units: range = range(UNITS), media: Media = MEDIA) -> list[range]:
    """The runs that are there; each must be as it was written, and the runs make up `units`."""
    there, at = [], units.start
    with kept.entry(media) as entry:
        for run, rows in entry.read(units):
            assert list(run) == list(range(at, at + len(run)))
            at += len(run)
            if rows is not None:
                kind = kept.kind or KIND
                assert rows.dtype == kind.dtype
                wanted = embeddings(run, kind)
                assert torch.equal(rows.view(torch.uint8), wanted.view(torch.uint8))
                there.append(run)
    assert at == units.stop
    return there


def count(runs: list[range]) -> int:
    return sum(len(run) for run in runs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", ["disk", "memory", "both"])
def test_bits_come_back(dtype: torch.dtype, level: str, tmp_path: Path) -> None:
    kind = replace(KIND, dtype=dtype)
    folder = None if level == "memory" else tmp_path
    memory = 0 if level == "disk" else 10**8
    kept = cache(folder, kind, memory=memory)
    assert got(kept) == []
    put(kept, range(UNITS))
    assert count(got(kept)) == UNITS
    assert count(got(cache(folder, kind, memory=memory))) == (0 if level == "memory" else UNITS)


def test_runs_of_kept_and_missing_units(tmp_path: Path) -> None:
    """What one number of ranks wrote serves any other; what is missing comes in whole runs."""
    kept = cache(tmp_path)
    put(kept, range(10, 20))
    put(kept, range(140, 150))
    with kept.entry(MEDIA) as entry:
        read = list(entry.read(range(5, 148)))
    assert [(range(run[0], run[-1] + 1), rows is None) for run, rows in read] == [
        (range(5, 10), True),
        (range(10, 20), False),
        (range(20, 140), True),
        (range(140, 148), False),
    ]
    assert got(kept, range(12, 13)) == [range(12, 13)]
    assert got(kept, range(30, 30)) == []


def test_what_is_in_memory_and_what_is_on_disk_are_one(tmp_path: Path) -> None:
    put(cache(tmp_path), range(50))
    kept = cache(tmp_path, memory=10**8)
    put(cache(None), range(UNITS))
    assert count(got(kept, range(25))) == 25
    for path in tmp_path.glob("*.units"):
        path.unlink()
    assert got(kept) == [range(25)]  # read from disk once, in memory since


def other_kinds() -> dict[str, Kind]:
    pixels = PixelConfig()
    brighter = replace(pixels, mean=(0.5, 0.4, 0.3))
    processors = [
        QwenProcessor(one, pixels, frozenset((1, 2))) for one in (pixels, brighter, pixels)
    ]
    assert repr(processors[0]) == repr(processors[2])
    return {
        "model": replace(KIND, identity="another model"),
        "processor": replace(KIND, identity=f"a model {processors[1]!r}"),
        "precision": replace(KIND, dtype=torch.bfloat16),
        "same bytes, other type": replace(KIND, dtype=torch.int32),
        "device": replace(KIND, device="cuda"),
    }


OTHER_MEDIA = {
    "content": replace(MEDIA, content="1235"),
    "frames": replace(MEDIA, frames=(*MEDIA.frames[:-1], MEDIA.frames[-1] + 1)),
    "size": replace(MEDIA, size=(84, 56), grid=(UNITS, 6, 4)),
    "picture": replace(MEDIA, picture=True),
}


@pytest.mark.parametrize("what", [*OTHER_MEDIA, *other_kinds()])
def test_anything_else_is_a_miss(what: str, tmp_path: Path) -> None:
    put(cache(tmp_path), range(UNITS))
    media, kind = OTHER_MEDIA.get(what, MEDIA), other_kinds().get(what, KIND)
    with cache(tmp_path, kind).entry(media) as entry:
        assert [rows for _, rows in entry.read(range(UNITS))] == [None]


def test_what_does_not_change_embeddings_does_not_matter(tmp_path: Path) -> None:
    put(cache(tmp_path), range(UNITS))
    moved = replace(MEDIA, path="w.mp4", times=MEDIA.times[::-1], starts=MEDIA.starts[::-1])
    assert count(got(cache(tmp_path), media=moved)) == UNITS


def test_nothing_is_kept_without_a_content_or_a_kind(tmp_path: Path) -> None:
    for kept, media in (
        (cache(tmp_path, memory=10**8), replace(MEDIA, content="")),
        (EmbeddingCache(), MEDIA),
    ):
        put(kept, range(UNITS), media)
        with kept.entry(media) as entry:
            assert list(entry.read(range(3, 9))) == [([3, 4, 5, 6, 7, 8], None)]
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    kept = cache(None, memory=10 * UNIT_BYTES + 5)
    put(kept, range(8))
    assert kept.memory.held == 8 * UNIT_BYTES
    assert got(kept, range(2)) == [range(2)]  # used now
    put(kept, range(20, 24))
    assert kept.memory.held == 10 * UNIT_BYTES
    assert got(kept) == [range(2), range(4, 8), range(20, 24)]
    put(kept, range(4, 8))
    assert kept.memory.held == 10 * UNIT_BYTES
    assert got(kept) == [range(2), range(4, 8), range(20, 24)]
    small = cache(None, memory=UNIT_BYTES - 1)
    put(small, range(3))
    assert (small.memory.held, got(small)) == (0, [])


def test_memory_keeps_copies() -> None:
    kept, rows = cache(None, memory=10**8), embeddings(range(3))
    with kept.entry(MEDIA) as entry:
        entry.write(range(3), rows)
    rows.zero_()
    assert got(kept) == [range(3)]


def test_a_file_that_changed_since_it_was_hashed_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"the video")
    content, stamp = file_content(path)
    source = replace(MEDIA.source, paths=(str(path),), stamps=(stamp,))
    media = replace(MEDIA, path=str(path), content=content, source=source)
    kept = cache(tmp_path / "kept", memory=10**8)
    put(kept, range(2), media)
    assert got(kept, media=media) == [range(2)]
    path.write_bytes(b"THE VIDEO")
    os.utime(path, ns=(0, stamp[1]))
    put(kept, range(2, 4), media)
    assert got(kept, media=media) == [range(2)]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_broken_result_is_not_made_to_last(wrong: float, tmp_path: Path) -> None:
    kept = cache(tmp_path, memory=10**8)
    rows = embeddings(range(2))
    rows[7, 3] = wrong
    with kept.entry(MEDIA) as entry:
        entry.write(range(2), rows)
    assert got(kept) == []


def unusable(tmp_path: Path) -> list[Path]:
    """Folders that cannot be made: below a file, and where nobody can make any."""
    (tmp_path / "file").write_bytes(b"")
    return [tmp_path / "file" / "cache", Path("/proc/spava")]


def test_a_folder_that_cannot_be_used_is_told_once(tmp_path: Path) -> None:
    for folder in unusable(tmp_path):
        kept = cache(folder, memory=10**8)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            put(kept, range(3))
            put(kept, range(3, 6))
            assert got(kept) == [range(6)]  # the other level works
        assert [warning.category for warning in told] == [SpavaWarning]
        assert "are not kept" in str(told[0].message)
        assert str(folder) in str(told[0].message)


NOBODY = """
import os, sys, warnings
sys.path[:0] = [{tests!r}, {support!r}]
from test_embedding_cache import Path, cache, count, got, put
os.setgid(65534); os.setuid(65534)
kept = cache(Path({folder!r}))
warnings.simplefilter("always")
put(kept, range(3)); put(kept, range(3, 6))
print(count(got(kept)))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run something as another user")
@pytest.mark.parametrize(("mode", "readable"), [(0o555, 2), (0o000, 0)])
def test_another_users_folder(mode: int, readable: int) -> None:
    """Another user reads what may be read, writes nothing and is told once."""
    with TemporaryDirectory() as parent:  # those of pytest are private
        Path(parent).chmod(0o755)
        check_another_user(Path(parent) / "kept", mode, readable)


def check_another_user(folder: Path, mode: int, readable: int) -> None:
    put(cache(folder), range(2))
    for path in folder.glob("*.units"):
        path.chmod(0o644)
    folder.chmod(mode)
    tests = Path(__file__).parent
    support = tests.parents[1] / "support" / "media"
    code = NOBODY.format(tests=str(tests), support=str(support), folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == readable
    assert done.stderr.count("SpavaWarning") == 1
    assert "Permission denied" in done.stderr


def test_no_warning_when_all_is_well(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = cache(tmp_path / "new" / "folder")
        assert got(kept) == []
        put(kept, range(3))
        assert got(kept) == [range(3)]
