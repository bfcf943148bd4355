"""Card videos show what their scene says, when it says; the same scene gives the same file, and no
other file is lost by it.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spava_app.engine.synthetic import cards
from spava_app.engine.synthetic.card_drawing import COLORS, DIGITS, draw, random_look
from spava_app.engine.synthetic.cards import (
    GAP,
    LONGEST,
    SHORTEST,
    Card,
    CardScene,
    draw_frames,
    random_scene,
    write_video,
)
from spava_app.engine.synthetic.long_clip import write_minute
from spava_app.engine.video.probe import probe
from spava_app.errors import InvalidInput


@settings(max_examples=200, deadline=None)
@given(
    cards=st.integers(0, 8),
    spare=st.floats(0.5, 100),
    seed=st.integers(0, 2**32),
)
def test_scenes_keep_their_promises(cards, spare, seed):
    seconds = cards * (SHORTEST + GAP) + spare
    scene = random_scene(seconds, cards, seed)
    assert scene == random_scene(seconds, cards, seed)
    assert len({card.color for card in scene.cards}) == cards
    for card in scene.cards:
        assert 0 <= card.start < card.end <= seconds
        assert SHORTEST - 1e-6 <= card.end - card.start <= LONGEST + 1e-6
    for before, after in zip(scene.cards, scene.cards[1:], strict=False):
        assert after.start - before.end >= GAP - 1e-6


@pytest.mark.parametrize(
    ("seconds", "cards", "seed", "field"),
    [
        (30, 8, 0, "seconds"),
        (2, 1, 0, "seconds"),
        (0, 0, 0, "seconds"),
        (float("nan"), 5, 0, "seconds"),
        (float("inf"), 5, 0, "seconds"),
        (float("-inf"), 0, 0, "seconds"),
        (1e308, 5, 0, "seconds"),
        (10**400, 5, 0, "seconds"),
        ("30", 5, 0, "seconds"),
        (100, 9, 0, "num_cards"),
        (100, -1, 0, "num_cards"),
        (100, 1.5, 0, "num_cards"),
        (100, 5, -1, "seed"),
        (100, 5, 10**23, "seed"),
        (100, 5, 0.5, "seed"),
        (100, 5, None, "seed"),
    ],
)
def test_impossible_scenes_are_refused(seconds, cards, seed, field):
    with pytest.raises(InvalidInput) as error:
        random_scene(seconds, cards, seed)
    assert error.value.field == field


@pytest.mark.parametrize("wrong", [{"size": 225}, {"size": 0}, {"fps": 0}])
def test_impossible_videos_are_refused(tmp_path, wrong):
    with pytest.raises(InvalidInput):
        write_video(random_scene(10, 1, 0), tmp_path / "a.mp4", **wrong)


def test_question_and_answer():
    card = Card("red", 7, 1.0, 4.0)
    assert (card.question, card.answer) == ("What digit is on the red card?", "7")


def nearest_color(frame: torch.Tensor) -> str | None:
    """The card colour that fills most of an RGB frame `[3, S, S]` in 0..1, if any fills a tenth of
    it.
    """
    palette = torch.tensor(list(COLORS.values()))
    distance = (frame.permute(1, 2, 0)[:, :, None] - palette).norm(dim=-1)
    share = (distance < 0.25).float().mean((0, 1))
    return list(COLORS)[share.argmax()] if share.max() > 0.1 else None


def test_a_video_shows_its_cards_at_the_stated_times(tmp_path):
    scene = random_scene(50, 8, 5)
    path = tmp_path / "cards.mp4"
    write_video(scene, path, size=112, fps=4)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.average_rate) == (112, 112, 4)
        frames = {
            round(frame.time * 4): frame.to_ndarray(format="rgb24")
            for frame in container.decode(video=0)
        }
    assert sorted(frames) == list(range(200))
    seen = {
        number: nearest_color(torch.from_numpy(frame).permute(2, 0, 1) / 255)
        for number, frame in frames.items()
    }
    for card in scene.cards:
        assert seen[round((card.start + card.end) / 2 * 4)] == card.color
    for number, color in seen.items():
        inside = [card.color for card in scene.cards if card.start <= number / 4 < card.end]
        assert color == (inside[0] if inside else None)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_a_video_that_is_not_finished_leaves_what_was_there(tmp_path, monkeypatch, error):
    scene, path = random_scene(20, 1, 0), tmp_path / "cards.mp4"

    def fail(scene, times, size):
        if times[0] > 5:
            raise error
        return draw_frames(scene, times, size)

    monkeypatch.setattr(cards, "draw_frames", fail)
    for before in (None, b"an older video"):
        if before:
            path.write_bytes(before)
        with pytest.raises(type(error)):
            write_video(scene, path, size=32, force=True)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [before] * bool(before)


def test_a_video_replaces_a_file_through_a_link_and_never_a_folder(tmp_path):
    scene, link, file = random_scene(5, 1, 0), tmp_path / "link.mp4", tmp_path / "file.mp4"
    file.write_bytes(b"an older video")
    link.symlink_to(file)
    with pytest.raises(FileExistsError):
        write_video(scene, link, size=32)
    assert file.read_bytes() == b"an older video"
    write_video(scene, link, size=32, force=True)
    assert link.is_symlink()
    assert file.stat().st_size > 1000
    assert sorted(tmp_path.iterdir()) == [file, link]
    # As any file that a program makes: for others to read where the user lets them.
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "folder.mp4").mkdir()
    for force in (True, False):
        with pytest.raises(IsADirectoryError):
            write_video(scene, tmp_path / "folder.mp4", size=32, force=force)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_while_a_video_is_made_is_not_lost(tmp_path, monkeypatch, links):
    scene, path = random_scene(20, 1, 0), tmp_path / "cards.mp4"

    def interfere(scene, times, size):
        if times[0] > 5:
            path.write_bytes(b"another's video")
        return draw_frames(scene, times, size)

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(cards, "draw_frames", interfere)
    if not links:  # as on a FAT file system
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileExistsError):
        write_video(scene, path, size=32)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"another's video"]
    monkeypatch.undo()
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write_video(scene, tmp_path / "free.mp4", size=32)
    assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "free.mp4").stat().st_size > 1000


WRITE = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from spava_app.engine.synthetic.long_clip import write_minute
from spava_app.engine.synthetic.cards import random_scene, write_video
write_video(random_scene(8, 1, 0), sys.argv[2])
write_minute(Path(sys.argv[3]), size=(180, 320), fps=2, key_every=50)
"""


