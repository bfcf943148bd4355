"""Chat templates: rendered as by transformers, and never beyond a time and a memory."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from published import LLAMA_TEMPLATE, PICTURE_TEMPLATE, TEXT_TEMPLATE, qwen_vl
from transformers.utils.chat_template_utils import render_jinja_template

from spava_app import VideoQA
from spava_app.engine.processes.exit_status import is_stopped
from spava_app.errors import CheckpointError, EngineDown, InternalError
from spava_app.requests.tokenization import template_renderer
from spava_app.requests.tokenization.chat_template import ChatTemplate, find_template
from spava_app.requests.tokenization.template_renderer import RENDERER

TURNS = [
    {"role": "user", "content": "What? ünï\u2028<b>"},
    {"role": "assistant", "content": "  That. "},
    {"role": "user", "content": "Why?\n\n"},
]
VARIABLES = {"bos_token": "<|begin_of_text|>"}
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, Path("model"), VARIABLES)


@pytest.mark.parametrize("text", [LLAMA_TEMPLATE, PICTURE_TEMPLATE, TEXT_TEMPLATE])
@pytest.mark.parametrize("answers", [True, False])
def test_as_transformers_renders_it(text: str, answers: bool) -> None:
    (expected,), _ = render_jinja_template(
        conversations=[TURNS], chat_template=text, add_generation_prompt=answers, **VARIABLES
    )
    assert template(text).render(TURNS, answers=answers) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ raise_exception('no users\nhere') }}", r"fails \(no users\)$"),
        ("{% for", "unexpected 'end of template'"),
        ("{{ messages.nothing.at_all }}", "has no attribute"),
        ("{{ 'a' * 10**11 }}", "too much memory"),
        ("{{ 'a' * 10**7 }}", "writes far more than it is given"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('touch ran') }}", "unsafe"),
    ],
)
def test_templates_that_fail(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        template(text).render(TURNS)
    assert "\n" not in str(caught.value)
    assert template("{{ messages[0].content }}").render(TURNS) == TURNS[0]["content"]


def test_a_template_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_renderer, "RENDER_SECONDS", 0.5)
    with pytest.raises(CheckpointError, match=r"longer than 0\.5 s"):
        template(ENDLESS).render(TURNS)
    assert template("{{ messages[0].content }}").render(TURNS) == TURNS[0]["content"]


def test_a_model_whose_template_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = qwen_vl(tmp_path / "model")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": ENDLESS}))
    monkeypatch.setattr(template_renderer, "RENDER_SECONDS", 0.5)
    with pytest.raises(CheckpointError, match="chat template fails"):
        VideoQA(folder, gpus=0)


def test_a_template_that_shows_only_lists(tmp_path: Path) -> None:
    """Those of many fine-tunes of models that see."""
    folder = qwen_vl(tmp_path / "model")
    usual = VideoQA(folder, gpus=0)._prompts.build("Why?", (), [("What?", "That.")])
    lists = (
        "{% for m in messages %}{% if loop.first %}<|im_start|>system\nYou are a helpful assistant."
        "<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
        "{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": lists}))
    assert VideoQA(folder, gpus=0)._prompts.build("Why?", (), [("What?", "That.")]) == usual


def test_a_renderer_that_is_killed_is_replaced() -> None:
    echo = template("{{ messages[0].content }}")
    echo.render(TURNS)
    assert RENDERER._process is not None
    os.kill(RENDERER._process.process.pid, signal.SIGKILL)
    assert echo.render(TURNS) == TURNS[0]["content"]


def test_a_renderer_that_is_stopped_is_replaced() -> None:
    echo = template("{{ messages[0].content }}")
    echo.render(TURNS)
    assert RENDERER._process is not None
    pid = RENDERER._process.process.pid
    os.kill(pid, signal.SIGSTOP)
    while not is_stopped(pid):
        time.sleep(0.01)
    assert echo.render(TURNS) == TURNS[0]["content"]


def test_a_renderer_that_is_stopped_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_renderer, "RENDER_SECONDS", 1.0)
    template("x").render(TURNS)
    assert RENDERER._process is not None
    pid = RENDERER._process.process.pid
    threading.Timer(0.3, os.kill, (pid, signal.SIGSTOP)).start()
    with pytest.raises(EngineDown, match="was stopped"):
        template(ENDLESS).render(TURNS)


def test_a_renderer_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    RENDERER.end()
    monkeypatch.setattr(template_renderer.sys, "executable", "/bin/false")
    with pytest.raises(InternalError, match="renders chat templates: it ended with code 1"):
        template("x").render(TURNS)


def test_from_several_threads() -> None:
    echo, wrong = template("{{ messages[0].content }}"), []

    def render(number: int) -> None:
        text = f"{number} " * 20_000  # longer than a pipe holds
        if echo.render([{"role": "user", "content": text}]) != text:
            wrong.append(number)

    threads = [threading.Thread(target=render, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"processor_config.json", "chat_template.json", "chat_template.jinja"}, "processor"),
        ({"chat_template.json", "chat_template.jinja"}, "json"),
        ({"chat_template.jinja"}, "jinja"),
        (set(), "tokenizer"),
    ],
)
def test_where_a_template_is_looked_for(tmp_path: Path, files: set[str], expected: str) -> None:
    contents = {
        "processor_config.json": json.dumps({"chat_template": "processor"}),
        "chat_template.json": json.dumps({"chat_template": {"default": "json", "tool": "x"}}),
        "chat_template.jinja": "jinja",
    }
    for name in files:
        (tmp_path / name).write_text(contents[name])
    for of_tokenizer in ({"default": "tokenizer", "rag": "x"}, "tokenizer"):
        found = find_template(tmp_path, of_tokenizer)
        assert found is not None
        assert found[0] == expected
        assert expected in str(found[1].name)
    if not files:
        assert find_template(tmp_path, None) is None


@pytest.mark.parametrize("wrong", ['{"chat_template": 5}', '{"chat_template": {"tool": "x"}}', "["])
def test_a_broken_file_is_named(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "chat_template.json").write_text(wrong)
    with pytest.raises(CheckpointError, match=r"chat_template\.json'"):
        find_template(tmp_path, None)


def test_files_that_never_end(tmp_path: Path) -> None:
    folder = qwen_vl(tmp_path / "model")
    (folder / "chat_template.json").unlink()
    os.mkfifo(folder / "chat_template.json")
    with pytest.raises(CheckpointError, match=r"chat_template\.json': is not a regular file"):
        VideoQA(folder, gpus=0)
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.json").mkdir()
    with pytest.raises(CheckpointError, match=r"chat_template\.json': is not a regular file"):
        VideoQA(folder, gpus=0)
    (folder / "chat_template.json").rmdir()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json': is not a regular file"):
        VideoQA(folder, gpus=0)
