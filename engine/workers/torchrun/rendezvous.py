"""The store in which the processes find each other: torchrun's, or one that rank 0 serves."""

import errno
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import cache

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError

from spava_app.engine.workers.torchrun.environment import Place
from spava_app.engine.workers.torchrun.listener import Address, listen
from spava_app.errors import EngineDown, InvalidInput

# How long a process may take to get to its first question: others download or read meanwhile.
JOIN_SECONDS = 600.0
_CONNECT = timedelta(seconds=60)
_POLL_SECONDS = 0.1


def publish(place: Place, number: int, address: Address) -> None:
    """Tell all processes the address of door `number` of rank 0.

    Raises:
        InvalidInput, EngineDown: there is no store.
    """
    with _named(place):
        _store(place).set(_key(place, number), json.dumps(asdict(address)))


def look_up(place: Place, number: int, within: float = JOIN_SECONDS) -> Address:
    """The address of door `number`, once rank 0 has published it.

    Raises:
        EngineDown: it has not, within so many seconds, or it is gone.
    """
    key, until = _key(place, number), time.monotonic() + within
    with _named(place):
        store = _store(place)
        while not store.check([key]):
            if time.monotonic() > until:
                raise EngineDown(f"rank 0 has not called within {within:.0f} s")
            time.sleep(_POLL_SECONDS)
        return Address(**json.loads(store.get(key)))


def _key(place: Place, number: int) -> str:
    return f"spava/{place.attempt}/{number}"


@cache
def _store(place: Place) -> TCPStore:
    host, port = place.master_addr, place.master_port
    if place.hosted or place.rank > 0:
        host = host if place.hosted else place.host
        return TCPStore(host, port, is_master=False, timeout=_CONNECT)
    try:
        # Served on this one address; torch by itself would listen on all.
        listener = listen(place.host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # The script's own process group serves one there already.
        return TCPStore(host, port, is_master=False, timeout=_CONNECT)
    return TCPStore(
        place.host,
        port,
        is_master=True,
        master_listen_fd=listener.detach(),
        wait_for_workers=False,
        multi_tenant=True,
        timeout=_CONNECT,
    )


@contextmanager
def _named(place: Place) -> Iterator[None]:
    try:
        yield
    except (DistError, RuntimeError, OSError) as error:
        where = f"{place.master_addr}:{place.master_port}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if place.rank == 0:
            fix = f"no store can be served or reached there ({reason}): name this machine"
            raise InvalidInput("MASTER_ADDR", where, fix) from error
        raise EngineDown(f"no store at {where}: rank 0 is gone or not reached") from error
