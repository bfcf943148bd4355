"""Text checkpoints saved by transformers: its logits and its greedy tokens, over every exact method
and any number of ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import RankPool
from generation import generate, text_request
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from spava_app.engine.checkpoints.load import load_model
from spava_app.kernels.attention import attention

NEW_TOKENS = 32
SIZES = {
    "vocab_size": 120,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def plain(theta: float) -> dict[str, Any]:
    """Rotary settings without scaling."""
    return {"rope_theta": theta, "rope_type": "default"}


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SIZES, rope_parameters=plain(1e4)),
    "llama 3.1": lambda: LlamaConfig(**SIZES, rope_parameters=SCALED, tie_word_embeddings=True),
    "llama with biases": lambda: LlamaConfig(**SIZES, attention_bias=True, head_dim=24),
    # Yi-34B's ratio of heads, 56 to 8, and its base.
    "yi": lambda: LlamaConfig(
        **{**SIZES, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 224},
        rope_parameters=plain(5e6),
    ),
    "qwen2": lambda: Qwen2Config(**SIZES, rope_parameters=plain(1e6)),
}


@dataclass(frozen=True)
class Saved:
    """A checkpoint's folder, transformers' model, and its greedy continuation of a prompt."""

    folder: Path
    oracle: PreTrainedModel
    prompt: list[int]
    tokens: list[int]


@pytest.fixture(scope="module", params=CONFIGS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    torch.manual_seed(0)
    oracle = AutoModelForCausalLM.from_config(CONFIGS[request.param](), attn_implementation="eager")
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle = oracle.eval()
    folder = tmp_path_factory.mktemp("text")
    oracle.save_pretrained(folder)
    prompt = torch.randint(0, 120, (90,)).tolist()
    tokens = list(prompt)
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            tokens.append(int(oracle(torch.tensor([tokens])).logits[0, -1].argmax()))
    return Saved(folder, oracle, prompt, tokens[len(prompt) :])


@torch.no_grad()
def test_logits(saved: Saved) -> None:
    def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, causal=True, backend="reference")[0]

    ids = torch.tensor(saved.prompt)
    decoder = load_model(saved.folder).decoder
    ours = decoder.logits(decoder(decoder.embed(ids), torch.arange(len(ids)), causal))
    theirs = saved.oracle(ids[None]).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("method", ["full", "ring", "zigzag_ring", "ulysses", "spava"])
def test_greedy_tokens(
    ranks: Callable[[int], RankPool], saved: Saved, method: str, world_size: int
) -> None:
    options = {"passing_fraction": 1.0, "virtual_hosts": 6} if method == "spava" else {}
    request = text_request(saved.prompt, method=method, options=options, max_new_tokens=NEW_TOKENS)
    for tokens, stages in ranks(world_size).run(generate, saved.folder, None, request):
        assert tokens == saved.tokens
        assert stages == ["prefill", "generate"]
