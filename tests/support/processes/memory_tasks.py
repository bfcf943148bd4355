"""What the ranks of a test group run to measure the memory of a request."""

import torch
from generation import text_request
from live_bytes import LiveBytes

from spava_app.engine.comm import Comm
from spava_app.engine.models.causal_lm import CausalLM
from spava_app.engine.models.config import decoder as decoder
from spava_app.engine.parallel import partials
from spava_app.engine.parallel.base import make_method
from spava_app.engine.planning.memory import Memory, predict
from spava_app.engine.request import Request
from spava_app.engine.runner import Runner
from spava_app.engine.timing import StageTimer

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 100,
    "hidden_size": 256,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}


def predicted_and_counted(
    comm: Comm, method: str, num_tokens: int, dtype: torch.dtype, chunk_rows: int | None
) -> tuple[Memory, int]:
    """The prediction for this rank, and the bytes of tensors there were at the peak of a request.

    `chunk_rows`: so many rows of a layer, and of a merge, are worked on at a time; None for the
    product's own limits, which are beyond these sizes.
    """
    limits = decoder.CHUNK_BYTES, partials.MERGE_BYTES
    if chunk_rows is not None:
        decoder.CHUNK_BYTES = chunk_rows * 4 * CONFIG["intermediate_size"] * dtype.itemsize
        partials.MERGE_BYTES = chunk_rows * CONFIG["hidden_size"] * 4
    try:
        return _measure(comm, method, num_tokens, dtype)
    finally:
        decoder.CHUNK_BYTES, partials.MERGE_BYTES = limits


def _measure(comm: Comm, name: str, num_tokens: int, dtype: torch.dtype) -> tuple[Memory, int]:
    torch.manual_seed(0)
    model = CausalLM(CONFIG).to(dtype).requires_grad_(requires_grad=False)
    request = text_request([*range(100)] * (num_tokens // 100), method=name, max_new_tokens=3)
    method = make_method(name)
    layout = method.layout(request.shape, comm.world_size)
    memory = predict(model, method, layout, dtype=dtype, max_new_tokens=3)[comm.rank]
    return memory, min(_peak(comm, model, request) for _ in range(2))


def _peak(comm: Comm, model: CausalLM, request: Request) -> int:
    """Now and then more than the request itself holds: gloo's threads let go of a tensor a moment
    after the collective that sent it.
    """
    timer = StageTimer(torch.device("cpu"), lambda stage: None)
    with LiveBytes() as counter:
        for parameter in model.parameters():
            counter.add(parameter)
        list(Runner(model.decoder, None, comm).run(request, timer))
    return counter.peak
