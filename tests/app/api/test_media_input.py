"""Bad and unusual media through the whole application, with real workers: what is wrong is told,
what is usable is used, and the next question is answered.
"""

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from spava_app import Frames, VideoQA
from spava_app.engine.synthetic.cards import CardScene
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import probe
from spava_app.errors import EngineDown, InvalidInput, VideoError, VideoWarning
from spava_app.requests.embedded import MEANINGLESS

WARNING = (
    r"damaged\.mp4: [2-5] of 120 frames damaged between 2[34]\.\d s and 25\.0 s: neighbours used"
)


@pytest.fixture(scope="module")
def qa() -> Iterator[VideoQA]:
    """Two ranks, started once."""
    with VideoQA(method="spava", cache=False) as started:
        started.start()
        yield started


def workers(qa: VideoQA) -> list[int]:
    return [worker.process.pid for worker in qa._engine.workers]


def decoders(pid: int) -> list[int]:
    """The decoder processes of a worker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"sandbox.server" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def frames(video: Path) -> np.ndarray:
    """The card video at 2 frames a second."""
    info = probe(video)
    [group] = decode_frames(info.source(range(0, info.num_frames, 5)), group=120)
    return group.pictures.copy()


@pytest.mark.parametrize("form", ["array", "tensor", "folder", "list"])
def test_frames_in_any_form_give_the_same_answers(
    form: str,
    qa: VideoQA,
    scene: CardScene,
    frames: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    paths = [tmp_path / f"{number}.png" for number in range(len(frames))]
    if form in {"folder", "list"}:
        for path, frame in zip(paths, frames, strict=True):
            Image.fromarray(frame).save(path)
    given = {
        "array": Frames(frames, fps=2),
        "tensor": Frames(torch.from_numpy(frames).permute(0, 3, 1, 2), fps=2),
        "folder": tmp_path,
        "list": Frames(paths, fps=2),
    }[form]
    card = scene.cards[0]
    answer = qa.ask(given, card.question)
    assert answer.text == card.answer
    assert answer.plan.media[0].num_frames == 120
    assert answer.warnings == (MEANINGLESS,)  # nothing tells whose frames these are
    assert not list(scratch.iterdir())


def test_arrays_of_another_kind_are_told(qa: VideoQA, frames: np.ndarray) -> None:
    for wrong in (frames[0], frames.astype(np.float32), [frames, 5], {}, None):
        with pytest.raises(InvalidInput, match="video="):
            qa.ask(wrong, "What?")


def test_damage_is_reported_and_the_rest_is_read(
    qa: VideoQA, scene: CardScene, video: Path, tmp_path: Path
) -> None:
    with av.open(str(video)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data, base = bytearray(video.read_bytes()), packets[0].time_base
    last = scene.cards[-1]
    assert last.start > 50
    # A second in the middle; what refers to it is damaged too, until the key frame after 25 s.
    hit = [packet for packet in packets if 23.5 < float((packet.pts or 0) * base) < 24.5]
    for packet in hit:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    before = workers(qa)
    answer = qa.ask(path, last.question)
    [warning] = answer.warnings
    assert warning.startswith("damaged.mp4: ")
    assert re.fullmatch(WARNING, warning)
    assert answer.to_dict()["warnings"] == [warning]
    assert answer.text == last.answer
    assert qa.ask(video, last.question).warnings == ()
    assert workers(qa) == before


def test_a_file_that_goes_bad_after_it_was_planned(
    qa: VideoQA, scene: CardScene, video: Path, tmp_path: Path
) -> None:
    """Replaced between the plan and the first frame: the ranks notice, and stay up."""
    path = tmp_path / "changing.mp4"
    path.write_bytes(video.read_bytes())
    before = workers(qa)

    def replace(stage: str, seconds: float) -> None:
        if stage == "start":  # the plan is made
            path.write_bytes(video.read_bytes()[:-1])

    with pytest.raises(VideoError, match="was changed"):
        qa.ask(path, scene.cards[0].question, on_event=replace)
    assert qa.ask(video, scene.cards[0].question).text == scene.cards[0].answer
    assert workers(qa) == before


def test_a_decoder_that_is_killed_costs_its_question_only(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    card = scene.cards[1]
    assert qa.ask(video, card.question).text == card.answer
    before = workers(qa)

    def kill(stage: str, at: float) -> None:
        if stage == "decode":
            for worker in before:
                for pid in decoders(worker):
                    with suppress(ProcessLookupError):  # it has ended by itself
                        os.kill(pid, signal.SIGSTOP)
                        os.kill(pid, signal.SIGKILL)

    def told() -> str:
        try:
            return qa.ask(video, card.question, on_event=kill).text
        except EngineDown as error:
            return str(error)

    ended = "the decoder process was ended by SIGKILL, from outside: ask again"
    # It may have decoded everything already.
    assert told() in {card.answer, ended}
    assert qa.ask(video, card.question).text == card.answer
    assert workers(qa) == before


def test_a_pipe_does_not_block(qa: VideoQA, scene: CardScene, video: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero")):
        with pytest.raises(VideoError, match="not a regular file"):
            qa.ask(path, scene.cards[0].question)
    assert qa.ask(video, scene.cards[0].question).text == scene.cards[0].answer


def test_damage_without_an_engine_is_a_warning() -> None:
    warning = VideoWarning("a.mp4", (31.0, 33.5))
    assert str(warning) == "a.mp4: 2 frames damaged between 31.0 s and 33.5 s: neighbours used"
