"""The README's lines in a real notebook kernel."""

from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

from spava_app.engine.synthetic.cards import CardScene

FIRST = """
from spava_app import VideoQA, TextPiece
qa = VideoQA(method="spava")
qa.ask({video!r}, {question!r})
"""
# A cell that defines what the first used, and no main guard anywhere.
SECOND = """
with qa.open({video!r}) as talk:
    for event in talk.stream({question!r}):
        if isinstance(event, TextPiece):
            print(event.text, end="")
"""
LAST = "qa.close()"


def test_cells_ask_stream_and_close(scene: CardScene, video: Path, tmp_path: Path) -> None:
    cards = scene.cards
    cells = [
        FIRST.format(video=str(video), question=cards[0].question),
        SECOND.format(video=str(video), question=cards[1].question),
        LAST,
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    before = set(psutil.Process().children(recursive=True))
    client.execute()
    shown = notebook.cells[0].outputs[-1]  # before it there may be warnings of the kernel's
    assert f"text='{cards[0].answer}'" in shown.data["text/plain"]
    [printed] = notebook.cells[1].outputs
    assert printed.text.strip() == cards[1].answer
    assert notebook.cells[2].outputs == []
    left = set(psutil.Process().children(recursive=True)) - before
    assert [process for process in left if "spava_app" in " ".join(process.cmdline())] == []
