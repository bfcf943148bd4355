"""The process that renders chat templates: `python -m spava_app.template_process`.

A template comes with a model folder and is code in a sandboxed language: it cannot open files, but
it can loop for ever or fill memory. Here that costs this process and nothing else. A line of JSON
comes in, {"template", "messages", "variables", "answers"}, and one goes out, {"text"} or {"error"}.
"""

import json
import resource
import sys
from contextlib import suppress
from typing import Any

# Address space beyond what is taken once the libraries are loaded, in bytes.
MEMORY = 2**30


def main() -> None:
    """Serve until standard input ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing else may write between the answers
    _say(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            (text,), _ = render_jinja_template(
                conversations=[request["messages"]],
                chat_template=request["template"],
                add_generation_prompt=request["answers"],
                **request["variables"],
            )
            answer = {"text": text}
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        except Exception as error:  # noqa: BLE001 (whatever a template raises is its own fault)
            why = str(error).partition("\n")[0] or type(error).__name__
            answer = {"error": why[:300]}
        _say(answers, answer)


def _limit_memory() -> None:
    with suppress(OSError, ValueError):  # not told by this system, or a limit is lower already
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _say(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    with suppress(BrokenPipeError, KeyboardInterrupt):
        main()
