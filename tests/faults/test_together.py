"""Several callers at once: each gets its own answer, in the order they asked; one that no longer
wants it leaves, whether it waits or runs, and costs the others nothing.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drivers import started
from faults import LONG, STAGES
from processes import wait_for, worker_pid

from spava_app.api.video_qa import VideoQA
from spava_app.engine.synthetic.cards import CardScene
from spava_app.errors import Cancelled

ANY = "What digit is on the red card?"


def test_two_threads(qa: VideoQA, scene: CardScene, clip: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(qa.ask, clip, card.question) for card in scene.cards * 4]
        texts = [answer.result().text for answer in asked]
    assert texts == [card.answer for card in scene.cards * 4]


def test_two_processes_with_one_cache(
    scene: CardScene, clip: Path, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both fill it at the same time, and a third finds it filled."""
    monkeypatch.setenv("SPAVA_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys\n"
        "from spava_app import VideoQA\n"
        'with VideoQA(cpu_ranks=1, method="full") as qa:\n'
        "    qa.start()\n"
        "    print('ready', flush=True)\n"
        "    for question in sys.argv[2:]:\n"
        "        print(qa.ask(sys.argv[1], question).text, flush=True)\n"
    )
    questions = [card.question for card in scene.cards]
    words = ["-c", code, str(clip), *questions]
    with started(words, mark, tmp_path) as one, started(words, mark, tmp_path) as two:
        for process in (one, two):
            said, wrong = process.communicate(timeout=120)
            assert said.split() == ["ready", *[card.answer for card in scene.cards]], wrong
    with VideoQA(cpu_ranks=1, method="full") as third:
        answer = third.ask(clip, questions[0])
    assert answer.text == scene.cards[0].answer
    assert "decode" not in answer.timings


@pytest.mark.parametrize("stage", [*STAGES[:3], "prefill"])
def test_cancelled_before_it_answers(
    qa: VideoQA, clip: Path, mark: str, answers: Callable[[], None], stage: str
) -> None:
    """The workers stay: cancelling is no fault."""
    qa.start()
    before = [worker_pid(mark, rank) for rank in (0, 1)]
    cancel = threading.Event()

    def on_event(name: str, seconds: float) -> None:
        if name == stage:
            threading.Thread(target=cancel.set).start()
            assert cancel.wait(10)

    with pytest.raises(Cancelled):
        qa.ask(clip, ANY, on_event=on_event, cancel=cancel, **LONG)
    answers()
    assert [worker_pid(mark, rank) for rank in (0, 1)] == before


def test_cancelled_while_it_answers(qa: VideoQA, clip: Path, answers: Callable[[], None]) -> None:
    """From another thread; what there is comes back."""
    cancel = threading.Event()
    shown: list[str] = []

    def on_text(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 3:
            threading.Thread(target=cancel.set).start()
            assert cancel.wait(10)

    answer = qa.ask(clip, ANY, on_text=on_text, cancel=cancel, **LONG)
    assert answer.usage.finish_reason == "cancelled"
    assert 3 <= answer.usage.answer_tokens < LONG["max_new_tokens"]
    assert answer.text == "".join(shown).strip()
    answers()


def test_cancelled_while_it_waits(
    qa: VideoQA, scene: CardScene, clip: Path, answers: Callable[[], None]
) -> None:
    """One runs, two wait; the first of these leaves at once and the second is answered."""
    card, cancel, waits, goes_on = scene.cards[0], threading.Event(), [], threading.Event()

    def hold(name: str, seconds: float) -> None:
        if name == "prefill":
            assert goes_on.wait(60)

    def note(name: str, seconds: float) -> None:
        waits.append(name)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(qa.ask, clip, card.question, on_event=hold)
        assert wait_for(lambda: qa._engine._turns._holder is not None)
        second = pool.submit(qa.ask, clip, card.question, on_event=note, cancel=cancel)
        third = pool.submit(qa.ask, clip, card.question)
        assert wait_for(lambda: "start" in waits)
        cancel.set()
        with pytest.raises(Cancelled, match="waited for its turn"):
            second.result(timeout=20)
        assert not first.done()
        goes_on.set()
        assert [first.result(timeout=60).text, third.result(timeout=60).text] == [card.answer] * 2
    answers()
