"""launch.sh, run on the environment that runs the tests: nothing is installed here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def launch(
    *words: str, script: Path = ROOT / "launch.sh", cwd: Path = ROOT, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run the launcher with this interpreter's environment as the active one."""
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "SPAVA_SKIP_INSTALL": "1"} | settings
    return subprocess.run(
        [script, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


def program(path: Path, body: str) -> None:
    """A shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_no_word_prints_usage_and_fails() -> None:
    done = launch()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: ./launch.sh COMMAND")


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help_prints_usage(word: str) -> None:
    done = launch(word)
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "test [PYTEST ARGS]" in done.stdout


def test_other_words_go_to_spava() -> None:
    done = launch("no-such-command")
    assert done.returncode == 2
    assert "No such command 'no-such-command'" in done.stderr


def test_runs_through_a_link_from_another_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "start here").symlink_to(ROOT / "launch.sh")
    done = launch("--version", script=folder / "start here", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("spava ")


def test_test_passes_its_arguments_to_pytest(tmp_path: Path) -> None:
    done = launch("test", "--version", cwd=tmp_path)
    assert done.returncode == 0
    assert "pytest" in done.stdout + done.stderr


def test_an_environment_without_python_is_named(tmp_path: Path) -> None:
    done = launch("demo", VIRTUAL_ENV=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"launch.sh: error: VIRTUAL_ENV={tmp_path} holds no bin/python\n"


def test_a_failing_step_is_named(tmp_path: Path) -> None:
    # An environment whose interpreter fails at every installation, without a word.
    program(tmp_path / "bin/python", 'case "$*" in *" pip install "*) exit 7 ;; esac')
    done = launch("demo", VIRTUAL_ENV=str(tmp_path), SPAVA_SKIP_INSTALL="")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "launch.sh: error: this step failed with status 7: installing spava-app (run)"


def test_the_second_start_installs_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program(tmp_path / "bin/python", f'echo "$*" >>"{log}"')
    for _ in range(2):
        done = launch("demo", VIRTUAL_ENV=str(tmp_path), SPAVA_SKIP_INSTALL="")
        assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert calls.count("-m pip install -e") == 1
    assert calls.count("-m spava_app demo") == 2


@pytest.mark.parametrize(
    ("version", "serves"),
    [("2.10.1", False), ("2.11.0+cpu", True), ("2.99", True), ("3.0.0a0+git1", False)],
)
def test_torch_is_installed_where_none_serves(version: str, serves: bool, tmp_path: Path) -> None:
    """An environment whose interpreter runs code, sees a torch, and installs nothing."""
    info = tmp_path / f"site/torch-{version}.dist-info/METADATA"
    info.parent.mkdir(parents=True)
    info.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    log = tmp_path / "log"
    program(
        tmp_path / "bin/python",
        f'[ "$1" = - ] && PYTHONPATH="{info.parents[1]}" exec "{sys.executable}" "$@"\n'
        f'echo "$*" >>"{log}"',
    )
    done = launch("demo", VIRTUAL_ENV=str(tmp_path), SPAVA_SKIP_INSTALL="")
    assert done.returncode == 0, done.stderr
    assert ("pip install" in log.read_text() and "torch==" in log.read_text()) != serves


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The launcher alone, in a folder without an environment."""
    return Path(shutil.copy(ROOT / "launch.sh", tmp_path))


def test_a_python_that_pyenv_has_but_did_not_choose(checkout: Path) -> None:
    """Its shim is on the path and fails."""
    folder = checkout.parent
    program(folder / "shims/python3.98", "echo pyenv: command not found >&2; exit 127")
    real = folder / "pyenv/versions/3.98.1/bin/python3.98"
    program(real, f'exec "{sys.executable}" "$@"')
    path = f"{folder}/shims:{os.environ['PATH']}"
    settings = {"PATH": path, "PYTHON": "python3.98", "VIRTUAL_ENV": "", "PYTHONPATH": str(ROOT)}
    done = launch("--version", script=checkout, PYENV_ROOT=f"{folder}/pyenv", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("spava ")


@pytest.mark.parametrize("body", [None, "exit 127", 'case "$*" in *version_info*) exit 1; esac'])
def test_a_python_that_does_not_serve_is_named(body: str | None, checkout: Path) -> None:
    """Missing, one that does not start, and one that is too old."""
    python = checkout.parent / "python"
    if body is not None:
        program(python, body)
    done = launch(
        "demo", script=checkout, PYTHON=str(python), VIRTUAL_ENV="", SPAVA_SKIP_INSTALL=""
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"launch.sh: error: Python 3.11 or newer is needed: {python} is ")
    assert not (checkout.parent / ".venv").exists()


def test_another_python_than_that_of_the_environment_is_told(checkout: Path) -> None:
    """The environment of a Python 3.97, and a Python 3.98 that is asked for."""
    folder = checkout.parent
    for file, minor in ((".venv/bin/python", 97), ("new/python", 98)):
        program(folder / file, f'case "$*" in *print*version_info*) echo 3.{minor} ;; esac')
    settings = {"VIRTUAL_ENV": "", "SPAVA_SKIP_INSTALL": "", "PYTHON": str(folder / "new/python")}
    done = launch("demo", script=checkout, **settings)
    assert (
        f"PYTHON={folder}/new/python has no effect: {folder}/.venv is there, with Python 3.97"
        in (done.stderr)
    )
    settings["PYTHON"] = str(folder / ".venv/bin/python")
    assert "has no effect" not in launch("demo", script=checkout, **settings).stderr


def test_run_takes_a_script_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import sys, spava_app; print('hello', *sys.argv[1:])")
    done = launch("run", "hello.py", "a b", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "hello a b\n"), done.stderr
    assert launch("run").returncode == 1


def test_several_processes_start_under_torchrun_and_nothing_listens(tmp_path: Path) -> None:
    (tmp_path / "where.py").write_text(
        "import os, psutil\n"
        "parent = psutil.Process().parent()\n"
        "listens = [it for it in parent.net_connections() if it.status == 'LISTEN']\n"
        "open(os.environ['RANK'], 'w').write(f\"{os.environ['WORLD_SIZE']} {listens}\")\n"
    )
    done = launch("run", "where.py", cwd=tmp_path, NPROC_PER_NODE="2", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2 []"] * 2


@pytest.mark.parametrize("missing", ["NODE_RANK", "MASTER_ADDR"])
def test_several_machines_must_be_described(missing: str) -> None:
    settings = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"} | {missing: ""}
    done = launch("demo", **settings)
    assert done.returncode == 1
    assert f"NNODES=2 needs {missing}" in done.stderr


def test_continuous_integration_finds_the_newest_python(tmp_path: Path) -> None:
    """On the path or of pyenv; neither names that are no version, nor what does not start."""

    def newest() -> str:
        code = '. <(sed -n "/^newer_python/,/^}/p" .ci/run); newer_python "$0"'
        path = f"{tmp_path}/bin:/usr/bin:/bin"
        environment = os.environ | {"PATH": path, "PYENV_ROOT": f"{tmp_path}/pyenv"}
        command = ["bash", "-c", code, sys.executable]
        return subprocess.check_output(command, env=environment, cwd=ROOT, text=True).strip()

    assert newest() == ""
    new, newer = tmp_path / "bin/python3.97", tmp_path / "pyenv/versions/3.98.1/bin/python3.98"
    program(new, "exit 0")
    program(tmp_path / "bin/python3.99", "exit 127")
    program(tmp_path / "bin/python3.99-config", "exit 0")
    assert newest() == str(new)
    program(newer, "exit 0")
    assert newest() == str(newer)
