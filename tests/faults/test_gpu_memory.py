"""A GPU whose memory is taken by somebody else: the question fails as such, and the next one, when
the memory is free again, is answered.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import check_no_orphans

from spava_app.api.video_qa import VideoQA
from spava_app.engine.synthetic.cards import CardScene
from spava_app.errors import OutOfMemory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Takes all that is left, piece by piece, and holds it until its input is closed.
NEIGHBOUR = """
import sys, torch
held, size = [], 2**34
while size >= 2**20:
    try:
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        size //= 2
print("full", flush=True)
sys.stdin.read()
"""


class Neighbour:
    """Another process on the card."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def fill(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "full\n"

    def leave(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


def test_the_card_is_full(scene: CardScene, clip: Path, mark: str) -> None:
    neighbour, card = Neighbour(), scene.cards[0]
    with VideoQA(gpus=1, method="full", cache=False) as qa:
        assert qa.ask(clip, card.question).text == card.answer
        neighbour.fill()
        try:
            with pytest.raises(OutOfMemory, match=r"rank 0 ran out of GPU memory \(.* free\) in "):
                qa.ask(clip, card.question, fps=10)
        finally:
            neighbour.leave()
        check_no_orphans(mark)
        assert qa.ask(clip, card.question).text == card.answer


def test_no_room_for_the_model(clip: Path, mark: str) -> None:
    neighbour = Neighbour()
    neighbour.fill()
    try:
        with (
            VideoQA(gpus=1, method="full", cache=False) as qa,
            pytest.raises(OutOfMemory, match="rank 0 ran out of"),
        ):
            qa.start()
    finally:
        neighbour.leave()
    check_no_orphans(mark)
