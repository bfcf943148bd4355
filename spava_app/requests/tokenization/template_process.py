"""The process that renders chat templates: `python -m
spava_app.requests.tokenization.template_process`, with a Unix socket as its standard input.

A template comes with a model folder and is code in a sandboxed language: it cannot open files, but
it can loop for ever or fill memory. Here that costs this process and nothing else. Requests are
{"template", "messages", "variables", "answers"}; each gets {"text"} or
{"error", "limit"}.
"""

import logging
import os
import resource
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from spava_app.engine.processes.process_log import LEVEL_VARIABLE, send_records
from spava_app.engine.processes.wire import Wire
from spava_app.errors import raise_fault

# Address space beyond what is taken once the libraries are loaded, in bytes.
MEMORY = 2**30


def main() -> None:
    """Serve until the other side is gone."""
    send_records(int(os.environ.get(LEVEL_VARIABLE, logging.WARNING)))
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    wire = Wire(socket.socket(fileno=os.dup(0)))
    with suppress(EOFError, OSError):
        wire.send({"ready": True})
        while True:
            request, _ = wire.receive()
            wire.send(_answer(render_jinja_template, request))


def _answer(render: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        (text,), _ = render(
            conversations=[request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=request["answers"],
            **request["variables"],
        )
    except MemoryError:
        return {"error": "it takes too much memory", "limit": True}
    except Exception as error:  # noqa: BLE001 (whatever a template raises is its own fault)
        if "render_jinja_template" in str(error):
            raise_fault(error)  # but not what another version of the library is called with
        why = str(error).partition("\n")[0] or type(error).__name__
        return {"error": why[:300], "limit": False}
    return {"text": text}


def _limit_memory() -> None:
    with suppress(OSError, ValueError):  # this system does not say, or the limit is lower already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
