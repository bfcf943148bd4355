"""The process that touches media files: `python -m spava_app.engine.video.server`, with a Unix
socket as its standard input.

What is wrong with a file, or made wrong on purpose, meets the decoders here and not where the model
is: this process can be killed at any time and costs one question when it is. It ends when the other
end of the socket is closed.
"""

import os
import resource
import socket
from contextlib import suppress
from pathlib import Path

# Address space. The largest frames (134 million pixels) and a few dozen of 8K, 50 MB each, which
# is what a decoder keeps for reference and for its threads, take less; so do the ring and the
# libraries (0.4 GB).
MEMORY = 4 * 2**30
_OPEN_FILES = 64


def main() -> None:
    """Serve until the other side is gone."""
    _give_up_privileges()
    # Only now: whatever decodes is loaded within the limits.
    from spava_app.engine.video.service import serve
    from spava_app.engine.video.wire import Wire

    with suppress(EOFError, OSError):
        serve(Wire(socket.socket(fileno=os.dup(0))))


def _give_up_privileges() -> None:
    """What costs nothing: no core dumps, no files written, little memory and few open files; and
    where memory runs out, the kernel is to take this process.
    """
    Path("/proc/self/oom_score_adj").write_text("1000")
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        _, most = resource.getrlimit(kind)
        least = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (least, least))


if __name__ == "__main__":
    main()
