"""Model folders in the forms they are published in: prompts are those of transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_files import change_json, token_id, write_json
from published import LLAMA_TEMPLATE, LLAMA_TOKENS, QWEN_TOKENS, llama, qwen_vl, text_model
from published_internvl import internvl, internvl_hf
from published_oracle import picture_inputs, request_of, text_ids, write_pictures
from transformers import AutoTokenizer, Qwen2_5_VLConfig

from spava_app import VideoQA
from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.multimodal.processors import make_processor
from spava_app.requests.media_input import Question
from spava_app.requests.prompt import INTERNVL_SYSTEM, PromptBuilder

HISTORY = [("What is first?", "A red fox."), ("And then?", "")]
QUESTION = "Why is <b>that</b>?\n\u4f60\u597d "
BOOK = "It was a bright cold day in April; na\u00efve caf\u00e9, 1984.\n" * 12
SIZES = {"tiny": (40, 30), "wide": (300, 120), "tall": (33, 190), "large": (1900, 1100)}
SEES: dict[str, Callable[[Path], Path]] = {"qwen": qwen_vl, "internvl-hf": internvl_hf}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


def sparse(folder: Path) -> Path:
    """Qwen2.5-VL-72B: a tower whose depth, heads and more are left to the defaults. The fixture's
    tensors are for other sizes: such a folder can be planned with, not asked.
    """

    def change(config: dict[str, Any]) -> None:
        for name in ("depth", "num_heads", "fullatt_block_indexes", "patch_size", "window_size"):
            del config["vision_config"][name]
        config["vision_config"]["hidden_size"] = 64  # for 16 heads

    return qwen_vl(folder, change)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"), SIZES)


@pytest.mark.parametrize("make", SEES.values(), ids=SEES)
def test_prompts_with_pictures(
    make: Callable[[Path], Path], pictures: dict[str, Path], tmp_path: Path
) -> None:
    name = "internvl" if make is internvl_hf else "qwen"
    folder = make(tmp_path / name)
    with VideoQA(folder, gpus=0, cache=False) as qa:
        for files, history in [
            *(([file], []) for file in pictures.values()),
            ([pictures["wide"], pictures["tiny"]], HISTORY),
        ]:
            asked = Question(files, QUESTION, history=history, max_new_tokens=1)
            request = request_of(qa, asked)
            theirs = picture_inputs(folder, files, QUESTION, history)
            assert list(request.token_ids) == theirs["input_ids"][0].tolist(), files
            if "image_grid_thw" in theirs:
                grids = [medium.grid for medium in request.media]
                assert grids == [tuple(grid) for grid in theirs["image_grid_thw"].tolist()]


TEXTS: dict[str, Callable[[Path], Path]] = {
    "qwen": text_model,
    "yarn": lambda folder: text_model(folder, rope_scaling=YARN),
    "llama": llama,
}


@pytest.mark.parametrize("make", TEXTS.values(), ids=TEXTS)
def test_prompts_about_texts(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    builder = PromptBuilder(folder, None, read_config(folder))
    for history in ([], HISTORY):
        ours = builder.build(QUESTION, (), history, BOOK)
        assert list(ours.token_ids) == text_ids(folder, BOOK, QUESTION, history)


def test_a_base_model_is_asked_plainly(tmp_path: Path) -> None:
    """As Yi-34B-200K: no chat template, and no token before the text unless its tokenizer puts one
    there by itself.
    """
    folder = llama(tmp_path / "model", template=None)
    builder = PromptBuilder(folder, None, read_config(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = builder.build(QUESTION, (), [], BOOK)
    assert list(ours.token_ids) == tokenizer(f"{BOOK}\n\n{QUESTION}")["input_ids"]
    begin = token_id("<|begin_of_text|>", LLAMA_TOKENS)
    assert ours.token_ids[0] == begin
    core = json.loads((folder / "tokenizer.json").read_text())
    write_json(folder, "tokenizer.json", core | {"post_processor": None})
    change_json(folder, "tokenizer_config.json", add_bos_token=False)
    again = PromptBuilder(folder, None, read_config(folder)).build(QUESTION, (), [], BOOK)
    assert list(again.token_ids) == list(ours.token_ids)[1:]
    assert builder.stop_ids == (token_id("<|end_of_text|>", LLAMA_TOKENS),)


# --- which template counts


FORMS: dict[str, Callable[[str], Any]] = {
    "text": lambda template: template,
    "texts by name": lambda template: [
        {"name": "tool_use", "template": "{{ 'no' }}"},
        {"name": "default", "template": template},
    ],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_templates_in_the_tokenizer(form: Callable[[str], Any], tmp_path: Path) -> None:
    folder = llama(tmp_path / "model", template=None)
    change_json(folder, "tokenizer_config.json", chat_template=form(LLAMA_TEMPLATE))
    builder = PromptBuilder(folder, None, read_config(folder))
    ids = list(builder.build(QUESTION, (), HISTORY, BOOK).token_ids)
    assert ids == text_ids(folder, BOOK, QUESTION, HISTORY)


PLACES = ("processor_config.json", "chat_template.json", "chat_template.jinja")


def marked(mark: str) -> str:
    """A template that shows pictures and says which it is."""
    return (
        f"{mark} {{% for m in messages %}}{{% if m['content'] is string %}}{{{{ m['content'] }}}}"
        "{% else %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
        "{% else %}<|image_pad|>{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    )


@pytest.mark.parametrize("first", range(3))
def test_which_template_counts(first: int, pictures: dict[str, Path], tmp_path: Path) -> None:
    """All places at once, then all but the first, and so on."""
    folder = qwen_vl(tmp_path / "qwen")
    (folder / "chat_template.json").unlink()
    for place in PLACES[first:]:
        if place.endswith("jinja"):
            (folder / place).write_text(marked(place))
        else:
            write_json(folder, place, {"chat_template": marked(place)})
    with VideoQA(folder, gpus=0) as qa:
        request = request_of(qa, Question([pictures["tiny"]], QUESTION, max_new_tokens=1))
    theirs = picture_inputs(folder, [pictures["tiny"]], QUESTION)["input_ids"][0].tolist()
    assert list(request.token_ids) == theirs
    said = AutoTokenizer.from_pretrained(folder).decode(request.token_ids)
    assert said.startswith(f"{PLACES[first]} ")


def test_a_text_model_has_the_template_of_its_tokenizer(tmp_path: Path) -> None:
    """The files of processors are not read for it, by transformers either."""
    folder = text_model(tmp_path / "model")
    for place in PLACES[:2]:
        write_json(folder, place, {"chat_template": marked(place)})
    config = read_config(folder)
    ids = list(PromptBuilder(folder, None, config).build(QUESTION, (), [], BOOK).token_ids)
    assert ids == text_ids(folder, BOOK, QUESTION)
    (folder / "chat_template.jinja").write_text(marked("jinja"))
    again = list(PromptBuilder(folder, None, config).build(QUESTION, (), [], BOOK).token_ids)
    assert again != ids
    assert again == text_ids(folder, BOOK, QUESTION)


# --- what ends an answer, and how it begins


def test_every_place_names_an_end(tmp_path: Path) -> None:
    """Gradient's files name `<|end_of_text|>` alone; its template ends turns with `<|eot_id|>`."""
    folder = llama(tmp_path / "model")
    ends = [token_id(it, LLAMA_TOKENS) for it in ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")]
    builder = PromptBuilder(folder, None, read_config(folder))
    assert set(builder.stop_ids) == set(ends[:2])
    prompt = builder.build("Who is it?", (), HISTORY, BOOK)
    assert prompt.question_len == len("Who is it?")
    assert prompt.query_len > prompt.question_len
    change_json(folder, "generation_config.json", eos_token_id=[ends[2]])
    assert set(PromptBuilder(folder, None, read_config(folder)).stop_ids) == set(ends)
    (folder / "generation_config.json").unlink()
    change_json(folder, "config.json", eos_token_id=[ends[2]])
    assert set(PromptBuilder(folder, None, read_config(folder)).stop_ids) == set(ends)


def test_the_system_message_of_the_original_layout(tmp_path: Path) -> None:
    folder = internvl(tmp_path / "internvl")
    config = read_config(folder)
    processor = make_processor(folder, config)
    assert processor is not None
    fit = processor.fit(1, 56, 56, picture=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = PromptBuilder(folder, processor, config).build("Why?", [fit], HISTORY).token_ids
    turns = "".join(
        f"<|im_end|>\n<|im_start|>{role}\n{text}"
        for role, text in (
            ("assistant", HISTORY[0][1]),
            ("user", HISTORY[1][0]),
            ("assistant", HISTORY[1][1]),
            ("user", "Why?"),
        )
    )
    # As `model.chat` of the published code joins them: `get_conv_template("internvl2_5")`.
    assert tokenizer.decode(ids) == (
        f"<|im_start|>system\n{INTERNVL_SYSTEM}<|im_end|>\n<|im_start|>user\n"
        f"<img>{'<IMG_CONTEXT>' * 4}</img>\n{HISTORY[0][0]}{turns}"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    own = PromptBuilder(folder, processor, config | {"system_message": "Be brief."})
    said = tokenizer.decode(own.build("Why?", [fit]).token_ids)
    assert said.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert not (folder / "ran").exists()


def test_a_sparse_tower_is_planned_with(pictures: dict[str, Path], tmp_path: Path) -> None:
    folder = sparse(tmp_path / "qwen")
    with VideoQA(folder, gpus=0) as qa:
        assert qa.plan(pictures["tiny"], QUESTION).num_visual > 0
        vision = qa._prepare.predictor.model.vision.config
    theirs = Qwen2_5_VLConfig.from_pretrained(folder).vision_config
    assert (vision.depth, vision.num_heads, vision.patch_size, vision.window_size) == (
        theirs.depth,
        theirs.num_heads,
        theirs.patch_size,
        theirs.window_size,
    )
    assert vision.full_attention_layers == frozenset(theirs.fullatt_block_indexes)
    assert token_id("<|image_pad|>", QWEN_TOKENS) in qa._prompts._placeholders
