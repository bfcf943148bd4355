"""One rank's share of the KV cache: preallocated, filled layer by layer, never copied to grow.

C = capacity in tokens, Hkv = KV heads, D = head dim.
"""

import torch
from torch import Tensor


class KVCache:
    """Keys and values `[layers, C, Hkv, D]` with a fill mark per layer.

    Args:
        num_layers, capacity, num_kv_heads, head_dim: the sizes.
        dtype, device: of keys and values.
    """

    def __init__(
        self,
        num_layers: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (num_layers, capacity, num_kv_heads, head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self._lengths = [0] * num_layers

    @property
    def device(self) -> torch.device:
        return self._keys.device

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store the keys and values `[T, Hkv, D]` of T more tokens of `layer`."""
        start = self._lengths[layer]
        stop = start + k.shape[0]
        if stop > self._keys.shape[1]:
            raise IndexError(f"{stop} tokens in a cache for {self._keys.shape[1]}")
        self._keys[layer, start:stop] = k
        self._values[layer, start:stop] = v
        self._lengths[layer] = stop

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """The stored keys and values of `layer`, `[length, Hkv, D]` each, without a copy."""
        length = self._lengths[layer]
        return self._keys[layer, :length], self._values[layer, :length]
