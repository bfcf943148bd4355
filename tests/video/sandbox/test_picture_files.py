"""What is a picture, told by its first bytes; folders of mixed formats; and refusals, each with its
reason.
"""

import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from heif_files import encoded, grid
from PIL import Image
from png_files import RGB, RGBA, Part, apng, png
from reading import read_still

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import look_at
from spava_app.engine.video.sandbox.pictures.picture import read_picture
from spava_app.engine.video.sandbox.pictures.signature import picture_format
from spava_app.errors import VideoError
from spava_app.requests.media_input import Question, look

BLOCKS = (
    np.random.default_rng(2).integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(64, 0).repeat(64, 1)
)


def saved(form: str, **how) -> bytes:
    out = BytesIO()
    Image.fromarray(BLOCKS).save(out, form, **how)
    return out.getvalue()


def refused(path: Path, says: str) -> None:
    with pytest.raises(VideoError, match=says) as caught:
        read_still(path)
    assert caught.value.value == str(path)


FILES = {
    "a.png": (png(BLOCKS, RGB), 0),
    "b.jpg": (saved("JPEG", quality=100, subsampling=0), 3),
    "c.HEIC": (encoded(BLOCKS, "HEIF"), 2),
    "d.heif": (grid(BLOCKS, "HEIF", 1, 2), 2),
    "e.avif": (encoded(BLOCKS, "AVIF"), 4),
    "f.webp": (saved("WEBP", lossless=True), 0),
    "g.tiff": (saved("TIFF"), 0),
    "h.bmp": (saved("BMP"), 0),
}


def test_a_folder_of_all_formats(tmp_path):
    for name, (data, _) in FILES.items():
        (tmp_path / name).write_bytes(data)
    [seen] = look(Question(tmp_path, ""))
    assert seen.duration == len(FILES)
    groups = list(decode_frames(seen.read(seen.sample.frames), group=len(FILES)))
    for shown, (_, most) in zip(groups[0].pictures, FILES.values(), strict=True):
        assert np.abs(shown.astype(int) - BLOCKS).max() <= most


def test_a_folder_of_a_photo_of_another_size(tmp_path):
    (tmp_path / "a.jpg").write_bytes(FILES["b.jpg"][0])
    (tmp_path / "b.heic").write_bytes(grid(BLOCKS.transpose(1, 0, 2), "HEIF", 2, 1))
    [seen] = look(Question(tmp_path, ""))
    with pytest.raises(VideoError, match="must be 256x192 pixels") as caught:
        seen.read(seen.sample.frames)
    assert caught.value.value == str(tmp_path / "b.heic")


def test_a_text_that_begins_as_a_bitmap(tmp_path):
    path = tmp_path / "text.bmp"
    path.write_text("BMW: what a day it was.\n" * 500)
    refused(path, "not a video file")


@pytest.mark.parametrize(
    ("start", "form"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x18ftypavis\0\0\0\0msf1avif", "AVIF"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc", "HEIF sequence"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0msf1heic", "HEIF sequence"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42avc1", None),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  heic", None),
        (b"\0\0\0\x10ftypmif1\0\0\0\0avif", "HEIF"),  # the brand lies behind the box
        (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP"),
        (b"RIFF\0\0\0\0AVI LIST", None),
        (b"GIF89a", None),
        (b"", None),
    ],
)
def test_told_by_the_first_bytes(start, form):
    assert picture_format(BytesIO(start)) == form


def test_a_sequence_of_heif_pictures_is_refused(tmp_path, videos):
    """The library for videos would take its tracks as they come, thumbnails among them."""
    data = bytearray(videos.odd.read_bytes())
    for brand in (b"msf1", b"hevc"):
        data[8:12] = brand
        path = tmp_path / "burst.heic"
        path.write_bytes(data)
        refused(path, "HEIF image sequence, which is not read; convert it")


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_tiles_in_what_calls_itself_a_video_are_refused(form, tmp_path):
    data = bytearray(grid(BLOCKS, form, 2, 2))
    data[8:12] = b"isom"
    path = tmp_path / "tiles.mp4"
    path.write_bytes(data)
    refused(path, "tiles that are not put together")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_cut_short(name, share, tmp_path):
    data = FILES[name][0]
    path = tmp_path / name
    path.write_bytes(data[: int(share * len(data))])
    refused(path, "is damaged, or of a kind that is not read")


