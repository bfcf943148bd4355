"""Frames between two processes without copying: a ring of slots in shared memory.

The process that decodes fills slots; the one that reads them gives each back. So decoding runs
ahead of what is done with its pictures, by the ring's bytes and no more. A slot holds one group:
frames that are used together. G = frames of a group, H, W = height and width.
"""

import fcntl
import mmap
import os

import numpy as np

# What may be decoded ahead. A larger ring hides nothing more once one side is always waiting.
PREFETCH_BYTES = 64 * 2**20
# Each slot is a message on its way in either direction while the other side is busy: more than a
# hundred would fill the socket, and both sides would wait for the other to read.
_LEAST_SLOTS, _MOST_SLOTS = 2, 64


def num_slots(group_bytes: int, num_groups: int) -> int:
    """Slots of a ring for so many groups of such a size: 2 to 64, unless there are fewer groups."""
    slots = min(_MOST_SLOTS, max(_LEAST_SLOTS, PREFETCH_BYTES // group_bytes))
    return min(num_groups, slots)


def shared_file(size: int) -> int:
    """A descriptor of `size` bytes of anonymous memory whose size nobody can change any more: a
    process that maps it cannot be made to fault by the other.
    """
    file = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return file


def map_ring(file: int, slots: int, group: int, shape: tuple[int, int]) -> np.ndarray:
    """The ring in this process, uint8 `[slots, G, H, W, 3]`; it lives as long as its views."""
    whole = (slots, group, *shape, 3)
    return np.frombuffer(mmap.mmap(file, int(np.prod(whole))), np.uint8).reshape(whole)
