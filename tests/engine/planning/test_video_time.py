"""How long a rank waits for pictures, in cases that can be worked out by hand."""

from typing import Any

import pytest
from bare_media import bare_media

from spava_app.engine.media import FrameSource, Media
from spava_app.engine.planning.video_time import Decoding

# Of a process for each of its units; decoded one per second at this rate.
RATE = 1.0


def video(frames: tuple[int, ...], keys: tuple[int, ...], **changes: Any) -> Media:
    """Frames of 10 x 20 pixels, each a unit, with the key frame before each; 0 is the start."""
    # Time stamps are 512 a frame, and begin at 1000.
    rows = tuple(1000 + 512 * frame for frame in frames)
    seeks = tuple(((1000 + 512 * key, 0, 0, 0),) if key else () for key in keys)
    fields: dict[str, Any] = {"kind": "video", "shape": (10, 20), "rows": rows, "seeks": seeks}
    source = FrameSource(paths=("",), stamps=((0, 0),), **(fields | changes))
    return bare_media((len(frames), 1, 1), 1, (0,), frames=frames, source=source)


def passed(media: Media, threads: int = 2) -> list[list[float]]:
    """Frames that each process goes through for each of its units."""
    decoding = Decoding.of(media, range(media.num_units), threads)
    return [[pixels / 200 for pixels in part] for part in decoding.parts]


def test_decoding_goes_from_frame_to_frame_or_from_the_key_before_it() -> None:
    assert passed(video((0,), (0,))) == [[1]]
    assert passed(video((9,), (0,))) == [[10]]
    assert passed(video((0, 40, 99), (0, 0, 90))) == [[1, 40, 10]]
    assert passed(video((0, 95, 99), (0, 90, 90))) == [[1, 6, 4]]
    assert passed(video((0, 95, 99), (0, 90, 90), kind="pictures")) == [[1, 1, 1]]
    assert passed(video((0, 95, 99), (0, 90, 90), kind="array")) == [[0, 0, 0]]


def test_each_process_begins_at_a_key_frame() -> None:
    frames, keys = (0, 40, 50, 60, 95, 99), (0, 0, 0, 0, 90, 90)
    assert passed(video(frames, keys), threads=6) == [[1, 40], [51, 10], [6, 4]]


def test_a_rank_decodes_its_own_units() -> None:
    media = video((0, 40, 50, 60, 95, 99), (0, 0, 0, 0, 90, 90))
    # What lies between is passed over, or a key frame sought.
    assert Decoding.of(media, [1, 3, 5], 2).parts == [[41 * 200, 20 * 200, 10 * 200]]


def test_the_last_unit_may_be_short() -> None:
    media = video((0, 10, 20, 30, 40), (0,) * 5)
    pairs = bare_media((3, 1, 1), 1, (0,), frames=media.frames, source=media.source)
    assert passed(pairs) == [[11, 20, 10]]


@pytest.mark.parametrize("parts", [[[1, 1, 1, 1, 1, 1]], [[1, 1, 1], [1, 1, 1]]])
def test_without_other_work_all_of_decoding_is_waited_for(parts: list[list[float]]) -> None:
    decoding = Decoding(parts, ahead=9)
    assert decoding.waited(RATE, each=2, prepare=0, work=0) == len(parts[0])
    assert decoding.waited(2 * RATE, each=2, prepare=0, work=0) == len(parts[0]) / 2


def test_behind_slow_work_only_the_first_step_is_waited_for() -> None:
    decoding = Decoding([[1] * 6, [1] * 6], ahead=9)
    assert decoding.waited(RATE, each=2, prepare=0, work=5) == 2
    assert decoding.waited(RATE, each=3, prepare=0, work=5) == 3


def test_what_decoding_takes_longer_than_the_work_is_waited_for_in_every_step() -> None:
    # Steps of 2 + 2 units take 2 s to decode and 0.25 x 4 to work on.
    decoding = Decoding([[1] * 6, [1] * 6], ahead=9)
    assert decoding.waited(RATE, each=2, prepare=0, work=0.25) == 2 + 2 * (2 - 1)


def test_preparing_a_unit_hides_the_decoding_of_the_next() -> None:
    assert Decoding([[1] * 6], ahead=9).waited(RATE, each=6, prepare=0.25, work=0) == 1 + 5 * 0.75


def test_nothing_is_decoded_further_ahead_than_there_is_room() -> None:
    # Of 4 units 2 are decoded, of the others each once a place is free: when its first is taken.
    room, none = Decoding([[1] * 4], ahead=9), Decoding([[1] * 4], ahead=1)
    assert room.waited(RATE, each=2, prepare=0, work=10) == 2
    assert none.waited(RATE, each=2, prepare=0, work=10) == 3


def test_a_process_that_has_more_to_do_is_waited_for() -> None:
    # Its first unit before anything, its others as their turn comes.
    assert Decoding([[1, 1], [4, 1]], ahead=9).waited(RATE, each=1, prepare=0, work=0) == 5
    assert Decoding([[1, 1], [4, 1]], ahead=9).waited(RATE, each=1, prepare=0, work=2) == 4
    uneven = Decoding([[1, 1, 1], [1]], ahead=9)
    assert uneven.waited(RATE, each=1, prepare=0, work=0) == 3


def test_nothing_is_prepared_before_every_process_has_its_first_unit() -> None:
    assert Decoding([[1, 1], [4, 1]], ahead=9).waited(RATE, each=1, prepare=2, work=0) == 4
