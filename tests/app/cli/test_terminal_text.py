"""Nothing that other people wrote is obeyed by a terminal: every command, on a real one."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.synthetic.cards import random_scene, write_video
from spava_app.terminal_text import _Guarded, shown, shown_json

# Writes the clipboard, clears the screen, turns the rest of the line round; in C0, C1 and beyond.
NASTY = "\x1b]52;c;aGFja2Vy\x07\x1b[2J\x9b31m\u202egnp\x7f"
SHOWN = r"\x1b]52;c;aGFja2Vy\x07\x1b[2J\x9b31m\u202egnp\x7f"
OBEYED = [text.encode() for text in ("\x1b]52", "\x07", "\x1b[2J", "\x9b", "\u202e", "\x7f")]

# Several commands one after the other in one process, as one person types them.
RUNS = """
import json, sys
from spava_app.cli.main import main
for number, words in enumerate(json.loads(sys.argv[1])):
    print(f"command {number}:", flush=True)
    sys.argv = ["spava", *words]
    try:
        main()
    except SystemExit as end:
        print(f"ended {number} with {end.code or 0}", flush=True)
"""


def on_terminal(
    words: Sequence[str], settings: Mapping[str, str] = MappingProxyType({}), *, piped: bool = False
) -> tuple[str, bytes]:
    """What a terminal gets of `python WORDS`, as its side of it and, if `piped`, on stdout."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=theirs,
        stdout=subprocess.PIPE if piped else theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "400", "TERM": "xterm", "PYTHONUTF8": "1", **settings},
    )
    os.close(theirs)
    screen = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not more:
            break
        screen += more
    os.close(ours)
    out = process.communicate()[0] or b""
    for text in OBEYED:
        assert text not in screen, screen[max(0, screen.index(text) - 200) :][:400]
    return screen.decode(), out


