"""Greedy tokens of published folders, and those by their generation_config.json, are those of
`generate` of transformers.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import RankPool
from generation import generate
from model_files import change_json
from published import llama, qwen_vl, text_model
from published_internvl import internvl_hf
from published_oracle import generated, picture_inputs, request_of, write_pictures
from transformers import (
    AutoModelForCausalLM,
    InternVLForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)

from spava_app import TextQA, VideoQA
from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.sampling import GREEDY
from spava_app.engine.video.decode import decode_frames
from spava_app.requests.generation_config import GenerationDefaults
from spava_app.requests.media_input import Question

QUESTION = "Why is that?"
BOOK = "It was a bright cold day in April; na\u00efve caf\u00e9, 1984.\n" * 12
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


def yarn_vl(folder: Path) -> Path:
    def change(config: dict[str, Any]) -> None:
        config["rope_scaling"] = {**YARN, "mrope_section": [2, 3, 3]}

    return qwen_vl(folder, change)


def saved_by_transformers(folder: Path) -> Path:
    """The same model as transformers 5 saves it again: nested, chat_template.jinja."""
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen_vl(folder))
    loaded.save_pretrained(folder)
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").write_text(template)
    return folder


def model_of(folder: Path) -> Any:
    kinds = {
        "Qwen2_5_VLForConditionalGeneration": Qwen2_5_VLForConditionalGeneration,
        "InternVLForConditionalGeneration": InternVLForConditionalGeneration,
    }
    [name] = read_config(folder)["architectures"]
    kind = kinds.get(name, AutoModelForCausalLM)
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


ANSWERS: dict[str, Callable[[Path], Path]] = {
    "qwen": qwen_vl,
    "qwen-yarn": yarn_vl,
    "qwen-saved": saved_by_transformers,
    "internvl-hf": internvl_hf,
    "text-yarn": lambda folder: text_model(folder, rope_scaling=YARN),
    "llama": llama,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    sizes = {"wide": (300, 120), "tiny": (40, 30)}
    return list(write_pictures(tmp_path_factory.mktemp("pictures"), sizes).values())


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(
    name: str, pictures: list[Path], tmp_path: Path, ranks: Callable[[int], RankPool]
) -> None:
    """On two ranks, with all that blocks pass on."""
    folder = ANSWERS[name](tmp_path / name)
    sees = not name.startswith(("text", "llama"))
    # Large enough to matter in 12 tokens: the published 1.05 often is not.
    change_json(folder, "generation_config.json", repetition_penalty=1.3)
    own = GenerationDefaults.read(folder).sampling
    options = {"gpus": 0, "method": "spava", "method_options": {"passing_fraction": 1.0}}
    asked = Question(pictures, QUESTION, max_new_tokens=12)
    if not sees:
        asked = Question("", QUESTION, text=BOOK, max_new_tokens=12)
    with VideoQA(folder, **options) if sees else TextQA(folder, **options) as qa:
        processor = qa._prepare.processor
        greedy = request_of(qa, replace(asked, sampling=GREEDY))
        request = request_of(qa, replace(asked, sampling=own))
    given = {}
    if sees:
        given = picture_inputs(folder, pictures, QUESTION)
        given = {key: value for key, value in given.items() if key not in _OF_THE_PROMPT}
        # Pillow resizes a little differently than torch: that is not what is looked at here.
        given["pixel_values"] = own_pixels(processor, greedy)
    model = model_of(folder)
    theirs = generated(model, greedy, do_sample=False, repetition_penalty=1.0, **given)
    follows = generated(model, request, **given)
    assert len(set(theirs)) > 3
    assert theirs != follows
    for asked_for, expected in ((greedy, theirs), (request, follows)):
        answers = ranks(2).run(generate, folder, processor, asked_for)
        assert [tokens for tokens, _ in answers] == [expected] * 2


_OF_THE_PROMPT = {"input_ids", "attention_mask"}


def own_pixels(processor: Any, request: Any) -> torch.Tensor:
    prepared = []
    for medium in request.media:
        [group] = decode_frames(medium.source, group=1)
        prepared.append(processor.prepare(torch.from_numpy(group.pictures.copy()), medium))
    return torch.cat(prepared)
