"""Card videos: moving noise in which coloured cards, each with one digit, show for a few seconds.

They need no download and no licence, have one right answer per question, and a tiny model can learn
them: the demo, the end-to-end tests and the quick checks ask about them.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

import torch

from spava_app.engine.synthetic.card_drawing import COLORS, draw, random_look
from spava_app.engine.video.card_mark import CARD_COMMENT
from spava_app.errors import InvalidInput, finite_number, needed_count, plain_number
from spava_app.output_file import output_file

SHORTEST, LONGEST = 3.0, 6.0  # seconds a card shows
GAP = 1.0  # least seconds between two cards
LONGEST_VIDEO = 24 * 60 * 60  # seconds
CHUNK_FRAMES = 64
KEY_FRAME_EVERY = 250


@dataclass(frozen=True)
class Card:
    """A card that shows from `start` to `end`, in seconds."""

    color: str
    digit: int
    start: float
    end: float

    @property
    def question(self) -> str:
        """What to ask about it."""
        return f"What digit is on the {self.color} card?"

    @property
    def answer(self) -> str:
        """The right answer."""
        return str(self.digit)


@dataclass(frozen=True)
class CardScene:
    """What a card video shows; `seed` fixes how it looks."""

    seconds: float
    seed: int
    cards: tuple[Card, ...]


def random_scene(seconds: float, num_cards: int, seed: int) -> CardScene:
    """Place cards of distinct colours at random moments, in order of time.

    Args:
        seconds: length of the video, up to a day.
        num_cards: 0 to 8; each shows for 3 to 6 seconds, at least 1 second apart from the next.
        seed: fixes the cards and the look.

    Raises:
        InvalidInput: the cards do not fit, there are more cards than colours, or it is no number.
    """
    count, length = plain_number(num_cards), finite_number(seconds)
    if not isinstance(count, int) or not 0 <= count <= len(COLORS):
        raise InvalidInput("num_cards", num_cards, f"choose 0 to {len(COLORS)}, one per colour")
    if length is None or not 0 < length <= LONGEST_VIDEO:
        raise InvalidInput("seconds", seconds, f"must be above 0 and at most {LONGEST_VIDEO}")
    num_cards, seconds, seed = count, length, needed_count("seed", seed, least=0)
    spare = seconds - num_cards * SHORTEST - max(num_cards - 1, 0) * GAP
    if spare < 0:
        raise InvalidInput(
            "seconds", seconds, f"{num_cards} cards need {num_cards * (SHORTEST + GAP) - GAP:g} s"
        )
    random = Random(seed)
    colors = random.sample(list(COLORS), num_cards)
    lengths = []
    for _ in colors:
        longer = random.random() * min(LONGEST - SHORTEST, spare / num_cards)
        lengths.append(SHORTEST + longer)
    free = seconds - sum(lengths) - max(num_cards - 1, 0) * GAP
    offsets = sorted(random.random() * free for _ in colors)
    cards, used = [], 0.0
    for color, length, offset in zip(colors, lengths, offsets, strict=True):
        start = used + offset
        cards.append(Card(color, random.randrange(10), start, min(start + length, seconds)))
        used += length + GAP
    return CardScene(seconds, seed, tuple(cards))


def draw_frames(scene: CardScene, times: torch.Tensor, size: int) -> torch.Tensor:
    """The frames of a scene at `times` `[F]` (seconds): RGB in 0..1, float32 `[F, 3, size,
    size]`.
    """
    look = random_look(1, len(scene.cards), torch.Generator().manual_seed(scene.seed))
    order = list(COLORS)
    colors = torch.tensor([[order.index(card.color) for card in scene.cards]], dtype=torch.int64)
    digits = torch.tensor([[card.digit for card in scene.cards]], dtype=torch.int64)
    shown = torch.full_like(times, -1, dtype=torch.int64)
    for index, card in enumerate(scene.cards):
        shown[(times >= card.start) & (times < card.end)] = index
    return draw(look, colors, digits, shown[None], times[None], size)[0]


def write_video(
    scene: CardScene, path: str | Path, *, size: int = 224, fps: int = 10, force: bool = False
) -> None:
    """Encode a scene as an H.264 mp4, one short run of frames at a time. There is a file under that
    name once it is whole; the same scene gives the same bytes.

    Args:
        scene: what to show.
        path: the file to write.
        size: frame side in pixels, even.
        fps: frames per second.
        force: whether a file that exists is overwritten.

    Raises:
        InvalidInput: an odd or non-positive size, or a rate that leaves no frame.
        FileExistsError: there is a file of that name.
        OSError: it cannot be written.
    """
    if size < 16 or size % 2:
        raise InvalidInput("size", size, "give an even number of pixels, at least 16")
    num_frames = round(scene.seconds * fps)
    if num_frames < 1:
        raise InvalidInput("fps", fps, f"gives no frame in {scene.seconds:g} s: raise it")
    with output_file(path, force=force) as beside:
        _encode(scene, beside, num_frames, size, fps)


def _encode(scene: CardScene, path: Path, num_frames: int, size: int, fps: int) -> None:
    # Training draws the same cards on machines without PyAV.
    import av

    from spava_app.engine.synthetic.encoding import add_h264

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        container.metadata["comment"] = CARD_COMMENT
        stream = add_h264(
            container, (size, size), fps, key_every=KEY_FRAME_EVERY, preset="veryfast"
        )
        stream.codec_context.time_base = Fraction(1, fps)
        for start in range(0, num_frames, CHUNK_FRAMES):
            index = torch.arange(start, min(start + CHUNK_FRAMES, num_frames))
            frames = draw_frames(scene, index / fps, size)
            pixels = (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            for number, image in zip(index.tolist(), pixels, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
