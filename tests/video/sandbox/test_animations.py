"""Pictures that follow each other in one file are a video: all of them, in time, on white. What is
right is computed here in real numbers.

N = pictures, h, w = height and width.
"""

import socket
import struct
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from ffmpeg import needs_ffmpeg, run_ffmpeg
from heif_files import encoded
from PIL import Image
from png_files import GREY, PALETTE, RGB, RGBA, Part, apng
from reading import read_moving, read_still

from spava_app.engine.processes.wire import Wire
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import VideoInfo, picture_files, probe
from spava_app.engine.video.sandbox.pictures import spans
from spava_app.engine.video.sandbox.pictures.animation import AnimationReader, find_animation
from spava_app.engine.video.sandbox.pictures.spans import TooManyPictures, avif_spans, check_count
from spava_app.engine.video.sandbox.pulse import Pulse
from spava_app.errors import VideoError
from spava_app.requests.media_input import Question, look

RANDOM = np.random.default_rng(8)
SIZE = (26, 38)
NONE, CLEAR, PREVIOUS = 0, 1, 2
SOURCE, OVER = 0, 1


def pixels(height: int = SIZE[0], width: int = SIZE[1], channels: int = 4) -> np.ndarray:
    """A picture in which transparency is of every kind."""
    made = RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if channels == 4:
        made[..., 3] = RANDOM.choice([0, 64, 128, 255], (height, width))
    return made


def drawn(parts: Sequence[Part], size: tuple[int, int] | None = None) -> np.ndarray:
    """What the pictures of an animation show: colours that are multiplied by their alpha are laid
    over each other, and in the end over white. `size` is the first one's if not told.
    """
    canvas = np.zeros((*(size or parts[0].pixels.shape[:2]), 4))
    shown = []
    for part in parts:
        rgba = part.pixels.astype(np.float64) / 255
        height, width = rgba.shape[:2]
        place = (slice(part.top, part.top + height), slice(part.left, part.left + width))
        before = canvas[place].copy()
        new = np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]])
        canvas[place] = new + (before * (1 - rgba[..., 3:]) if part.blend == OVER else 0)
        shown.append((canvas[..., :3] + 1 - canvas[..., 3:]) * 255)
        if part.dispose == CLEAR:
            canvas[place] = 0
        elif part.dispose == PREVIOUS:
            canvas[place] = before
    return np.stack(shown)


def every_way() -> list[Part]:
    """Parts in every way of drawing and leaving; the first covers all."""
    ways = [(dispose, blend) for dispose in (NONE, CLEAR, PREVIOUS) for blend in (SOURCE, OVER)]
    parts = [Part(pixels(), dispose=NONE)]
    for number, (dispose, blend) in enumerate([*ways, *ways[::-1]]):
        height, width = 6 + number, 20 - number
        at = {"left": 2 * (number % 6), "top": 2 * (number % 5)}
        parts.append(Part(pixels(height, width), **at, dispose=dispose, blend=blend))
    parts.insert(7, Part(pixels(), blend=SOURCE))  # decoding may start here
    parts.insert(9, Part(pixels(), blend=SOURCE, dispose=PREVIOUS))  # and not here
    parts.insert(11, Part(pixels(), blend=OVER))
    return parts


