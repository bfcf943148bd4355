"""What probe says of good files, and the errors it gives for the rest."""

import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import probe
from spava_app.errors import VideoError

ALL = [
    "gop250",
    "variable",
    "short_gops",
    "rotated",
    "odd",
    "late",
    "old",
    "open_gop",
    "intra_refresh",
    "short",
    "vp8",
    "colon",
]


@pytest.mark.parametrize("name", ALL)
def test_index_is_what_a_full_decode_shows(name, videos, sequential):
    path = getattr(videos, name)
    times, _ = sequential(path)
    index = probe(path).index
    np.testing.assert_allclose(index.times, times, rtol=0, atol=1e-9)
    assert index.times[0] == 0
    assert index.entries[0, 0] == 0


def test_facts(videos):
    info = probe(videos.gop250)
    assert (info.width, info.height, info.codec, info.orientation) == (96, 64, "h264", 0)
    assert (info.num_frames, info.path) == (620, str(videos.gop250))
    assert info.fps == pytest.approx(30)
    assert info.duration == pytest.approx(620 / 30)
    assert info.index.entries[:, 0].tolist() == [0, 250, 500]
    keys = [int(info.index.pts[key]) for key in (250, 500)]
    seeks = [tuple(it[0] for it in info.index.seeks(f)) for f in (0, 249, 250, 499, 500, 619)]
    assert seeks == [(), (), (keys[0],), (keys[0],), (keys[1], keys[0]), (keys[1], keys[0])]


def test_average_rate_of_uneven_frames_and_of_a_file_without_a_count(videos):
    info = probe(videos.variable)
    assert info.duration == pytest.approx(10.38 + 1 / 30, abs=2e-3)
    assert info.fps == pytest.approx(info.num_frames / info.duration)
    info = probe(videos.short)
    assert (info.num_frames, info.codec) == (14, "vp9")
    assert info.duration == pytest.approx(1.333, abs=2e-3)


def test_rotated_size_is_as_displayed(videos):
    # The track's matrix as QuickTime defines it: right turns down, that is clockwise.
    tracks = videos.rotated.read_bytes().split(b"tkhd")[1]
    matrix = np.frombuffer(tracks[40:76], ">i4").reshape(3, 3)[:2, :2] >> 16
    assert matrix.tolist() == [[0, 1], [-1, 0]]
    info = probe(videos.rotated)
    assert (info.width, info.height) == (64, 96)


def test_info_travels_between_processes(videos):
    info = probe(videos.short)
    copy = pickle.loads(pickle.dumps(info))
    np.testing.assert_array_equal(copy.index.pts, info.index.pts)
    assert copy.index.time_base == info.index.time_base


def test_frames_before_the_first_key_frame_are_left_out(videos, tmp_path, remux, sequential):
    cut = tmp_path / "cut.ts"
    remux(videos.late, cut, lambda packets: packets[5:])
    info = probe(cut)
    assert info.num_frames == 90 - 12
    assert info.index.entries[0, 0] == 0
    np.testing.assert_allclose(info.index.times, sequential(cut)[0], atol=1e-9)


def test_frames_that_lean_on_what_was_cut_off_are_left_out(videos, tmp_path, remux):
    cut = tmp_path / "cut.mkv"
    remux(videos.open_gop, cut, lambda packets: packets[5:])
    with av.open(str(cut)) as container:
        packets = [(p.is_keyframe, p.pts or 0) for p in container.demux(video=0) if p.size]
    first = next(pts for is_key, pts in packets if is_key)
    after = packets[[is_key for is_key, _ in packets].index(True) :]
    assert any(pts < first for _, pts in after)
    info = probe(cut)
    assert info.index.pts[0] == first
    groups = list(decode_frames(info.source(range(info.num_frames))))
    assert len(groups) == info.num_frames
    assert not any(group.damaged for group in groups)


def test_frames_that_an_edit_list_cuts_away_are_left_out(videos, tmp_path, remux, sequential):
    def earlier(packets):
        for packet in packets:
            packet.pts -= 20 * 512
            packet.dts -= 20 * 512
        return packets

    cut = tmp_path / "cut.mp4"
    remux(videos.short_gops, cut, earlier)
    with av.open(str(cut)) as container:
        assert any(p.is_discard for p in container.demux(video=0))
    info = probe(cut)
    assert info.num_frames == 70
    np.testing.assert_allclose(info.index.times, sequential(cut)[0], atol=1e-9)


def test_hidden_vp8_frames_are_left_out(videos, tmp_path, remux, sequential):
    def hide(packets):
        hidden = bytearray(packets[3])
        hidden[0] &= ~0x10
        packet = av.Packet(bytes(hidden))
        packet.pts, packet.dts = packets[3].pts, packets[3].dts
        packet.time_base = packets[3].time_base
        return [*packets[:3], packet, *packets[4:]]

    path = tmp_path / "hidden.webm"
    remux(videos.vp8, path, hide)
    info = probe(path)
    assert info.num_frames == 19
    np.testing.assert_allclose(info.index.times, sequential(path)[0], atol=1e-9)


def test_a_colon_in_a_name_is_no_protocol(videos, monkeypatch):
    monkeypatch.chdir(videos.folder)
    assert probe(videos.colon.name).num_frames == 3


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg")
        assert isinstance(cover, VideoStream)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        image = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(image.reformat(format="yuvj420p")))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(VideoError, match="no video stream"):
        probe(path)


@pytest.fixture
def wrong(tmp_path: Path, videos) -> dict[str, Path]:
    """Files that are not a readable video."""
    files = {
        name: tmp_path / f"{name}.mp4"
        for name in ("missing", "folder", "empty", "text", "playlist", "cut", "sound", "picture")
    }
    files["folder"].mkdir()
    files["empty"].touch()
    files["text"].write_text("What a day it was.\n" * 200)
    files["playlist"].write_text(f"#EXTM3U\n#EXTINF:3,\nfile:{videos.late}\n#EXT-X-ENDLIST\n")
    files["cut"].write_bytes(videos.gop250.read_bytes()[:9000])  # its directory is at the end
    Image.new("RGB", (16, 16)).save(files["picture"], format="png")
    with av.open(str(files["sound"]), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return files


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "no such file"),
        ("folder", "a folder"),
        ("empty", "empty"),
        ("text", "not a video"),
        ("playlist", "not a video"),
        ("cut", "not a video file, nor a picture"),
        ("sound", "no video stream"),
        ("picture", "a picture, not a video"),
    ],
)
def test_what_is_not_a_video(name, says, wrong):
    with pytest.raises(VideoError, match=says) as caught:
        probe(wrong[name])
    assert caught.value.field == "video"
    assert caught.value.value == str(wrong[name])
    assert "Errno" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_video_without_frames(tmp_path, videos, remux):
    path = tmp_path / "none.avi"
    remux(videos.short_gops, path, lambda _: [])
    with pytest.raises(VideoError, match="no frames"):
        probe(path)


def test_a_damaged_start(tmp_path, videos):
    broken = bytearray(videos.gop250.read_bytes())
    start = broken.index(b"mdat") + 4
    broken[start : start + 20_000] = bytes(20_000)
    path = tmp_path / "broken.mp4"
    path.write_bytes(broken)
    with pytest.raises(VideoError, match="first frame cannot be decoded"):
        probe(path)


@given(data=st.binary(min_size=1, max_size=400))
def test_any_bytes_give_a_typed_error(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "bytes.mp4"
    path.write_bytes(data)
    with pytest.raises(VideoError):
        probe(path)
