"""Variables of the environment that are not ours stop no command, and a slip of the pen is told."""

from pathlib import Path

import pytest
from stage_lines import without_stages
from typer.testing import CliRunner

from spava_app.cli import main as cli

SERVICES = {
    "SPAVA_SERVICE_HOST": "10.0.0.1",
    "SPAVA_SERVICE_PORT": "80",
    "SPAVA_SERVICE_PORT_HTTP": "80",
    "SPAVA_PORT": "tcp://10.0.0.1:80",
    "SPAVA_PORT_80_TCP": "tcp://10.0.0.1:80",
    "SPAVA_PORT_80_TCP_PROTO": "tcp",
    "SPAVA_PORT_80_TCP_PORT": "80",
    "SPAVA_PORT_80_TCP_ADDR": "10.0.0.1",
    # Of Services whose names begin as options do.
    "SPAVA_MODEL_SERVICE_HOST": "10.0.0.2",
    "SPAVA_MODEL_PORT": "tcp://10.0.0.2:80",
    "SPAVA_FRAMES_PORT": "tcp://10.0.0.3:80",
    "SPAVA_FPS_PORT_53_UDP_ADDR": "10.0.0.4",
}
OTHERS = {"SPAVA_HOME": "/srv", "SPAVA_LOG": "debug", "SPAVA_TOKEN": "x", "SPAVA_": "x"}


@pytest.mark.parametrize("command", ["doctor", "plan", "synth", "ask", "text", "demo"])
def test_variables_of_others_are_no_concern(
    command: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SERVICES | OTHERS).items():
        monkeypatch.setenv(name, value)
    words = {
        "doctor": [],
        "plan": [str(video)],
        "synth": [str(tmp_path / "made.mp4"), "--seconds", "4", "--cards", "1"],
    }.get(command, ["--help"])
    done = CliRunner().invoke(cli.app, [command, *words])
    assert (done.exit_code, without_stages(done.stderr)) == (0, "")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SPAVA_METOD", "SPAVA_METHOD"),
        ("SPAVA_MODLE", "SPAVA_MODEL"),
        ("SPAVA_FRAME", "SPAVA_FRAMES"),
        ("SPAVA_GPU", "SPAVA_GPUS"),
        ("SPAVA_MAX_TOKENS", "SPAVA_MAX_NEW_TOKENS"),
    ],
)
def test_a_near_miss_is_a_warning(
    name: str, meant: str, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "full")
    done = CliRunner().invoke(cli.app, ["plan", str(video)])
    assert done.exit_code == 0
    warning = f"warning: unknown environment variable {name}; did you mean {meant}?\n"
    assert without_stages(done.stderr) == warning
    monkeypatch.setenv(name, "")
    assert without_stages(CliRunner().invoke(cli.app, ["plan", str(video)]).stderr) == ""


@pytest.mark.parametrize(
    ("name", "value"), [("SPAVA_FRAMES", "tcp://10.0.0.1:80"), ("SPAVA_METHOD", "guess")]
)
def test_a_wrong_value_of_an_option_stays_an_error(
    name: str, value: str, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli.app, ["plan", str(video)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {name}='{value}': ")
