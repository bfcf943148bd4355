"""Whether bytes are missing is told by a file's structure: never of a whole one, always of a cut
one whose structure knows.
"""

import io
import struct
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from ffmpeg import needs_ffmpeg, run_ffmpeg
from moving_bar import write

from spava_app.engine.video.sandbox.truncation.cut_short import CutShort, cut_short

H264 = ("libx264", {"g": "12", "bf": "3", "sc_threshold": "0", "crf": "3"})
VP9 = ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "12"})
FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"
# File name, encoder and its options, the muxer's options.
FILES = {
    "fast.mp4": (*H264, {"movflags": "faststart"}),
    "index.mp4": (*H264, {"movflags": "frag_keyframe+empty_moov+delay_moov+global_sidx"}),
    "plain.mkv": (*H264, {}),
    "cues_first.mkv": (*H264, {"cues_to_front": "1"}),
    "plain.webm": (*VP9, {}),
    "plain.avi": ("mpeg4", {"bf": "2"}, {}),
    "plain.flv": (*H264, {}),
    "plain.mxf": ("mpeg2video", {"bf": "2", "b": "20M"}, {}),
    "plain.wmv": ("wmv2", {}, {}),
    "plain.ivf": (*VP9, {}),
    "plain.rm": ("rv20", {}, {}),
    # These tell that something is missing, and not how much.
    "plain.mp4": (*H264, {}),
    "plain.mov": (*H264, {}),
    "plain.3gp": (*H264, {}),
    "fragments.mp4": (*H264, {"movflags": FRAGMENTS}),
    "fragments_and_table.mp4": (*H264, {"movflags": "frag_keyframe"}),
    "dash.mp4": (*H264, {"movflags": "frag_keyframe+dash"}),
    "hybrid.mp4": (*H264, {"movflags": "frag_keyframe+hybrid_fragmented"}),
    "every_frame.mp4": (*H264, {"movflags": "frag_every_frame+skip_trailer"}),
    "live.mkv": (*H264, {"live": "1"}),
    "live.webm": (*VP9, {"live": "1"}),
    "no_size.flv": (*H264, {"flvflags": "no_duration_filesize"}),
    "plain.ogg": ("libvpx", {"deadline": "realtime"}, {}),
    "plain.gif": ("gif", {}, {}),
    # These tell nothing.
    "plain.ts": (*H264, {}),
    "plain.mpg": ("mpeg1video", {}, {}),
    "plain.vob": ("mpeg2video", {}, {}),
    "plain.nut": (*H264, {}),
    "plain.h264": (*H264, {}),
}
NAMES = list(FILES)
HOW_MUCH, WHETHER = NAMES[: NAMES.index("plain.mp4")], NAMES[: NAMES.index("plain.ts")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The bytes of a file of the table, and what the container library calls its format."""
    folder = tmp_path_factory.mktemp("cut")

    @cache
    def make(name: str) -> tuple[bytes, str]:
        codec, options, muxer = FILES[name]
        pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        path = folder / name
        write(path, 100, codec, options=options, pix_fmt=pix_fmt, container_options=muxer)
        return path.read_bytes(), format_of(path)

    return make


def format_of(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.format.name


def check(data: bytes, format_name: str) -> CutShort | None:
    return cut_short(io.BytesIO(data), format_name)


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_and_what_lies_behind_them(name, made):
    data, format_name = made(name)
    assert check(data, format_name) is None
    for behind in (bytes(5000), b"A line that an upload left here.\n" * 90, b"\xff", b"free"):
        assert check(data + behind, format_name) is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", WHETHER)
def test_cut_files(name, share, made):
    data, format_name = made(name)
    found = check(data[: int(len(data) * share)], format_name)
    assert found is not None
    if name in HOW_MUCH:
        # Estimated from the frames that are there where a format counts frames and no bytes;
        # else the file's own tables, which come after what is promised, are not counted.
        assert found.share is not None
        assert found.share == pytest.approx(1 - share, abs=0.1 if name == "plain.ivf" else 0.02)


@pytest.mark.parametrize("name", ["plain.ts", "plain.mpg", "plain.vob", "plain.nut", "plain.h264"])
def test_formats_that_cannot_tell(name, made):
    data, format_name = made(name)
    assert check(data[: len(data) // 2], format_name) is None


def borders(data: bytes, name: str) -> list[int]:
    """Places where a part of a file starts, past the header."""
    mark = {
        "mp4": b"moof",
        "mkv": b"\x1f\x43\xb6\x75",
        "webm": b"\x1f\x43\xb6\x75",
        "avi": b"00dc",
        "ogg": b"OggS",
        "mxf": b"\x06\x0e\x2b\x34\x01\x02\x01\x01\x0d\x01\x03\x01\x15",
        "rm": b"INDX",
    }[name.split(".")[-1]]
    places = [at for at in range(len(data)) if data.startswith(mark, at)]
    return [at - 4 * (mark == b"moof") for at in places][1:]


@pytest.mark.parametrize(
    "name", ["index.mp4", "plain.mkv", "plain.webm", "plain.avi", "plain.mxf", "plain.ogg"]
)
def test_cut_between_two_parts(name, made):
    data, format_name = made(name)
    places = borders(data, name)
    assert places
    for at in places:
        found = check(data[:at], format_name)
        assert found
        if found.share is not None:
            assert found.share == pytest.approx(1 - at / len(data), abs=0.03)


def test_cut_between_two_tags_of_a_flash_video(made):
    data, format_name = made("plain.flv")
    at, ends = 13, []
    while at < len(data):
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
        ends.append(at)
    assert ends[-1] == len(data)
    for end in ends[1:-1:9]:
        assert check(data[:end], format_name) == CutShort(end, len(data) - end)


def test_cut_between_two_frames_of_an_ivf(made):
    """Half of the frames may as well be all of them, the last of which stays: that is no number."""
    data, format_name = made("plain.ivf")
    at = 32
    for _ in range(50):
        at += 12 + int.from_bytes(data[at : at + 4], "little")
    assert check(data[:at], format_name) == CutShort(at, None)
    found = check(data[: at + 5], format_name)
    assert found
    assert found.share == pytest.approx(1 - at / len(data), abs=0.1)


@pytest.mark.parametrize("length", [0, 2**32 - 1])
def test_an_ivf_that_was_never_finished(length, made):
    data, format_name = bytearray(made("plain.ivf")[0]), made("plain.ivf")[1]
    struct.pack_into("<I", data, 24, length)
    for behind in (b"", bytes(500), b"A line that an upload left here.\n"):
        assert check(bytes(data) + behind, format_name) is None
    for share in (0.5, 0.9):
        assert check(bytes(data[: int(len(data) * share)]), format_name)


def test_a_fragment_without_its_data(made):
    data, format_name = made("fragments.mp4")
    at = data.rindex(b"moof") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    assert check(data[:end], format_name) == CutShort(end, None)


@pytest.mark.parametrize("size", ["to_the_end", "64_bit"])
def test_other_sizes_of_boxes(size, made):
    data, format_name = made("fast.mp4")
    at = data.index(b"mdat") - 4
    if size == "to_the_end":
        data = data[:at] + bytes(4) + data[at + 4 :]
        # The index of samples tells, for bytes behind the last sample too.
        assert check(data + bytes(100), format_name) is None
    else:
        length = int.from_bytes(data[at : at + 4], "big")
        assert data[at - 8 : at - 4] == struct.pack(">I", 8), "room for the large size"
        assert data[at - 4 : at] == b"free"
        data = data[: at - 8] + struct.pack(">I4sQ", 1, b"mdat", length + 8) + data[at + 8 :]
    assert check(data, format_name) is None
    for share in (0.5, 0.9, 0.99):
        found = check(data[: int(len(data) * share)], format_name)
        assert found
        assert found.share == pytest.approx(1 - share, abs=0.01)


@pytest.mark.parametrize("name", [b"free", b"skip", b"wide", b"uuid", b"junk", b"abcd"])
@pytest.mark.parametrize("large", [False, True])
def test_boxes_without_pictures(name, large, made):
    data, format_name = made("plain.mp4")
    box = struct.pack(">I4sQ", 1, name, 40) if large else struct.pack(">I4s", 32, name)
    box += bytes(24)
    at = int.from_bytes(data[:4], "big")  # behind `ftyp`
    assert check(data + box, format_name) is None
    if name != b"uuid":  # all others hold nothing, or are none
        assert check(data + box[:-9], format_name) is None
    both = data[:at] + box + data[at:]
    assert check(both, format_name) is None
    assert check(both[:-9], format_name) == CutShort(len(both) - 9, 9)


def test_samples_in_another_file_are_not_missing(made):
    """As QuickTime's reference movies have them."""
    data, format_name = made("fast.mp4")
    at = data.index(b"url ") + 7
    data = data[: data.index(b"mdat") - 4]
    assert check(data, format_name)
    assert check(data[:at] + b"\0" + data[at + 1 :], format_name) is None


@pytest.mark.parametrize("name", ["live.mkv", "live.webm"])
def test_clusters_of_unknown_size(name, made):
    """As browsers record."""
    data, format_name = bytearray(made(name)[0]), made(name)[1]
    clusters = [at for at in range(len(data)) if data.startswith(b"\x1f\x43\xb6\x75", at)]
    assert clusters
    for at in clusters:
        width = 9 - data[at + 4].bit_length()
        data[at + 4 : at + 4 + width] = bytes([2 ** (9 - width) - 1]) + b"\xff" * (width - 1)
    assert check(bytes(data), format_name) is None
    assert check(bytes(data) + bytes(500), format_name) is None
    for share in (0.5, 0.9, 0.99):
        assert check(bytes(data[: int(len(data) * share)]), format_name)


def test_a_place_of_cues_that_is_not_there(made):
    """Of a segment whose size was never filled in."""
    data, format_name = made("plain.mkv")
    at = data.index(b"\x18\x53\x80\x67") + 4
    unknown = data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :]
    assert check(unknown, format_name) is None
    cues = unknown.rindex(b"\x1c\x53\xbb\x6b")
    assert check(unknown[:cues], format_name)


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_an_avi_that_was_never_finished(size, made):
    data, format_name = bytearray(made("plain.avi")[0]), made("plain.avi")[1]
    movi = data.index(b"movi") - 8
    for at in (0, movi):
        struct.pack_into("<I", data, at + 4, size)
    for behind in (b"", bytes(500), b"A line that an upload left here.\n"):
        assert check(bytes(data) + behind, format_name) is None
    for share in (0.5, 0.9):
        assert check(bytes(data[: int(len(data) * share)]), format_name)


