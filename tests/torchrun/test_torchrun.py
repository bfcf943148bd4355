"""The script of a user, unchanged, in processes that torchrun has started."""

import json
from pathlib import Path

import pytest
from scripts import started, torchrun

from spava_app.engine.synthetic.cards import CardScene

ASK = """
import sys
from spava_app import VideoQA

with VideoQA(method="spava") as qa:
    print(qa.ask(sys.argv[1], sys.argv[2]).text)
"""

# What each process sees of several calls, in a file of its own.
CALLS = """
import json, os, signal, sys, time
import numpy as np
import psutil
from spava_app import VideoQA
from spava_app.errors import SpavaError

_, video, first, second = sys.argv
rank = int(os.environ["RANK"])
seen = {}

def told(name, call):
    try:
        seen[name] = call()
    except SpavaError as error:
        seen[name] = [type(error).__name__, str(error)]

def kill(stage, seconds):
    if stage == "decode" and rank == 1:
        mine = psutil.Process().children()
        [worker] = [it for it in mine if "engine.worker" in " ".join(it.cmdline())]
        worker.send_signal(signal.SIGKILL)
        open("killed", "w").close()
    while stage == "decode" and not os.path.exists("killed"):
        time.sleep(0.05)

told("ranks", lambda: VideoQA(cpu_ranks=3))
with VideoQA(method="spava") as qa:
    told("missing", lambda: qa.ask("nowhere.mp4", first))
    stages, pieces = [], []
    heard = {"on_event": lambda stage, _: stages.append(stage), "on_text": pieces.append}
    told("first", lambda: qa.ask(video if rank == 0 else "other.mp4", first, **heard).to_dict())
    seen["stages"], seen["pieces"] = stages, pieces
    # Frames of which none are kept.
    told("killed", lambda: qa.ask(video, first, fps=10, on_event=kill))
    told("order", lambda: qa.start() if rank else qa.ask(video, second).text)
    told("second", lambda: qa.ask(video, second).text)
    # Its frames go to the other process as an open file.
    frames = np.zeros((4, 56, 56, 3), np.uint8)
    told("array", lambda: qa.ask(frames, first, max_new_tokens=1).usage.frames_encoded)
    if rank == 0:
        qa.close()
    else:
        told("alone", lambda: qa.ask(video, second))
with open(f"rank{rank}.json", "w") as file:
    json.dump(seen, file)
"""


@pytest.mark.slow  # the test below starts two as well
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_process_gets_the_answer(
    ranks: int, scene: CardScene, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "ask.py").write_text(ASK)
    card = scene.cards[0]
    words = torchrun("--standalone", "--nproc-per-node", str(ranks), "ask.py")
    with started([*words, str(video), card.question], tmp_path) as running:
        assert running.wait() == 0, running.text()
        # The processes share a pipe without a lock: their lines may come together.
        assert running.text().split("\n*")[-1].count(card.answer) == ranks, running.text()
        running.assert_nothing_left()


def test_calls_and_errors_are_the_same_on_all(
    scene: CardScene, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "calls.py").write_text(CALLS)
    words = torchrun("--standalone", "--nproc-per-node", "2", "calls.py", str(video))
    questions = [card.question for card in scene.cards]
    with started([*words, *questions], tmp_path) as running:
        assert running.wait() == 0, running.text()
        running.assert_nothing_left()
    lead, follow = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    for name in ("ranks", "missing", "first", "stages", "pieces", "killed", "second", "array"):
        assert lead[name] == follow[name], name
    assert lead["ranks"][0] == "InvalidInput"
    assert lead["missing"][0] == "VideoError"
    assert "nowhere.mp4" in lead["missing"][1]
    assert lead["first"]["text"] == scene.cards[0].answer
    assert lead["first"]["plan"]["world_size"] == 2
    assert "".join(lead["pieces"]).strip() == scene.cards[0].answer
    assert {"probe", "start", "prefill", "generate"} <= set(lead["stages"])
    assert lead["array"] == 4
    assert lead["killed"][0] == "EngineDown"
    assert "rank 1 was ended by SIGKILL" in lead["killed"][1]
    assert lead["order"] == scene.cards[1].answer
    assert follow["order"][0] == "EngineError"
    assert "call 4 is start here, ask on rank 0" in follow["order"][1]
    assert lead["second"] == scene.cards[1].answer
    assert follow["alone"][0] == "EngineDown"
    assert "rank 0 has left" in follow["alone"][1]
