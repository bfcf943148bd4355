"""launch.sh, run on the environment that runs the tests: nothing is installed here."""

import os
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
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\ncase "$*" in *" pip install "*) exit 7 ;; esac\n')
    python.chmod(0o755)
    done = launch("demo", VIRTUAL_ENV=str(tmp_path), SPAVA_SKIP_INSTALL="")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "launch.sh: error: this step failed with status 7: installing spava-app (run)"


def test_the_second_start_installs_nothing(tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    log = tmp_path / "log"
    python.write_text(f'#!/bin/sh\necho "$*" >>"{log}"\n')
    python.chmod(0o755)
    for _ in range(2):
        done = launch("demo", VIRTUAL_ENV=str(tmp_path), SPAVA_SKIP_INSTALL="")
        assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert calls.count("-m pip install -e") == 1
    assert calls.count("-m spava_app demo") == 2


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
