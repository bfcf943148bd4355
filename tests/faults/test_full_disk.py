"""No place to write: the cache is told of in a warning and changes no answer; temporary files are
needed, and their place is named.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import started

from spava_app.api.video_qa import Answer, VideoQA
from spava_app.engine.synthetic.cards import CardScene

KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={64 * KIB}", "none", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def ask_about_all(qa: VideoQA, scene: CardScene, clip: Path) -> list[Answer]:
    """Twice about each card; every answer must be right."""
    answers = []
    for card in scene.cards * 2:
        answers.append(qa.ask(clip, card.question))
        assert answers[-1].text == card.answer
    return answers


def test_the_caches_disk_is_full(
    disk: Path, scene: CardScene, clip: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some units fit: those are read again, and nothing else."""
    monkeypatch.setenv("SPAVA_CACHE", str(disk))
    with VideoQA(method="spava") as qa:
        answers = ask_about_all(qa, scene, clip)
    told = {warning for answer in answers for warning in answer.warnings}
    assert told == {
        f"visual embeddings are not kept: No space left on device in {disk}/embeddings; "
        "answers go on"
    }
    assert sum(path.stat().st_blocks * 512 for path in disk.rglob("*")) <= 64 * KIB
    # Another process finds what was written, and makes the rest again.
    with VideoQA(cpu_ranks=1, method="full") as alone:
        ask_about_all(alone, scene, clip)


def test_the_cache_may_not_be_written(
    disk: Path, scene: CardScene, clip: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-only, and so for root too."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    monkeypatch.setenv("SPAVA_CACHE", str(disk))
    with VideoQA(method="spava") as qa:
        answers = ask_about_all(qa, scene, clip)
    [told] = {warning for answer in answers for warning in answer.warnings}
    assert "Read-only file system" in told


def test_temporary_files_cannot_be_made(clip: Path, mark: str, tmp_path: Path) -> None:
    """A process that may write no file at all, as on a full disk."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "sys.argv = ['spava', 'ask', sys.argv[1], 'What?', '--no-cache']\n"
        "from spava_app.cli.main import main\n"
        "main()\n"
    )
    with started(["-c", code, str(clip)], mark, tmp_path) as command:
        _, said = command.communicate(timeout=60)
        assert command.returncode == 2
    assert said.startswith("error: TMPDIR=")
    assert len(said.splitlines()) == 1
