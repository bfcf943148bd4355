"""A decoder process that a file has taken over tells and asks what it likes: it is refused, with a
typed error, and gets no file but those of its request.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sabotage import DECODER, saboteur

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.decoder_process import decoder_process, end_idle
from spava_app.engine.video.probe import look_at, probe
from spava_app.errors import SpavaError, VideoError

FACTS = {
    "kind": "video",
    "stamp": [1, 2, 3, 4, 5],
    "shape": [64, 96],
    "codec": "h264",
    "cards": False,
    "rotation": 0,
    "time_base": [1, 30],
    "last_span": [1, 30],
}
TWO_FRAMES = "bytes([0] * 8 + [1] + [0] * 7 + [1, 1])"


@pytest.fixture
def taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Processes whose service is changed by some code."""
    end_idle()
    modules = "from spava_app.engine.video.sandbox import service\n"
    yield lambda code: saboteur(tmp_path / "site", monkeypatch)(DECODER, modules + code)
    end_idle()


@pytest.mark.parametrize(
    ("facts", "payload"),
    [
        ({}, "b''"),
        ({"kind": "picture", "shape": [10**9, 10**9], "stamp": []}, "b''"),
        ({"kind": "picture", "shape": [3, 4], "stamp": 7}, "b''"),
        (FACTS, "b''"),
        (FACTS | {"shape": [10**9, 10**9]}, TWO_FRAMES),
        (FACTS | {"time_base": [1, 0]}, TWO_FRAMES),
        (FACTS, "bytes(18)"),
        ({"error": {"type": "VideoError"}}, "b''"),
        ({"error": 5}, "b''"),
    ],
)
def test_facts_that_make_no_sense(
    facts: object, payload: str, taken_over: Callable[[str], None], videos
) -> None:
    taken_over(f"service.look = lambda file, pulse: ({facts!r}, {payload})\n")
    with pytest.raises(VideoError, match="the decoder sent no valid answer"):
        look_at(videos.short)


@pytest.mark.parametrize(
    "line",
    [
        *("[]", '{"bytes": -1}', "[" * 100_000, '{"open": -1}'),
        *('{"open": 1}', '{"open": "/etc/passwd"}', '{"open": true}', '{"open": 0}'),
    ],
)
def test_lines_that_make_no_sense(line: str, taken_over: Callable[[str], None], videos) -> None:
    taken_over(
        "import os\n"
        "def look(file, pulse):\n"
        f"    os.write(0, {line!r}.encode() + b'\\n')\n"
        "    return {}, b''\n"
        "service.look = look\n"
    )
    with pytest.raises(VideoError, match="the decoder sent no valid answer"):
        look_at(videos.short)


@pytest.mark.parametrize(
    "message",
    [
        {"slot": 99, "count": 1, "damaged": []},
        {"slot": 0, "count": [], "damaged": []},
        {"slot": 0, "count": 1, "damaged": [10**6]},
        {"slot": 0, "count": 1, "damaged": 3},
        {"slot": -1, "count": 1, "damaged": []},
        {"slot": 0, "count": 0, "damaged": []},
        {"slot": 0, "count": -1, "damaged": []},
        {"slot": 0, "count": 1, "damaged": [-1]},
        {"slot": 0, "count": 1, "damaged": [1]},
        {"slot": 0, "count": 1, "damaged": [0, 0]},
        {"done": True},
        {},
    ],
)
def test_groups_that_make_no_sense(
    message: dict[str, object], taken_over: Callable[[str], None], videos
) -> None:
    source = probe(videos.short).source([0, 1, 2])
    end_idle()
    taken_over(
        "def read(request, wire, pulse):\n"
        "    wire.take_file()\n"
        f"    wire.send({message!r})\n"
        "service._read = read\n"
    )
    with pytest.raises(SpavaError, match="the decoder sent no valid answer"):
        list(decode_frames(source))


def test_files_that_come_with_an_answer_are_not_taken(
    taken_over: Callable[[str], None], videos
) -> None:
    """They would fill the table of who asks."""
    taken_over(
        "import os, socket\n"
        "real = service.look\n"
        "def look(file, pulse):\n"
        "    with socket.socket(fileno=os.dup(0)) as end:\n"
        "        for _ in range(50): socket.send_fds(end, [b'{\"alive\": true}\\n'], [0])\n"
        "    return real(file, pulse)\n"
        "service.look = look\n"
    )
    with decoder_process() as process:
        process.ask([str(videos.short)], {"hello": True}, seconds=60)
        process.answer()
        before = len(list(Path("/proc/self/fd").iterdir()))
    assert probe(videos.short).num_frames == 14
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # others may have been closed
