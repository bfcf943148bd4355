"""No code of a model folder runs, and nothing asks on standard input whether to run it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spava_app
from spava_app.engine.checkpoints.hub import EMBEDDED

ROOT = Path(spava_app.__file__).parent
# Loads every folder that is named, says how it went, then what is left of standard input.
LOAD = """
import os, select, sys
from spava_app import VideoQA
from spava_app.errors import SpavaError
for folder in sys.argv[1:]:
    try:
        with VideoQA(folder, gpus=0) as qa:
            print("loaded", qa._prompts.build("What?").query_len)
    except SpavaError as error:
        print("refused", error)
ready, _, _ = select.select([0], [], [], 0)
print("left", os.read(0, 100) if ready else None)
"""


def evil(folder: Path, marker: Path, config: dict, tokenizer: dict, drop: tuple[str, ...]) -> Path:
    """The embedded model with settings that name code of the folder, which would write a file."""
    shutil.copytree(EMBEDDED, folder)
    for name, change in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    for name in drop:
        (folder / name).unlink()
    code = f"open({str(marker)!r}, 'w').write('ran')\nclass Evil: pass\n"
    for name in ("evil.py", "conversation.py", "modeling_evil.py", "__init__.py"):
        (folder / name).write_text(code)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    root = tmp_path_factory.mktemp("evil")
    marker = root / "ran"
    cases: list[tuple[dict, dict, tuple[str, ...]]] = [
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}, {}, ()),
        (
            {"model_type": "evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}},
            {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"},
            (),
        ),
        ({}, {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}, ("tokenizer.json",)),
        (
            {"auto_map": {"AutoModel": "modeling_evil.Evil"}, "custom_generate": "evil"},
            {"processor_class": "Evil"},
            (),
        ),
    ]
    made = [evil(root / f"model{i}", marker, *case) for i, case in enumerate(cases)]
    return [str(folder) for folder in made], marker


@pytest.mark.parametrize("stdin", ["piped", "held open", "closed"])
def test_nothing_runs_and_nothing_is_asked(folders: tuple[list[str], Path], stdin: str) -> None:
    paths, marker = folders
    reads, writes = os.pipe()
    if stdin == "piped":
        os.write(writes, b"y\n" * 10)
    if stdin != "held open":
        os.close(writes)
    with open(reads, "rb") as given:
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *paths],
            stdin=given,
            capture_output=True,
            text=True,
            timeout=100,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    if stdin == "held open":
        os.close(writes)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["loaded", "loaded", "refused", "loaded", "left"]
    assert "has no tokenizer.json" in lines[2]
    left = {"piped": b"y\n" * 10, "held open": None, "closed": b""}[stdin]
    assert lines[4] == f"left {left!r}"
    assert not marker.exists()
    assert "trust_remote_code" not in done.stdout + done.stderr


def test_every_loader_of_a_library_is_told_so() -> None:
    """`trust_remote_code=False` is written wherever a class of transformers reads a folder."""
    calls = 0
    walked = os.walk(ROOT, followlinks=True)
    files = (Path(folder, name) for folder, _, names in walked for name in names)
    for file in (file for file in files if file.suffix == ".py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr != "from_pretrained":
                    continue
                calls += 1
                given = {word.arg: word.value for word in node.keywords}
                trusts = given.get("trust_remote_code")
                assert isinstance(trusts, ast.Constant), f"{file}:{node.lineno}"
                assert trusts.value is False, f"{file}:{node.lineno}"
    assert calls >= 2
