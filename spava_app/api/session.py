"""What `VideoQA` and `TextQA` have in common: a model, its prompts, its workers, and the way of a
question through them.
"""

import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from spava_app.api.answer import Answer, Usage
from spava_app.api.question_log import QuestionLog, question_logged
from spava_app.engine.checkpoints.hub import resolve_model
from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.folders import cache_folder
from spava_app.engine.multimodal.fingerprint import with_content
from spava_app.engine.multimodal.processors import make_processor
from spava_app.engine.planning.method_choice import variants
from spava_app.engine.planning.plan import Plan
from spava_app.engine.planning.predictor import Predictor
from spava_app.engine.request import Request
from spava_app.engine.video.array_files import ArrayFiles
from spava_app.engine.workers.engine import Engine
from spava_app.engine.workers.group import never
from spava_app.engine.workers.torchrun.calls import calls_here
from spava_app.errors import Cancelled, CheckpointError, InvalidInput, SpavaWarning
from spava_app.forked import check_not_forked
from spava_app.requests.bounded_text import MOST_BYTES
from spava_app.requests.builder import Preparer
from spava_app.requests.embedded import NO_TEXTS, is_embedded, warnings_about
from spava_app.requests.generation_config import GenerationDefaults
from spava_app.requests.media_input import MediaInput, Question, look
from spava_app.requests.prompt import PromptBuilder
from spava_app.requests.ranks import choose_ranks
from spava_app.requests.tokenization.detokenizer import TextStream
from spava_app.requests.tokenization.template_renderer import RENDERER

OnEvent = Callable[[str, float], None]
OnText = Callable[[str], None]
Look = Callable[[Question], Sequence[MediaInput]]


