"""A second question about a video is answered without looking at it again, and never wrongly."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spava_app.api.answer import Answer
from spava_app.api.video_qa import VideoQA
from spava_app.engine.synthetic.cards import CardScene, random_scene, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAVA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def qa(folder: Path) -> Iterator[VideoQA]:
    """Spava on two ranks."""
    with VideoQA(cpu_ranks=2, method="spava") as started:
        yield started


@pytest.fixture(scope="module")
def alone(folder: Path) -> Iterator[VideoQA]:
    """Another method, on one rank, in other processes."""
    with VideoQA(cpu_ranks=1, method="full") as started:
        yield started


def looked(answer: Answer) -> bool:
    """Whether any frame was decoded for it."""
    assert ("decode" in answer.timings) == ("vision" in answer.timings)
    return "decode" in answer.timings


def test_the_second_question_skips_decoding_whatever_the_method(
    qa: VideoQA, alone: VideoQA, scene: CardScene, video: Path, tmp_path: Path
) -> None:
    first, *others = scene.cards
    answer = qa.ask(video, first.question)
    assert (answer.text, looked(answer)) == (first.answer, True)
    for card in others:
        for asked in (qa, alone):
            answer = asked.ask(video, card.question)
            assert (answer.text, looked(answer)) == (card.answer, False)
    copy = shutil.copy(video, tmp_path / "renamed.mp4")
    assert not looked(qa.ask(copy, first.question))  # the content counts, not the name
    assert looked(qa.ask(video, first.question, num_frames=60))  # other frames


def test_another_video_in_its_place_is_looked_at(
    qa: VideoQA, scene: CardScene, video: Path, tmp_path: Path
) -> None:
    """Same name, same date, same size."""
    path = Path(shutil.copy2(video, tmp_path / "video.mp4"))
    other = random_scene(60, 5, seed=7)
    assert qa.ask(path, scene.cards[0].question).text == scene.cards[0].answer
    status = path.stat()
    write_video(other, tmp_path / "other.mp4")
    data = (tmp_path / "other.mp4").read_bytes()
    size = max(status.st_size, len(data))
    path.write_bytes(data.ljust(size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for number, card in enumerate(other.cards):
        answer = qa.ask(path, card.question)
        assert (answer.text, looked(answer)) == (card.answer, number == 0)


def test_two_engines_fill_one_entry_at_once(
    qa: VideoQA, alone: VideoQA, folder: Path, tmp_path: Path
) -> None:
    scene, path = random_scene(60, 5, seed=11), tmp_path / "new.mp4"
    write_video(scene, path)
    right = [card.answer for card in scene.cards]
    texts: list[list[str]] = []
    before = {*folder.rglob("*.units")}

    def ask(asked: VideoQA) -> None:
        texts.append([asked.ask(path, card.question).text for card in scene.cards])

    threads = [threading.Thread(target=ask, args=(asked,)) for asked in (qa, alone)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [right, right]
    [made] = {*folder.rglob("*.units")} - before
    assert made.stat().st_mode & 0o777 == 0o600


def test_a_cache_that_cannot_be_used_is_told_once_and_changes_no_answer(
    scene: CardScene, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAVA_CACHE", "/proc/spava")
    with VideoQA(cpu_ranks=2, method="spava") as qa:
        told = []
        for card in scene.cards[:3]:
            answer = qa.ask(video, card.question)
            assert answer.text == card.answer
            told += answer.warnings
    [warning] = told
    assert "are not kept" in warning
