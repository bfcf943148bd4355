"""How ranks talk: the only file that issues collectives.

W = ranks. Asynchronous calls return a function that waits and gives the result, so that a method
can compute between launch and wait. A collective that a dead or hung peer keeps from finishing ends
at the group's deadline: over gloo the wait raises, over NCCL (where a wait only orders streams) its
watchdog ends the process, which the driver notices.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

Pending = Callable[[], Tensor]

# Public from torch 2.15 on; before, private, and the only way that serves gloo and NCCL without
# blocking on each call.
_set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
# Renamed in torch 2.13; the older name warns there and is the only one in 2.11.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Comm:
    """One rank's view of the group; one rank alone sends nothing and needs no process group.

    Attributes:
        rank, world_size: this rank's place.
        deadline: seconds after which a collective that has not finished raises; may be set before
            each stage.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, deadline: float = 60.0) -> None:
        self.rank, self.world_size = rank, world_size
        self._deadline = deadline

    @property
    def deadline(self) -> float:
        return self._deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self._deadline = seconds
        if self.world_size > 1:
            _set_timeout(timedelta(seconds=seconds))

    @classmethod
    def connect(
        cls, rank: int, world_size: int, *, init_method: str, backend: str, deadline: float
    ) -> "Comm":
        """Join the group.

        Args:
            init_method: where the ranks meet: "file:///path" on one machine, or
                "store://host:port/name", under a name in a store that is served there.
            backend: "gloo" on CPU, "nccl" on GPUs.
            deadline: seconds after which a collective that has not finished raises.
        """
        if world_size > 1:
            store = _served_store(init_method)
            dist.init_process_group(
                backend,
                init_method=None if store else init_method,
                store=store,
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=deadline),
            )
        return cls(rank, world_size, deadline)

    def close(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            dist.destroy_process_group()

    def all_gather(self, x: Tensor) -> Pending:
        """Send `x` to all; every rank's `x` must have one shape. Waiting gives `[W, *x.shape]`."""
        if self.world_size == 1:
            return lambda: x[None]
        x = x.contiguous()
        out = x.new_empty(self.world_size * x.shape[0], *x.shape[1:])
        work = _all_gather(out, x, async_op=True)
        assert work is not None  # it is None only for a process outside the group

        def wait() -> Tensor:
            work.wait()
            return out.unflatten(0, (self.world_size, -1))

        return wait

    def all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Exchange rows: the first `send[0]` rows of `rows` go to rank 0, the next `send[1]` to
        rank 1, and so on.

        Returns:
            The rows received, ordered by sender, `receive[s]` from rank s.
        """
        if self.world_size == 1:
            return rows
        out = rows.new_empty(sum(receive), *rows.shape[1:])
        dist.all_to_all_single(out, rows.contiguous(), list(receive), list(send))
        return out

    def shift(self, x: Tensor, num_rows: int) -> Pending:
        """Send `x` to the next rank; waiting gives the previous rank's `num_rows` rows."""
        if self.world_size == 1:
            return lambda: x
        out = x.new_empty(num_rows, *x.shape[1:])
        ahead, behind = (self.rank + 1) % self.world_size, (self.rank - 1) % self.world_size
        transfers = [
            dist.P2POp(dist.isend, x.contiguous(), ahead),
            dist.P2POp(dist.irecv, out, behind),
        ]
        transfers = [op for op in transfers if op.tensor.numel()]
        works = dist.batch_isend_irecv(transfers) if transfers else []

        def wait() -> Tensor:
            for work in works:
                if x.device.type == "cpu":
                    # Point-to-point transfers over gloo keep the deadline they were connected with.
                    work.wait(timedelta(seconds=self._deadline))
                else:  # with a timeout, NCCL's wait would block the host
                    work.wait()
            return out

        return wait

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        """Overwrite `x` on every rank with that of rank `source`, and return it."""
        if self.world_size > 1:
            dist.broadcast(x, source)
        return x

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` holds on any rank; the same answer everywhere."""
        return bool(self.all_gather(torch.tensor([flag], dtype=torch.uint8, device=device))().any())


def _served_store(init_method: str) -> PrefixStore | None:
    # Not torch's tcp://, which serves the store itself, on every interface.
    if not init_method.startswith("store://"):
        return None
    address, _, name = init_method.removeprefix("store://").partition("/")
    host, _, port = address.rpartition(":")
    return PrefixStore(name, TCPStore(host, int(port), is_master=False))
