"""`VideoQA` from a file and a question to the answer, with the embedded model and real workers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from spava_app.api.answer import Answer
from spava_app.api.video_qa import VideoQA
from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.sampling import Sampling
from spava_app.engine.synthetic.cards import CardScene
from spava_app.errors import CheckpointError, EngineError, InvalidInput, VideoError

STAGES = ["decode", "vision", "exchange", "prefill", "generate"]


@pytest.fixture(scope="module")
def qa() -> Iterator[VideoQA]:
    """Spava on two ranks. Its workers start once for this file."""
    with VideoQA(method="spava", cache=False) as started:
        started.start()
        yield started


def worker_ids(qa: VideoQA) -> list[int]:
    """Process ids of the workers."""
    return [worker.process.pid for worker in qa._engine.workers]


def template_ids(question: str) -> list[int]:
    """The prompt around `question` as the model's own template makes it, one id for the video."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer.encode(text, add_special_tokens=False)


def check_plan(answer: Answer, question: str, num_frames: int) -> None:
    """The counts in the plan follow from the question, the frames and each other."""
    plan = answer.plan
    [media] = plan.media
    height, width = media.size
    assert media.num_frames == num_frames
    assert plan.num_visual == -(-num_frames // 2) * (height // 28) * (width // 28)
    ids = template_ids(question)
    assert plan.num_tokens == len(ids) - 1 + plan.num_visual
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    end_of_video = tokenizer.convert_tokens_to_ids("<|vision_end|>")
    assert plan.query_len == len(ids) - ids.index(end_of_video) - 1


def test_every_card_is_read_and_plan_and_times_add_up(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    before = worker_ids(qa)
    for card in scene.cards:
        answer = qa.ask(video, card.question)
        assert answer.text == card.answer
        check_plan(answer, card.question, num_frames=120)
        plan, timings = answer.plan, answer.timings
        assert (plan.method, plan.world_size, plan.num_blocks) == ("spava", 2, 4)
        assert plan.media[0].duration == pytest.approx(60, abs=0.01)
        assert plan.media[0].interval == pytest.approx(0.5, abs=0.01)
        context = plan.num_tokens - plan.query_len - plan.anchor_len
        assert 0 <= plan.num_blocks * plan.block_len - context < plan.num_blocks
        assert set(timings) == {"probe", "start", "preprocess", "total", *STAGES}
        slowest = max(timings[stage] for stage in STAGES)
        assert timings["total"] >= timings["probe"] + timings["start"] + slowest > 0
    assert worker_ids(qa) == before


def test_full_agrees_and_closing_is_not_the_end(scene: CardScene, video: Path) -> None:
    with VideoQA(cpu_ranks=1, method="full", cache=False) as qa:
        for card in scene.cards:
            answer = qa.ask(video, card.question, fps=1)
            assert answer.text == card.answer
            check_plan(answer, card.question, num_frames=60)
            assert (answer.plan.method, answer.plan.world_size) == ("full", 1)
        (first,) = worker_ids(qa)
        qa.close()
        assert worker_ids(qa) == []
        qa.close()
        assert qa.ask(video, scene.cards[0].question, fps=1).text == scene.cards[0].answer
        assert worker_ids(qa) != [first]


def test_events_name_the_stages_in_order(qa: VideoQA, scene: CardScene, video: Path) -> None:
    events: list[tuple[str, float]] = []
    answer = qa.ask(
        video, scene.cards[0].question, on_event=lambda stage, at: events.append((stage, at))
    )
    assert [stage for stage, _ in events] == ["probe", "start", *STAGES]
    moments = [at for _, at in events]
    assert moments == sorted(moments)
    assert 0 <= moments[0] <= moments[-1] <= answer.timings["total"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"question": ""}, "question"),
        ({"question": " \n"}, "question"),
        ({"fps": 1.0, "num_frames": 8}, "num_frames, fps"),
        ({"fps": 0}, "fps"),
        ({"fps": -1.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": 2.5}, "num_frames"),
        ({"num_frames": True}, "num_frames"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"max_new_tokens": 10**12}, "max_new_tokens"),
        ({"question": "which card " * 20_000}, "question"),
        ({"question": "\ud800"}, "question"),
        ({"question": None}, "question"),
        ({"fps": "2"}, "fps"),
        ({"fps": np.complex64(2)}, "fps"),
        ({"num_frames": np.True_}, "num_frames"),
        ({"num_frames": np.float64(8)}, "num_frames"),
        ({"max_new_tokens": np.int64(0)}, "max_new_tokens"),
        ({"max_new_tokens": np.True_}, "max_new_tokens"),
        ({"max_new_tokens": 1.5}, "max_new_tokens"),
    ],
)
def test_bad_input_names_the_field_and_leaves_the_workers_up(
    wrong: dict[str, Any], field: str, qa: VideoQA, scene: CardScene, video: Path
) -> None:
    card, before = scene.cards[3], worker_ids(qa)
    with pytest.raises(InvalidInput) as error:
        qa.ask(**{"video": video, "question": card.question, **wrong})
    assert error.value.field == field
    assert qa.ask(video, card.question).text == card.answer
    assert worker_ids(qa) == before


