"""What a process other than rank 0 does for the group: it starts and ends its one worker when the
driver says so, and hands on what the driver tells about calls.
"""

import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from typing import Any

import psutil

from spava_app.engine.devices import num_cores
from spava_app.engine.folders import cache_folder
from spava_app.engine.workers import channel
from spava_app.engine.workers.launcher import ExitStatus, WorkerProcess
from spava_app.engine.workers.settings import WorkerSettings
from spava_app.engine.workers.torchrun.environment import Place
from spava_app.engine.workers.torchrun.listener import Address, clear_away, knock
from spava_app.errors import EngineDown, EngineError

_GRACE_SECONDS = 5.0
# What torchrun says of this process is not true of its worker.
_NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def on_this_machine(settings: WorkerSettings, place: Place) -> WorkerSettings:
    """What the driver cannot know of the machine of `place`."""
    return replace(
        settings,
        gpu=place.local_rank,
        threads=max(1, num_cores() // place.local_world_size),
        cache=str(cache_folder()) if settings.cache else "",
    )


def worker_environment(place: Place, host: str) -> dict[str, str]:
    """For a worker whose group talks over the interface that has the address `host`; what the user
    says about interfaces comes first.
    """
    interface = "lo" if place.one_machine else _interface(host)
    chosen = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface} if interface else {}
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }
    return chosen | inherited


def _interface(host: str) -> str | None:
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == host for address in addresses):
            return name
    return None


class Agent:
    """The thread of one process that serves the driver, until the driver is gone or `close`.

    Attributes:
        inbox: what the driver tells about calls; None once it is gone.

    Raises:
        EngineDown: the driver is not reached.
    """

    def __init__(self, place: Place, address: Address) -> None:
        self._place, self._address = place, address
        try:
            end = knock(address, f"agent/{place.rank}")
        except OSError as error:
            where = address.path or f"{address.host}:{address.port}"
            raise EngineDown(f"rank 0 is not reached at {where} ({error})") from error
        # The way to rank 0 is the way to the other ranks.
        own = address.host if address.path else end.getsockname()[0]
        self._environment = worker_environment(place, own)
        self._leaving = False
        self._link = Connection(end.detach())
        self._worker: WorkerProcess | None = None
        self.inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="spava-agent", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the group and end the worker."""
        self._leaving = True
        with suppress(OSError):
            channel.hang_up(self._link)
        self._thread.join(2 * _GRACE_SECONDS)

    def _serve(self) -> None:
        try:
            while True:
                message = channel.receive(self._link)
                if "start" in message:
                    channel.send(self._link, self._start(WorkerSettings(**message["start"])))
                elif "end" in message:
                    channel.send(self._link, {"ended": asdict(self._end(message["end"]))})
                elif "look" in message:
                    ended = self._worker.ended() if self._worker else ExitStatus(None)
                    channel.send(self._link, {"ended": asdict(ended) if ended else None})
                else:
                    self.inbox.put(message)
        except (EOFError, OSError):
            pass
        finally:
            if not self._leaving:
                clear_away(self._address)  # a driver that was killed could not do it
            self._end(0.0)
            self._link.close()
            self.inbox.put(None)

    def _start(self, settings: WorkerSettings) -> dict[str, Any]:
        self._end(0.0)
        try:
            end = knock(self._address, f"worker/{settings.rank}/{settings.group}")
            settings = on_this_machine(settings, self._place)
            self._worker = WorkerProcess.start(settings, end, self._environment)
        except (OSError, EngineError) as error:
            return {"failed": str(error)}
        return {"started": self._worker.process.pid}

    def _end(self, seconds: float) -> ExitStatus:
        worker, self._worker = self._worker, None
        return worker.end(time.monotonic() + seconds) if worker else ExitStatus(None)
