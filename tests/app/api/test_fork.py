"""A forked child gets an error at once, whatever it calls, and its parent goes on undisturbed."""

import os
import subprocess
import sys
from pathlib import Path

from spava_app.engine.synthetic.cards import CardScene

# What every script has: a child made in one way or another, which reports what a call raised.
SCRIPT = """
import multiprocessing, os, pathlib, sys
import spava_app
from spava_app import TextQA, VideoQA
from spava_app.errors import EngineError

video, question, model = sys.argv[1:]

def refused(call):
    try:
        call()
    except EngineError as error:
        assert "forked" in str(error) and "get_context('spawn')" in str(error), error
        return
    os._exit(3)

def use(qa):
    refused(lambda: VideoQA())
    refused(lambda: TextQA(model))
    if qa is None:
        return
    refused(lambda: qa.start())
    refused(lambda: qa.ask(video, question))
    refused(lambda: qa.plan(video, question))
    refused(lambda: list(qa.stream(video, question)))
    refused(lambda: qa.open(video))
    refused(lambda: qa.map([(video, question)]))
    refused(lambda: qa.map([]))
    qa.close()

def forked(qa, talk=None):
    def child():
        use(qa)
        if talk is not None:
            refused(lambda: talk.ask(question))
            refused(lambda: list(talk.stream(question)))
            talk.close()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    # And one that ends as a program does: with what atexit, finalizers and `with` blocks do.
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""

IMPORTED = SCRIPT + "forked(None)\nprint('done')\n"

USED = (
    SCRIPT
    + """
def folders():
    return sorted(pathlib.Path(os.environ["TMPDIR"]).glob("spava-*"))

with VideoQA(cache=False) as qa:
    forked(qa)
    print(qa.ask(video, question).text)
    workers = [worker.process.pid for worker in qa._engine.workers]
    with qa.open(video, num_frames=8) as talk:
        talk.ask(question)
        before = folders()
        assert before
        forked(qa, talk)
        assert folders() == before
        talk.ask(question)
    print(qa.ask(video, question).text)
    assert [worker.process.pid for worker in qa._engine.workers] == workers

    def fork(stage, seconds):
        # In the middle of a question: the child leaves through every `with` block there is.
        if stage == "prefill" and os.fork() == 0:
            sys.exit(0)

    print(qa.ask(video, question, on_event=fork).text)
    assert [worker.process.pid for worker in qa._engine.workers] == workers
"""
)


def run(script: str, folder: Path, *words: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("spava-*")) == []
    return done.stdout.split()


def test_after_an_import_alone(scene: CardScene, video: Path, tmp_path: Path) -> None:
    assert run(IMPORTED, tmp_path, video, scene.cards[0].question, "no-model") == ["done"]


def test_after_questions(scene: CardScene, video: Path, tmp_path: Path) -> None:
    card = scene.cards[0]
    assert run(USED, tmp_path, video, card.question, "no-model") == [card.answer] * 3


def test_a_fork_server_has_imported_and_used_nothing(video: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "from spava_app import VideoQA\n"
        "def count():\n"
        "    print(VideoQA().plan(sys.argv[1], 'What?').media[0].num_frames)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_forkserver_preload(['spava_app.api.video_qa'])\n"
        "    process = multiprocessing.get_context('forkserver').Process(target=count)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    sys.exit(process.exitcode)\n"
    )
    words = [sys.executable, str(script), str(video)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "120\n"), done.stderr
