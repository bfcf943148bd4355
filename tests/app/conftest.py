"""One real card video, written once: everything here asks the embedded model about it."""

from pathlib import Path

import pytest

from spava_app.engine.synthetic.cards import CardScene, random_scene, write_video


@pytest.fixture(scope="session")
def scene() -> CardScene:
    """What `video` shows: 5 cards in 60 seconds."""
    return random_scene(60, 5, seed=1)


@pytest.fixture(scope="session")
def video(scene: CardScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file: 10 frames a second."""
    path = tmp_path_factory.mktemp("cards") / "cards.mp4"
    write_video(scene, path)
    return path
