"""SwiGLU, the gate of a gated MLP (arXiv 2002.05202).

N = rows, I = inner width of the MLP.
"""

import torch.nn.functional as F
from torch import Tensor

from spava_app.kernels.fused import fused_for


def swiglu(gate_up: Tensor, multiple: int = 1) -> Tensor:
    """silu(gate) * up.

    Args:
        gate_up: `[N, 2 I]`, the gate's columns first.
        multiple: columns of zeros are added to a multiple of this. A matrix product over I is
            several times slower where a row of I numbers is not a multiple of 16 bytes.

    Returns:
        `[N, I]`, or with zeros wider.
    """
    inner = gate_up.shape[1] // 2
    padding = -inner % multiple
    if gate_up.is_contiguous() and (kernels := fused_for(gate_up)):
        return kernels.swiglu(gate_up, inner + padding)
    gate, up = gate_up.chunk(2, dim=-1)
    product = F.silu(gate) * up
    return F.pad(product, (0, padding)) if padding else product