def test_what_phones_add_at_the_end(tmp_path):
    path = tmp_path / "motion.heic"
    path.write_bytes(FILES["c.HEIC"][0] + b"SEFH\x6b\0\0\0 a video, and where it begins SEFT")
    assert np.abs(read_still(path).astype(int) - BLOCKS).max() <= 2


@pytest.mark.parametrize("name", FILES)
def test_another_size_than_was_told(name):
    with pytest.raises(VideoError, match="header tells 192x256 pixels, it has 256x192; convert"):
        read_picture(BytesIO(FILES[name][0]), name, (256, 192))


def test_more_pixels_than_anybody_has(tmp_path):
    for name in ("c.HEIC", "e.avif"):
        wide = struct.pack(">II", 2**14, 12_000)
        path = tmp_path / name
        path.write_bytes(FILES[name][0].replace(struct.pack(">II", 256, 192), wide))
        refused(path, r"at most \d+ pixels; scale it down")
    wide = bytearray(FILES["h.bmp"][0])
    wide[18:26] = struct.pack("<II", 2**14, 12_000)
    path = tmp_path / "wide.bmp"
    path.write_bytes(wide)
    refused(path, r"at most \d+ pixels; scale it down")
    claim = bytearray(apng([Part(np.zeros((4, 4, 4), np.uint8))] * 2, RGBA))
    claim[16:24] = struct.pack(">II", 2**17, 2**17)
    claim[29:33] = struct.pack(">I", crc32(claim[12:29]))
    path = tmp_path / "claim.png"
    path.write_bytes(claim)
    refused(path, r"at most \d+ pixels; scale it down")


def test_kinds_that_are_not_read_are_named(tmp_path):
    """Three colours of 32 bits each."""
    data = FILES["g.tiff"][0]
    bits = struct.pack("<HHH", 8, 8, 8)
    assert data.count(bits) == 1
    path = tmp_path / "deep.tif"
    path.write_bytes(data.replace(bits, struct.pack("<HHH", 32, 32, 32)))
    refused(path, "TIFF picture is damaged, or of a kind that is not read; .* convert it to PNG")


def test_a_camera_file_of_which_only_a_small_copy_could_be_read(tmp_path):
    """Its photo hangs on the page of the copy."""
    path = tmp_path / "raw.tif"
    kinds = {254: 1, 330: 8}
    Image.fromarray(BLOCKS).save(path, tiffinfo=kinds)
    assert 254 in Image.open(path).tag_v2  # type: ignore[attr-defined]
    refused(path, "only a small copy")


def test_no_file_is_opened_once_the_library_is_loaded(tmp_path):
    """The process that reads media may be kept from opening any."""
    for name, (data, _) in FILES.items():
        (tmp_path / name).write_bytes(data)
    lab = Image.frombytes("LAB", (256, 192), BLOCKS.tobytes())
    lab.save(tmp_path / "lab.tif")
    moving = [Image.fromarray(BLOCKS), Image.fromarray(BLOCKS[::-1].copy())]
    for form in ("png", "webp", "avif", "tif"):
        path = tmp_path / f"moving.{form}"
        moving[0].save(path, save_all=True, append_images=moving[1:], duration=100)
    code = """
import sys
from pathlib import Path
import numpy as np
from spava_app.engine.video.sandbox.pictures.animation import AnimationReader, find_animation
from spava_app.engine.video.sandbox.pictures.picture import picture_size, read_picture
class Pulse:
    def beat(self): pass
files = [(path.name, path.open("rb")) for path in sorted(Path(sys.argv[1]).iterdir())]
opened = []
def watch(event, arguments):
    if event in ("open", "import") and str(arguments[0]) not in sys.modules:
        opened.append((event, arguments[0]))
sys.addaudithook(watch)
for name, file in files:
    found = find_animation(file, name, Pulse())
    if found:
        reader = AnimationReader(file, name, found.starts, found.shape, Pulse())
        for frame in range(len(found.starts)):
            reader.read(frame, np.empty((*found.shape, 3), np.uint8))
    else:
        read_picture(file, name, picture_size(file, name))
print(len(files), opened)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == f"{len(FILES) + 5} []", done.stderr


def test_a_picture_that_is_a_video_next_door(tmp_path):
    """A GIF stays with the library for videos."""
    path = tmp_path / "a.gif"
    images = [Image.fromarray(BLOCKS), Image.fromarray(BLOCKS[::-1].copy())]
    images[0].save(path, save_all=True, append_images=images[1:], duration=300)
    assert look_at(path).codec == "gif"  # type: ignore[union-attr]
