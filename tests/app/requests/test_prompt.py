"""Prompts of the embedded model, of InternVL in both layouts and of a text model: spans against the
rendered text, and answers about them.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from internvl_layouts import original_config, original_tensors, write_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration

from spava_app.api.video_qa import VideoQA
from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.multimodal.pixels.tiles import TileConfig
from spava_app.engine.multimodal.processors import Fit, InternVLProcessor, make_processor
from spava_app.engine.synthetic.cards import CardScene
from spava_app.errors import Cancelled, CheckpointError, InvalidInput, VideoError
from spava_app.requests.prompt import PromptBuilder

HISTORY = [("What is first?", "A red card."), ("And then?", "Nothing.")]


@pytest.fixture(scope="module")
def qwen() -> PromptBuilder:
    config = read_config(EMBEDDED)
    return PromptBuilder(EMBEDDED, make_processor(EMBEDDED, config), config)


def fit(kind: str, units: int, unit_tokens: int) -> Fit:
    return Fit((56, 56), (units, 4, 4), unit_tokens, {"type": kind}, (units * unit_tokens,))


def test_media_and_turns_of_qwen(qwen: PromptBuilder) -> None:
    """Against the model's own template, with placeholders multiplied in its text."""
    media = [fit("video", 3, 4), fit("image", 1, 2)]
    built = qwen.build("Why?", media, HISTORY)
    turns = [
        {
            "role": "user",
            "content": [
                {"type": "video"},
                {"type": "image"},
                {"type": "text", "text": HISTORY[0][0]},
            ],
        },
        {"role": "assistant", "content": HISTORY[0][1]},
        {"role": "user", "content": HISTORY[1][0]},
        {"role": "assistant", "content": HISTORY[1][1]},
        {"role": "user", "content": "Why?"},
    ]
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    text = text.replace("<|video_pad|>", "<|video_pad|>" * 12)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * 2)
    assert tokenizer.decode(built.token_ids) == text
    video, image = tokenizer.convert_tokens_to_ids(["<|video_pad|>", "<|image_pad|>"])
    first = built.token_ids.index(video)
    assert built.starts == ((first, first + 4, first + 8), (built.token_ids.index(image),))
    tail = tokenizer.decode(built.token_ids[-built.query_len :])
    assert tail == "Why?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(built.token_ids[-built.query_len :][: built.question_len]) == "Why?"
    system = tokenizer.decode(built.token_ids[: built.system_len])
    assert system == text[: text.index("<|vision_start|>")]


def test_the_last_turn_is_the_query_even_if_it_repeats_an_earlier_one(qwen: PromptBuilder) -> None:
    again = qwen.build("Why?", [fit("video", 1, 4)], [("Why?", "Why?")])
    once = qwen.build("Why?", [fit("video", 1, 4)])
    assert again.query_len == once.query_len
    assert again.system_len == once.system_len
    assert len(again.token_ids) > len(once.token_ids)


@pytest.mark.parametrize("wrong", ["", "  ", "\ud800", 5])
def test_wrong_texts_are_told(qwen: PromptBuilder, wrong: str) -> None:
    with pytest.raises(InvalidInput, match="question="):
        qwen.build(wrong, [fit("video", 1, 4)])
    with pytest.raises(InvalidInput, match="history="):
        qwen.build("Why?", [fit("video", 1, 4)], [(wrong, "Because.")])


@pytest.mark.parametrize(
    "wrong", [[{"role": "user", "content": "What?"}], ("one", "pair"), [("a",)], "ab", [1], None]
)
def test_history_that_is_no_list_of_pairs(qwen: PromptBuilder, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="history="):
        qwen.build("Why?", [fit("video", 1, 4)], wrong)


def test_how_long_a_text_may_be_is_told_by_us_alone(
    qwen: PromptBuilder, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers")  # which does not pass on what it logs
    logger.addHandler(caplog.handler)
    try:
        assert len(qwen.build("word " * 40_000, []).token_ids) > 40_000
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_an_empty_answer_is_part_of_a_conversation(qwen: PromptBuilder) -> None:
    built = qwen.build("Why?", [fit("video", 1, 4)], [("What?", "")])
    assert built.query_len == qwen.build("Why?", [fit("video", 1, 4)]).query_len


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("generation_config.json", "{", "generation_config.json"),
        ("generation_config.json", "[]", "generation_config.json"),
        ("tokenizer.json", "{}", "tokenizer"),
        ("chat_template.jinja", "{% for", "chat template"),
        ("chat_template.jinja", "{{ raise_exception('no users') }}", "no users"),
    ],
)
def test_broken_files_of_a_tokenizer(file: str, text: str, message: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "model"))
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        VideoQA(folder)


