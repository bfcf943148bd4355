"""The process that touches media files, with a Unix socket as its standard input:
`python -m spava_app.engine.video.sandbox.server DECODER`.

What is wrong with a file, or made wrong on purpose, meets the decoders here and not where the model
is: this process can be killed at any time and costs one question when it is, and it may do little
else than decode what it is given (`confinement`). It ends when the other end of the socket is
closed.
"""

import logging
import os
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path

from spava_app.engine.processes.exit_status import memory_was_refused
from spava_app.engine.processes.process_log import LEVEL_VARIABLE, send_records
from spava_app.engine.processes.wire import Wire
from spava_app.engine.video.sandbox.confinement.restrict import lock_down
from spava_app.errors import InternalError, OutOfMemory, encode_error

logger = logging.getLogger("spava_app.engine.video.sandbox.server")  # also where it is `__main__`

# Address space. The largest frames (134 million pixels) and a few dozen of 8K, 50 MB each, which
# is what a decoder keeps for reference and for its threads, take less; so do the ring and the
# libraries (0.4 GB).
MEMORY = 4 * 2**30
_OPEN_FILES = 64


def main() -> None:
    """Serve until the other side is gone."""
    send_records(int(os.environ.get(LEVEL_VARIABLE, logging.WARNING)))
    _limit()
    wire = Wire(socket.socket(fileno=os.dup(0)), takes_files=True)
    with suppress(EOFError, OSError):
        try:
            # Only now: whatever decodes is loaded within the limits.
            from spava_app.engine.video.sandbox.confinement.preload import preload
            from spava_app.engine.video.sandbox.service import serve

            preload(sys.argv[1])
        except Exception as error:  # noqa: BLE001 (a library that is missing, or not as expected)
            wire.receive()  # who asks first is told
            wire.send(encode_error(_cannot_start(error)))
            return
        wire.send({"ready": lock_down()})
        serve(wire)


def _cannot_start(error: Exception) -> InternalError | OutOfMemory:
    if isinstance(error, MemoryError) or memory_was_refused(str(error)):
        return OutOfMemory(f"the decoder process ran out of memory when it started: {error}")
    fault = InternalError.of("the decoder process, when it started", error)
    logger.error("%s", fault, exc_info=error)
    return fault


def _limit() -> None:
    """What costs nothing: no core dumps, no files written, little memory and few open files; and
    where memory runs out, the kernel is to take this process.
    """
    with suppress(OSError):  # there may be no /proc
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
