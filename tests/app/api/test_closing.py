"""An object may be closed at any moment: what runs and waits is told, and nothing is left."""

import threading
from pathlib import Path

import pytest

from spava_app.api.streaming import StageBegan
from spava_app.api.video_qa import VideoQA
from spava_app.engine.synthetic.cards import CardScene
from spava_app.errors import EngineDown


def test_closing_during_an_answer_ends_it_with_a_typed_error(scene: CardScene, video: Path) -> None:
    def close(stage: str, at: float) -> None:
        if stage == "prefill":
            qa.close()

    def close_elsewhere(stage: str, at: float) -> None:
        if stage == "prefill":
            threading.Thread(target=qa.close).start()

    card, other = scene.cards[:2]
    with VideoQA(method="spava", cache=False) as qa:
        with pytest.raises(EngineDown, match="closed"):
            qa.ask(video, card.question, on_event=close)
        with pytest.raises(EngineDown, match="closed"):
            qa.ask(video, card.question, max_new_tokens=5_000, on_event=close_elsewhere)
        assert qa.ask(video, other.question).text == other.answer


@pytest.mark.parametrize("stage", ["probe", "start"])
def test_a_question_that_began_before_the_end_starts_no_worker_after_it(
    stage: str, video: Path
) -> None:
    def close(name: str, seconds: float) -> None:
        if name == stage:
            qa.close()

    with VideoQA(method="spava", cache=False) as qa:
        with pytest.raises(EngineDown, match="the engine was closed"):
            qa.ask(video, "What digit is on the red card?", num_frames=8, on_event=close)
        assert not qa._engine.workers


def test_a_stream_that_is_left_while_workers_start_leaves_none(
    scene: CardScene, video: Path
) -> None:
    question = scene.cards[0].question
    with VideoQA(method="spava", cache=False) as qa:
        for event in qa.stream(video, question, num_frames=40):
            if isinstance(event, StageBegan) and event.name == "start":
                break
    assert not qa._engine.workers
    with qa:
        assert qa.ask(video, question, num_frames=40).text == scene.cards[0].answer