def test_frames_and_tiles_of_internvl(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    processor = InternVLProcessor(TileConfig(size=56, max_tiles=4), tile_tokens=4)
    media = [
        processor.fit(1, 100, 200, picture=True),
        processor.fit(3, 90, 160, picture=False),
    ]
    assert [seen.grid for seen in media] == [(1, 1, 2), (3, 1, 1)]
    built = PromptBuilder(tmp_path, processor, {}).build("Why?", media)
    text = (
        "<|im_start|>user\n"
        f"<img>{'<IMG_CONTEXT>' * 12}</img>\n"
        + "".join(f"Frame{i}: <img>{'<IMG_CONTEXT>' * 4}</img>\n" for i in (1, 2, 3))
        + "Why?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert list(built.token_ids) == tokenizer(text, add_special_tokens=False)["input_ids"]
    context = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    places = [i for i, token in enumerate(built.token_ids) if token == context]
    assert built.starts == ((places[0],), tuple(places[12::4]))
    assert tokenizer.decode(built.token_ids[-built.query_len :]).startswith("Why?<|im_end|>")
    assert built.system_len == len("<user\n")  # the special token and five bytes


def test_a_text_model(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    builder = PromptBuilder(tmp_path, None, {})
    built = builder.build("Why?", (), HISTORY)
    text = tokenizer.decode(built.token_ids)
    assert text.count("<|im_start|>user") == 3
    assert tokenizer.decode(built.token_ids[-built.query_len :]).startswith("Why?")
    assert built.starts == ()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ '<|im_start|>' }}", "leaves out what the user says"),
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "placeholder"),
    ],
)
def test_templates_that_cannot_serve(template: str, message: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    processor = InternVLProcessor(TileConfig(size=56), tile_tokens=4)
    with pytest.raises(CheckpointError, match=message):
        PromptBuilder(tmp_path, processor, {}).build(
            "Why?", [processor.fit(1, 90, 160, picture=False)]
        )


@pytest.fixture(scope="module", params=["hf", "original"])
def internvl(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VideoQA]:
    """A tiny InternVL3 with random weights, saved by transformers, in the layout asked for."""
    folder = tmp_path_factory.mktemp("internvl")
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "attention_bias": True,
        },
        tie_word_embeddings=False,
        image_token_id=261,
        architectures=["InternVLForConditionalGeneration"],
    )
    torch.manual_seed(1)
    model = InternVLForConditionalGeneration._from_config(config)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    if request.param == "original":
        file, weights = folder / "config.json", folder / "model.safetensors"
        settings = original_config(json.loads(file.read_text())) | {"max_dynamic_patch": 3}
        file.write_text(json.dumps(settings))
        save_file(original_tensors(load_file(weights)), weights)
        (folder / "preprocessor_config.json").write_text('{"size": 56, "do_center_crop": true}')
    else:
        tiles = {"size": {"height": 56, "width": 56}, "max_patches": 3}
        tiles |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        (folder / "preprocessor_config.json").write_text(json.dumps(tiles))
    with VideoQA(
        folder, cpu_ranks=2, method="spava", method_options={"passing_fraction": 1.0}
    ) as qa:
        yield qa


def test_internvl_from_a_folder(
    internvl: VideoQA, video: Path, tmp_path: Path, answers: dict[str, tuple[str, int]]
) -> None:
    """Both layouts of one model say the same about a picture and a video."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    answer = internvl.ask(
        [tmp_path / "picture.png", video], "What?", num_frames=9, max_new_tokens=12
    )
    picture, seen = answer.plan.media
    assert (picture.duration, picture.num_tokens) == (0, 3 * 4)
    assert (seen.num_frames, seen.size, seen.num_tokens) == (9, (56, 56), 36)
    assert answer.usage.answer_tokens == 12
    answers.setdefault("first", (answer.text, answer.plan.num_tokens))
    assert answers["first"] == (answer.text, answer.plan.num_tokens)


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[str, int]]:
    """What the first layout said, for the second to say too."""
    return {}


def test_turned_picture(tmp_path: Path) -> None:
    """A camera's orientation tag swaps the sides before anything is counted."""
    from spava_app.engine.video.sandbox.pictures.picture import picture_size, read_picture

    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with (tmp_path / "turned.png").open("rb") as file:
        assert picture_size(file, "turned.png") == (40, 20)
        turned = read_picture(file, "turned.png", (40, 20))
    assert turned.shape == (40, 20, 3)
    assert turned[:10].min() == 255
    assert turned[10:].max() == 0


def test_a_conversation_about_a_video_and_a_picture(
    video: Path, scene: CardScene, tmp_path: Path
) -> None:
    """The embedded model has one question and answer in its head: these are served, not judged."""
    Image.effect_noise((80, 60), 90).convert("RGB").save(tmp_path / "noise.jpg")
    with VideoQA(method="spava") as qa:
        card = scene.cards[0]
        history = [(card.question, card.answer)]
        answer = qa.ask([video, tmp_path / "noise.jpg"], card.question, history=history)
        assert [media.duration > 0 for media in answer.plan.media] == [True, False]
        assert str(answer.plan).splitlines()[1].startswith("picture ")
        whole = (tmp_path / "noise.jpg").read_bytes()
        (tmp_path / "cut.jpg").write_bytes(whole[:-100])
        with pytest.raises(VideoError, match="damaged"):
            qa.ask(tmp_path / "cut.jpg", card.question)
        assert qa.ask(video, card.question).text == card.answer
        with pytest.raises(InvalidInput, match="video="):
            qa.ask([], card.question)


def test_a_model_without_a_tokenizer_or_sight(tmp_path: Path) -> None:
    folder = tmp_path / "blind"
    shutil.copytree(EMBEDDED, folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        VideoQA(folder)
    config = json.loads((EMBEDDED / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config["text_config"], "architectures": ["Qwen2ForCausalLM"]})
    )
    with pytest.raises(CheckpointError, match="sees no video"):
        VideoQA(folder)


def test_what_is_too_long_is_found_early(qwen: PromptBuilder) -> None:
    """Texts are counted piece by piece, no further than it takes, and the caller may end it."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    turns = [("what is this?", "a thing")] * 20_000
    for question, history, field in (
        ("word " * 4_000_000, [], "question"),
        ("a" * 20_000_000, [], "question"),
        ("Why?", turns, "history"),
    ):
        with pytest.raises(InvalidInput, match=f"{field}=.*has more than 1000 tokens"):
            qwen.check(question, history, most=1000, on_step=step)
    assert steps < 20
    qwen.check("word " * 900, most=1000, on_step=step)

    def stop() -> None:
        raise Cancelled("cancelled before the answer started")

    with pytest.raises(Cancelled):
        qwen.check("word " * 4_000_000, most=10**9, on_step=stop)
