"""What another user, or a careless setting, has put where the product keeps things: nothing is
followed, nothing is waited for, and it is told once.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bare_media import bare_media

from spava_app.engine.folders import open_regular, private_folder, read_private
from spava_app.engine.multimodal.embedding_cache import EmbeddingCache, Kind
from spava_app.engine.planning.hardware_profiles import (
    default_machine,
    machine_file,
    save_machine,
    this_machine,
)
from spava_app.errors import SpavaWarning
from spava_app.output_file import output_file

UNITS, TOKENS, HIDDEN = 6, 2, 4
KIND = Kind("a model", HIDDEN, torch.float32, "cpu")
MEDIA = bare_media((UNITS, 2, 4), TOKENS, range(0, UNITS * TOKENS, TOKENS), content="1234")
ROWS = np.random.default_rng(0).random((UNITS, TOKENS, HIDDEN), np.float32)
pytestmark = pytest.mark.timeout(60)  # nothing waits for a pipe
Plant = Callable[[Path], object]


def link(path: Path) -> None:
    victim = path.parent.parent / "victim"
    victim.write_bytes(b"mine")
    path.symlink_to(victim)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


PLANTS: list[Plant] = [link, device, os.mkfifo, Path.mkdir]


def cache(folder: Path, memory: int = 0) -> EmbeddingCache:
    return EmbeddingCache(KIND, folder=folder, disk_bytes=10**8, memory_bytes=memory)


def put(kept: EmbeddingCache, units: range) -> None:
    with kept.entry(MEDIA) as entry:
        entry.write(units, torch.from_numpy(ROWS[units.start : units.stop]).flatten(0, 1))


def got(kept: EmbeddingCache) -> list[range]:
    with kept.entry(MEDIA) as entry:
        runs = [run for run, rows in entry.read(range(UNITS)) if rows is not None]
    return [range(run[0], run[-1] + 1) for run in runs]


def used(folder: Path) -> list[str]:
    """What is told of a cache there, which goes on with its other level in any case."""
    kept = cache(folder, memory=10**8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        put(kept, range(3))
        put(kept, range(3, 6))
        assert got(kept) == [range(6)]
        assert got(cache(folder)) in ([], [range(6)])
    return [str(warning.message) for warning in told if "are not kept" in str(warning.message)]


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("place", ["lock", "record", "folder"])
def test_what_stands_in_place_of_a_file_of_the_cache(
    plant: Plant, place: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    put(cache(folder), range(2))
    [record] = folder.glob("*.units")
    for path in (record, folder / "lock"):
        path.unlink()
    if place == "folder":
        folder.rmdir()
    path = {"lock": folder / "lock", "record": record, "folder": folder}[place]
    plant(path)
    if place == "folder" and plant is Path.mkdir:
        path.chmod(0o777)
    before = os.lstat(path)
    told = used(folder)
    # One of each cache: that of the writes, and that which only reads where it looks there.
    assert 1 <= len(told) <= 2, told
    assert str(folder) in told[0]
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    victim = tmp_path / "victim" if place == "folder" else folder / ".." / "victim"
    assert not victim.exists() or victim.read_bytes() == b"mine"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o722])
@pytest.mark.parametrize("which", ["folder", "parent"])
def test_a_folder_that_others_may_write_is_not_used(mode: int, which: str, tmp_path: Path) -> None:
    parent = tmp_path / "cache"
    folder = parent / "embeddings"
    put(cache(folder), range(2))
    (folder if which == "folder" else parent).chmod(mode)
    with pytest.warns(SpavaWarning, match="others may write to"):
        assert got(cache(folder)) == []
    assert len(used(folder)) == 2
    assert len(list(folder.glob("*.units"))) == 1
    # Nobody moves what is ours in a folder like /tmp.
    parent.chmod(0o1777)
    folder.chmod(0o700)
    assert got(cache(folder)) == [range(2)]


def test_a_link_to_a_private_folder_is_not_used_either(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "kept").symlink_to(tmp_path / "other")
    assert used(tmp_path / "kept")
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("what", ["folder", "parent", "record"])
def test_what_belongs_to_another_user_is_not_used(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "embeddings"
    put(cache(folder), range(2))
    [record] = folder.glob("*.units")
    os.chown({"folder": folder, "parent": folder.parent, "record": record}[what], 65534, 65534)
    with pytest.warns(SpavaWarning, match=r"another user|not a regular file of this user"):
        assert got(cache(folder)) == []


def test_every_folder_on_the_way_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put(cache(tmp_path / "a" / "b" / "embeddings"), range(2))
        save_machine(default_machine("cpu", "a cpu", 2), tmp_path / "c" / "d" / "machines")
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(made) == 6
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_stands_in_place_of_a_machine_s_rates(plant: Plant, tmp_path: Path) -> None:
    folder = tmp_path / "machines"
    folder.mkdir(mode=0o700)
    plant(machine_file("cpu", folder))
    with pytest.warns(SpavaWarning, match="cannot be read"):
        this_machine("cpu", folder)


def test_rates_in_a_folder_that_others_may_write_are_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "machines"
    machine = default_machine("cpu", "a cpu", 2)
    save_machine(machine, folder)
    folder.chmod(0o777)
    with pytest.warns(SpavaWarning, match="others may write"):
        this_machine("cpu", folder)
    with pytest.raises(OSError, match="others may write"):
        save_machine(machine, folder)


def test_a_bounded_part_is_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_private(tmp_path / "file", 10) == b"x" * 10
    with private_folder(tmp_path) as folder, pytest.raises(FileNotFoundError):
        open_regular("none", os.O_RDONLY, folder)


def test_a_folder_that_is_moved_away_is_still_the_one_that_was_looked_at(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir(mode=0o700)
    with private_folder(mine) as folder:
        mine.rename(tmp_path / "moved")
        theirs.rename(mine)
        os.close(open_regular("file", os.O_RDWR | os.O_CREAT, folder))
    assert (tmp_path / "moved" / "file").exists()
    assert not (mine / "file").exists()


@pytest.mark.parametrize("plant", [os.mkfifo, device])
def test_an_output_never_replaces_a_device_or_a_pipe(plant: Plant, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    plant(path)
    before = os.stat(path)
    with pytest.raises(OSError, match="not a regular file"), output_file(path, force=True):
        pass
    assert os.path.samestat(before, os.stat(path))
