"""The embedded model reads card videos and nothing else: about anything else there is a warning,
wherever the answer comes out.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
import torch
from PIL import Image
from stage_lines import without_stages
from typer.testing import CliRunner

from spava_app import Answer, Frames, TextQA, VideoQA
from spava_app.cli import main as cli
from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.synthetic.cards import CardScene, random_scene, write_video
from spava_app.errors import CheckpointError, SpavaWarning
from spava_app.requests.embedded import MEANINGLESS

QUESTION = "What is in this video?"
ARRAY = np.zeros((8, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def qa() -> Iterator[VideoQA]:
    with VideoQA(cache=False) as started:
        yield started


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that is no card video."""
    path = tmp_path_factory.mktemp("foreign") / "holiday.mp4"
    clips.write_video(path, list(range(0, 3000, 100)), clips.MILLISECOND)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures."""
    path = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        Image.fromarray(ARRAY[0]).save(path / f"{number}.png")
    return path


@pytest.mark.filterwarnings("ignore::spava_app.errors.SpavaWarning")
def test_it_is_said_of_everything_but_card_videos(
    qa: VideoQA, video: Path, foreign: Path, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.mp4"
    write_video(random_scene(5, 1, 3), other, size=64)
    for ours in (video, str(video), [video], [video, other]):
        assert qa.plan(ours, QUESTION).warnings == ()
    others: Sequence[Any] = (
        foreign,
        ARRAY,
        torch.from_numpy(ARRAY),
        folder,
        folder / "0.png",
        Frames(ARRAY, fps=2),
        Frames([folder / "0.png", folder / "1.png"]),
        [video, foreign],
        [video, folder / "0.png"],
        [ARRAY, other],
    )
    for about in others:
        assert qa.plan(about, QUESTION).warnings == (MEANINGLESS,), about


def test_every_way_of_asking_says_it_once(
    qa: VideoQA, scene: CardScene, video: Path, foreign: Path
) -> None:
    card = scene.cards[0]
    with pytest.warns(SpavaWarning, match="only reads coloured cards") as told:
        answer = qa.ask(foreign, QUESTION)
    assert len(told) == 1
    with pytest.warns(SpavaWarning):
        *_, streamed = qa.stream(foreign, QUESTION)
    with pytest.warns(SpavaWarning):
        mapped, right = qa.map([(foreign, QUESTION), (video, card.question)])
    with pytest.warns(SpavaWarning), qa.open(foreign) as talk:
        talked = talk.ask(QUESTION)
    for one in (answer, streamed, mapped, talked):
        assert isinstance(one, Answer)
        assert one.warnings == one.plan.warnings == (MEANINGLESS,)
        assert one.to_dict()["warnings"] == [MEANINGLESS]
        assert Answer.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert isinstance(right, Answer)
    assert (right.text, right.warnings) == (card.answer, ())


def test_a_copy_of_the_folder_is_the_same_model(video: Path, foreign: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(EMBEDDED, tmp_path / "my-model"))
    qa = VideoQA(copy)
    with pytest.warns(SpavaWarning):
        plan = qa.plan(foreign, QUESTION)
    assert (plan.warnings, plan.model) == ((MEANINGLESS,), str(copy))
    assert qa.plan(video, QUESTION).warnings == ()
    for name in ("embedded", copy):
        with pytest.raises(CheckpointError, match="knows coloured cards and no texts"):
            TextQA(name)


def test_another_model_has_no_such_warning(foreign: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    del config["spava_app_reads"]
    (folder / "config.json").write_text(json.dumps(config))
    plan = VideoQA(str(folder)).plan(foreign, QUESTION)
    assert plan.warnings == ()
    assert plan.to_dict()["model"] == plan.model == str(folder)
    assert f"\nmodel   {folder}\n" in f"{plan}\n"


def test_on_the_command_line(scene: CardScene, video: Path, foreign: Path) -> None:
    def spava(*words: str) -> tuple[str, str]:
        done = CliRunner().invoke(cli.app, [*words, "--cpu-ranks", "1"])
        assert done.exit_code == 0, done.stderr
        return done.stdout, without_stages(done.stderr)

    warning = f"warning: {MEANINGLESS}\n"
    out, err = spava("ask", str(foreign), QUESTION)
    assert err == warning
    assert out.strip()
    assert "--model" in err
    out, err = spava("ask", str(foreign), QUESTION, "--json")
    assert (json.loads(out)["warnings"], err) == ([MEANINGLESS], "")
    assert spava("plan", str(foreign))[1] == warning
    out, err = spava("plan", str(foreign), "--json")
    assert (json.loads(out)["warnings"], json.loads(out)["model"], err) == (
        [MEANINGLESS],
        "embedded",
        "",
    )
    card = scene.cards[0]
    assert spava("ask", str(video), card.question) == (f"{card.answer}\n", "")
    out, err = spava("ask", str(video), card.question, "--max-new-tokens", "1")
    assert (out, err) == (
        f"{card.answer}\n",
        "stopped at 1 token; --max-new-tokens N allows more\n",
    )
