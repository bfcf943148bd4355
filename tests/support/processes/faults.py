"""Faults at a chosen stage of a question, made from outside the processes they hit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from processes import worker_pid

from spava_app.api.video_qa import Answer, VideoQA
from spava_app.engine.sampling import Sampling

STAGES = ("start", "decode", "vision", "exchange", "prefill", "generate")
# An answer that does not end by itself: random tokens.
LONG: dict[str, Any] = {"max_new_tokens": 300, "sampling": Sampling(temperature=50.0, seed=1)}


def strike(
    qa: VideoQA,
    clip: Path,
    mark: str,
    stage: str,
    rank: int,
    act: Callable[[int], object],
    **options: Any,
) -> Answer:
    """Ask for a long answer, and `act` on the worker of `rank` when `stage` begins.

    At "start" there are no workers yet: they are started anew, and struck when they appear.
    """
    if stage == "start":
        qa.close()
    else:
        qa.start()
        pid = worker_pid(mark, rank)

    def on_event(name: str, seconds: float) -> None:
        if name == stage != "start":
            act(pid)

    with ThreadPoolExecutor(1) as pool:
        if stage == "start":
            pool.submit(lambda: act(worker_pid(mark, rank)))
        return qa.ask(clip, "What digit is on the red card?", on_event=on_event, **LONG, **options)
