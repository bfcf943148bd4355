"""Hashes of files, arrays and models change with what they hold, and with nothing else."""

import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from spava_app.engine.multimodal import fingerprint as content
from spava_app.engine.multimodal.fingerprint import (
    file_content,
    joined_content,
    model_identity,
    stamp_of,
)


def test_a_name_is_not_a_content(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    one.write_bytes(b"same")
    two.write_bytes(b"same")
    other.write_bytes(b"else")
    assert file_content(one)[0] == file_content(two)[0] != ""
    assert file_content(one)[0] != file_content(other)[0]
    assert file_content(one)[1] == stamp_of(one)


@pytest.mark.parametrize("new", [b"new", b"other of another size"])
@pytest.mark.parametrize("replaced", [False, True], ids=["in place", "replaced"])
def test_a_date_that_is_set_back_deceives_nobody(
    new: bytes, replaced: bool, tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    before, status = file_content(path), path.stat()
    if replaced:
        (tmp_path / "next").write_bytes(new)
        os.replace(tmp_path / "next", path)
    else:
        path.write_bytes(new)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    after = file_content(path)
    assert after[0] != before[0]
    assert after[1] != before[1]
    path.write_bytes(b"old")
    assert file_content(path)[0] == before[0]


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    before = file_content(path)
    monkeypatch.setattr(content, "_hash", None)  # nothing can be hashed from here on
    assert file_content(path) == before


def test_what_is_no_file_has_no_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "fifo", "/dev/zero"):
        assert file_content(path) == ("", ())


def test_a_file_that_is_being_written_has_no_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing.mp4"
    path.write_bytes(b"begin")
    real = content.hashlib.file_digest

    def while_it_grows(*given):
        digest = real(*given)
        path.write_bytes(b"begin and more")
        return digest

    monkeypatch.setattr(content.hashlib, "file_digest", while_it_grows)
    assert file_content(path) == ("", ())
    monkeypatch.undo()
    assert file_content(path)[0] != ""


def test_several_in_their_order() -> None:
    a, b = "a" * 40, "b" * 40
    assert len({joined_content(parts) for parts in ([a, b], [b, a], [a], [a, b, b])}) == 4
    assert joined_content([a, ""]) == ""


def test_models(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy, copy_function=shutil.copy2)
    known = model_identity(checkpoint)
    assert model_identity(copy) == known
    weights = copy / "model.safetensors"
    os.utime(weights, ns=(0, 0))
    later = model_identity(copy)
    assert later != known
    tensors = load_file(weights)
    name, tensor = max(tensors.items(), key=lambda item: item[1].numel())
    save_file({**tensors, name: tensor.reshape(-1)}, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(0, 0))
    assert model_identity(copy) != later
    shutil.copy2(checkpoint / "model.safetensors", weights)
    data, status = weights.read_bytes(), weights.stat()
    assert data.count(b'"pt"') == 1
    weights.write_bytes(data.replace(b'"pt"', b'"np"'))  # the header alone
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert model_identity(copy) != known
    shutil.copy2(checkpoint / "model.safetensors", weights)
    assert model_identity(copy) == known
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # other weights alone
    assert weights.stat().st_size == status.st_size
    assert model_identity(copy) != known
    shutil.copy2(checkpoint / "model.safetensors", weights)
    assert model_identity(copy) == known
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert model_identity(copy) != known
