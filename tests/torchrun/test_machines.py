"""Two network namespaces joined by a cable are two machines: they share no loopback."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from scripts import ROOT, Started, started, torchrun
from stage_lines import without_stages

from spava_app.engine.synthetic.cards import CardScene

FIRST, SECOND = "10.77.0.1", "10.77.0.2"
PORT = "29517"

ASK = """
import sys
import numpy as np
from spava_app import VideoQA
from spava_app.errors import EngineDown, InvalidInput

_, video, question, often = sys.argv
with VideoQA(method="spava") as qa:
    try:
        qa.ask(np.zeros((4, 56, 56, 3), np.uint8), question)
    except InvalidInput as error:
        print("refused:", error, flush=True)
    try:
        for _ in range(int(often)):
            print("answer:", qa.ask(video, question).text, flush=True)
    except EngineDown as error:
        print("EngineDown", error, flush=True)
"""


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, timeout=10)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two namespaces that reach each other as FIRST and SECOND."""
    names = [f"spava{os.getpid()}a", f"spava{os.getpid()}b"]
    try:
        ip(f"netns add {names[0]}")
    except (OSError, subprocess.SubprocessError):
        pytest.skip("network namespaces need root and the ip command")
    try:
        ip(f"netns add {names[1]}")
        ip(f"-n {names[0]} link add cable type veth peer name cable netns {names[1]}")
        for name, address in zip(names, (FIRST, SECOND), strict=True):
            ip(f"-n {name} address add {address}/24 dev cable")
            ip(f"-n {name} link set cable up")
            ip(f"-n {name} link set lo up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10)


@contextmanager
def on_both(machines: list[str], folder: Path, *words: str) -> Iterator[list[Started]]:
    """`torchrun WORDS` on both machines, one process on each."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                started(
                    [
                        *("ip", "netns", "exec", name),
                        *torchrun("--nnodes", "2", "--node-rank", str(node)),
                        *("--master-addr", FIRST, "--master-port", PORT),
                        *words,
                    ],
                    folder,
                )
            )
            for node, name in enumerate(machines)
        ]


def test_two_machines_answer_together(
    machines: list[str], scene: CardScene, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "ask.py").write_text(ASK)
    card = scene.cards[0]
    with on_both(machines, tmp_path, "ask.py", str(video), card.question, "1") as running:
        for machine in running:
            assert machine.wait() == 0, machine.text()
            assert f"answer: {card.answer}" in machine.text()
            assert "refused: video='an array of frames': cannot reach several" in machine.text()
            machine.assert_nothing_left()


@pytest.mark.slow
def test_a_cut_cable_ends_the_call_on_both_machines(
    machines: list[str], scene: CardScene, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "ask.py").write_text(ASK)
    question = scene.cards[0].question
    with on_both(machines, tmp_path, "ask.py", str(video), question, "1000") as running:
        for machine in running:
            machine.wait_for("answer:")
        ip(f"-n {machines[1]} link set cable down")
        for machine in running:
            machine.wait_for("EngineDown", 60)
            machine.assert_nothing_left("engine.worker", 30)


@pytest.mark.slow
def test_the_launcher_on_two_machines(
    machines: list[str], scene: CardScene, video: Path, tmp_path: Path
) -> None:
    """2 processes on each; the answer is printed once."""
    card = scene.cards[1]
    usual = {"NNODES": "2", "NPROC_PER_NODE": "2", "MASTER_ADDR": FIRST, "MASTER_PORT": PORT}
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                started(
                    [
                        *("ip", "netns", "exec", name),
                        *(str(ROOT / "launch.sh"), "ask", str(video), card.question),
                    ],
                    tmp_path,
                    NODE_RANK=str(node),
                    SPAVA_SKIP_INSTALL="1",
                    **usual,
                )
            )
            for node, name in enumerate(machines)
        )
        assert first.wait() == 0, first.text()
        assert second.wait() == 0, second.text()
        assert said(first) == [card.answer]
        assert said(second) == []


def said(machine: Started) -> list[str]:
    """All lines but those of stages and of torch, which misses the names of the machines."""
    lines = without_stages(machine.text()).splitlines()
    return [line for line in lines if "[c10d]" not in line]
