"""What the decoder computes for a request, counted from first principles, and how long it takes.

T = rows of a rank, H = query heads, Hkv = KV heads, D = head dim. A rank's layer is linear work on
its rows, elementwise work on them, and the method's steps; ranks wait for each other in every
layer, so the slowest decides.
"""

from dataclasses import dataclass

import torch

from spava_app.engine.layout import Layout
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.parallel.base import Method
from spava_app.engine.parallel.buffers import HeadShape
from spava_app.engine.parallel.work import Call
from spava_app.engine.planning.hardware import Machine

# Products that a layer's linear work consists of: q, k, v; output; gate, up; down.
_PRODUCTS = 4
# Kernels of a layer besides attention, and of a layer for one token, whose partial results are
# merged even on one rank.
LAYER_LAUNCHES, TOKEN_LAUNCHES = 13, 33
# Of a token besides its layers: it is looked up, turned, judged and told.
TOKEN_HEAD_LAUNCHES = 30


@dataclass(frozen=True)
class DecoderTime:
    """Seconds of a decoder on a machine.

    Attributes:
        dtype: of weights and activations.
    """

    config: DecoderConfig
    machine: Machine
    dtype: torch.dtype

    def prefill(self, method: Method, layout: Layout) -> float:
        """Seconds from hidden states to the first token."""
        ranks = range(layout.world_size)
        layer = max(self._layer(method, layout, rank) for rank in ranks)
        return self.config.num_layers * layer + self._head(layout.world_size)

    def token(self, layout: Layout) -> float:
        """Seconds for each token after the first: weights and cache are read, and the host
        launches every layer and gathers partial results.
        """
        config, machine, ranks = self.config, self.machine, layout.world_size
        cached = max(layout.num_cached(rank) for rank in range(ranks))
        read = self._layer_weights * self.dtype.itemsize + cached * self._heads.kv_row
        host = machine.launched(TOKEN_LAUNCHES, ranks)
        if ranks > 1:
            host += machine.gather_seconds
        layer = self._together(machine.moved(read, ranks), host)
        head = machine.launched(TOKEN_HEAD_LAUNCHES, ranks) + self._head(ranks)
        return config.num_layers * layer + head

    @property
    def _heads(self) -> HeadShape:
        config = self.config
        size = self.dtype.itemsize
        return HeadShape(config.num_heads, config.num_kv_heads, config.head_dim, size)

    @property
    def _layer_weights(self) -> int:
        """Of a layer's products."""
        config = self.config
        width = config.num_heads * config.head_dim
        projected = 2 * width + 2 * config.num_kv_heads * config.head_dim
        return config.hidden_size * (projected + 3 * config.intermediate_size)

    def _layer(self, method: Method, layout: Layout, rank: int) -> float:
        machine, ranks, rows = self.machine, layout.world_size, layout.num_rows(rank)
        work = self._linear(rows, ranks) + machine.moved(self._elementwise_bytes(rows), ranks)
        steps = method.steps(layout, rank, self._heads)
        for step in steps:
            computed = sum(self._attention(call, ranks) for call in step.calls)
            travelled = machine.link.seconds(step.received)
            if machine.runs_ahead:
                work += max(computed, travelled)
            else:  # on a CPU what carries the data also computes
                work += computed + travelled
            work += machine.moved(step.copied, ranks)
        launches = LAYER_LAUNCHES + sum(step.all_launches for step in steps)
        return self._together(work, machine.launched(launches, ranks))

    def _together(self, work: float, host: float) -> float:
        """A layer's seconds: a GPU works while the host launches what comes next."""
        return max(work, host) if self.machine.runs_ahead else work + host

    def _linear(self, rows: int, world_size: int) -> float:
        if not rows:
            return 0.0
        weights = self._layer_weights
        product = 2.0 * weights * rows / _PRODUCTS
        computed = _PRODUCTS * self.machine.computed(self.machine.matmul, product, world_size)
        return max(computed, self.machine.moved(weights * self.dtype.itemsize, world_size))

    def _elementwise_bytes(self, rows: int) -> int:
        """Read and written by norms, residuals, rotation, the gate and the cache."""
        config, size, heads = self.config, self.dtype.itemsize, self._heads
        turned = (config.num_heads + config.num_kv_heads) * config.head_dim
        values = 2 * 2 * config.hidden_size + 2 * 3 * config.hidden_size
        values += 2 * turned + 3 * config.intermediate_size
        row = values * size + 2 * heads.kv_row
        if rows > config.rows_per_chunk(self.dtype):
            # Worked on in chunks, which are then put in their places.
            row += 2 * (heads.q_row + heads.kv_row + config.hidden_size * size)
        return rows * row

    def _attention(self, call: Call, world_size: int) -> float:
        dims = padded_head_dim(self.config.head_dim, self.machine)
        flops = 4.0 * dims * self.config.num_heads * call.pairs
        return self.machine.computed(self.machine.attention, flops, world_size)

    def _head(self, world_size: int) -> float:
        """Logits of one row, and the token that all ranks are told."""
        config, machine = self.config, self.machine
        read = config.vocab_size * config.hidden_size * self.dtype.itemsize
        told = machine.link.seconds(8.0) if world_size > 1 else 0.0
        return machine.moved(read, world_size) + told


def padded_head_dim(head_dim: int, machine: Machine) -> int:
    """Channels of a head that a kernel computes: GPUs' are made for powers of two."""
    if machine.device == "cpu":
        return head_dim
    return max(64, 1 << (head_dim - 1).bit_length())
