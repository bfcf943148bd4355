"""`TextQA` with a Llama checkpoint that transformers saved, against transformers' own answer."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from internvl_layouts import write_tokenizer
from stage_lines import without_stages
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from spava_app import Answer, TextQA
from spava_app.cli import main as cli
from spava_app.errors import InvalidInput, SpavaWarning

QUESTION = "Who is the narrator?"
BOOK = "It was a bright cold day in April, and the clocks were striking thirteen. " * 8
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    """A folder with random weights, and the same model in transformers."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    oracle = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle.save_pretrained(folder)
    return folder, oracle.eval()


@pytest.fixture(scope="module")
def qa(model: tuple[Path, PreTrainedModel]) -> Iterator[TextQA]:
    with TextQA(model[0], method="spava") as started:
        yield started


def expected(model: tuple[Path, PreTrainedModel], text: str) -> str:
    """What transformers answers, the best token each time."""
    folder, oracle = model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = [{"role": "user", "content": f"{text}\n\n{QUESTION}"}]
    prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    out = oracle.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("method", "options"),
    [("full", {}), ("zigzag_ring", {}), ("spava", {"passing_fraction": 1.0})],
)
def test_exact_methods_answer_as_transformers(
    method: str, options: dict[str, float], qa: TextQA, model: tuple[Path, PreTrainedModel]
) -> None:
    answer = qa.ask(
        BOOK, QUESTION, max_new_tokens=NEW_TOKENS, method=method, method_options=options
    )
    assert answer.text == expected(model, BOOK)
    plan = answer.plan
    assert (plan.media, plan.num_visual, plan.method) == ((), 0, method)
    # Bytes are tokens: the question and the end of its turn are the query, the book is not.
    assert len(QUESTION) < plan.query_len < len(QUESTION) + 30
    assert set(answer.timings) == {"probe", "start", "prefill", "generate", "total"}


def test_a_file_is_as_its_text(
    qa: TextQA, model: tuple[Path, PreTrainedModel], tmp_path: Path
) -> None:
    book = tmp_path / "book.txt"
    book.write_text(BOOK, "utf-8")
    answer = qa.ask(book, QUESTION, max_new_tokens=NEW_TOKENS, method="full")
    assert answer.text == expected(model, BOOK)
    *_, last = qa.stream(book, QUESTION, max_new_tokens=NEW_TOKENS, method="full")
    assert isinstance(last, Answer)
    assert last.text == answer.text
    assert qa.plan(book, QUESTION).num_tokens == answer.plan.num_tokens


def test_wrong_texts_are_told(qa: TextQA, tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("naïve".encode("latin-1"))
    wrong: list[tuple[str | Path, str]] = [
        ("", "not empty"),
        (" \n", "not empty"),
        (tmp_path / "missing.txt", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (latin, "UTF-8"),
        (BOOK * 5, r"which is all that the model takes: shorten it"),
    ]
    for text, message in wrong:
        with pytest.raises(InvalidInput, match=message) as error:
            qa.ask(text, QUESTION)
        assert error.value.field == "text"
        assert len(str(error.value)) < 500
    with pytest.raises(InvalidInput, match="question="):
        qa.ask(BOOK, "")


def test_a_text_that_names_a_file_is_a_warning(
    qa: TextQA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.txt").write_text(BOOK, "utf-8")
    (tmp_path / "named.txt").write_text("small.txt", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, path in (("small.txt", "small.txt"), ("~/small.txt", f"{tmp_path}/small.txt")):
        warning = f"'{name}' was taken as the text itself; Path('{path}') reads the file"
        with pytest.warns(SpavaWarning, match=re.escape(warning)):
            answer = qa.ask(name, QUESTION, max_new_tokens=2)
        [told] = answer.warnings
        assert told.startswith(warning)
        with pytest.warns(SpavaWarning):
            *_, streamed = qa.stream(name, QUESTION, max_new_tokens=2)
        assert isinstance(streamed, Answer)
        with pytest.warns(SpavaWarning):
            plan = qa.plan(name, QUESTION)
        assert streamed.warnings == plan.warnings == (told,)


def test_other_texts_are_no_paths(
    qa: TextQA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.txt").write_text(BOOK, "utf-8")
    (tmp_path / "named.txt").write_text("small.txt", "utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "two\nlines").touch()
    monkeypatch.chdir(tmp_path)
    others = ("folder", "missing.txt", "small.txt\n", "two\nlines", "small\0.txt", "x" * 1500)
    for text in (*others, Path("small.txt"), Path("named.txt")):
        assert qa.plan(text, QUESTION).warnings == ()
    asked: list[object] = []
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(path) or False)
    with pytest.raises(InvalidInput, match="text="):
        qa.plan("word " * 2_000, QUESTION)
    assert asked == []


def test_an_answer_that_was_cut_says_so(
    model: tuple[Path, PreTrainedModel], tmp_path: Path
) -> None:
    book = tmp_path / "book.txt"
    book.write_text(BOOK, "utf-8")
    words = ["text", str(book), QUESTION, "--model", str(model[0])]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0
    stopped = "stopped at 256 tokens; --max-new-tokens N allows more\n"
    assert without_stages(done.stderr) == stopped
    done = CliRunner().invoke(cli.app, [*words, "--json", "--max-new-tokens", "3"])
    assert done.stderr == ""
    assert json.loads(done.stdout)["usage"]["finish_reason"] == "length"
    assert json.loads(done.stdout)["model"] == str(model[0])
