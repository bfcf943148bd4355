"""Embeddings on disk: real files, real processes, some of them killed."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spava_app.engine.multimodal import embedding_store
from spava_app.engine.multimodal.embedding_store import EmbeddingStore, StoredUnits

UNITS, BYTES = 8, 1000
FILE = UNITS * (BYTES + 16)


def rows_of(units: range, seed: int = 0) -> np.ndarray:
    """Their bytes, other ones for each unit and seed."""
    return np.stack([np.random.default_rng((seed, u)).integers(0, 256, BYTES) for u in units])


def put(store: EmbeddingStore, key: str, units: range = range(UNITS), seed: int = 0) -> None:
    with store.open(key, UNITS, BYTES) as stored:
        stored.write(units, rows_of(units, seed).astype(np.uint8))


def read(stored: StoredUnits, units: range = range(UNITS)) -> tuple[np.ndarray, np.ndarray]:
    """Their bytes, and which of them are there."""
    rows = np.empty((len(units), BYTES), np.uint8)
    return rows, stored.read(units, rows)


def there(store: EmbeddingStore, key: str, seed: int = 0) -> list[int]:
    """Which units are there; all of them must be as they were written."""
    with store.open(key, UNITS, BYTES) as stored:
        rows, found = read(stored)
    units = np.flatnonzero(found).tolist()
    for unit in units:
        np.testing.assert_array_equal(rows[unit], rows_of(range(unit, unit + 1), seed)[0])
    return units


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.units"))


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "units", 10 * FILE)


def test_what_was_written_is_read_and_nothing_else(store: EmbeddingStore) -> None:
    assert there(store, "a") == []
    put(store, "a", range(2, 4))
    assert there(store, "a") == [2, 3]
    put(store, "a", range(5, 8))
    put(store, "a", range(3, 4))
    assert there(store, "a") == [2, 3, 5, 6, 7]
    assert there(store, "b") == []
    with store.open("a", UNITS, BYTES) as stored:
        rows, found = read(stored, range(4, 7))
        assert found.tolist() == [False, True, True]
        np.testing.assert_array_equal(rows[1:], rows_of(range(5, 7)))


@pytest.mark.parametrize("place", [0, 517, 999, 1000, 1015])
def test_a_changed_byte_is_a_unit_that_is_missing(store: EmbeddingStore, place: int) -> None:
    put(store, "a")
    data = bytearray(store.path("a").read_bytes())
    data[3 * (BYTES + 16) + place] ^= 1
    store.path("a").write_bytes(data)
    assert there(store, "a") == [0, 1, 2, 4, 5, 6, 7]
    put(store, "a", range(3, 4))
    assert there(store, "a") == list(range(UNITS))


def test_records_of_other_units_and_keys_are_no_hits(store: EmbeddingStore) -> None:
    put(store, "a")
    data, record = store.path("a").read_bytes(), BYTES + 16
    store.path("b").write_bytes(data)
    assert there(store, "b") == []
    store.path("a").write_bytes(data[record : 2 * record] + data[record:])
    assert there(store, "a") == list(range(1, UNITS))
    store.path("a").write_bytes(data[: 2 * record + 700])  # as after a crash in the middle
    assert there(store, "a") == [0, 1]
    store.path("a").write_bytes(bytes(FILE))  # holes
    assert there(store, "a") == []


def test_the_least_recently_used_go_first_and_the_bound_holds(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    store = EmbeddingStore(folder, 3 * FILE)
    keys = ["a", "b", "c"]
    for age, key in enumerate(keys):
        put(store, key)
        os.utime(store.path(key), (age, age))
    (folder / "notes.txt").write_bytes(bytes(10 * FILE))  # not ours: neither counted nor removed
    assert there(store, "a") == list(range(UNITS))  # used now: b is the oldest
    put(store, "d")
    assert held(folder) <= 3 * FILE
    assert [key for key in (*keys, "d") if there(store, key)] == ["a", "c", "d"]
    put(store, "d", seed=1)  # room it has already
    assert len(list(folder.glob("*.units"))) == 3
    with store.open("large", 4 * UNITS, BYTES) as stored:
        stored.write(range(1), rows_of(range(1)).astype(np.uint8))
    assert not store.path("large").exists()
    assert len(list(folder.glob("*.units"))) == 3
    assert (folder / "notes.txt").exists()


def test_a_file_that_is_removed_is_still_read(store: EmbeddingStore) -> None:
    put(store, "a")
    with store.open("a", UNITS, BYTES) as stored:
        assert read(stored, range(1))[1].all()
        store.path("a").unlink()
        rows, found = read(stored)
        assert found.all()
        np.testing.assert_array_equal(rows, rows_of(range(UNITS)))


def test_files_are_private(store: EmbeddingStore) -> None:
    before = os.umask(0)
    try:
        put(store, "a")
    finally:
        os.umask(before)
    folder = store.path("a").parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


# Other processes run this: units of some keys, written again and again until they are killed.
WRITER = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_embedding_store import EmbeddingStore, put, there
from pathlib import Path
store = EmbeddingStore(Path({folder!r}), {limit})
print("on", flush=True)
{work}
"""


