"""Streams, conversations and many questions at once, with real workers and real files."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spava_app import Answer, Sampling, StageBegan, TextPiece, VideoQA
from spava_app.engine.synthetic.cards import CardScene, random_scene, write_video
from spava_app.errors import EngineError, InvalidInput, VideoError


@pytest.fixture(scope="module")
def qa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoQA]:
    """Two ranks and a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAVA_CACHE", str(tmp_path_factory.mktemp("cache")))
        with VideoQA(method="spava") as started:
            yield started


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[CardScene, Path]:
    """Another video."""
    scene, path = random_scene(30, 2, seed=8), tmp_path_factory.mktemp("other") / "other.mp4"
    write_video(scene, path)
    return scene, path


def test_a_stream_tells_stages_text_and_the_answer_last(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    hot = Sampling(temperature=8.0, seed=3)
    events = list(qa.stream(video, scene.cards[0].question, max_new_tokens=20, sampling=hot))
    *before, answer = events
    assert isinstance(answer, Answer)
    stages = [event.name for event in before if isinstance(event, StageBegan)]
    assert stages[:2] == ["probe", "start"]
    assert stages[-2:] == ["prefill", "generate"]
    pieces = [event.text for event in before if isinstance(event, TextPiece)]
    assert len(pieces) > 3
    assert "".join(pieces).strip() == answer.text
    assert isinstance(before[-1], TextPiece)


def test_a_stream_that_is_left_takes_its_question_back(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    hot = Sampling(temperature=8.0, seed=3)
    events = qa.stream(video, scene.cards[0].question, max_new_tokens=5_000, sampling=hot)
    for event in events:
        if isinstance(event, TextPiece):
            break
    events.close()  # type: ignore[attr-defined]
    assert qa.ask(video, scene.cards[1].question).text == scene.cards[1].answer


def test_a_stream_raises_what_ask_raises(qa: VideoQA, video: Path) -> None:
    with pytest.raises(InvalidInput, match="question="):
        list(qa.stream(video, ""))


def test_a_conversation_reuses_frames_and_remembers(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    first, second = scene.cards[:2]
    with qa.open(video, num_frames=100) as talk:
        answer = talk.ask(first.question)
        assert answer.text == first.answer
        assert (answer.usage.frames_encoded, answer.usage.frames_reused) == (100, 0)
        again = talk.ask(second.question)
        assert (again.usage.frames_encoded, again.usage.frames_reused) == (0, 100)
        assert "decode" not in again.timings
        assert talk.history == [(first.question, first.answer), (second.question, again.text)]
        # The earlier turn is part of the prompt.
        assert again.plan.num_tokens > answer.plan.num_tokens + 5
        talk.history.clear()
        assert talk.ask(second.question).text == second.answer


def test_a_question_that_fails_leaves_the_conversation_as_it_was(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    with qa.open(video) as talk:
        with pytest.raises(InvalidInput):
            talk.ask(" ")
        assert talk.history == []
        assert list(talk.stream(scene.cards[0].question))[-1].text == scene.cards[0].answer  # type: ignore[union-attr]


def test_a_video_that_was_replaced_is_looked_at_again(
    qa: VideoQA, scene: CardScene, video: Path, other: tuple[CardScene, Path], tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(video, path)
    with qa.open(path, fps=2) as talk:
        assert talk.ask(scene.cards[0].question).text == scene.cards[0].answer
        shutil.copy(other[1], path)
        talk.history.clear()
        card = other[0].cards[0]
        answer = talk.ask(card.question)
        assert (answer.text, answer.plan.media[0].num_frames) == (card.answer, 60)


def test_what_cannot_be_opened_is_told_at_once(qa: VideoQA, tmp_path: Path, video: Path) -> None:
    with pytest.raises(VideoError):
        qa.open(tmp_path / "missing.mp4")
    with pytest.raises(InvalidInput, match="max_pixels=0"):
        qa.open(video, max_pixels=0)
    with pytest.raises(InvalidInput, match="frames=3: open takes fps"):
        qa.open(video, frames=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match="text='x'"):
        qa.plan(video, "Why?", text="x")  # type: ignore[call-arg]


def test_a_conversation_asked_from_its_own_callback_or_closed_says_so(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    with qa.open(video) as talk:
        with pytest.raises(EngineError, match="callback"):
            talk.ask(scene.cards[0].question, on_event=lambda *_: talk.ask("Why?"))
        with pytest.raises(InvalidInput, match="fps=1"):
            talk.ask("Why?", fps=1)  # type: ignore[call-arg]
        assert talk.ask(scene.cards[1].question).text == scene.cards[1].answer
    with pytest.raises(EngineError, match="closed"):
        talk.ask("Why?")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"on_text": 5}, "on_text"),
        ({"cancel": True}, "cancel"),
        ({"frame_rule": [1]}, "frame_rule"),
        ({"method": ["full"]}, "method"),
        ({"method": ""}, "method"),
        ({"method_options": "ab"}, "method_options"),
        ({"max_new_tokens": np.zeros(3)}, "max_new_tokens"),
        ({"stop_strings": "abc"}, "stop_strings"),
    ],
)
def test_values_of_another_kind_are_told(
    wrong: dict[str, Any], field: str, qa: VideoQA, video: Path
) -> None:
    with pytest.raises(InvalidInput) as error:
        qa.ask(video, "Why?", **wrong)
    assert error.value.field == field


def test_many_questions_are_grouped_by_video_and_none_is_lost(
    qa: VideoQA, scene: CardScene, video: Path, other: tuple[CardScene, Path], tmp_path: Path
) -> None:
    pairs = [
        (video, scene.cards[0].question),
        (other[1], other[0].cards[0].question),
        (tmp_path / "missing.mp4", "Why?"),
        (str(video), scene.cards[1].question),
        (other[1], ""),
        (other[1], other[0].cards[1].question),
    ]
    told: list[int] = []
    answers = qa.map(pairs, on_answer=lambda number, _: told.append(number), fps=1.9)
    assert told == [0, 3, 1, 4, 5, 2]
    texts = [answer.text if isinstance(answer, Answer) else type(answer) for answer in answers]
    cards = [*scene.cards[:2], *other[0].cards]
    expected = [cards[0].answer, cards[2].answer, VideoError, cards[1].answer, InvalidInput]
    assert texts == [*expected, cards[3].answer]
    for wrong in ([(video,)], [video], None, "ab"):
        with pytest.raises(InvalidInput, match="pairs"):
            qa.map(wrong)  # type: ignore[arg-type]
    # The video of a group is looked at once: its second question decodes nothing.
    assert isinstance(answers[3], Answer)
    assert answers[3].usage.frames_encoded == 0


@pytest.mark.parametrize("fault", [RuntimeError("mine"), InvalidInput("mine", 1, "is wrong")])
def test_an_error_of_the_callers_own_ends_a_map_and_nothing_else(
    fault: Exception,
    qa: VideoQA,
    scene: CardScene,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one of a kind that, coming from a question, would stand in its place."""
    card = scene.cards[0]
    qa.start()
    workers = [worker.process.pid for worker in qa._engine.workers]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told: list[int] = []

    def fail(number: int, answer: object) -> None:
        told.append(number)
        if len(told) == 2:
            raise fault

    frames = np.zeros((4, 64, 64, 3), np.uint8)
    with pytest.raises(type(fault)) as raised:
        qa.map([(video, card.question), *[(frames, "What?")] * 3], on_answer=fail, fps=1)
    assert raised.value is fault
    assert told == [0, 1]  # the questions after it were not asked
    assert list(tmp_path.iterdir()) == []
    assert qa.ask(video, card.question, fps=1).text == card.answer
    assert [worker.process.pid for worker in qa._engine.workers] == workers
    with pytest.raises(InvalidInput, match="on_answer=5: give a function"):
        qa.map([(video, card.question)], on_answer=5)  # type: ignore[arg-type]


def test_a_method_may_be_chosen_for_one_question(
    qa: VideoQA, video: Path, scene: CardScene
) -> None:
    card = scene.cards[2]
    answer = qa.ask(video, card.question, method="zigzag_ring")
    assert (answer.text, answer.plan.method) == (card.answer, "zigzag_ring")
    answer = qa.ask(video, card.question, method_options={"passing_fraction": 1.0})
    assert (answer.text, answer.plan.method) == (card.answer, "spava")
    assert answer.plan.options == {"passing_fraction": 1.0}
    with pytest.raises(InvalidInput, match="method='guess'"):
        qa.ask(video, card.question, method="guess")


def test_arrays_live_as_long_as_their_conversation(qa: VideoQA) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)
    with qa.open(frames) as talk:
        assert talk.ask("What is it?", max_new_tokens=2).usage.frames_encoded == 12
        assert talk.ask("And now?", max_new_tokens=2).usage.frames_reused == 12
