"""What errors advise is run: it helps."""

import re
import shlex
from pathlib import Path

import pytest
from ffmpeg import needs_ffmpeg, run_ffmpeg
from moving_bar import number, write
from sabotage import DECODER, saboteur

import spava_app
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.decoder_process import end_idle
from spava_app.engine.video.probe import probe
from spava_app.errors import VideoError

COMMAND = re.compile(r"ffmpeg -[^\"')]+")


def commands(text: str) -> list[str]:
    return [found.strip() for found in COMMAND.findall(text)]


def test_all_commands_that_errors_name() -> None:
    """Each is run below; a new one is to be."""
    named = set()
    for folder in ("", "engine", "kernels", "ui", "eval"):
        for path in (Path(spava_app.__file__).parent / folder).rglob("*.py"):
            named |= set(commands(path.read_text()))
    assert named == {"ffmpeg -i video -c:v mpeg4 -q:v 2 out.mp4"}


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "codec", "options", "size"),
    [
        ("clip.avi", "libx264", {"bf": "3"}, (128, 96)),
        ("clip.h264", "libx264", {"bf": "3"}, (128, 96)),
        ("odd.mkv", "ffv1", {}, (129, 97)),
        ("clip.webm", "libvpx", {"deadline": "realtime"}, (128, 96)),
    ],
)
def test_converting(
    name: str,
    codec: str,
    options: dict[str, str],
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / name, 30, codec, options=options, size=size)
    end_idle()
    sabotage = saboteur(tmp_path / "site", monkeypatch)
    sabotage(
        DECODER,
        "import os, signal\n"
        "from spava_app.engine.video.sandbox import service\n"
        "service.look = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)\n",
    )
    with pytest.raises(VideoError, match="crashed") as caught:
        probe(path)
    sabotage(DECODER, "pass")
    [command] = commands(str(caught.value))
    out = tmp_path / "out.mp4"
    words = {"video": str(path), "out.mp4": str(out)}
    run_ffmpeg(*[words.get(word, word) for word in shlex.split(command)[1:]])
    info = probe(out)
    shown = [number(group.pictures[0]) for group in decode_frames(info.source(range(30)))]
    assert shown == list(range(30))
