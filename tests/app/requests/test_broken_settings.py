"""Whatever stands in the JSON files of a model folder: it loads, or one line says which file and
which key is wrong. No worker runs here.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import llama, qwen_vl, text_model
from published_internvl import internvl, internvl_hf
from setting_changes import DROPPED, changed, keys_of

from spava_app import TextQA, VideoQA
from spava_app.engine.checkpoints.load import load_model, read_config
from spava_app.engine.models.registry import empty_model
from spava_app.engine.multimodal.processors import make_processor
from spava_app.errors import CheckpointError
from spava_app.requests.generation_config import GenerationDefaults
from spava_app.requests.prompt import PromptBuilder

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "qwen_vl": qwen_vl,
    "internvl": internvl,
    "internvl_hf": internvl_hf,
    "llama": llama,
    "yarn": lambda folder: text_model(folder, rope_scaling=YARN),
}
FILES = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "chat_template.json",
    "tokenizer_config.json",
)
VALUES = (DROPPED, None, "x", [1, 2], [], -1, 0, 1e30, 0.5, True, {})
# Not read: keys and whole files of code that is never run, of other libraries, or that another
# file decides.
UNREAD: dict[str, set[str]] = {
    "qwen_vl": {"in_chans", "spatial_patch_size", "image_processor_type", "chat_template"},
    "internvl": {
        *("auto_map", "AutoConfig", "model_type", "tie_word_embeddings", "architectures"),
        "preprocessor_config.json",
    },
    "internvl_hf": {
        *("model_type", "image_seq_length", "crop_to_patches"),
        *("start_image_token", "end_image_token", "context_image_token", "video_token"),
        "video_preprocessor_config.json",
    },
    "llama": set(),
    "yarn": set(),
}
UNREAD_BY_ALL = {"clean_up_tokenization_spaces", "tokenizer_class", "type"}


def load(folder: Path) -> None:
    """All that is read of a folder, up to a prompt."""
    config = read_config(folder)
    processor = make_processor(folder, config)
    empty_model(config, str(folder))
    prompts = PromptBuilder(folder, processor, config)
    GenerationDefaults.read(folder)
    if processor is None:
        prompts.build("Why?", (), [("A?", "B.")], "a book")
        return
    picture = processor.fit(1, 40, 30, picture=True)
    prompts.build("Why?", [picture, processor.fit(3, 100, 60, picture=False)], [("A?", "B.")])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {name: make(root / name) for name, make in FOLDERS.items()}


def try_all(folder: Path, values: tuple[Any, ...], every: int) -> tuple[list[str], int]:
    """What is wrong, and how many cases there were: each `every`-th of all."""
    wrong, cases = [], 0
    for file in (folder / name for name in FILES if (folder / name).exists()):
        text = file.read_text()
        content = json.loads(text)
        for keys in keys_of(content):
            for value in values:
                cases += 1
                if cases % every:
                    continue
                file.write_text(json.dumps(changed(content, keys, value)))
                if fault := fault_of(folder, file, keys):
                    shown = "dropped" if value is DROPPED else repr(value)
                    wrong.append(f"{file.name} {'.'.join(keys)} {shown}: {fault}")
        file.write_text(text)
    return wrong, cases // every


def fault_of(folder: Path, file: Path, keys: tuple[str, ...]) -> str:
    try:
        load(folder)
        if file.name == "config.json":
            load_model(folder)
    except CheckpointError as error:
        message = str(error)
        # What a missing size defaults to does not match the tensors, or another file.
        tensors = any(
            it in message for it in ("has shape", "tensors, first", "has no chat template")
        )
        if "\n" in message or not (file.name in message or tensors or f"{folder}/" in message):
            return f"unclear: {message}"
    except Exception as error:  # noqa: BLE001 (none other may come out)
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("name", FOLDERS)
def test_a_change_of_any_key(folders: dict[str, Path], name: str) -> None:
    """Some of all cases: a prime step, so that every key meets several values."""
    wrong, cases = try_all(folders[name], VALUES, 7)
    assert not wrong
    assert cases > 25


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FOLDERS)
def test_every_change_of_every_key(folders: dict[str, Path], name: str) -> None:
    wrong, _ = try_all(folders[name], VALUES, 1)
    assert not wrong


READ = [
    ("qwen_vl", "config.json", "rms_norm_eps"),
    ("qwen_vl", "config.json", "rope_theta"),
    ("qwen_vl", "config.json", "image_token_id"),
    ("qwen_vl", "config.json", "rope_scaling"),
    ("qwen_vl", "config.json", "rope_scaling.mrope_section"),
    ("qwen_vl", "config.json", "num_key_value_heads"),
    ("qwen_vl", "config.json", "tie_word_embeddings"),
    ("qwen_vl", "config.json", "vision_config.tokens_per_second"),
    ("qwen_vl", "config.json", "vision_config.hidden_act"),
    ("qwen_vl", "config.json", "architectures"),
    ("qwen_vl", "preprocessor_config.json", "max_pixels"),
    ("qwen_vl", "preprocessor_config.json", "image_mean"),
    ("qwen_vl", "generation_config.json", "do_sample"),
    ("qwen_vl", "generation_config.json", "eos_token_id"),
    ("qwen_vl", "chat_template.json", "chat_template"),
    ("qwen_vl", "tokenizer_config.json", "eos_token"),
    ("internvl", "config.json", "llm_config"),
    ("internvl", "config.json", "llm_config.rope_scaling.factor"),
    ("internvl", "config.json", "min_dynamic_patch"),
    ("internvl", "config.json", "max_dynamic_patch"),
    ("internvl", "config.json", "vision_config.layer_norm_eps"),
    ("internvl", "config.json", "template"),
    ("internvl_hf", "config.json", "image_token_id"),
    ("internvl_hf", "config.json", "text_config"),
    ("internvl_hf", "processor_config.json", "image_seq_length"),
    ("internvl_hf", "preprocessor_config.json", "size"),
    ("internvl_hf", "preprocessor_config.json", "min_patches"),
    ("yarn", "config.json", "rope_scaling.factor"),
    ("yarn", "config.json", "max_position_embeddings"),
    ("llama", "tokenizer_config.json", "bos_token"),
    ("llama", "tokenizer_config.json", "chat_template"),
    ("llama", "tokenizer_config.json", "added_tokens_decoder"),
]


@pytest.mark.parametrize(("name", "file", "key"), READ)
def test_nonsense_is_refused_by_file_and_key(
    folders: dict[str, Path], name: str, file: str, key: str
) -> None:
    path = folders[name] / file
    text = path.read_text()
    keys = tuple(key.split("."))
    try:
        for value in (-1, 1e30):
            path.write_text(json.dumps(changed(json.loads(text), keys, value)))
            with pytest.raises(CheckpointError) as caught:
                load(folders[name])
            message = str(caught.value)
            assert "\n" not in message
            assert file in message, message
            assert keys[-1] in message or "chat template" in message, message
    finally:
        path.write_text(text)


@pytest.mark.parametrize("name", FOLDERS)
def test_nothing_that_is_read_may_be_anything(folders: dict[str, Path], name: str) -> None:
    """A list of lists is never right."""
    folder, accepted = folders[name], set()
    for file in (folder / it for it in FILES if (folder / it).exists()):
        text = file.read_text()
        for keys in keys_of(json.loads(text)):
            file.write_text(json.dumps(changed(json.loads(text), keys, [[1], [[2]]])))
            try:
                load(folder)
            except CheckpointError:
                continue
            finally:
                file.write_text(text)
            accepted.add((file.name, ".".join(keys)))
    unread = UNREAD[name] | UNREAD_BY_ALL
    assert not {it for it in accepted if not {it[0], it[1].split(".")[-1]} & unread}


DOORS: dict[str, Callable[[Path], Any]] = {
    "VideoQA": lambda folder: VideoQA(folder, gpus=0),
    "TextQA": lambda folder: TextQA(folder, gpus=0),
    "a worker": load_model,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("value", [DROPPED, "x", 1e30, [], {}])
def test_from_every_door(door: str, value: Any, tmp_path: Path) -> None:
    folder = qwen_vl(tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    # Required: there is no default for it.
    keys = ("model_type",) if value is DROPPED else ("vision_config", "window_size")
    (folder / "config.json").write_text(json.dumps(changed(content, keys, value)))
    with pytest.raises(CheckpointError, match=rf"config\.json'.*{keys[-1]}"):
        DOORS[door](folder)


@pytest.mark.parametrize(
    "command",
    [["plan", "x.png"], ["ask", "x.png", "Q?", "--json"], ["text", "x", "Q?"]],
    ids=["plan", "ask", "text"],
)
def test_from_the_command_line(command: list[str], tmp_path: Path) -> None:
    folder = qwen_vl(tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    broken = changed(content, ("num_attention_heads",), "x")
    (folder / "config.json").write_text(json.dumps(broken))
    (tmp_path / "x").write_text("text")
    done = subprocess.run(
        [sys.executable, "-m", "spava_app", *command, "--model", str(folder), "--gpus", "0"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "config.json" in line
    assert "num_attention_heads='x': must be a whole number" in line
    assert ("--json" in command) == line.startswith("{")