def test_the_same_seed_writes_the_same_bytes_in_every_process(tmp_path):
    """With any number of cores and threads, and whatever was in memory before."""
    made: list[list[Path]] = []
    writers = []
    for cores, threads, before in (("1", "1", "85"), ("2", "3", "170")):
        files = [tmp_path / f"{kind}-{threads}.mp4" for kind in ("cards", "clip")]
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MALLOC_PERTURB_": before}
        words = [sys.executable, "-c", WRITE, cores, *map(str, files)]
        writers.append(subprocess.Popen(words, env=environment))
        made.append(files)
    assert [writer.wait(120) for writer in writers] == [0, 0]
    for one, other in zip(*made, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_drawing_does_not_depend_on_the_number_of_threads():
    scene, times = random_scene(30, 5, 1), torch.arange(64) / 4
    threads = torch.get_num_threads()
    try:
        drawn = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            drawn.append(draw_frames(scene, times, 224))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def copied(source: Path, target: Path) -> Path:
    """The packets and tags of a video in another container, as `ffmpeg -c copy` copies them."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata.update(old.metadata)
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


def test_a_card_video_is_told_from_others_also_as_a_copy(tmp_path):
    own, other = tmp_path / "cards.mp4", tmp_path / "other.mp4"
    write_video(random_scene(5, 1, 0), own, size=32)
    write_minute(other, size=(64, 64), fps=1, key_every=10)
    copies = [copied(own, tmp_path / f"copy.{kind}") for kind in ("mp4", "mkv", "mov")]
    assert all(probe(path).cards for path in (own, *copies))
    assert not probe(other).cards


def test_drawing_is_deterministic_and_looks_alike_at_every_size():
    scene = random_scene(30, 3, 9)
    times = torch.tensor([card.start + 1 for card in scene.cards])
    large, small = draw_frames(scene, times, 224), draw_frames(scene, times, 56)
    assert torch.equal(large, draw_frames(scene, times, 224))
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    # The corners and the noise are sampled, not integrated: only they differ.
    assert (shrunk - small).abs().mean() < 0.01
    assert (shrunk - small).abs().amax(1).gt(0.2).float().mean() < 0.005


def test_every_digit_and_colour_differs_from_every_other():
    look = random_look(1, 1, torch.Generator().manual_seed(0))
    shown, times = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1)
    pictures = [
        draw(look, torch.tensor([[color]]), torch.tensor([[digit]]), shown, times, 56)
        for color in range(len(COLORS))
        for digit in range(len(DIGITS))
    ]
    flat = torch.stack(pictures).flatten(1)
    distance = torch.cdist(flat, flat) + 100 * torch.eye(len(flat))
    assert distance.min() > 3


def test_a_scene_without_cards_is_noise_only():
    frames = draw_frames(CardScene(4.0, 1, ()), torch.tensor([0.0, 2.0]), 56)
    assert frames.shape == (2, 3, 56, 56)
    saturation = frames.amax(1) - frames.amin(1)
    assert saturation.mean() < 0.4
    assert (frames[0] - frames[1]).abs().mean() > 0.01