class Session:
    """A model on its ranks. Workers start with the first question (or `start`) and stay until
    `close`; use it as a context manager.

    Args:
        model: "embedded", the folder of a checkpoint in Hugging Face form, or the name of one on
            the hub, `org/name` or `org/name@revision`, which is downloaded once.
        sees: whether it has to see.
        gpus: how many, one rank each; "auto" takes all there are; 0 none.
        cpu_ranks: processes that share the work where no GPU does, by default 2. Under torchrun
            there are as many ranks as it has started processes.
        method: prefill method of questions that name none; "auto" takes for each an exact one
            where that is as fast, else spava.
        method_options: options of the method.
        allow_pickle: load *.bin and *.pt weights where a checkpoint has no safetensors.
        cache: whether visual embeddings are kept.

    Raises:
        InvalidInput: a value out of range; the message names the field and the fix.
        CheckpointError: the model folder cannot be used.
        EngineError: here and in every other call: this process was forked from one that had
            imported the package.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        sees: bool,
        gpus: int | str,
        cpu_ranks: int | None,
        method: str,
        method_options: Mapping[str, object] | None,
        allow_pickle: bool,
        cache: bool,
    ) -> None:
        check_not_forked()
        if not isinstance(model, str | Path):
            fix = "give embedded, the path of a model folder, or a name on the hub"
            raise InvalidInput("model", model, fix)
        for name, value in (("allow_pickle", allow_pickle), ("cache", cache)):
            if not isinstance(value, bool):
                raise InvalidInput(name, value, "give True or False")
        self._method = method
        self._calls = calls_here()
        device, ranks = choose_ranks(gpus, cpu_ranks, self._calls.place)
        methods = variants(method, method_options, ranks)
        RENDERER.start()  # it loads its library while ours load
        folder = resolve_model(model)
        config = read_config(folder)
        processor = make_processor(folder, config)
        if sees and processor is None:
            raise CheckpointError("model", str(folder), "is a text model: it sees no video")
        if not sees and is_embedded(config):
            raise CheckpointError("model", str(model), NO_TEXTS)
        self._config = config
        dtype = "bfloat16" if device == "cuda" else "float32"
        predictor = Predictor.of(
            config, str(model), device=device, world_size=ranks, dtype=getattr(torch, dtype)
        )
        self._prompts = PromptBuilder(folder, processor, config)
        self._longest = predictor.model.decoder.config.max_positions
        self._defaults = GenerationDefaults.read(folder).within(self._longest)
        self._prepare = Preparer(self._prompts, processor, self._longest, methods, predictor)
        self._keeps = cache
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
        check_not_forked()
        self._calls.call("start", self._engine.start, type(None))

    def close(self) -> None:
        """Stop the workers, and end what runs and waits; the next question starts them again."""
        self._engine.close()

    def _plan(self, asked: Question) -> Plan:
        check_not_forked()
        return self._calls.call("plan", partial(self._planned, asked), Plan)

    def _planned(self, asked: Question) -> Plan:
        asked = asked.checked().completed(self._defaults)
        TextStream(self._prompts.decode, asked.stop_strings)  # refuses wrong ones
        self._check(asked)
        with ArrayFiles() as arrays:
            return self._decide(asked, look(asked, arrays))[1]

    @property
    def _most_text(self) -> int:
        """Bytes that a text may have, at most: more than so many tokens cannot be of use."""
        return min(MOST_BYTES, self._longest * self._prompts.longest_token)

    def _check(self, asked: Question, cancelled: Callable[[], bool] = never) -> None:
        """Refuse texts that are wrong, or too long whatever else is asked for."""

        def on_step() -> None:
            if cancelled():
                raise Cancelled("cancelled before the answer started")

        self._prompts.check(
            asked.question,
            asked.history,
            asked.text,
            most=self._longest,
            on_step=on_step,
        )

    def _decide(self, asked: Question, seen: Sequence[MediaInput]) -> tuple[Request, Plan]:
        prepare = self._prepare
        if asked.method is not None or asked.method_options is not None:
            method = self._method if asked.method is None else asked.method
            ranks = prepare.predictor.world_size
            chosen = variants(method, asked.method_options, ranks)
            prepare = replace(prepare, variants=chosen)
        request, plan = prepare(asked, seen)
        notes = tuple(note for file in seen for note in file.notes)
        about = warnings_about(self._config, seen)
        told = (*asked.warnings, *notes, *about, *self._defaults.warnings)
        for text in told:
            warnings.warn(SpavaWarning(text), stacklevel=2)
        return request, replace(plan, warnings=told)

    def _ask(
        self,
        asked: Question,
        looked: Look | None = None,
        *,
        on_event: OnEvent | None = None,
        on_text: OnText | None = None,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """The answer to a question, the same on all processes of torchrun.

        Args:
            looked: gives what was looked at, where that was done before.
        """
        check_not_forked()
        for name, call in (("on_event", on_event), ("on_text", on_text)):
            if call is not None and not callable(call):
                raise InvalidInput(name, call, "give a function")
        if not isinstance(cancel, threading.Event | None):
            raise InvalidInput("cancel", cancel, "give a threading.Event")
        run = partial(self._logged_answer, asked, looked, cancel)
        return self._calls.call("ask", run, Answer, on_event=on_event, on_text=on_text)

    def _logged_answer(self, *asked: Any, **told: Any) -> Answer:
        with question_logged() as log:
            answer = self._answer(log, *asked, **told)
            log.answered(answer)
        return answer

    def _answer(
        self,
        log: QuestionLog,
        asked: Question,
        looked: Look | None,
        cancel: threading.Event | None,
        on_event: OnEvent | None,
        on_text: OnText | None,
    ) -> Answer:
        began, since = time.perf_counter(), self._engine.closings
        asked = asked.checked().completed(self._defaults)
        stream = TextStream(self._prompts.decode, asked.stop_strings)
        num_tokens = 0

        def tell(stage: str) -> None:
            log.begin(stage)
            if on_event is not None:
                on_event(stage, time.perf_counter() - began)

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

        def enough() -> bool:
            return stream.stopped or (cancel is not None and cancel.is_set())

        tell("probe")
        self._check(asked, enough)  # before a file is read
        with ArrayFiles() as arrays:
            seen = looked(asked) if looked is not None else look(asked, arrays)
            request, plan = self._decide(asked, seen)
            log.planned(plan, asked.question)
            if self._keeps:  # a plan by itself need not read whole files
                request = replace(request, media=tuple(map(with_content, request.media)))
            probed = time.perf_counter() - began
            tell("start")
            self._engine.start(enough, since)
            started = time.perf_counter() - began
            result = self._engine.run(request, on_message, enough, since)
        timings = {"probe": probed, "start": started - probed, **result.seconds}
        timings["total"] = time.perf_counter() - began
        show(stream.finish())
        reason = "stop"
        if not stream.stopped and num_tokens == asked.answer_len:
            reason = "length"
        elif not stream.stopped and enough():
            reason = "cancelled"
        usage = Usage(
            plan.num_tokens,
            num_tokens,
            reason,
            result.counts.get("frames_encoded", 0),
            result.counts.get("frames_reused", 0),
        )
        told = (*plan.warnings, *result.warnings)
        return Answer(stream.text.strip(), timings, plan, usage, told, result.memory)
