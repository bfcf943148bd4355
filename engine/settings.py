"""What a worker process is told at its start."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of one rank.

    Attributes:
        rank, world_size: its place in the group.
        rendezvous: a torch.distributed init method.
        socket: number of the inherited file descriptor of its control channel.
        model: folder of the checkpoint.
        device: "cpu" or "cuda"; on CUDA rank r takes card r.
        dtype: name of the torch dtype of weights and activations.
        threads: CPU threads.
        deadline: seconds a collective may take.
        allow_pickle: whether pickled weights may be read, tensors only.
    """

    rank: int
    world_size: int
    rendezvous: str
    socket: int
    model: str
    device: str
    dtype: str
    threads: int
    deadline: float
    allow_pickle: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))
