"""One rank: a process that loads the model, joins the group and answers requests until the driver
is gone.

Started as `python -m spava_app.engine.workers.worker SETTINGS` with one inherited socket and a pipe
as standard input; SETTINGS is a JSON object. From its first moment it gives signs of life and hears
when the driver is gone: what takes long to import comes after that.
"""

import json
import logging
import os
import queue
import shutil
import sys
import threading
from multiprocessing.connection import Connection
from typing import NoReturn

from spava_app.engine.processes.exit_status import LOST_PEER
from spava_app.engine.processes.process_log import LEVEL_VARIABLE, send_records
from spava_app.engine.workers import channel
from spava_app.engine.workers.channel import Reports
from spava_app.engine.workers.settings import WorkerSettings
from spava_app.errors import InternalError, SpavaError, encode_error

logger = logging.getLogger("spava_app.engine.workers.worker")  # also where it is `__main__`

# A request as JSON, the files it is about, and the flag that cancels it.
QueuedRequest = tuple[str, list[int], threading.Event]


def main() -> None:
    """Serve until the driver closes its end."""
    send_records(int(os.environ.get(LEVEL_VARIABLE, logging.WARNING)))
    settings = WorkerSettings(**json.loads(sys.argv[1]))
    connection = Connection(settings.socket)
    reports = Reports(connection)
    inbox: queue.Queue[QueuedRequest] = queue.Queue()
    listening = (connection, inbox, settings.scratch)
    threading.Thread(target=_listen, args=listening, daemon=True).start()
    threading.Thread(target=_end_with_starter, args=(settings.scratch,), daemon=True).start()
    try:
        with reports.beating():
            from spava_app.engine.workers.serving import serve, start

            runner = start(settings)
        reports.send({"ready": True})
        while True:
            request, files, cancelled = inbox.get()
            with reports.beating():
                serve(runner, request, cancelled.is_set, reports.send, files)
    except SpavaError as error:
        reports.send(encode_error(error))
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 (whatever it is, the driver is to know)
        _end_with_fault(error, settings.rank, reports)


def _end_with_fault(error: Exception, rank: int, reports: Reports) -> NoReturn:
    """Report an internal error, or leave that to the rank that was lost in a collective, and end:
    not by sys.exit, since threads of a broken group must not keep the process alive.
    """
    code = LOST_PEER if _in_collective(error) else 1
    try:
        if code == LOST_PEER:
            logger.error("lost another rank", exc_info=error)
        else:
            fault = InternalError.of(f"rank {rank}", error)
            logger.error("internal error", exc_info=error)
            reports.send({"fault": encode_error(fault)["error"]})
    finally:
        os._exit(code)


def _listen(connection: Connection, inbox: "queue.Queue[QueuedRequest]", scratch: str) -> None:
    """Read requests; when the driver is gone, end the process whatever it is doing, a collective
    included.
    """
    cancelled = threading.Event()
    try:
        while True:
            message = channel.receive(connection)
            if "cancel" in message:
                cancelled.set()
                continue
            # A flag of its own: the channel keeps order, so a cancel means the request sent last,
            # and one that comes too late cannot end the next.
            cancelled = threading.Event()
            files = channel.receive_files(connection, message.get("files", 0))
            inbox.put((message["request"], files, cancelled))
    except (EOFError, OSError):
        _leave(scratch)
    except Exception:
        logger.exception("the worker cannot read what the driver sends")
    finally:
        os._exit(1)  # a process that no longer listens would never end


def _end_with_starter(scratch: str) -> None:
    """End the process with the one that started it, which may be another than the driver: nobody
    writes to standard input, so that reading it ends with that process.
    """
    os.read(sys.stdin.fileno(), 1)
    _leave(scratch)


def _leave(scratch: str) -> None:
    # A driver that was killed could not do it.
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _in_collective(error: BaseException) -> bool:
    """Whether it is what torch raises when another rank is gone."""
    if not isinstance(error, RuntimeError):
        return False
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__") == "spava_app.engine.comm":
            return True
        frame = frame.tb_next
    return False


if __name__ == "__main__":
    main()
