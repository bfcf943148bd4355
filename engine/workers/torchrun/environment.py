"""Which process this is among those that torchrun started, told by the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from spava_app.errors import InvalidInput

# Any of these says that a launcher has started this process.
_SIGNS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """The place of this process.

    Attributes:
        rank, world_size: among all processes.
        local_rank, local_world_size: among those of this machine.
        master_addr, master_port: of the store in which they find each other.
        hosted: whether the launcher serves that store; else the process with rank 0 must.
        attempt: how often the launcher has started them all again.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int
    hosted: bool = True
    attempt: str = "0"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """The place of this process; None where it was started alone.

        Raises:
            InvalidInput: a variable is missing or out of range.
        """
        signs = [name for name in _SIGNS if environment.get(name)]
        if not signs:
            return None

        def text(name: str) -> str:
            value = environment.get(name)
            if not value:
                fix = f"must be set where {signs[0]} is: start with torchrun, or unset {signs[0]}"
                raise InvalidInput(name, value, fix)
            return value

        def number(name: str, least: int, most: int) -> int:
            value = text(name)
            if not value.isdecimal() or not least <= int(value) <= most:
                raise InvalidInput(name, value, f"must be an integer from {least} to {most}")
            return int(value)

        world_size = number("WORLD_SIZE", 1, 2**16)
        local_world_size = number("LOCAL_WORLD_SIZE", 1, world_size)
        return cls(
            rank=number("RANK", 0, world_size - 1),
            world_size=world_size,
            local_rank=number("LOCAL_RANK", 0, local_world_size - 1),
            local_world_size=local_world_size,
            master_addr=text("MASTER_ADDR"),
            master_port=number("MASTER_PORT", 1, 2**16 - 1),
            hosted=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=environment.get("TORCHELASTIC_RESTART_COUNT") or "0",
        )

    @property
    def one_machine(self) -> bool:
        """Whether all processes run on this machine."""
        return self.local_world_size == self.world_size

    @property
    def host(self) -> str:
        """Where rank 0 listens: an address that the others reach, and nobody else if possible."""
        return _LOOPBACK if self.one_machine else self.master_addr
