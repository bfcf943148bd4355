"""What is read of files, pipes and devices that users name."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spava_app.errors import InvalidInput
from spava_app.requests import bounded_text
from spava_app.requests.bounded_text import read_standard_input, read_text_file


def test_a_file_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("naïve\n" * 400_000, "utf-8")  # more than one piece
    assert read_text_file("text", file) == "naïve\n" * 400_000
    assert read_text_file("text", file, most=file.stat().st_size)
    (tmp_path / "empty").touch()
    assert read_text_file("text", tmp_path / "empty") == ""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/zero", "neither a file nor a pipe"),
        ("/dev/null", "neither a file nor a pipe"),
        ("/nowhere/at/all", "cannot be read: No such file"),
        ("/tmp", "cannot be read: Is a directory"),
        ("a\0b", "cannot be read: .*embedded null"),
    ],
)
def test_what_is_no_text(path: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read_text_file("text", path)
    assert (caught.value.field, caught.value.value) == ("text", path)


def test_too_large_and_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 101)
    with pytest.raises(InvalidInput, match="larger than 100 bytes"):
        read_text_file("config", file, most=100)
    file.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match=r"config=.*not valid UTF-8"):
        read_text_file("config", file)


def test_a_sparse_file_of_a_terabyte_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "huge.txt"
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(InvalidInput, match="larger than"):
        read_text_file("text", file, most=2**20)


def test_a_named_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        time.sleep(0.2)  # who reads may come first
        with pipe.open("w") as opened:
            opened.write("piped")

    thread = threading.Thread(target=write)
    thread.start()
    assert read_text_file("text", pipe) == "piped"
    thread.join()
    monkeypatch.setattr(bounded_text, "SILENCE_SECONDS", 0.3)
    with pytest.raises(InvalidInput, match="nothing was written"):
        read_text_file("text", pipe)


def test_standard_input_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "while True: print('y' * 1000)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as endless:
        assert endless.stdout is not None
        with pytest.raises(InvalidInput, match="larger than"):
            read_standard_input("text", endless.stdout.fileno(), most=2**20)
        endless.kill()
    monkeypatch.setattr(bounded_text, "SILENCE_SECONDS", 0.3)
    reads, writes = os.pipe()
    with pytest.raises(InvalidInput, match="nothing was written"):
        read_standard_input("text", reads)
    os.write(writes, b"said")
    os.close(writes)
    assert read_standard_input("text", reads) == "said"
    os.close(reads)