def chunk(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def test_an_avi_of_several_riff_chunks():
    """Above a gigabyte; cut between two of them, the index of indexes tells."""

    def first(entries: list[tuple[int, int]]) -> bytes:
        listed = b"".join(struct.pack("<QII", at, size, 10) for at, size in entries)
        indx = chunk(b"indx", struct.pack("<HBBI4s12x", 4, 0, 0, len(entries), b"00dc"), listed)
        header = chunk(b"LIST", b"hdrl", chunk(b"LIST", b"strl", indx))
        movi = chunk(b"LIST", b"movi", chunk(b"00dc", bytes(5000)), chunk(b"ix00", bytes(56)))
        return chunk(b"RIFF", b"AVI ", header, movi, chunk(b"idx1", bytes(16)))

    second = chunk(
        *(b"RIFF", b"AVIX"),
        chunk(b"LIST", b"movi", chunk(b"00dc", bytes(7000)), chunk(b"ix00", bytes(56))),
    )
    start = len(first([(0, 0)] * 2))
    data = first([(start - 88, 64), (start + len(second) - 64, 64)])
    whole = data + second
    assert len(data) == start
    assert check(whole, "avi") is None
    assert check(whole[:-500], "avi") == CutShort(len(whole) - 500, 500)
    assert check(data, "avi") == CutShort(len(data), len(second))


def test_the_last_picture_stays_long(tmp_path):
    """Times say nothing about bytes."""
    source, mp4 = write(tmp_path / "clip.mp4", 50, *H264[:1], options={"bf": "0"}), "long.mp4"
    for name in (mp4, "long.mkv", "long.flv", "long.ivf"):
        codec = "libvpx" if name.endswith("ivf") else "libx264"
        given = write(tmp_path / "vp8.mkv", 50, codec) if name.endswith("ivf") else source
        path = tmp_path / name
        with av.open(str(given)) as old, av.open(str(path), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            packets = [packet for packet in old.demux(video=0) if packet.size]
            packets[-1].duration = int(30 / packets[-1].time_base)
            for packet in packets:
                packet.stream = stream
                new.mux(packet)
        assert check(path.read_bytes(), format_of(path)) is None


@needs_ffmpeg
def test_chapters_that_go_on_after_the_pictures(tmp_path):
    clip, chapters = write(tmp_path / "clip.mp4", 50), tmp_path / "c.txt"
    chapters.write_text(
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=60\ntitle=One\n"
        "[CHAPTER]\nTIMEBASE=1/1\nSTART=60\nEND=90\ntitle=Two\n"
    )
    for name in ("long.mp4", "long.mov", "long.mkv"):
        path = tmp_path / name
        run_ffmpeg("-i", clip, "-i", chapters, "-map_chapters", "1", "-c", "copy", path)
        assert check(path.read_bytes(), format_of(path)) is None


class Counted(io.BytesIO):
    """Counts what is read."""

    reads = 0
    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.reads, self.total = self.reads + 1, self.total + len(found)
        return found


def bounded(data: bytes, format_name: str) -> None:
    file = Counted(data)
    found = cut_short(file, format_name)
    assert found is None or found.missing is None or found.missing > 0
    assert file.reads <= 2**18
    assert file.total <= 2**23


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_no_exception(name, made):
    data, format_name = made(name)
    rng = np.random.default_rng(NAMES.index(name))
    for content in (b"", b"\0", bytes(4096), b"\xff" * 4096, rng.bytes(4096), data[:40]):
        bounded(content, format_name)
        bounded(data[:64] + content, format_name)
    head = min(len(data), 2000)
    for _ in range(40):
        broken = bytearray(data)
        for at in (*rng.integers(0, head, 3), *rng.integers(0, len(data), 3)):
            broken[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        bounded(bytes(broken), format_name)


@pytest.mark.parametrize(
    ("format_name", "content"),
    [
        ("mov", struct.pack(">I4s", 8, b"free") * 2**18),
        ("mov", struct.pack(">I4s", 2**24, b"moov") + struct.pack(">I4s", 8, b"trak") * 2**18),
        ("mov", (struct.pack(">I4s", 2**24, b"sidx") + b"\xff" * 2**20) * 3),
        ("matroska", b"\x18\x53\x80\x67\xff" + b"\xa3\x80" * 2**19),
        ("matroska", b"\x18\x53\x80\x67\xff" * 2**19),
        ("avi", b"RIFF\0\0\0\0AVI LIST\0\0\0\0movi" + b"00dc\0\0\0\0" * 2**18),
        ("flv", b"FLV\1\1\0\0\0\x09\0\0\0\0" + b"\x09" + bytes(14) + b"\x09\0\0" * 2**19),
        ("ivf", b"DKIF\0\0\x20\0" + bytes(2**23)),
        ("mxf", b"\x06\x0e\x2b\x34" * 2**19),
        ("gif", b"GIF89a" + bytes(7) + b"\x21\xf9\0" * 2**19),
        ("ogg", b"OggS" * 2**19),
        ("rm", struct.pack(">4sI", b"DATA", 8) * 2**18),
    ],
)
def test_bombs(format_name, content):
    bounded(content, format_name)


def test_times_of_ten_hours_for_a_second_of_pictures(tmp_path):
    """Slow is not short."""
    path = write(tmp_path / "slow.mkv", 25, fps=Fraction(1, 1440), options={"bf": "0"})
    assert check(path.read_bytes(), format_of(path)) is None
