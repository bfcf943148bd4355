"""200 questions in a row, about ever new videos among known ones: nothing grows."""

import gc
import threading
from pathlib import Path

import psutil
import pytest
from processes import marked

from spava_app.api.video_qa import VideoQA
from spava_app.engine.synthetic.cards import random_scene, write_video

QUESTIONS, WARM_UP, SAME = 200, 60, 4
MIB = 2**20


def used(mark: str) -> dict[str, float]:
    """What the driver and its workers hold: MiB that are theirs alone, open files, threads; and how
    many processes there are.
    """
    gc.collect()
    found = {"threads": float(threading.active_count()), "processes": float(len(marked(mark)))}
    processes = {f"rank {process.rank}": process.pid for process in marked(mark)}
    processes = {name: pid for name, pid in processes.items() if name != "rank None"}
    for name, pid in ({"driver": 0} | processes).items():
        process = psutil.Process(pid or None)
        found[f"{name} MiB"] = process.memory_full_info().uss / MIB
        found[f"{name} files"] = process.num_fds()
        found[f"{name} threads"] = process.num_threads()
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_grows(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPAVA_CACHE", str(tmp_path / "cache"))
    seen, right = [], 0
    with VideoQA(method="spava") as qa:
        for number in range(QUESTIONS):
            if number % SAME == 0:
                scene = random_scene(6, 1, seed=number)
                path = tmp_path / f"{number}.mp4"
                write_video(scene, path)
            if number in (WARM_UP, QUESTIONS - 1):
                seen.append(used(mark))
            card = scene.cards[0]
            right += qa.ask(path, card.question).text == card.answer
    assert right > 0.9 * QUESTIONS
    before, after = seen
    with capsys.disabled():
        for name, value in before.items():
            print(f"\n{name:16} {value:8.1f} -> {after[name]:8.1f}", end="")  # noqa: T201
    assert before.keys() == after.keys()
    for name, value in before.items():
        room = 0.05 * value + 20 if name.endswith("MiB") else 0
        assert after[name] <= value + room, name