def animated_webp(
    parts: Sequence[Part],
    spans: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    alpha: bool = True,
) -> bytes:
    """Of pictures that the library has encoded one by one; `size` is the first one's if not told,
    and `alpha` whether the file says that it has some.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def three(value: int) -> bytes:
        return value.to_bytes(3, "little")

    height, width = size or parts[0].pixels.shape[:2]
    flags = bytes([0x02 | 0x10 * alpha, 0, 0, 0])  # it moves, and has alpha
    canvas = three(width - 1) + three(height - 1)
    chunks = [chunk(b"VP8X", flags + canvas), chunk(b"ANIM", bytes(6))]
    for part, span in zip(parts, spans, strict=True):
        out = BytesIO()
        Image.fromarray(part.pixels).save(out, "WEBP", lossless=True, exact=True)
        rows, columns = part.pixels.shape[:2]
        place = three(part.left // 2) + three(part.top // 2) + three(columns - 1) + three(rows - 1)
        flags = bytes([(part.dispose == CLEAR) | 2 * (part.blend == SOURCE)])
        chunks.append(chunk(b"ANMF", place + three(span) + flags + out.getvalue()[12:]))
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def saved_all(pictures: Sequence[np.ndarray], form: str, **how) -> bytes:
    images = [Image.fromarray(picture) for picture in pictures]
    out = BytesIO()
    images[0].save(out, form, save_all=True, append_images=images[1:], **how)
    return out.getvalue()


def assert_shows(shown: np.ndarray, right: np.ndarray, most: float) -> None:
    assert shown.shape == right.shape
    assert np.abs(shown - right.astype(np.float64)).max() <= most


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_png_in_every_way_of_drawing(tmp_path):
    parts = every_way()
    info, shown = read_moving(write(tmp_path / "all.png", apng(parts, RGBA)))
    assert (info.codec, info.kind, info.num_frames) == ("png", "animation", len(parts))
    # Rounded once for each picture that lies on another.
    assert_shows(shown, drawn(parts), 2)
    assert info.index.entries[:, 0].tolist() == [0, 7]


def test_a_first_picture_that_leaves_what_was_before(tmp_path):
    parts = [Part(pixels(), dispose=PREVIOUS), Part(pixels(8, 8), left=3, top=3, blend=OVER)]
    _, shown = read_moving(write(tmp_path / "first.png", apng(parts, RGBA)))
    assert_shows(shown, drawn(parts), 1)


def test_pngs_of_other_pixels(tmp_path):
    """A palette with transparent entries, a colour that is transparent, and 16 bits."""
    indices = [RANDOM.integers(0, 4, size, dtype=np.uint8) for size in (SIZE, (9, 11), (5, 30))]
    entries = RANDOM.integers(0, 256, (4, 4), dtype=np.uint8)
    more = [(b"PLTE", entries[:, :3].tobytes()), (b"tRNS", entries[:, 3].tobytes())]
    parts = [Part(part, blend=OVER, dispose=n, left=2) for n, part in enumerate(indices)]
    parts[0] = Part(indices[0])
    right = [Part(entries[p.pixels], p.left, p.top, 1, 1, p.dispose, p.blend) for p in parts]
    _, shown = read_moving(write(tmp_path / "palette.png", apng(parts, PALETTE, more=more)))
    assert_shows(shown, drawn(right), 2)

    keyed = [Part(pixels(channels=3) // 128 * 128, blend=OVER) for _ in range(3)]
    with_alpha = [
        Part(np.dstack([p.pixels, 255 * (p.pixels != [0, 128, 0]).any(-1)]), blend=OVER)
        for p in keyed
    ]
    key = [(b"tRNS", b"\0\0\0\x80\0\0")]
    _, shown = read_moving(write(tmp_path / "key.png", apng(keyed, RGB, more=key)))
    assert_shows(shown, drawn(with_alpha), 1)

    deep = [Part(RANDOM.integers(0, 65536, SIZE, dtype=np.uint16)) for _ in range(2)]
    _, shown = read_moving(write(tmp_path / "deep.png", apng(deep, GREY, 16)))
    right = [np.stack([part.pixels >> 8] * 3, -1) for part in deep]
    assert_shows(shown, np.stack(right), 0)


def test_a_png_with_a_still_for_others(tmp_path):
    """The picture for programs that know no animation is none of it."""
    parts = [Part(pixels(), amount=n, of=4) for n in (1, 2, 4)]
    path = write(tmp_path / "still.png", apng(parts, RGBA, still=pixels()))
    info, shown = read_moving(path)
    assert info.index.times.tolist() == [0, 0.25, 0.75]
    assert info.duration == 1.75
    assert_shows(shown, drawn(parts), 1)


@pytest.mark.parametrize("claimed", [1, 4, 2**31 - 1])
def test_there_are_as_many_as_there_are(claimed, tmp_path):
    parts = [Part(pixels()) for _ in range(3)]
    path = write(tmp_path / "claim.png", apng(parts, RGBA, claimed=claimed))
    info, shown = read_moving(path)
    assert info.num_frames == 3
    assert_shows(shown, drawn(parts), 1)


def test_a_webp_in_every_way_of_drawing(tmp_path):
    parts = [part for part in every_way() if part.dispose != PREVIOUS]  # it has none
    data = animated_webp(parts, [100] * len(parts))
    info, shown = read_moving(write(tmp_path / "all.webp", data))
    assert (info.codec, info.num_frames) == ("webp", len(parts))
    # The library keeps colours of 8 bits beside their alpha, and divides by it each time.
    assert_shows(shown, drawn(parts), 4)


def opaque_sprites() -> list[Part]:
    """Parts without transparency that leave most of the canvas as it is."""
    whole = np.full((8, 10, 4), 255, np.uint8)
    ways = [(CLEAR, OVER), (NONE, SOURCE), (NONE, OVER), (CLEAR, SOURCE), (NONE, OVER)]
    return [
        Part(
            (whole * (*RANDOM.random(3), 1)).astype(np.uint8),
            2 + 4 * n,
            2 * n,
            dispose=dispose,
            blend=blend,
        )
        for n, (dispose, blend) in enumerate(ways)
    ]


def frames_of(parts: Sequence[Part]) -> np.ndarray:
    """Each part alone on a canvas of no colour, `[N, h, w, 4]` uint8."""
    frames = np.zeros((len(parts), *SIZE, 4), np.uint8)
    for frame, part in zip(frames, parts, strict=True):
        height, width = part.pixels.shape[:2]
        frame[part.top : part.top + height, part.left : part.left + width] = part.pixels
    return frames


def webp_by_ffmpeg(frames: np.ndarray, path: Path) -> bytes:
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    raw = ["-f", "rawvideo", "-s", size, "-r", "5", "-pix_fmt", "rgba", "-i", "-"]
    run_ffmpeg(*raw, "-c:v", "libwebp_anim", "-lossless", "1", path, stdin=frames.tobytes())
    return path.read_bytes()


@pytest.mark.parametrize("writer", ["Pillow", pytest.param("ffmpeg", marks=needs_ffmpeg), "hand"])
def test_a_webp_that_says_it_has_no_alpha(writer, tmp_path):
    """It has none in its pictures; what they leave of the canvas is white nevertheless."""
    parts = opaque_sprites()
    frames = frames_of(parts)
    right = np.where(frames[..., 3:] == 0, 255, frames[..., :3])
    match writer:
        case "Pillow":
            data = saved_all(list(frames), "WEBP", lossless=True)
        case "ffmpeg":
            data = webp_by_ffmpeg(frames, tmp_path / "made.webp")
        case _:
            data = animated_webp(parts, [100] * len(parts), size=SIZE, alpha=False)
            right = drawn(parts, SIZE)
    assert not data[20] & 0x10
    _, shown = read_moving(write(tmp_path / "sprites.webp", data))
    assert_shows(shown, right, 0.5)


def test_the_only_picture_of_a_larger_canvas(tmp_path):
    [part, *_] = parts = opaque_sprites()
    data = animated_webp(parts[:1], [100], size=SIZE, alpha=False)
    shown = read_still(write(tmp_path / "one.webp", data))
    assert_shows(shown, drawn([part], SIZE)[0], 0.5)


@pytest.mark.parametrize("alpha", [False, True])
def test_an_avif_sequence(alpha, tmp_path):
    blocks = [pixels(3, 5).repeat(16, 0).repeat(16, 1) for _ in range(5)]
    frames = blocks if alpha else [block[..., :3].copy() for block in blocks]
    how = {"quality": 100, "subsampling": "4:4:4", "speed": 10, "duration": [200, 300, 50, 5, 400]}
    info, shown = read_moving(write(tmp_path / "all.avif", saved_all(frames, "AVIF", **how)))
    assert (info.codec, info.num_frames) == ("avif", 5)
    assert info.index.times == pytest.approx([0, 0.2, 0.5, 0.55, 0.65])
    assert info.duration == pytest.approx(1.05)
    right = drawn([Part(b, blend=SOURCE) for b in blocks]) if alpha else np.stack(frames)
    assert_shows(shown, right, 5)


def test_times(tmp_path):
    """What no one can see (nothing to 10 ms) stays 0.1 s, as browsers show it."""
    told = [40, 0, 10, 11, 2000, 1]
    starts, end = [0, 0.04, 0.14, 0.24, 0.251, 2.251], 2.351
    parts = [Part(pixels(), amount=span, of=1000) for span in told]
    for name, data in [("a.png", apng(parts, RGBA)), ("b.webp", animated_webp(parts, told))]:
        info = probe(write(tmp_path / name, data))
        assert info.index.times == pytest.approx(starts)
        assert info.duration == pytest.approx(end)
    # Without a denominator, hundredths.
    parts = [Part(pixels(), amount=30, of=0)] * 2
    assert probe(write(tmp_path / "c.png", apng(parts, RGBA))).duration == pytest.approx(0.6)


def test_pages_are_a_second_each(tmp_path):
    pages = [pixels(channels=3) for _ in range(4)]
    for name, how in (("plain", {}), ("packed", {"compression": "tiff_lzw"})):
        path = write(tmp_path / f"{name}.tif", saved_all(pages, "TIFF", **how))
        info, shown = read_moving(path)
        assert info.index.times.tolist() == [0, 1, 2, 3]
        assert (info.duration, len(info.index.entries)) == (4, 4)
        assert_shows(shown, np.stack(pages), 0)


@pytest.mark.parametrize("form", ["png", "webp", "tif"])
def test_turned_ones(form, tmp_path):
    frames = [pixels(2, 3, 3).repeat(16, 0).repeat(16, 1) for _ in range(3)]
    exif = Image.Exif()
    exif[0x0112] = 6
    how = {
        "png": {},
        "webp": {"lossless": True},
        "tif": {},
    }[form]
    pillow = {"tif": "TIFF"}.get(form, form.upper())
    path = write(tmp_path / f"turned.{form}", saved_all(frames, pillow, exif=exif.tobytes(), **how))
    if form == "tif":  # Pillow writes the tag on its first page only
        frames = frames[:1]
        assert_shows(read_still(_first_page(path)), np.rot90(frames[0], -1), 0)
        return
    _, shown = read_moving(path)
    assert_shows(shown, np.stack([np.rot90(frame, -1) for frame in frames]), 4)


def _first_page(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    at = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    data[at + 2 + 12 * count : at + 6 + 12 * count] = bytes(4)
    return write(path.with_name("page.tif"), bytes(data))


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> dict[str, tuple[Path, VideoInfo, np.ndarray]]:
    """A file of each format, and all of its pictures."""
    folder = tmp_path_factory.mktemp("moving")
    parts = every_way()
    frames = [part.pixels for part in parts if part.pixels.shape[:2] == SIZE] * 4
    files = {
        "png": apng(parts, RGBA),
        "webp": animated_webp(parts, [70] * len(parts)),
        "avif": saved_all(frames, "AVIF", duration=80, speed=10),
        "tif": saved_all(frames, "TIFF"),
    }
    found = {}
    for name, data in files.items():
        path = write(folder / f"moving.{name}", data)
        found[name] = (path, *read_moving(path))
    return found


@pytest.mark.parametrize("form", ["png", "webp", "avif", "tif"])
@pytest.mark.parametrize("chosen", [[0, 5, 6, 11], [8, 9, 10], [10], [9, 3, 3, 8, 0]])
def test_some_are_read_as_all_are(form, chosen, moving):
    """However they are dealt to ranks, and whatever comes first."""
    _, info, pictures = moving[form]
    for parts in (1, 2, 3):
        shown = [
            group.pictures[0].copy()
            for part in np.array_split(np.arange(len(chosen)), parts)
            for group in decode_frames(info.source(chosen).pick(part.tolist()))
        ]
        np.testing.assert_array_equal(np.stack(shown), pictures[chosen])


def test_sampled_by_time(moving):
    """A question sees them as it sees a video."""
    path, info, pictures = moving["webp"]
    [seen] = look(Question(path, "", fps=5.0))
    assert not seen.picture
    assert seen.duration == info.duration
    instants = np.arange(0, info.duration - 1e-6, 0.2)
    frames = np.searchsorted(info.index.times, instants + 1e-6, side="right") - 1
    assert list(seen.sample.frames) == frames.tolist()
    shown = [group.pictures[0].copy() for group in decode_frames(seen.read(seen.sample.frames))]
    np.testing.assert_array_equal(np.stack(shown), pictures[frames])


@pytest.mark.parametrize("form", ["png", "webp", "avif", "tif"])
def test_among_other_pictures_it_is_refused(form, moving):
    path, _, _ = moving[form]
    with pytest.raises(VideoError, match="several pictures") as caught:
        picture_files([str(path)])
    assert caught.value.value == str(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("form", ["png", "webp", "avif", "tif"])
def test_cut_short(form, share, moving, tmp_path):
    whole = moving[form][0].read_bytes()
    path = write(tmp_path / f"cut.{form}", whole[: int(share * len(whole))])
    with pytest.raises(VideoError, match=r"is damaged|several|larger"):
        read_moving(path)


@pytest.mark.parametrize("form", ["png", "webp", "avif"])
def test_damaged_in_the_middle(form, moving, tmp_path):
    data = bytearray(moving[form][0].read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 4] = bytes(len(data) // 4)
    with pytest.raises(VideoError, match="is damaged"):
        read_moving(write(tmp_path / f"damaged.{form}", bytes(data)))


def test_a_delay_that_was_damaged(tmp_path):
    """Nothing but its check sum tells it."""
    data = bytearray(apng([Part(pixels()) for _ in range(3)], RGBA))
    data[data.rindex(b"fcTL") + 4 + 21] ^= 4
    with pytest.raises(VideoError, match="is damaged"):
        probe(write(tmp_path / "delay.png", bytes(data)))


def test_a_table_of_times_for_other_pictures(tmp_path):
    frames = [pixels(channels=3) for _ in range(3)]
    data = bytearray(saved_all(frames, "AVIF", duration=100, speed=10))
    data[data.index(b"stts") + 15] += 1  # how many pictures have the first duration
    with pytest.raises(VideoError, match="is damaged"):
        probe(write(tmp_path / "times.avif", bytes(data)))


def box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def track(handler: bytes, scale: int, spans: Sequence[int], *more: bytes, sync=()) -> bytes:
    """A track as in an image sequence: how long its pictures stay, and which are keys."""
    times = b"".join(struct.pack(">II", 1, span) for span in spans)
    tables = [box(b"stts", struct.pack(">II", 0, len(spans)), times)]
    if sync:
        tables.append(box(b"stss", struct.pack(f">II{len(sync)}I", 0, len(sync), *sync)))
    media = [
        box(b"mdhd", struct.pack(">12xI", scale)),
        box(b"hdlr", bytes(8), handler),
        box(b"minf", box(b"stbl", *tables)),
    ]
    return box(b"trak", *more, box(b"mdia", *media))


def test_the_track_of_a_sequence_that_shows_pictures():
    """Neither sound nor transparency, which may come first."""
    transparency = box(b"tref", box(b"auxl", struct.pack(">I", 3)))
    movie = [
        track(b"soun", 1000, [1] * 9),
        track(b"pict", 1000, [200] * 4, transparency),
        track(b"pict", 500, [50, 100, 0, 25], sync=[1, 3]),
    ]
    head = box(b"ftyp", b"avis", bytes(4)) + struct.pack(">I4sQ", 1, b"free", 20) + bytes(4)
    found = avif_spans(BytesIO(head + box(b"moov", *movie)))
    assert found is not None
    assert found.lengths == [100_000, 200_000, 100_000, 50_000]
    assert found.keys == [True, False, True, False]


def test_changed_since_it_was_looked_at(tmp_path):
    path = write(tmp_path / "a.webp", animated_webp([Part(pixels())] * 2, [100, 100]))
    source = probe(path).source([0, 1])
    write(path, animated_webp([Part(pixels())] * 3, [100] * 3))
    with pytest.raises(VideoError, match="was changed while it was looked at"):
        list(decode_frames(source))


def test_pages_of_several_sizes(tmp_path):
    data = saved_all([pixels(channels=3), pixels(20, 30, 3)], "TIFF")
    with pytest.raises(VideoError, match="pages are not all 38x26 pixels"):
        probe(write(tmp_path / "sizes.tif", data))


def pages_of_a_pixel(count: int, *, then: int = 0) -> bytes:
    """A TIFF; each page begins with 8, which is its pixel as well; `then` is said to be the page
    after the last.
    """
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 0), (278, 1), (279, 1)]
    data = bytearray(b"II*\0\x08\0\0\0")
    for number in range(count):
        here = len(data)
        after = here + 2 + 12 * len(tags) + 4 if number + 1 < count else then
        data += struct.pack("<H", len(tags))
        for tag, value in tags:
            data += struct.pack("<HHII", tag, 4, 1, here if tag == 273 else value)
        data += struct.pack("<I", after)
    return bytes(data)


def test_ten_times_the_pages_take_ten_times_as_long():
    ours, theirs = socket.socketpair()
    pulse = Pulse(Wire(ours))

    def seconds(count: int) -> float:
        file = BytesIO(pages_of_a_pixel(count))
        start = time.process_time()
        found = find_animation(file, "pages.tif", pulse)
        assert found is not None
        assert len(found.pages) == count
        reader = AnimationReader(file, "pages.tif", found.starts[-1:].tolist(), (1, 1), pulse)
        shown = np.zeros((1, 1, 3), np.uint8)
        assert reader.read(0, shown)
        assert (shown == 8).all()
        return time.process_time() - start

    with ours, theirs:
        try:
            took = [seconds(1_500), seconds(15_000)]
        finally:
            pulse.rest()  # or it ends the process in a minute
    assert took[1] < 20 * took[0]  # 35 where each was compared with all


def test_pages_that_lead_to_the_first_again(tmp_path):
    info, shown = read_moving(write(tmp_path / "loop.tif", pages_of_a_pixel(3, then=8)))
    assert info.num_frames == 3
    assert (shown == 8).all()


def test_more_than_anybody_makes(tmp_path, monkeypatch):
    with pytest.raises(TooManyPictures):
        check_count(spans.MOST_PICTURES + 1)
    one = animated_webp([Part(pixels(1, 1), blend=SOURCE)], [100])
    frame = one[one.index(b"ANMF") :]
    body = one[8 : one.index(b"ANMF")] + frame * (spans.MOST_PICTURES + 1)
    path = write(tmp_path / "many.webp", b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.raises(VideoError, match=r"more than 100000 pictures; make it a video"):
        probe(path)


def test_a_still_is_no_animation(tmp_path):
    """Even in the clothes of one: an animation of one picture."""
    part = Part(pixels())
    for name, data in [
        ("a.png", apng([part], RGBA)),
        ("b.webp", animated_webp([part], [100])),
        ("c.avif", encoded(part.pixels[..., :3].copy(), "AVIF")),
    ]:
        assert read_still(write(tmp_path / name, data)).shape == (*SIZE, 3)
