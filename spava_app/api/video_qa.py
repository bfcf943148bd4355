"""`VideoQA`: ask questions about videos from Python."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from typing_extensions import Unpack

from spava_app.api.answer import Answer
from spava_app.api.batch import OnAnswer, ask_all
from spava_app.api.conversation import Conversation
from spava_app.api.session import OnEvent, OnText, Session
from spava_app.api.streaming import Event, streamed
from spava_app.engine.planning.plan import Plan
from spava_app.errors import SpavaError
from spava_app.forked import check_not_forked
from spava_app.requests.media_input import Files, Question
from spava_app.requests.options import AskOptions, FrameOptions, check_options


class VideoQA(Session):
    """Answers questions about videos with a vision-language model whose prefill is spread over
    several ranks.

    Workers start with the first question (or `start`) and stay until `close`; use it as a context
    manager. It may be used from several threads: questions are answered in the order they come.

    Args:
        model: "embedded" (a tiny model that reads coloured cards, for trying things out), the
            folder of a Qwen2.5-VL or InternVL3 checkpoint in Hugging Face form, or the name of one
            on the hub, `org/name` or `org/name@revision`, which is downloaded once.
        gpus: how many, one rank each; "auto" takes all there are; 0 none.
        cpu_ranks: processes that share the work where no GPU does, by default 2. Under torchrun
            there are as many ranks as it has started processes.
        method: prefill method: "auto" takes for each question an exact one where that is as fast,
            else "spava" (approximate, fast); or "full" (exact, on one rank) or another.
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
        gpus: int | str = "auto",
        cpu_ranks: int | None = None,
        method: str = "auto",
        method_options: Mapping[str, object] | None = None,
        allow_pickle: bool = False,
        cache: bool = True,
    ) -> None:
        super().__init__(
            model,
            sees=True,
            gpus=gpus,
            cpu_ranks=cpu_ranks,
            method=method,
            method_options=method_options,
            allow_pickle=allow_pickle,
            cache=cache,
        )

    def ask(
        self,
        video: Files,
        question: str,
        *,
        on_event: OnEvent | None = None,
        on_text: OnText | None = None,
        cancel: threading.Event | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Answer `question` about `video`.

        Args:
            video: path of a video, of a picture or of a folder of pictures that make a video;
                frames as `Frames` or as an array `[N, height, width, 3]` of bytes; or several of
                these. They stand before the first question.
            question: any text.
            on_event: called with (stage, seconds since the call) as each stage begins.
            on_text: called with each piece of the answer as it comes.
            cancel: set it from any thread to take the question back, whether it waits or runs.
            options: what is looked at, how long the answer may be, and so on: see
                `spava_app.AskOptions`.

        Raises:
            InvalidInput: an empty question, a value out of range.
            VideoError: the file cannot be read.
            Cancelled: `cancel` was set before the answer began.
            OutOfMemory: it does not fit into the memory of a GPU or of the machine.
            EngineDown: a worker died; the next question starts new ones.
        """
        asked = _asked(video, question, options)
        return self._ask(asked, on_event=on_event, on_text=on_text, cancel=cancel)

    def stream(self, video: Files, question: str, **options: Unpack[AskOptions]) -> Iterator[Event]:
        """As `ask`, yielding `StageBegan` and `TextPiece` as they come, and the `Answer` last.
        Closing the iterator takes the question back.
        """
        return streamed(partial(self._ask, _asked(video, question, options)))

    def plan(self, video: Files, question: str, **options: Unpack[AskOptions]) -> Plan:
        """What `ask` would do, in numbers; no worker is started and no frame decoded.

        Raises:
            InvalidInput, VideoError: as `ask`.
        """
        return self._plan(_asked(video, question, options))

    def open(self, video: Files, **options: Unpack[FrameOptions]) -> Conversation:
        """Look at `video` once, for several questions that follow each other.

        Raises:
            InvalidInput, VideoError: as `ask`.
        """
        check_not_forked()
        check_options(options, FrameOptions, "open")
        return Conversation(self, video, options)

    def map(
        self,
        pairs: Iterable[tuple[Files, str]],
        *,
        on_answer: OnAnswer | None = None,
        **options: Unpack[AskOptions],
    ) -> list[Answer | SpavaError]:
        """Answer many questions, those about one video after each other, so that it is looked at
        once.

        Args:
            pairs: (video, question).
            on_answer: called with (number of the pair, answer or error) as each comes. What it
                raises ends `map` and is raised: later questions are not asked, files are closed,
                and the workers stay up for whatever is asked next.

        Returns:
            In the order of `pairs`. Where a question could not be answered stands its error: no
            other is lost by it.

        Raises:
            InvalidInput: something that are no pairs, or an option that there is not.
        """
        check_not_forked()
        check_options(options, AskOptions, "map")
        return ask_all(self, pairs, options, on_answer)


def _asked(video: Files, question: str, options: AskOptions) -> Question:
    check_options(options, AskOptions, "a question")
    return Question(video, question, **options)
