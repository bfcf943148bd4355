"""The package as users get it: one import name, everything in the wheel, and a command that starts
at once.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from spava_app.versions import TESTED, version_range

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("engine", "eval", "kernels", "ui")


def run_python(code: str, *, cwd: Path = ROOT) -> str:
    """stdout of a fresh interpreter with the import path that launch.sh gives it."""
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_top_level_names_stay_free() -> None:
    # transformers looks a package called `kernels` up by that name: it must never find ours.
    code = (
        "import importlib.util as u\n"
        f"for name in {LINKED}:\n"
        "    spec = u.find_spec(name)\n"
        "    print(name, spec and (spec.origin or list(spec.submodule_search_locations)))"
    )
    for line in run_python(code).splitlines():
        assert str(ROOT) not in line


def test_linked_packages_are_relative_links_into_the_repository() -> None:
    for name in LINKED:
        link = ROOT / "spava_app" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_kernels_package_has_no_content() -> None:
    # A `__version__` there would be read as the version of Hugging Face's package.
    tree = ast.parse((ROOT / "kernels/__init__.py").read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_each_folder_names_its_modules_and_no_others() -> None:
    for init in sorted(
        init for top in ("spava_app", *LINKED) for init in (ROOT / top).rglob("__init__.py")
    ):
        table = ast.get_docstring(ast.parse(init.read_text())) or ""
        modules = {path.stem for path in init.parent.glob("*.py")} - {"__init__", "__main__"}
        rows = re.findall(r"^ *([a-z_0-9]+(?:, [a-z_0-9]+)*)  +\S", table, re.MULTILINE)
        named = {name for row in rows for name in row.split(", ")}
        assert named <= modules, f"{init}: {named - modules} are not there"
        assert not named or named == modules, f"{init}: {modules - named} are not named"


def test_kernels_import_only_torch_and_its_accelerators() -> None:
    allowed = {"torch", "triton", "flash_attn", *sys.stdlib_module_names}
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                leaves = ("spava_app.errors", "spava_app.output_file", "spava_app.terminal_text")
                ours = name.startswith(("spava_app.kernels", *leaves))
                assert ours or name.partition(".")[0] in allowed, f"{path.name} imports {name}"


def test_importing_the_package_needs_no_torch() -> None:
    code = (
        "import sys, spava_app, spava_app.cli.main\n"
        "print('torch' in sys.modules, spava_app.__version__)"
    )
    loaded, found = run_python(code).split()
    assert loaded == "False"
    assert found.count(".") == 2


def test_what_answers_loads_no_compiler() -> None:
    """torch's takes over a second of every driver and worker, and nothing here compiles."""
    code = (
        "import sys, spava_app.api.video_qa, spava_app.engine.workers.serving\n"
        "print(sorted({'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    assert run_python(code) == "[]"


@pytest.mark.parametrize("words", [[], ["ask"], ["demo"], ["synth"]])
def test_help_loads_no_torch_and_shows_an_example(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from spava_app.cli.main import app\n"
        f"app([*{words}, '--help'], prog_name='spava', standalone_mode=False)\n"
        "print('loaded:', sorted({'torch', 'transformers', 'av', 'numpy'} & set(sys.modules)))"
    )
    out = run_python(code)
    assert "Usage: spava" in out
    assert "loaded: []" in out
    assert "Example: spava" in out or not words


def test_launcher_and_project_agree_on_versions() -> None:
    launcher = (ROOT / "launch.sh").read_text()
    for name in ("python", "torch"):
        oldest, untested = TESTED[name]
        assert f"readonly {name.upper()}_OLDEST={oldest}\n" in launcher
        assert name == "python" or f"readonly TORCH_UNTESTED={untested}\n" in launcher


def test_version_ranges_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(TESTED) > {"python"}
    for name in set(TESTED) - {"python"}:
        assert f"{name}{version_range(name)}" in project["dependencies"]
    oldest, untested = TESTED["python"]
    assert project["requires-python"] == f">={oldest}"
    minors = range(int(oldest.partition(".")[2]), int(untested.partition(".")[2]))
    named = {text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text}
    assert named == {f"3.{minor}" for minor in minors}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, so that the build leaves nothing in the
    checkout.
    """
    try:
        setuptools = version("setuptools")
    except PackageNotFoundError:
        setuptools = "0"
    if int(setuptools.partition(".")[0]) < 77:
        pytest.skip("setuptools 77 or newer is not installed, and fetching it needs the network")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("spava_app", *LINKED):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = ["wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder]
    subprocess.run([sys.executable, "-m", "pip", *command, source], check=True, timeout=120)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_every_module_and_asset(wheel: zipfile.ZipFile) -> None:
    expected = set()
    for name in ("spava_app", *LINKED):
        prefix = "" if name == "spava_app" else "spava_app/"
        # rglob does not follow the links inside spava_app, so every file is met once.
        expected |= {prefix + str(p.relative_to(ROOT)) for p in (ROOT / name).rglob("*.py")}
    assets = (p for p in (ROOT / "spava_app/assets").rglob("*") if p.is_file())
    expected |= {str(p.relative_to(ROOT)) for p in assets} | {"spava_app/py.typed"}
    assert expected <= set(wheel.namelist())


def test_wheel_takes_one_top_level_name(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"spava_app"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