def in_turn(
    commands: Sequence[Sequence[str]], settings: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """What a terminal gets of each command."""
    screen, _ = on_terminal(["-c", RUNS, json.dumps(commands)], settings)
    parts = []
    for number in range(len(commands)):
        before, found, screen = screen.partition(f"ended {number} with ")
        assert found, before
        parts.append(before.partition(f"command {number}:")[2])
    return parts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a tokenizer that says something nasty for every digit."""
    folder = tmp_path_factory.mktemp("model") / f"model{NASTY}"
    shutil.copytree(EMBEDDED, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    says = {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": f"<{NASTY}>"}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"], says]}
    path.write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / f"clip{NASTY}.mp4"
    write_video(random_scene(8, 1, seed=3), path)
    return path


def asking(model: Path, clip: Path) -> list[str]:
    question = random_scene(8, 1, seed=3).cards[0].question
    return ["ask", str(clip), question, "--model", str(model), "--cpu-ranks", "1", "--no-cache"]


def test_answers_are_shown_and_not_obeyed(model: Path, clip: Path) -> None:
    """As they come, with the plan and the log around them."""
    [streamed] = in_turn([[*asking(model, clip), "-vv"]])
    assert f"<{SHOWN}>" in streamed
    assert f"model{SHOWN} loaded on 1 rank" in streamed  # the log


@pytest.mark.slow  # the test above has one answer too
def test_answers_as_json_and_through_a_pipe_are_unchanged(model: Path, clip: Path) -> None:
    ask = asking(model, clip)
    [as_json] = in_turn([[*ask, "--json"]])
    answer = json.loads(as_json[as_json.index("{") : as_json.rindex("}") + 1])
    assert answer["text"] == f"<{NASTY}>"
    assert answer["plan"]["media"][0]["path"] == str(clip)
    # A pipe gets every character, while the terminal beside it gets none of them.
    screen, out = on_terminal(["-m", "spava_app", *ask], piped=True)
    assert out.decode() == f"<{NASTY}>\n"
    assert "total" in screen


def test_what_every_command_says_of_its_arguments(tmp_path: Path, model: Path) -> None:
    broken = tmp_path / f"broken{NASTY}.mp4"
    broken.write_text(f"no video {NASTY}")
    template = tmp_path / "template"
    shutil.copytree(EMBEDDED, template)
    thrown = "{{ raise_exception('" + NASTY + "') }}"
    (template / "chat_template.jinja").write_text(thrown)
    config = tmp_path / f"{NASTY}.toml"
    config.write_text(f'nasty = "{shown_json(NASTY)}"\n')
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(f'method = "{shown_json(NASTY)}"\n')
    nasty = ["--method", NASTY]
    commands = [
        ["ask", str(broken), "What?", "--debug"],
        ["ask", str(broken), "What?", "--json"],
        ["ask", str(broken), "What?", "-vv"],
        ["ask", f"{NASTY}.mp4", "What?"],
        ["ask", "a.mp4", "What?", f"--{NASTY}"],
        ["ask", "a.mp4", "What?", "--gpus", NASTY],
        ["plan", "a.mp4", *nasty],
        ["plan", "a.mp4", "--model", f"./{NASTY}"],
        ["text", NASTY, "What?", "--model", str(model)],
        ["demo", NASTY],
        ["synth", str(tmp_path / f"new{NASTY}.mp4"), "--seconds", "4", "--cards", "1"],
        ["ask", str(tmp_path / f"new{NASTY}.mp4"), "What?", "--model", str(template)],
        ["synth", str(tmp_path / NASTY / "no.mp4"), "--seconds", "4", "--cards", "1"],
        ["doctor"],
        [NASTY],
        ["--config", str(config), "doctor"],
        ["--config", str(wrong), "plan", "a.mp4"],
        ["--config", str(wrong), "ask", "--help"],
    ]
    settings = {"SPAVA_CACHE": str(tmp_path / f"cache{NASTY}"), f"SPAVA_MODL{NASTY}": "x"}
    told = in_turn(commands, settings)
    for words, said in zip(commands[:-1], told, strict=False):
        kept = SHOWN in said or shown_json(NASTY).replace("\\u00", "\\x") in said
        assert kept or "--json" in words or "\\u001b]52" in said, (words, said)
    assert "Traceback" in told[0]
    # A help text keeps its colours.
    assert "\x1b[1m" in told[-1]
    # rich leaves out the bell by itself.
    assert "\\x1b" not in told[-1].replace(SHOWN.replace(r"\x07", ""), "")


def test_the_command_itself_is_guarded() -> None:
    screen, _ = on_terminal(["-m", "spava_app", "ask", f"--{NASTY}"])
    assert SHOWN in screen


BENCHES = ["kernels.bench", "engine.bench", "engine.bench.vision", "engine.bench.video"]


@pytest.mark.slow
@pytest.mark.parametrize("module", [*BENCHES, "engine.bench.frames", "eval.predictions"])
def test_benchmarks_are_guarded(module: str) -> None:
    screen, _ = on_terminal(["-m", f"spava_app.{module}", f"--{NASTY}"])
    assert SHOWN in screen


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain\ttext\nwith é, 漢字, 👩\u200d👧 and \u200f\u05d0\u200e", None),
        (r"C:\x1b is no escape", None),
        ("\x00\r\x1b\x7f\x80\x9b\x9f", r"\x00\x0d\x1b\x7f\x80\x9b\x9f"),
        ("\u202a\u202e\u2066\u2069", r"\u202a\u202e\u2066\u2069"),
        ("a file\udc9b\udcff", r"a file\x9b\xff"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_shown(text: str, wanted: str | None) -> None:
    assert shown(text) == (text if wanted is None else wanted)
    value = {"a": text}
    assert json.loads(shown_json(json.dumps(value, ensure_ascii=False, indent=1))) == value


def test_a_sequence_in_two_pieces_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "screen"
    with path.open("w", encoding="utf-8") as file:
        guarded = _Guarded(file)
        assert guarded.write("\x1b") == 1
        print("]52;c;x", "\x07", file=guarded, end="")  # type: ignore[arg-type]
        guarded.writelines(["\x9b", "1m"])
        assert not hasattr(guarded, "buffer")
        assert guarded.encoding == "utf-8"
    assert path.read_text() == r"\x1b]52;c;x \x07\x9b1m"