@pytest.mark.parametrize("given", ["", ["cards.mp4", ""]])
def test_an_empty_path_is_not_the_current_folder(given: Any, qa: VideoQA) -> None:
    for call in (qa.ask, qa.plan, lambda video, _: qa.open(video)):
        with pytest.raises(InvalidInput, match="must not be empty") as error:
            call(given, "Which?")
        assert error.value.field == "video"


def test_bad_files_are_video_errors_and_leave_the_workers_up(
    qa: VideoQA, scene: CardScene, video: Path, tmp_path: Path
) -> None:
    card, before = scene.cards[4], worker_ids(qa)
    text = tmp_path / "text.mp4"
    text.write_text("This is no video.\n" * 100)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:2000])
    for path in (text, cut, tmp_path, tmp_path / "missing.mp4"):
        with pytest.raises(VideoError):
            qa.ask(path, card.question)
    assert qa.ask(str(video), card.question).text == card.answer
    assert worker_ids(qa) == before


@pytest.mark.parametrize(
    ("asked", "num_frames"),
    [
        ({"num_frames": 1}, 1),
        ({"num_frames": 7}, 7),
        ({"fps": 1e-6}, 1),
        ({"num_frames": 10**9}, 600),  # all there are
        ({"fps": 1e9}, 600),
    ],
)
def test_any_number_of_frames_is_served(
    asked: dict[str, Any], num_frames: int, qa: VideoQA, scene: CardScene, video: Path
) -> None:
    card = scene.cards[2]
    answer = qa.ask(video, card.question, **asked)
    check_plan(answer, card.question, num_frames)
    if num_frames == 600:
        assert answer.text == card.answer


@pytest.mark.parametrize(
    ("frames", "same_frames"),
    [
        ({"num_frames": np.int64(8)}, {"num_frames": 8}),
        ({"fps": np.float32(0.5)}, {"fps": 0.5}),
        ({"fps": torch.tensor(1)}, {"fps": 1}),
    ],
)
def test_numbers_of_other_libraries_are_taken_as_numbers(
    frames: dict[str, Any], same_frames: dict[str, Any], qa: VideoQA, video: Path
) -> None:
    """They travel to the workers, and back in the plan, as JSON."""
    given, same = (
        {
            **chosen,
            "max_pixels": whole(128 * 28**2),
            "max_visual_tokens": whole(5000),
            "max_new_tokens": whole(3),
            "sampling": Sampling(real(2.0), real(0.5), whole(5), real(1.25), whole(7)),
            "method_options": {"passing_fraction": real(0.25), "virtual_hosts": whole(6)},
        }
        for chosen, whole, real in ((frames, np.int64, np.float32), (same_frames, int, float))
    )
    answer, expected = (qa.ask(video, "Which?", **options) for options in (given, same))
    assert (answer.text, answer.usage) == (expected.text, expected.usage)
    described = [one.plan.to_dict() | {"seconds": 0, "why": ""} for one in (answer, expected)]
    assert json.dumps(described[0]) == json.dumps(described[1])


def test_counts_of_ranks_may_be_numbers_of_other_libraries(video: Path) -> None:
    with VideoQA(cpu_ranks=np.int64(1), gpus=np.int8(0)) as qa:
        plan = qa.plan(video, "Which?")
    assert json.loads(json.dumps(plan.to_dict()))["world_size"] == 1


