"""generation_config.json, as transformers reads it; what is asked for explicitly wins."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from spava_app.engine.sampling import GREEDY, Sampling
from spava_app.errors import CheckpointError
from spava_app.requests.generation_config import GenerationDefaults

QWEN_VL = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.000001}
QWEN = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
}
LLAMA = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}


def read(folder: Path, content: Any) -> GenerationDefaults:
    (folder / "generation_config.json").write_text(json.dumps(content))
    return GenerationDefaults.read(folder)


@pytest.mark.parametrize(
    "content", [QWEN_VL, QWEN, LLAMA, {}, {"temperature": 0.7}, {"do_sample": True}]
)
def test_as_transformers_reads_it(tmp_path: Path, content: dict[str, Any]) -> None:
    ours = read(tmp_path, content).sampling
    theirs = GenerationConfig.from_pretrained(tmp_path)
    usual = GenerationConfig._get_default_generation_params()

    def of(name: str) -> Any:
        value = getattr(theirs, name)
        return usual[name] if value is None else value

    sampled = bool(theirs.do_sample)
    assert ours.temperature == (of("temperature") if sampled else 0)
    assert ours.top_p == (of("top_p") if sampled else 1)
    assert ours.top_k == (of("top_k") if sampled else 0)
    assert ours.repetition_penalty == of("repetition_penalty")


def test_without_a_file(tmp_path: Path) -> None:
    found = GenerationDefaults.read(tmp_path)
    assert (found.sampling, found.max_new_tokens, found.ignored) == (GREEDY, 256, ())


def test_what_is_asked_for_wins(tmp_path: Path) -> None:
    own = read(tmp_path, QWEN).sampling
    assert Sampling().over(own) == own
    assert Sampling(temperature=0).over(own) == Sampling(0, 0.8, 20, 1.05)
    assert Sampling(repetition_penalty=1, seed=5).over(own) == Sampling(0.7, 0.8, 20, 1, 5)


def test_what_is_not_followed_is_reported(tmp_path: Path) -> None:
    content = {"num_beams": 4, "min_p": 0.1, "typical_p": 1.0, "bad_words_ids": []}
    assert read(tmp_path, content).ignored == ("num_beams=4",)  # min_p is for sampling
    found = read(tmp_path, {**content, "do_sample": True})
    assert found.ignored == ("num_beams=4", "min_p=0.1")
    assert "num_beams=4, min_p=0.1: not supported" in found.warnings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"do_sample": "yes"}, "do_sample='yes': must be true or false"),
        ({"do_sample": True, "temperature": -1}, "temperature=-1: must be"),
        ({"do_sample": True, "temperature": "hot"}, "temperature='hot': must be"),
        ({"do_sample": True, "top_p": 1.5}, "top_p=1.5: must be"),
        ({"do_sample": True, "top_k": 2.5}, "top_k=2.5: must be"),
        ({"repetition_penalty": 0}, "repetition_penalty=0: must be"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be"),
        ([], "is not a JSON object"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, content)
    assert "generation_config.json" in str(caught.value)
