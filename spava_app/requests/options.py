"""What may be said with a question, in one place for `ask`, `stream`, `plan`, `open` and `map`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from spava_app.errors import InvalidInput

if TYPE_CHECKING:  # the command line reads defaults here, and answers --help without torch
    from spava_app.engine.sampling import Sampling

# Of an answer, in tokens, where neither the question nor the checkpoint says.
DEFAULT_MAX_NEW_TOKENS = 256


class FrameOptions(TypedDict, total=False):
    """What is looked at of each video.

    Keys:
        num_frames: so many frames, evenly spaced in time.
        fps: or so many per second. By default 2 and at most 768 frames, fewer where the model or
            the memory takes no more.
        frame_rule: choose frames as a benchmark or another program does, to be comparable:
            longvideobench, spava-short, vnbench, internvl or qwen-vl-utils.
        max_pixels: make frames no larger than this many pixels, width times height; at least
            what a model can see something in, 100,352.
        max_visual_tokens: make frames smaller, and take fewer unless their number was given, until
            they fit into this many tokens.
    """

    num_frames: int | None
    fps: float | None
    frame_rule: str | None
    max_pixels: int | None
    max_visual_tokens: int | None


class AnswerOptions(TypedDict, total=False):
    """How an answer is made.

    Keys:
        max_new_tokens: maximum number of tokens to generate; by default the checkpoint's own, else
            256.
        sampling: temperature, top-p, top-k, repetition penalty and seed. What is left out is as in
            the checkpoint's generation_config.json; `spava_app.GREEDY` takes the best token each
            time whatever stands there. The same seed gives the same answer.
        stop_strings: the answer ends before the first of these that it comes to.
        method, method_options: another prefill method than the object was made with, or other
            options of it.
    """

    max_new_tokens: int | None
    sampling: "Sampling | None"
    stop_strings: Iterable[str]
    method: str | None
    method_options: Mapping[str, object] | None


class AskOptions(FrameOptions, AnswerOptions, total=False):
    """All of them.

    Keys:
        history: earlier questions and their answers, oldest first.
    """

    history: Sequence[tuple[str, str]]


def check_options(given: Mapping[str, object], allowed: type, what: str) -> None:
    """Raise InvalidInput for an option that is none of `allowed`, one of the classes above."""
    names: frozenset[str] = allowed.__optional_keys__  # type: ignore[attr-defined]
    for name, value in given.items():
        if name not in names:
            raise InvalidInput(name, value, f"{what} takes {', '.join(sorted(names))}")
