"""What will be done for a question, in numbers a person can check. Made before anything runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from textwrap import fill
from typing import Any, Self

from spava_app.engine.sampling import GREEDY, Sampling
from spava_app.engine.serialization import from_plain

# Of a line in characters: a plan that is indented a little still fits into 100 columns.
_WIDTH = 96


@dataclass(frozen=True)
class PlannedMedia:
    """What is looked at of one video or picture.

    Attributes:
        path, duration: the file and its length in seconds, 0 for a picture.
        num_frames, interval: frames looked at and the mean seconds between them.
        size: (height, width) in pixels that frames are resized to.
        num_tokens: visual tokens.
        lowered: which of "size" and "frames" are less than wished for, to fit into the prompt.
    """

    path: str
    duration: float
    num_frames: int
    interval: float
    size: tuple[int, int]
    num_tokens: int
    lowered: tuple[str, ...] = ()

    def __str__(self) -> str:
        height, width = self.size
        fitted = f" ({' and '.join(self.lowered)} lowered to fit)" if self.lowered else ""
        if not self.duration:
            return f"picture {self.num_tokens} tokens, {width}x{height} pixels{fitted}"
        return (
            f"video   {self.num_frames} frames of {self.duration:.0f} s, one every "
            f"{self.interval:.2f} s, {width}x{height} pixels{fitted}"
        )


@dataclass(frozen=True)
class Plan:
    """How a question is answered.

    Attributes:
        media: videos and pictures, in the order of the prompt.
        model: as the user named it: "embedded", a folder, or a name on the hub.
        num_tokens, num_visual, query_len: prompt tokens, visual ones among them, tokens of the
            question tail.
        method, options: the prefill method and the options that were given.
        world_size, device: ranks and what they run on.
        anchor_len, num_blocks, block_len, passing_len: lengths of the layout; passing is per block.
        max_new_tokens, sampling: the longest answer, and how its tokens are chosen: as asked for,
            else as the checkpoint says.
        chat_template: whether the model has one; it is asked plainly otherwise.
        why: the method was chosen.
        seconds: predicted per stage, named as in an answer's timings: with nothing kept of the
            media from earlier questions, and for the longest answer.
        rates: where the rates come from that seconds are predicted with.
        memory: bytes of tensors that each rank is predicted to hold at its peak.
        margin: bytes that come on top on the fullest rank: what a process, its CUDA context, NCCL
            and the allocator take.
        available: bytes that each rank may take.
        warnings: why the answer may not be what was wanted.
    """

    media: tuple[PlannedMedia, ...]
    model: str
    num_tokens: int
    num_visual: int
    query_len: int
    method: str
    world_size: int
    device: str
    anchor_len: int
    num_blocks: int
    block_len: int
    passing_len: int
    max_new_tokens: int = 0
    sampling: Sampling = GREEDY
    chat_template: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    rates: str = ""
    memory: tuple[int, ...] = ()
    margin: int = 0
    available: int = 0
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, back from JSON."""
        return from_plain(cls, fields)

    def __str__(self) -> str:
        lines = [
            *map(str, self.media),
            f"prompt  {self.num_tokens} tokens: {self.num_visual} visual, "
            f"{self.query_len} question" + ", no chat template" * (not self.chat_template),
            f"model   {self.model}",
            f"answer  up to {self.max_new_tokens} tokens, {self.sampling}",
            f"method  {self.method} on {self.world_size} x {self.device}"
            + (f" ({self.why})" if self.why else ""),
        ]
        if self.num_blocks > 1:
            parts = f"        {self.num_blocks} blocks of {self.block_len}"
            if self.anchor_len or self.passing_len:  # exact methods have neither
                parts += f", anchor {self.anchor_len}, each passes {self.passing_len}"
            lines.append(parts)
        if self.seconds:
            # An answer may end before its longest.
            stages = ", ".join(
                f"{name} {'up to ' * (name == 'generate')}{_told(took)}"
                for name, took in self.seconds.items()
            )
            total = _told(sum(self.seconds.values()))
            lines += [
                f"time    up to {total}, plus starting the workers, predicted with {self.rates}:",
                f"        {stages}",
            ]
        if self.memory:
            most = max(self.memory)
            lines.append(
                f"memory  {_gib(most)} predicted on the fullest rank, up to {_gib(self.margin)} "
                f"on top; {_gib(self.available)} available"
            )
        return "\n".join(
            fill(
                line,
                _WIDTH,
                subsequent_indent=" " * 8,
                break_long_words=False,  # nor names of models: a path is copied in one piece
                break_on_hyphens=False,
            )
            for line in lines
        )


def _told(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
