"""cuDNN's attention inside torch: on Hopper nearly twice as fast as FlashAttention-2
(docs/performance.md). It takes grouped-query heads without expanding them and aligns a causal mask
to the top left.

cuDNN builds a plan for each new pair of lengths, which torch keeps for the life of the thread: good
for the layers of a prefill, which repeat a few shapes, bad for decoding, where each token's is new.
"""

import torch
from torch import Tensor

from spava_app.kernels.backends import reference
from spava_app.kernels.backends.base import Backend, nvidia_limits
from spava_app.kernels.lse import Partial

_cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention

# Before 9.15.1 some results are wrong: torch itself does not choose cuDNN there (pytorch#171627).
OLDEST = 91501

# A plan takes 40 ms on an H200 (the first of its kind 0.4 s and more). Against FlashAttention-2
# that is won back in one prefill of 28 layers by calls of 1e12 FLOPs, in two by calls of half that.
LEAST_FLOPS = 5e11


def _unsupported(q: Tensor) -> str | None:
    if reason := nvidia_limits(q, majors=range(9, 10), max_head_dim=128):
        return reason
    version = torch.backends.cudnn.version() or 0
    return None if version >= OLDEST else f"needs cuDNN {OLDEST}, this is {version}"


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Partial:
    if k.shape[0] == 1:  # the one length cuDNN does not take
        return reference.BACKEND.attend(q, k, v, causal)
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    out, lse, *_ = _cudnn(*heads_first, None, True, 0.0, causal, False)
    return out[0].transpose(0, 1), lse[0].flatten(1)


BACKEND = Backend("cudnn", _unsupported, _attend, least_flops=LEAST_FLOPS)
