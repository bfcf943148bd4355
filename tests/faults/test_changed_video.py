"""A video that is replaced, overwritten, cut or removed while a question about it runs: the right
answer or a typed error, and nothing wrong is remembered of it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spava_app.api.video_qa import VideoQA
from spava_app.engine.synthetic.cards import CardScene, random_scene, write_video
from spava_app.engine.video import shared_ring as ring
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import probe
from spava_app.errors import VideoError


@pytest.fixture(scope="module")
def other() -> CardScene:
    """Shows other cards than `scene`, one of them in a colour that both have."""
    return random_scene(20, 2, seed=9)


@pytest.fixture(scope="module")
def replacement(other: CardScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    path = tmp_path_factory.mktemp("other") / "other.mp4"
    write_video(other, path)
    return path


@pytest.fixture(scope="module")
def caching(mark: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoQA]:
    """Two ranks with an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAVA_CACHE", str(tmp_path_factory.mktemp("cache")))
        with VideoQA(method="spava") as started:
            yield started


def replace(path: Path, new: Path) -> None:
    """A new file under the same name, as a download that is finished."""
    copy = path.with_suffix(".part")
    shutil.copy(new, copy)
    copy.rename(path)


def overwrite(path: Path, new: Path) -> None:
    """The same file with other bytes, as a recorder that starts again."""
    with path.open("r+b") as file:
        file.write(new.read_bytes())
        file.truncate()


def cut(path: Path, new: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove(path: Path, new: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [replace, overwrite, cut, remove])
@pytest.mark.parametrize("stage", ["start", "decode", "vision"])
def test_in_the_middle_of_a_question(
    caching: VideoQA,
    scene: CardScene,
    clip: Path,
    other: CardScene,
    replacement: Path,
    tmp_path: Path,
    stage: str,
    change: Callable[[Path, Path], None],
) -> None:
    path = Path(shutil.copy(clip, tmp_path / "video.mp4"))
    with path.open("ab") as file:
        file.write(f"{change.__name__} {stage}".encode())  # content that is in no cache yet

    def on_event(name: str, seconds: float) -> None:
        if name == stage:
            change(path, replacement)

    first = scene.cards[0]
    with suppress(VideoError):
        answer = caching.ask(path, first.question, on_event=on_event)
        assert (answer.text, answer.warnings) == (first.answer, ())
    for shown, file in ((other, replacement), (scene, clip)):
        shutil.copy(file, path)
        for card in shown.cards:
            answer = caching.ask(path, card.question)
            assert (answer.text, answer.warnings) == (card.answer, ())


def test_overwritten_between_two_frames(
    clip: Path, replacement: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder may not run ahead: it reads the rest of the file after the change."""
    monkeypatch.setattr(ring, "PREFETCH_BYTES", 1)
    path = Path(shutil.copy(clip, tmp_path / "video.mp4"))
    info = probe(path)
    frames = decode_frames(info.source(range(info.num_frames)))
    next(frames)
    overwrite(path, replacement)
    with pytest.raises(VideoError, match=r"video\.mp4"):
        list(frames)


def test_written_after_its_last_frame_was_read(clip: Path, tmp_path: Path) -> None:
    """Nothing failed to decode, and still nobody knows what was read."""
    path = Path(shutil.copy(clip, tmp_path / "video.mp4"))
    info = probe(path)
    frames = decode_frames(info.source([0, 1, 2]))
    next(frames)
    os.utime(path, ns=(1, 1))
    with pytest.raises(VideoError, match="changed while it was looked at"):
        list(frames)


def test_replaced_between_a_look_and_the_hash(
    caching: VideoQA,
    scene: CardScene,
    clip: Path,
    other: CardScene,
    replacement: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames that were chosen in one file are not those of another, known one."""
    from spava_app.requests import media_input as looking

    path = Path(shutil.copy(replacement, tmp_path / "video.mp4"))
    for card in other.cards:
        assert caching.ask(path, card.question).text == card.answer
    shutil.copy(clip, path)
    look_at = looking.look_at

    def look_and_change(name: Path) -> object:
        info = look_at(name)
        shutil.copy(replacement, path)
        return info

    monkeypatch.setattr(looking, "look_at", look_and_change)
    with pytest.raises(VideoError, match="changed while it was looked at"):
        caching.ask(path, scene.cards[0].question)
