"""A short card video, and the scripts that ask about it."""

from pathlib import Path

import pytest

from spava_app.engine.synthetic.cards import CardScene, random_scene, write_video


@pytest.fixture(scope="session")
def scene() -> CardScene:
    """What `video` shows: 2 cards in 20 seconds."""
    return random_scene(20, 2, seed=3)


@pytest.fixture(scope="session")
def video(scene: CardScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cards") / "cards.mp4"
    write_video(scene, path)
    return path