@pytest.mark.parametrize(
    "question",
    [
        "Какая цифра на красной карте? 赤いカードの数字は? 🃏\x00\u202e",
        "What digit is on the red card, and why? " * 150,
        "?",
    ],
    ids=["unicode", "long", "short"],
)
def test_any_question_is_served(question: str, qa: VideoQA, video: Path) -> None:
    before = worker_ids(qa)
    answer = qa.ask(video, question, max_new_tokens=4)
    check_plan(answer, question, num_frames=120)
    assert len(answer.text) <= 4 * 8
    assert worker_ids(qa) == before


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"cpu_ranks": 0}, "cpu_ranks"),
        ({"cpu_ranks": -1}, "cpu_ranks"),
        ({"cpu_ranks": "2"}, "cpu_ranks"),
        ({"gpus": 2.5}, "gpus"),
        ({"method": "guess"}, "method"),
        ({"gpus": "two"}, "gpus"),
        ({"gpus": None}, "gpus"),
        ({"cpu_ranks": 1000}, "cpu_ranks"),
        ({"allow_pickle": "no"}, "allow_pickle"),
        ({"method": ["spava"]}, "method"),
        ({"method_options": 5}, "method_options"),
        ({"method_options": {"passing": 1}}, "passing"),
        ({"method": "full", "method_options": {"anchor_len": 4}}, "anchor_len"),
        ({"method_options": {"passing_fraction": 1.5}}, "passing_fraction"),
        ({"method_options": {"virtual_hosts": 0}}, "virtual_hosts"),
        ({"method_options": {"passing_len": 4, "passing_fraction": 0.5}}, "passing_fraction"),
    ],
)
def test_bad_settings_name_the_field(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        VideoQA(**wrong)
    assert error.value.field == field


def test_more_gpus_than_there_are_is_told_with_both_numbers() -> None:
    found = torch.cuda.device_count()
    with pytest.raises(InvalidInput, match=f"{found or 'none'} found") as error:
        VideoQA(gpus=found + 1)
    assert (error.value.field, error.value.value) == ("gpus", found + 1)


def test_a_folder_that_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        VideoQA(tmp_path)


def test_a_callback_that_raises_does_not_shift_the_answers(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    """The request goes on in the workers; its result must not answer the next question."""

    def fail(stage: str, at: float) -> None:
        if stage == "prefill":
            raise RuntimeError("in the callback")

    with pytest.raises(RuntimeError, match="in the callback"):
        qa.ask(video, scene.cards[0].question, on_event=fail)
    for card in scene.cards[1:3]:
        assert qa.ask(video, card.question).text == card.answer


def test_text_streams_and_a_stop_string_ends_the_answer_on_all_ranks(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    """Hot, the tiny model babbles; a stop string cuts it, and nothing is mixed up after."""
    card = scene.cards[0]
    hot = Sampling(temperature=8.0, seed=3)
    pieces: list[str] = []
    whole = qa.ask(video, card.question, max_new_tokens=40, sampling=hot, on_text=pieces.append)
    assert "".join(pieces).strip() == whole.text
    assert len(pieces) > 5
    again = qa.ask(video, card.question, max_new_tokens=40, sampling=hot)
    assert again.text == whole.text
    stop = whole.text[len(whole.text) // 2 :][:3]
    cut = qa.ask(video, card.question, max_new_tokens=40, sampling=hot, stop_strings=[stop])
    assert cut.text == whole.text.split(stop)[0].strip()
    assert cut.usage.finish_reason == "stop"
    assert cut.usage.answer_tokens < whole.usage.answer_tokens
    how: dict[str, Any] = {"max_new_tokens": 40, "sampling": hot}
    assert qa.ask(video, card.question, stop_strings=iter([stop]), **how).text == cut.text
    both = qa.map([(video, card.question)] * 2, stop_strings=iter([stop]), **how)
    assert [getattr(answer, "text", answer) for answer in both] == [cut.text] * 2
    assert qa.ask(video, card.question).text == card.answer


def test_usage_counts_and_says_why_the_answer_ended(
    qa: VideoQA, scene: CardScene, video: Path
) -> None:
    answer = qa.ask(video, scene.cards[1].question)
    assert answer.usage.prompt_tokens == answer.plan.num_tokens
    assert (answer.usage.answer_tokens, answer.usage.finish_reason) == (1, "stop")
    cut = qa.ask(video, scene.cards[1].question, max_new_tokens=1)
    assert (cut.text, cut.usage.finish_reason) == (scene.cards[1].answer, "length")
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    assert answer.to_dict()["usage"] == {
        "prompt_tokens": answer.plan.num_tokens,
        "answer_tokens": 1,
        "finish_reason": "stop",
        "frames_encoded": 120,
        "frames_reused": 0,
    }


def test_pickled_weights_are_read_when_asked_for(
    scene: CardScene, video: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with VideoQA(folder, cpu_ranks=1) as qa, pytest.raises(CheckpointError, match="pickled"):
        qa.ask(video, scene.cards[0].question)
    with VideoQA(folder, cpu_ranks=1, allow_pickle=True) as qa:
        assert qa.ask(video, scene.cards[0].question).text == scene.cards[0].answer


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/nowhere/model", "there is no such folder"),
        ("qwen", "give embedded, a folder, or a model of the hub"),
        ("nobody/nothing", "cannot be reached"),
    ],
)
def test_a_model_that_is_not_there_is_told(
    model: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=message):
        VideoQA(model)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"max_new_tokens": 10**7}, "max_new_tokens"),
        ({"stop_strings": None}, "stop_strings"),
        ({"stop_strings": 5}, "stop_strings"),
        ({"sampling": {"temperature": -1.0}}, "sampling"),
        ({"history": [{"role": "user", "content": "Hm?"}]}, "history"),
    ],
)
def test_wrong_calls_are_told_and_leave_the_workers_up(
    wrong: dict[str, Any], field: str, qa: VideoQA, scene: CardScene, video: Path
) -> None:
    before = worker_ids(qa)
    for call in (qa.ask, qa.plan):
        with pytest.raises(InvalidInput) as error:
            call(video, scene.cards[0].question, **wrong)
        assert error.value.field == field
    assert worker_ids(qa) == before


def test_asking_from_a_callback_is_told(qa: VideoQA, scene: CardScene, video: Path) -> None:
    def ask(stage: str, at: float) -> None:
        if stage == "prefill":
            qa.ask(video, scene.cards[1].question)

    with pytest.raises(EngineError, match="callback"):
        qa.ask(video, scene.cards[0].question, on_event=ask)
    assert qa.ask(video, scene.cards[1].question).text == scene.cards[1].answer
