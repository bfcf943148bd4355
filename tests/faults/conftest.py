"""One short card video and one `VideoQA` per file; faults reach its real processes from outside."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from processes import MARK, check_no_orphans

from spava_app.api.video_qa import VideoQA
from spava_app.engine.synthetic.cards import CardScene, random_scene, write_video


@pytest.fixture(scope="session")
def scene() -> CardScene:
    """What `clip` shows: 2 cards in 20 seconds."""
    return random_scene(20, 2, seed=3)


@pytest.fixture(scope="session")
def clip(scene: CardScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    path = tmp_path_factory.mktemp("cards") / "cards.mp4"
    write_video(scene, path)
    return path


@pytest.fixture(scope="module")
def mark() -> Iterator[str]:
    """What this file's processes are known by; none may be left after it."""
    mark = uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        yield mark
        check_no_orphans(mark)


@pytest.fixture(scope="module")
def qa(mark: str) -> Iterator[VideoQA]:
    """Spava on two ranks, which keeps nothing: every question goes through every stage."""
    with VideoQA(method="spava", cache=False) as started:
        yield started


@pytest.fixture
def answers(qa: VideoQA, scene: CardScene, clip: Path) -> Callable[[], None]:
    """Calling it asks about each card; every answer must be right."""

    def ask() -> None:
        for card in scene.cards:
            assert qa.ask(clip, card.question).text == card.answer

    return ask
