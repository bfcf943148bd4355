"""What users write for a file, and what errors say of it."""

import os
from pathlib import Path

import pytest

from spava_app.engine.video.frames import Frames
from spava_app.engine.video.probe import VideoInfo, local_path, look_at, probe
from spava_app.errors import VideoError


def test_paths_home_and_file_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "50% #1? ä.mp4"
    odd.touch()
    (tmp_path / "a.mp4").touch()
    path = str(tmp_path / "a.mp4")
    for given in ("a.mp4", "./a.mp4", path, "~/a.mp4", f"file://{path}", f"file:{path}"):
        assert local_path(given) == path, given
    assert local_path(Path("a.mp4")) == path
    assert local_path(f"FILE://localhost{path}") == path
    assert local_path(odd.as_uri()) == local_path(odd.name) == str(odd)
    assert local_path("~nobody-of-this-name/a.mp4") == str(tmp_path / "~nobody-of-this-name/a.mp4")


@pytest.mark.parametrize("name", ["~", "file:x", "https:", "data:,x", "C:"])
def test_a_file_that_is_there_is_meant(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert local_path(name) == str(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("https://example.org/a.mp4?x=1", "https: addresses are not read; download it"),
        ("rtsp://camera/1", "rtsp: addresses are not read; download it"),
        ("s3://bucket/a.mp4", "s3: addresses are not read; download it"),
        ("data:video/mp4;base64,AAAA", "data: addresses are not read; download it"),
        ("file://server/a.mp4", "names no other machine"),
        ("file:a.mp4", "the whole path from the root on"),
        ("file:///no/such.mp4", "there is no such file"),
        ("~/no/such.mp4", "there is no such file"),
        ("no/such.mp4", "there is no such file"),
        ("", "this is a folder|no such file"),
    ],
)
def test_errors_tell_what_was_given(given: str, says: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match=says) as caught:
        probe(given)
    assert (caught.value.field, caught.value.value) == ("video", given)


def test_of_pictures_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.png").write_text("none")
    for given in ("~/a.png", "b.png", "https://example.org/a.png"):
        with pytest.raises(VideoError) as caught:
            Frames([given]).shape()
        assert caught.value.value == given


def test_a_video_is_read_by_its_address(videos) -> None:
    info = look_at(videos.colon.as_uri())
    assert isinstance(info, VideoInfo)
    assert info.path == os.path.abspath(videos.colon)
