"""Options from flags, the environment and a file, in this order; unknown ones are errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from spava_app import cli
from spava_app.configuration import check_environment


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
        ("cpu-ranks = 'two'\n", "--cpu-ranks"),
    ],
)
def test_what_nobody_knows_is_one_line(
    content: str, says: str, video: Path, tmp_path: Path
) -> None:
    config = tmp_path / "spava.toml"
    config.write_text(content)
    done = CliRunner().invoke(cli.app, ["--config", str(config), "plan", str(video)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_an_unknown_variable_and_a_missing_file_are_told(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "no.toml")
    done = CliRunner().invoke(cli.app, ["--config", missing, "plan", str(video)])
    assert (done.exit_code, missing in done.stderr) == (2, True)
    monkeypatch.setenv("SPAVA_METOD", "full")
    done = CliRunner().invoke(cli.app, ["plan", str(video)])
    assert done.exit_code == 2
    assert (
        done.stderr
        == "error: SPAVA_METOD='full': nothing is called so; did you mean SPAVA_METHOD?\n"
    )


def test_every_option_is_read_from_a_variable_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
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


def test_json_may_be_asked_for_in_the_environment(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAVA_JSON", "1")
    done = CliRunner().invoke(cli.app, ["plan", str(video)])
    assert json.loads(done.stdout)["num_tokens"] > 0


def test_a_full_disk_below_stdout_is_one_line(video: Path) -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "spava_app", "plan", str(video), "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write: No space left on device\n"
