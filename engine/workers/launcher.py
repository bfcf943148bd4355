"""How worker processes are started and ended: here, by this process itself."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, Self

from spava_app.engine.devices import num_cores
from spava_app.engine.folders import ScratchFolder
from spava_app.engine.processes.exit_status import start_error
from spava_app.engine.processes.process_log import ProcessLog, start_process
from spava_app.engine.workers.settings import WorkerSettings

logger = logging.getLogger(__name__)
_worker_logger = logging.getLogger("spava_app.engine.workers.worker")


@dataclass(frozen=True)
class ExitStatus:
    """How a worker ended.

    Attributes:
        code: its exit code, negative for a signal; None if the process that started it is gone.
        output: the last lines it wrote, empty if none.
    """

    code: int | None
    output: str = ""

    @property
    def last(self) -> str:
        """The last of these lines."""
        return self.output.rpartition("\n")[2]


@dataclass
class Meeting:
    """Where the ranks of one group find each other.

    Attributes:
        init_method: as `Comm.connect` takes it.
        folder: a private one that is needed for it.
    """

    init_method: str
    folder: ScratchFolder | None = None

    @classmethod
    def on_this_machine(cls) -> Self:
        """At a file in a private folder."""
        folder = ScratchFolder("workers")
        return cls(f"file://{Path(folder.name) / 'rendezvous'}", folder)

    @property
    def scratch(self) -> str:
        """What the workers remove when nobody else can; empty for nothing."""
        return self.folder.name if self.folder is not None else ""

    def clear(self) -> None:
        """Remove what is left of it, once the group has ended."""
        if self.folder is not None:
            self.folder.cleanup()


class Worker(Protocol):
    """One rank as the driver sees it.

    Attributes:
        connection: its control channel.
    """

    @property
    def connection(self) -> Connection: ...

    def ended(self) -> ExitStatus | None:
        """How it ended; None while it runs."""
        ...

    def end(self, until: float) -> ExitStatus:
        """Wait for a worker whose channel is closed or broken, and kill it if it runs beyond
        `until`, a `time.monotonic`. May be called again.
        """
        ...


class Launcher(Protocol):
    """Starts the workers of a group.

    Attributes:
        world_size: ranks of a group.
        one_machine: whether all ranks see the temporary files of the driver.
    """

    @property
    def world_size(self) -> int: ...
    @property
    def one_machine(self) -> bool: ...

    def meeting(self) -> Meeting:
        """Where the ranks of the next group meet; no group ever gets the place of another."""
        ...

    def spawn(self, settings: WorkerSettings) -> Worker:
        """Start one worker; the launcher fills in what depends on the machine.

        Raises:
            EngineDown, OutOfMemory: it cannot be started.
        """
        ...

    def close(self) -> None:
        """Give up what is held beyond a group; safe to call twice, from any thread."""
        ...


@dataclass
class WorkerProcess:
    """A worker that this process has started. It ends when this process does, however that dies.

    Attributes:
        process: its standard input is a pipe that nobody writes to: the worker ends with it.
        log: what it logs and writes.
    """

    process: subprocess.Popen[bytes]
    log: ProcessLog

    @classmethod
    def start(
        cls, settings: WorkerSettings, channel: socket.socket, environment: Mapping[str, str]
    ) -> Self:
        """Start a worker with its end of the control channel, which is closed here.

        Raises:
            EngineDown, OutOfMemory: it cannot be started.
        """
        # A plain subprocess and not multiprocessing: spawn would import the caller's main module
        # again, which fails in notebooks and runs scripts without a main guard twice.
        with channel:
            settings = replace(settings, socket=channel.fileno())
            command = [sys.executable, "-m", "spava_app.engine.workers.worker", settings.to_json()]
            name = f"rank {settings.rank}"
            try:
                process, log = start_process(
                    command,
                    name,
                    _worker_logger,
                    environment,
                    pass_fds=(channel.fileno(),),
                    stdin=subprocess.PIPE,
                )
            except (OSError, RuntimeError) as error:
                raise start_error(f"the worker of {name}", error) from error
        logger.info("%s started: pid %d, %s", name, process.pid, settings.place)
        return cls(process, log)

    def ended(self) -> ExitStatus | None:
        """As `Worker.ended`."""
        code = self.process.poll()
        return None if code is None else ExitStatus(code, self.log.tail())

    def end(self, until: float) -> ExitStatus:
        """As `Worker.end`."""
        try:
            code = self.process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return ExitStatus(code, self.log.tail())


@dataclass
class LocalWorker:
    """A worker of this process with the driver's end of its channel."""

    started: WorkerProcess
    connection: Connection

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.started.process

    @classmethod
    def start(cls, settings: WorkerSettings, environment: Mapping[str, str]) -> Self:
        """Start a worker that is joined to this process by a socket pair."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise start_error(f"the worker of rank {settings.rank}", error) from error
        with ours:
            started = WorkerProcess.start(settings, theirs, environment)
            return cls(started, Connection(ours.detach()))

    def ended(self) -> ExitStatus | None:
        """As `Worker.ended`."""
        return self.started.ended()

    def end(self, until: float) -> ExitStatus:
        """As `Worker.end`."""
        return self.started.end(until)


class LocalLauncher:
    """All ranks are subprocesses of this one; on CUDA rank r takes GPU r."""

    one_machine = True

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size

    def meeting(self) -> Meeting:
        """As `Launcher.meeting`."""
        return Meeting.on_this_machine()

    def spawn(self, settings: WorkerSettings) -> LocalWorker:
        """As `Launcher.spawn`."""
        threads = max(1, num_cores() // self.world_size)
        # Nothing listens on an interface that others can reach.
        loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        settings = replace(settings, gpu=settings.rank, threads=threads)
        return LocalWorker.start(settings, os.environ | loopback)

    def close(self) -> None:
        """As `Launcher.close`: nothing is held beyond a group."""
