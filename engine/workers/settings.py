"""What a worker process is told at its start."""

import json
from dataclasses import asdict, dataclass

# Bounds of the cache of visual embeddings: of all processes, and of each worker.
DISK_BYTES, MEMORY_BYTES = 10 * 2**30, 2**30


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of one rank.

    Attributes:
        rank, world_size: its place in the group.
        rendezvous: where the ranks meet: see `Comm.connect`.
        socket: number of the inherited file descriptor of its control channel.
        model: folder of the checkpoint.
        device: "cpu" or "cuda".
        gpu: number of the CUDA device it takes.
        dtype: name of the torch dtype of weights and activations.
        threads: CPU threads.
        deadline: seconds a collective may take.
        allow_pickle: whether pickled weights may be read, tensors only.
        cache: folder of the cache of visual embeddings; empty for none.
        group: how many groups were started before, where these are counted.
        scratch: a folder of this group alone, which its workers remove when the driver cannot.
    """

    rank: int
    world_size: int
    rendezvous: str
    model: str
    device: str
    dtype: str
    deadline: float
    allow_pickle: bool = False
    cache: str = ""
    socket: int = -1
    gpu: int = 0
    threads: int = 1
    group: int = 0
    scratch: str = ""

    @property
    def place(self) -> str:
        """What it runs on."""
        return f"GPU {self.gpu}" if self.device == "cuda" else f"{self.threads} CPU threads"

    def to_json(self) -> str:
        return json.dumps(asdict(self))
