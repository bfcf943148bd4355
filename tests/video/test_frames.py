"""Folders and lists of pictures, and arrays, as videos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spava_app.engine.video.array_files import ArrayFiles
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.frames import Frames, natural_order
from spava_app.errors import InvalidInput, VideoError
from spava_app.requests.media_input import Question, look

FRAMES = np.random.default_rng(0).integers(0, 256, (12, 20, 30, 3), dtype=np.uint8)


@pytest.fixture
def arrays():
    with ArrayFiles() as arrays:
        yield arrays


def looked_at(medium, arrays=None, num_frames=None, fps=None):
    """What is looked at, and what it takes to read it."""
    [seen] = look(Question(medium, "", num_frames=num_frames, fps=fps), arrays)
    return seen, seen.read(seen.sample.frames)


def seen_of(medium, arrays, **asked):
    seen, source = looked_at(medium, arrays, **asked)
    groups = decode_frames(source, group=5)
    return seen, np.concatenate([group.pictures.copy() for group in groups])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures whose names sort wrongly as text, and files that are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"Frame{number}.{'PNG' if number % 2 else 'bmp'}")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not a picture")
    (folder / "deeper.png").mkdir()
    (folder / "deeper.png").rename(folder / "deeper")
    return folder


@pytest.mark.parametrize(("ranks", "num_frames"), [(1, None), (2, 7), (4, 5)])
def test_a_folder_in_natural_order(ranks, num_frames, folder, tmp_path):
    seen, _ = seen_of(folder, None, num_frames=num_frames)
    assert (seen.duration, seen.picture, seen.path) == (12.0, False, str(folder))
    chosen = list(seen.sample.frames)
    assert list(seen.sample.times) == [float(number) for number in chosen]
    for part in np.array_split(np.arange(len(chosen)), ranks):
        source = seen.read([chosen[place] for place in part])
        for place, group in zip(part, decode_frames(source), strict=True):
            np.testing.assert_array_equal(group.pictures[0], FRAMES[chosen[place]])


def test_a_list_at_its_own_rate(folder, tmp_path):
    paths = [folder / f"Frame{n}.{'PNG' if n % 2 else 'bmp'}" for n in (3, 1, 4, 1, 5)]
    seen, pictures = seen_of(Frames(paths, fps=2.5), tmp_path, num_frames=5)
    assert seen.sample.times == pytest.approx((0, 0.4, 0.8, 1.2, 1.6))
    assert seen.duration == pytest.approx(2)
    np.testing.assert_array_equal(pictures, FRAMES[[3, 1, 4, 1, 5]])


@pytest.mark.parametrize(
    "given",
    [
        FRAMES,
        FRAMES[:, :, ::-1][:, :, ::-1],
        torch.from_numpy(FRAMES),
        torch.from_numpy(FRAMES).permute(0, 3, 1, 2),
        Frames(FRAMES),
    ],
)
def test_arrays(given, arrays):
    seen, pictures = seen_of(given, arrays)
    assert (seen.height, seen.width, seen.duration) == (20, 30, 12.0)
    np.testing.assert_array_equal(pictures, FRAMES)
    # Only what is looked at is written.
    seen, pictures = seen_of(given, arrays, num_frames=4)
    np.testing.assert_array_equal(pictures, FRAMES[list(seen.sample.frames)])
    assert Path(seen.read(seen.sample.frames).name).stat().st_size < 4 * FRAMES[0].nbytes + 1000


@pytest.mark.parametrize(
    "wrong",
    [
        FRAMES[0],
        FRAMES.astype(np.float32),
        FRAMES[:0],
        FRAMES[..., :2],
        torch.from_numpy(FRAMES).float(),
        FRAMES[:, :0],
    ],
)
def test_arrays_of_another_kind(wrong, arrays):
    with pytest.raises(InvalidInput, match="give uint8 frames"):
        looked_at(wrong, arrays)


@pytest.mark.parametrize(
    "wrong", [[], ["a.png", 5], ["a.png", ""], "a.png", Path("a"), None, 5, {"a"}, iter(["a.png"])]
)
def test_lists_of_something_else(wrong):
    with pytest.raises(InvalidInput, match="pictures="):
        Frames(wrong)


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf"), "2", True, 10**400])
def test_rates_that_are_none(fps):
    with pytest.raises(InvalidInput, match="fps="):
        Frames(FRAMES, fps=fps)


def test_rates_of_other_libraries():
    assert Frames(FRAMES, fps=np.float32(2)).info().duration == 6.0


def test_pictures_of_two_sizes_name_the_odd_one(folder):
    Image.fromarray(FRAMES[0][:, :20]).save(folder / "Frame7.PNG")
    with pytest.raises(VideoError, match="must be 30x20 pixels") as caught:
        looked_at(folder)
    assert caught.value.value == str(folder / "Frame7.PNG")


def test_a_picture_that_is_damaged_or_changed(folder):
    odd = folder / "Frame4.bmp"
    whole = odd.read_bytes()
    odd.write_bytes(whole[:-600])
    _, source = looked_at(folder)
    with pytest.raises(VideoError, match="damaged") as caught:
        list(decode_frames(source))
    assert caught.value.value == str(odd)
    odd.write_bytes(whole)
    with pytest.raises(VideoError, match="was changed"):
        list(decode_frames(source))
    odd.write_text("no picture")
    with pytest.raises(VideoError, match="no picture"):
        looked_at(folder)
    (folder / "Frame3.PNG").write_bytes((folder / "Frame3.PNG").read_bytes()[:-600])
    odd.unlink()
    with pytest.raises(VideoError, match="damaged"):
        looked_at(folder)


def test_natural_order():
    names = ["b10", "b9", "a", "B1", "b09", "10", "9", "b9b", ""]
    assert natural_order(names) == ["", "9", "10", "a", "B1", "b09", "b9", "b9b", "b10"]
