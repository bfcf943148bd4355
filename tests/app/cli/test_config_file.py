"""Options from flags, the environment and a file, in this order; unknown keys are errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from spava_app.cli import main as cli
from spava_app.cli.config_file import KUBERNETES, check_environment


def configured(
    file: str, variables: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The file, written, beside these variables of the environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = folder / "spava.toml"
    config.write_text(file)
    return config


def plan(video: Path, *words: str, config: Path | None = None) -> dict[str, object]:
    """The plan of a question with these words."""
    before = ["--config", str(config)] if config else []
    done = CliRunner().invoke(cli.app, [*before, "plan", str(video), "--json", *words])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_flags_win_over_the_environment_and_that_over_the_file(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "spava.toml"
    config.write_text('method = "star"\ncpu-ranks = 3\n[plan]\nframes = 20\n[ask]\nframes = 99\n')
    found = plan(video, config=config)
    assert (found["method"], found["world_size"]) == ("star", 3)
    assert found["media"][0]["num_frames"] == 20  # type: ignore[index]
    monkeypatch.setenv("SPAVA_METHOD", "ring")
    monkeypatch.setenv("SPAVA_FRAMES", "30")
    found = plan(video, config=config)
    assert (found["method"], found["world_size"]) == ("ring", 3)
    assert found["media"][0]["num_frames"] == 30  # type: ignore[index]
    found = plan(video, "--method", "full", config=config)
    assert found["method"] == "full"


def test_the_file_is_found_at_its_usual_place(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "spava").mkdir()
    (tmp_path / "spava" / "config.toml").write_text("cpu_ranks = 1\n")
    assert plan(video)["world_size"] == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("metod = 'full'\n", "did you mean method?"),
        ("[aks]\nfps = 1\n", "did you mean ask?"),
        ("[synth]\nfps = 1\n", "synth.fps="),
        ("fps = \n", "is no TOML"),
        ("plan = 3\n", "plan=3: is a command: write its options below [plan]"),
        ("cpu-ranks = 'two'\n", "cpu-ranks='two': "),
        ("fps = 'fast'\n", "fps='fast': "),
        ("[plan]\nmax_new_tokens = [4]\n", "plan.max_new_tokens=[4]: "),
        ("frames = true\n", "frames=True: "),
        ("json = 'perhaps'\n", "json='perhaps': "),
        ("cpu-ranks = 1\ncpu_ranks = 3\n", "cpu-ranks, cpu_ranks=(1, 3): are one option"),
        (
            "[plan]\npassing_len = 1\npassing-len = 1\n",
            "plan.passing_len, plan.passing-len=(1, 1): are one option",
        ),
        (f"fps = 1{'0' * 5000}\n", "is no TOML: "),
        (f"fps = {'[' * 5000}{']' * 5000}\n", "is no TOML: "),
    ],
)
def test_what_nobody_knows_or_takes_is_one_line_that_names_file_and_key(
    content: str, says: str, video: Path, tmp_path: Path
) -> None:
    config = tmp_path / "spava.toml"
    config.write_text(content)
    done = CliRunner().invoke(cli.app, ["--config", str(config), "plan", str(video)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert str(config) in done.stderr
    assert "--" not in done.stderr  # no flag was given


def test_a_wrong_value_in_the_environment_names_its_variable(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "spava.toml"
    config.write_text("fps = 1\n")
    monkeypatch.setenv("SPAVA_FPS", "fast")
    words = ["--config", str(config), "plan", str(video)]
    done = CliRunner().invoke(cli.app, words)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: SPAVA_FPS='fast': ")
    assert str(config) not in done.stderr
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    assert json.loads(done.stderr)["error"]["field"] == "SPAVA_FPS"
    # A flag is wrong by itself, wherever else there is a value.
    done = CliRunner().invoke(cli.app, [*words, "--fps", "fast"])
    assert (done.exit_code, "'--fps'" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("file", "variables", "flags", "field", "message"),
    [
        ("fps = -1", {}, [], "fps", "fps=-1: give a positive number"),
        ("[plan]\nframes = 0", {}, [], "plan.frames", "plan.frames=0: give a whole number"),
        ("max-new-tokens = 0", {}, [], "max-new-tokens", "max-new-tokens=0: must be"),
        ('method = "full"\nanchor-len = 9', {}, [], "anchor-len", "anchor-len=9: method full"),
        ('model = "no-such"', {}, [], "model", "model='no-such': "),
        ("", {"SPAVA_FPS": "-1"}, [], "SPAVA_FPS", "SPAVA_FPS='-1': give a positive number"),
        ("fps = -1", {"SPAVA_FRAMES": "0"}, [], "SPAVA_FRAMES", "SPAVA_FRAMES='0': give a whole"),
        ("", {"SPAVA_GPUS": "many"}, [], "SPAVA_GPUS", "SPAVA_GPUS='many': give auto or a"),
        ("frames = 3", {"SPAVA_FPS": "2"}, ["--frames", "0"], "frames", "frames=0: give a whole"),
        ("fps = 1\nframes = 3", {}, [], "fps, frames", "fps, frames=(1, 3): give only one of"),
        (
            "[plan]\npassing-len = 8\npassing_fraction = 0.5",
            {},
            [],
            "plan.passing_fraction, plan.passing-len",
            "plan.passing_fraction, plan.passing-len=(0.5, 8): give only one of",
        ),
        (
            "",
            {"SPAVA_FPS": "1", "SPAVA_FRAME_RULE": "internvl"},
            [],
            "SPAVA_FPS, SPAVA_FRAME_RULE",
            "SPAVA_FPS, SPAVA_FRAME_RULE=('1', 'internvl'): give only one of",
        ),
        (
            "",
            {},
            ["--fps", "1", "--frames", "3"],
            "fps, frames",
            "fps, frames=(1.0, 3): give only one of",
        ),
    ],
)
def test_what_the_library_refuses_is_told_as_it_was_written(
    file: str,
    variables: dict[str, str],
    flags: list[str],
    field: str,
    message: str,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured(file, variables, tmp_path, monkeypatch)
    words = ["--config", str(config), "plan", str(video), "--json", *flags]
    done = CliRunner().invoke(cli.app, words)
    assert (done.exit_code, done.stdout) == (2, "")
    error = json.loads(done.stderr)["error"]
    assert error["field"] == field
    assert error["message"].startswith(message)
    assert error["message"].endswith(f"(in {config})") == (not variables and not flags)


FEW, MANY = 20, 60  # of the video of a minute: as asked for, and with one a second


@pytest.mark.parametrize(
    ("file", "variables", "flags", "frames"),
    [
        ("frames = 20", {}, ["--fps", "1"], MANY),
        ("fps = 1", {}, ["--frames", "20"], FEW),
        ("frames = 20", {"SPAVA_FPS": "1"}, [], MANY),
        ("", {"SPAVA_FPS": "1"}, ["--frames", "20"], FEW),
        ("frames = 30", {"SPAVA_FPS": "3"}, ["--frames", "20"], FEW),
        # Those that the file has for one command win over those that it has for all.
        ("fps = 1\n[plan]\nframes = 20", {}, [], FEW),
        ("frames = 20\n[plan]\nfps = 1", {}, [], MANY),
        ("fps = 3\nframes = 30", {}, ["--frames", "20"], FEW),
        ("fps = 3", {}, ["--frame-rule", "internvl", "--frames", "20"], FEW),
        ('frame-rule = "internvl"', {}, ["--fps", "1"], MANY),
        # What takes no part does not beat: fps loses to the rule, which goes with frames.
        ("frames = 20", {"SPAVA_FPS": "3"}, ["--frame-rule", "internvl"], FEW),
    ],
)
def test_of_options_that_exclude_each_other_the_nearer_wins(
    file: str,
    variables: dict[str, str],
    flags: list[str],
    frames: int,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured(file, variables, tmp_path, monkeypatch)
    found = plan(video, *flags, config=config)
    assert found["media"][0]["num_frames"] == frames  # type: ignore[index]


@pytest.mark.parametrize(
    ("file", "flags", "method", "options"),
    [
        ("passing-len = 8", ["--passing-fraction", "0.5"], "spava", {"passing_fraction": 0.5}),
        ("passing-fraction = 0.5", ["--passing-len", "8"], "spava", {"passing_len": 8}),
        # Another method's options are of no use to the one that was asked for.
        ("passing-fraction = 0.5\nanchor-len = 9", ["--method", "full"], "full", {}),
        ("passing-fraction = 0.5\nanchor-len = 9", ["--method", "star"], "star", {"anchor_len": 9}),
    ],
)
def test_options_of_methods_give_way_to_nearer_ones(
    file: str,
    flags: list[str],
    method: str,
    options: dict[str, object],
    video: Path,
    tmp_path: Path,
) -> None:
    config = tmp_path / "spava.toml"
    config.write_text(file)
    if method == "spava":
        flags = [*flags, "--method", "spava"]
    found = plan(video, *flags, config=config)
    assert (found["method"], found["options"]) == (method, options)


@pytest.mark.parametrize(
    ("file", "variables", "flags"),
    [
        ("", {}, ["--fps", "1", "--frames", "20"]),
        ("fps = 1\nframes = 20", {}, []),
        ("[plan]\nfps = 1\nframes = 20", {}, []),
        ("", {"SPAVA_FPS": "1", "SPAVA_FRAMES": "20"}, []),
        ("", {}, ["--fps", "1", "--frame-rule", "internvl"]),
        ("passing-len = 8\npassing-fraction = 0.5", {}, []),
        ('method = "full"\nanchor-len = 9', {}, []),
        ('method = "full"', {}, ["--anchor-len", "9"]),
    ],
)
def test_from_one_source_they_remain_an_error(
    file: str,
    variables: dict[str, str],
    flags: list[str],
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured(file, variables, tmp_path, monkeypatch)
    done = CliRunner().invoke(cli.app, ["--config", str(config), "plan", str(video), *flags])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_missing_file_is_an_error(video: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "no.toml")
    done = CliRunner().invoke(cli.app, ["--config", missing, "plan", str(video)])
    assert (done.exit_code, missing in done.stderr) == (2, True)


def test_every_option_is_read_from_a_variable_that_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = typer.main.get_command(cli.app)
    assert isinstance(root, TyperGroup)
    variables = {
        str(option.envvar)
        for command in root.commands.values()
        for option in command.params
        if option.param_type_name == "option" and option.name != "help"
    }
    assert {"SPAVA_JSON", "SPAVA_NO_CACHE", "SPAVA_ALLOW_PICKLE", "SPAVA_FPS"} <= variables
    for name in variables:
        monkeypatch.setenv(name, "1")
    check_environment(root)
    assert capsys.readouterr().err == ""
    # A Service of such a name would set the option in every container.
    assert not any(map(KUBERNETES.fullmatch, variables))


def test_json_may_be_asked_for_in_the_environment(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAVA_JSON", "1")
    done = CliRunner().invoke(cli.app, ["plan", str(video)])
    assert json.loads(done.stdout)["num_tokens"] > 0


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["plan"], "UsageError"),
        (["plan", "no.mp4", "--no-such"], "UsageError"),
        (["plan", "no.mp4", "--fps", "fast"], "UsageError"),
        (["no-such"], "UsageError"),
        (["--no-such"], "UsageError"),
        (["--config", "no.toml", "plan", "no.mp4"], "InvalidInput"),
        (["plan", "no.mp4"], "VideoError"),
    ],
)
def test_json_in_the_environment_holds_for_every_error(
    words: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAVA_JSON", "1")
    done = CliRunner().invoke(cli.app, words)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert json.loads(done.stderr)["error"]["type"] == kind


@pytest.mark.parametrize("content", ["json = true", "[plan]\njson = 'yes'"])
@pytest.mark.parametrize("words", [[], ["no.mp4", "--no-such"], ["no.mp4", "--frames", "few"]])
def test_json_in_the_file_holds_for_wrong_usage(
    content: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "spava.toml"
    config.write_text(content)
    words = ["--config", str(config), "plan", *words]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 2
    assert json.loads(done.stderr)["error"]["type"] == "UsageError"
    # The environment wins.
    monkeypatch.setenv("SPAVA_JSON", "0")
    assert CliRunner().invoke(cli.app, words).stderr.startswith("error: ")


def test_a_full_disk_below_stdout_is_one_line(video: Path) -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "spava_app", "plan", str(video), "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    error = {"type": "OSError", "message": "cannot write: No space left on device", "field": None}
    assert json.loads(done.stderr) == {"error": error}
