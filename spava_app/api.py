"""`VideoQA`: ask questions about videos from Python."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from spava_app.engine.engine import Engine
from spava_app.engine.hub import resolve_model
from spava_app.engine.joined.calls import calls_here
from spava_app.engine.parallel.base import make_method
from spava_app.engine.plain import from_plain
from spava_app.engine.plan import Plan
from spava_app.engine.processors import make_processor
from spava_app.engine.sampler import Sampling
from spava_app.engine.settings import cache_folder
from spava_app.engine.video.frames import Frames as Frames
from spava_app.engine.weights import read_config
from spava_app.errors import CheckpointError, InvalidInput, check_count
from spava_app.looking import Asked, Files
from spava_app.prepare import Preparer
from spava_app.prompt import PromptBuilder
from spava_app.text_stream import TextStream

EMBEDDED = Path(__file__).parent / "assets" / "spava-tiny-vl"

OnEvent = Callable[[str, float], None]


@dataclass(frozen=True)
class Usage:
    """What a question took.

    Attributes:
        prompt_tokens, answer_tokens: how many.
        finish_reason: "stop" where the model or a stop string ended the answer, "length" where
            `max_new_tokens` did.
    """

    prompt_tokens: int
    answer_tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        text: what the model said.
        timings: seconds per stage of the slowest rank, and "total" from the call to the answer.
        plan: what was done.
        usage: tokens in and out.
        warnings: what was wrong with the videos and did not keep them from being looked at.
    """

    text: str
    timings: dict[str, float]
    plan: Plan
    usage: Usage
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "text": self.text,
            "timings": self.timings,
            "plan": self.plan.to_dict(),
            "usage": asdict(self.usage),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, back from JSON."""
        return from_plain(cls, fields)


class VideoQA:
    """Answers questions about videos with a vision-language model whose prefill is spread over
    several ranks.

    Workers start with the first question (or `start`) and stay until `close`; use it as a context
    manager.

    Args:
        model: "embedded" (a tiny model that reads coloured cards, for trying things out), the
            folder of a Qwen2.5-VL or InternVL3 checkpoint in Hugging Face form, or the name of one
            on the hub, `org/name` or `org/name@revision`, which is downloaded once.
        ranks: processes: one per GPU, or CPU processes; by default 2, or under torchrun as many as
            it has started.
        method: "spava" (approximate, fast) or "full" (exact, on one rank).
        device: "auto", "cpu" or "cuda"; auto takes the GPUs when there are enough for `ranks`.
        method_options: options of the method, e.g. {"passing_fraction": 0.5}.
        allow_pickle: load *.bin and *.pt weights where a checkpoint has no safetensors; only
            tensors are read from them.
        cache: keep visual embeddings on disk (10 GiB in SPAVA_CACHE, else ~/.cache/spava) and in
            memory, so that the next question about the same video is not decoded again.

    Raises:
        InvalidInput: a value out of range; the message names the field and the fix.
        CheckpointError: the model folder cannot be used.
    """

    def __init__(
        self,
        model: str | Path = "embedded",
        *,
        ranks: int | None = None,
        method: str = "spava",
        device: str = "auto",
        method_options: Mapping[str, object] | None = None,
        allow_pickle: bool = False,
        cache: bool = True,
    ) -> None:
        check_count("ranks", ranks, least=1)
        if not isinstance(model, str | Path):
            fix = "give embedded, the path of a model folder, or a name on the hub"
            raise InvalidInput("model", model, fix)
        options = dict(method_options or {})
        made = make_method(method, options)
        self._calls = calls_here()
        place = self._calls.place
        if place is not None and ranks not in (None, place.world_size):
            fix = f"torchrun has started {place.world_size} processes: leave it out"
            raise InvalidInput("ranks", ranks, fix)
        ranks = place.world_size if place else ranks or 2
        device = _resolve_device(device, place.local_world_size if place else ranks)
        folder = EMBEDDED if model == "embedded" else resolve_model(model)
        config = read_config(folder)
        processor = make_processor(folder, config)
        if processor is None:
            raise CheckpointError("model", str(folder), "is a text model: it sees no video")
        self._prompts = PromptBuilder(folder, processor)
        text = config.get("text_config") or config.get("llm_config") or config
        longest = text.get("max_position_embeddings") or sys.maxsize
        run = (made, options, ranks, device)
        self._prepare = Preparer(self._prompts, processor, longest, *run, cached=cache)
        dtype = "bfloat16" if device == "cuda" else "float32"
        self._engine = Engine(
            folder,
            world_size=ranks,
            device=device,
            dtype=dtype,
            allow_pickle=allow_pickle,
            cache=cache_folder() if cache else None,
            launcher=self._calls.launcher(ranks),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers and load the model now instead of with the first question."""
        self._calls.call("start", self._engine.start, type(None))

    def close(self) -> None:
        """Stop the workers."""
        self._engine.close()

    def ask(
        self,
        video: Files,
        question: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        num_frames: int | None = None,
        fps: float | None = None,
        frame_rule: str | None = None,
        max_visual_tokens: int | None = None,
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        stop_strings: Sequence[str] = (),
        on_event: OnEvent | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer `question` about `video`.

        Args:
            video: path of a video, of a picture or of a folder of pictures that make a video;
                frames as `Frames` or as an array `[N, height, width, 3]` of bytes; or several of
                these. They stand before the first question.
            question: any text.
            history: earlier questions about them and their answers, oldest first.
            num_frames: look at this many frames of each video, evenly spaced in time.
            fps: or look at this many per second. By default 2 and at most 768 frames, fewer where
                the model takes no more.
            frame_rule: choose frames as a benchmark or another program does, to be comparable:
                longvideobench, spava-short, vnbench, internvl or qwen-vl-utils.
            max_visual_tokens: make frames smaller, and take fewer unless their number was given,
                until they fit into this many tokens (default: as many as the model takes).
            max_new_tokens: longest answer.
            sampling: temperature, top-p, top-k, repetition penalty and seed; by default the best
                token each time. The same seed gives the same answer.
            stop_strings: the answer ends before the first of these that it comes to.
            on_text: called with each piece of the answer as it comes.
            on_event: called with (stage, seconds since the call) as each stage begins.

        Raises:
            InvalidInput: an empty question, a value out of range.
            VideoError: the file cannot be read.
            EngineDown: a worker died; the next question starts new ones.
        """
        asked = Asked(
            video,
            question,
            history,
            num_frames,
            fps,
            max_new_tokens,
            Sampling() if sampling is None else sampling,
            frame_rule,
            max_visual_tokens,
        )
        run = partial(self._answer, asked, stop_strings)
        return self._calls.call("ask", run, Answer, on_event=on_event, on_text=on_text)

    def _answer(
        self,
        asked: Asked,
        stop_strings: Sequence[str],
        on_event: OnEvent | None,
        on_text: Callable[[str], None] | None,
    ) -> Answer:
        max_new_tokens, sampling = asked.max_new_tokens, asked.sampling
        check_count("max_new_tokens", max_new_tokens or 0, least=1)
        if not isinstance(sampling, Sampling):
            raise InvalidInput("sampling", sampling, "give a spava_app.Sampling")
        check_count("max_visual_tokens", asked.max_visual_tokens, least=1)
        began = time.perf_counter()

        def tell(stage: str) -> None:
            if on_event is not None:
                on_event(stage, time.perf_counter() - began)

        tell("probe")
        stream = TextStream(self._prompts.decode, stop_strings)
        num_tokens = 0

        def show(piece: str) -> None:
            if piece and on_text is not None:
                on_text(piece)

        def on_message(name: str, value: Any) -> None:
            nonlocal num_tokens
            if name == "stage":
                tell(value)
            elif name == "token" and not stream.stopped:
                num_tokens += 1
                show(stream.push(value))
                if stream.stopped:
                    self._engine.cancel()

        with TemporaryDirectory(prefix="spava-frames-") as scratch:
            request, plan = self._prepare(asked, Path(scratch))
            probed = time.perf_counter() - began
            tell("start")
            self._engine.start()
            started = time.perf_counter() - began
            result = self._engine.run(request, on_message)
        timings = {"probe": probed, "start": started - probed, **result.seconds}
        timings["total"] = time.perf_counter() - began
        show(stream.finish())
        cut = num_tokens == max_new_tokens and not stream.stopped
        usage = Usage(plan.num_tokens, num_tokens, "length" if cut else "stop")
        return Answer(stream.text.strip(), timings, plan, usage, result.warnings)


def _resolve_device(device: str, ranks: int) -> str:
    import torch

    if device not in {"auto", "cpu", "cuda"}:
        raise InvalidInput("device", device, "choose auto, cpu or cuda")
    cards = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and cards < ranks:
        raise InvalidInput("device", device, f"{ranks} ranks need {ranks} GPUs, {cards} found")
    return "cuda" if cards >= ranks else "cpu"
