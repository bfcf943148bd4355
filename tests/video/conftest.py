"""Small real videos, made once per session, and a sequential decode written without the package."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from clips import MILLISECOND, write_video


def _remux(
    source: Path, target: Path, change: Callable[[list[av.Packet]], list[av.Packet]]
) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        new.start_encoding()
        for packet in change([p for p in old.demux(video=0) if p.size]):
            packet.stream = stream
            new.mux(packet)


@pytest.fixture(scope="session")
def remux() -> Callable[..., None]:
    """Copy the packets of a video after `change` has had its way with them."""
    return _remux


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths of the test videos."""
    folder = tmp_path_factory.mktemp("videos")
    ticks = Fraction(1, 30)
    gop250 = {"g": "250", "keyint_min": "250", "sc_threshold": "0", "bf": "3"}
    short_gops = {"g": "12", "sc_threshold": "0", "bf": "2"}
    # Bursts at 40 frames a second between stills of up to 2 seconds.
    uneven = np.cumsum([0, *([25] * 20 + [400] + [25] * 10 + [2000] + [33, 34] * 20 + [700]) * 2])
    v = SimpleNamespace()

    def add(name: str, times: list[int], base: Fraction = ticks, **how: Any) -> None:
        path = folder / name
        setattr(v, path.stem, path)
        write_video(path, times, base, **how)

    add("gop250.mp4", list(range(620)), options=gop250)
    add("variable.mp4", uneven.tolist(), MILLISECOND, options=short_gops)
    add("short_gops.mp4", list(range(90)), options=short_gops)
    add("rotated.mp4", list(range(5)), rotation=-90)
    add("odd.mp4", list(range(7)), size=(97, 61), pix_fmt="yuv444p")
    add("late.ts", list(range(300, 390)), options=short_gops)
    add("old.avi", list(range(40)), codec="mpeg4", options={"bf": "2", "g": "10"})
    add("open_gop.mp4", list(range(90)), options=short_gops | {"x264-params": "open-gop=1"})
    refresh = {"g": "20", "bf": "0", "x264-params": "intra-refresh=1"}
    add("intra_refresh.mp4", list(range(90)), options=refresh)
    quick = {"deadline": "realtime", "cpu-used": "8", "g": "8"}
    vp9 = [0, 33, 67, 100, 500, 533, 567, 600, 633, 667, 1200, 1233, 1267, 1300]
    add("short.webm", vp9, MILLISECOND, codec="libvpx-vp9", options=quick)
    add("vp8.webm", list(range(20)), codec="libvpx", options=quick)
    add("colon: 50%.mp4", list(range(3)))
    v.colon = folder / "colon: 50%.mp4"
    v.folder = folder
    return v


@pytest.fixture(scope="session")
def sequential() -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    """Decode a whole file from its start: seconds since the first frame, and RGB as stored. The
    order is the decoder's, since some containers know decoding times only.
    """

    def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
        with av.open(f"file:{path}") as container:
            shown = [
                ((f.pts or 0) * (f.time_base or 1), f.to_ndarray(format="rgb24"))
                for f in container.decode(video=0)
            ]
        seconds = sorted(second for second, _ in shown)
        times = np.array([float(s - seconds[0]) for s in seconds])
        return times, np.stack([picture for _, picture in shown])

    return decode