def process(folder: Path, work: str, limit: int = 10 * FILE) -> "subprocess.Popen[str]":
    code = WRITER.format(
        tests=str(Path(__file__).parent), folder=str(folder), limit=limit, work=work
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "on\n"
    return started


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two processes that write all units of one file, each its own bytes."""
    work = "while True: put(store, 'a', seed={})"
    running = [process(tmp_path / "units", work.format(seed)) for seed in (1, 2)]
    yield running
    for writer in running:
        writer.kill()
        writer.wait()


def test_two_writers_at_once_never_give_a_mixture(
    tmp_path: Path, two: list["subprocess.Popen[str]"]
) -> None:
    store = EmbeddingStore(tmp_path / "units", 10 * FILE)
    ours = [rows_of(range(UNITS), seed) for seed in (1, 2)]
    seen: set[int] = set()
    until = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < until:
        with store.open("a", UNITS, BYTES) as stored:
            rows, found = read(stored)
        for unit in np.flatnonzero(found):
            whose = [seed for seed, theirs in enumerate(ours) if (theirs[unit] == rows[unit]).all()]
            assert len(whose) == 1
            seen |= {*whose}
    assert seen == {0, 1}


def test_killed_writers_leave_nothing_wrong_and_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    work = "while True:\n  for key in 'abcdef': put(store, key)"
    for moment in (0.0, 0.013, 0.031, 0.05):
        writer = process(folder, work, limit=3 * FILE)
        time.sleep(moment)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        store = EmbeddingStore(folder, 3 * FILE)
        for key in "abcdef":
            there(store, key)  # checks every unit it finds
        put(store, "mine")
        assert there(store, "mine") == list(range(UNITS))
        assert held(folder) <= 3 * FILE


def test_many_processes_keep_the_bound(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    work = "for n in range(60): put(store, f'{key}{n % 7}'); there(store, f'{key}{n % 5}')"
    running = [process(folder, f"key = {key!r}\n{work}", limit=4 * FILE) for key in "abc"]
    largest = 0
    while any(writer.poll() is None for writer in running):
        try:
            largest = max(largest, held(folder))
        except FileNotFoundError:  # removed between listing and looking
            continue
    for writer in running:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    # A look at the folder is no instant: files that each of the three removed or made meanwhile
    # may count.
    assert 3 * FILE <= largest <= 7 * FILE
    assert held(folder) <= 4 * FILE
    assert 3 * FILE <= held(folder) <= 4 * FILE


def test_a_stopped_process_with_the_lock_holds_up_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_store, "LOCK_SECONDS", 0.2)
    folder = tmp_path / "units"
    put(EmbeddingStore(folder, 3 * FILE), "a")
    holder = process(folder, "with store._locked(): print('held', flush=True); sys.stdin.read()")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="unavailable"):
            put(EmbeddingStore(folder, 3 * FILE), "b")
        assert there(EmbeddingStore(folder, 3 * FILE), "a") == list(range(UNITS))
    finally:
        holder.kill()
        holder.wait()
    put(EmbeddingStore(folder, 3 * FILE), "b")


def test_a_limit_on_files_is_an_os_error_and_what_was_written_stays(tmp_path: Path) -> None:
    """As a full disk: writes end in the middle."""
    store = EmbeddingStore(tmp_path / "units", 10 * FILE)
    put(store, "a", range(2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE // 2, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            put(store, "b")
        with pytest.raises(OSError, match="too large"):
            put(store, "a", range(2, UNITS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert there(store, "a")[:2] == [0, 1]
    assert there(store, "b") == []


def test_a_full_disk_is_an_os_error_and_nothing_is_wrong(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={4096 * 3}", "tmpfs", disk],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        store = EmbeddingStore(disk / "units", 10**9)
        put(store, "a")
        with pytest.raises(OSError, match="space"):
            put(store, "b")
        assert there(store, "a") == list(range(UNITS))
        there(store, "b")
    finally:
        subprocess.run(["umount", disk], check=True)
