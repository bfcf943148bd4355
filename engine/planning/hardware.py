"""How fast a machine is: the rates that predictions divide work by.

A rate that depends on the size of a piece of work is a curve. A rank has one GPU to itself, whose
rates these are; on a CPU it has its share of the cores, and FLOP/s are those of one core. All cores
share the memory.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from typing import Any

# How `Machine.origin` begins where nobody has measured.
DEFAULTS = "defaults"
_POSITIVE = (
    "memory",
    "launch_seconds",
    "gather_seconds",
    "cores",
    "decode",
    "decode_start",
    "prepare",
    "place_seconds",
)


@dataclass(frozen=True)
class Curve:
    """A rate that grows with the size of a piece of work.

    Between two sizes the logarithms are interpolated. Pieces smaller than the smallest take as long
    as that, pieces larger than the largest run at its rate.

    Attributes:
        points: (size, rate per second) pairs, sizes ascending.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.points]
        if not sizes or sizes != sorted(set(sizes)) or min(min(pair) for pair in self.points) <= 0:
            raise ValueError(f"points={self.points!r}: give positive pairs, sizes ascending")

    def seconds(self, size: float) -> float:
        """How long a piece of work of `size` takes; none takes no time."""
        if size <= 0:
            return 0.0
        (first, slowest), (last, fastest) = self.points[0], self.points[-1]
        if size <= first:
            return first / slowest
        if size >= last:
            return size / fastest
        for (a, low), (b, high) in zip(self.points, self.points[1:], strict=False):
            if size <= b:
                share = log(size / a) / log(b / a)
                return size / exp(log(low) + share * log(high / low))
        raise AssertionError("sizes ascend")


@dataclass(frozen=True)
class Machine:
    """Rates of a machine. FLOPs are in the dtype that the engine uses there.

    Attributes:
        device: "cpu" or "cuda".
        name: of the processor or of the cards.
        origin: where the rates come from, for a person.
        matmul: FLOPs of a matrix product; FLOP/s.
        attention: FLOPs of a call; FLOP/s.
        memory: bytes per second of elementwise work, read and written; of all cores.
        link: bytes that a rank receives in a collective; bytes per second. Its first point is the
            latency.
        launch_seconds: that the host needs for each kernel it launches.
        gather_seconds: that a small all-gather takes, latency and host.
        cores: of the CPU.
        decode: source pixels per second that a decoder process decodes.
        decode_start: seconds until the first frames of a file come.
        prepare: pixels per second, of the source and resized, that a GPU or a core resizes.
        unit_seconds: that each unit of frames takes besides.
        place_seconds: that the host needs to find where a visual token belongs.
    """

    device: str
    name: str
    origin: str
    matmul: Curve
    attention: Curve
    memory: float
    link: Curve
    launch_seconds: float
    gather_seconds: float
    cores: int
    decode: float
    decode_start: float
    prepare: float
    unit_seconds: float
    place_seconds: float

    def computed(self, rate: Curve, flops: float, world_size: int) -> float:
        """Seconds of a piece of work on one of `world_size` ranks."""
        return self._turns(world_size) * rate.seconds(flops / self._threads(world_size))

    def moved(self, num_bytes: float, world_size: int) -> float:
        """Seconds to read and write so many bytes on each of `world_size` ranks."""
        return num_bytes / self.memory * (world_size if self.device == "cpu" else 1)

    def prepared(self, pixels: float, num_units: float, world_size: int) -> float:
        """Seconds to resize pixels of so many units on each of `world_size` ranks."""
        resized = pixels / self.prepare / self._threads(world_size)
        return self._turns(world_size) * (resized + num_units * self.unit_seconds)

    def launched(self, kernels: int, world_size: int) -> float:
        """Seconds that the host needs to launch so many kernels on each of `world_size` ranks."""
        return self._turns(world_size) * kernels * self.launch_seconds

    def _threads(self, world_size: int) -> int:
        """That compute for a rank."""
        return max(1, self.cores // world_size) if self.device == "cpu" else 1

    def _turns(self, world_size: int) -> float:
        """More processes than cores take turns."""
        return max(1.0, world_size / self.cores) if self.device == "cpu" else 1.0

    @property
    def measured(self) -> bool:
        """Whether the rates are this machine's own."""
        return not self.origin.startswith(DEFAULTS)

    @property
    def runs_ahead(self) -> bool:
        """Whether the host launches work, and collectives travel, while the device computes."""
        return self.device == "cuda"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Machine":
        """From parsed JSON.

        Raises:
            TypeError, ValueError: something is missing, unknown, or no positive number.
        """
        values = dict(values)
        for name in ("matmul", "attention", "link"):
            values[name] = Curve(_pairs(values[name]["points"]))
        machine = cls(**values)
        for name in _POSITIVE:
            if not getattr(machine, name) > 0:
                raise ValueError(f"{name}={getattr(machine, name)!r}: must be positive")
        return machine


def _pairs(points: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(size), float(rate)) for size, rate in points)
