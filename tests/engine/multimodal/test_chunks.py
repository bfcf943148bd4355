"""What is worked on some rows at a time is what all rows at once give."""

import pytest
import torch
from memory_tasks import CONFIG
from torch import Tensor

from spava_app.engine.models.config import decoder as decoders
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.parallel import partials
from spava_app.engine.parallel.partials import merge_into
from spava_app.kernels.attention import attention
from spava_app.kernels.lse import merge

ROWS = 50


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, causal=True, backend="reference")[0]


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    made = Decoder(DecoderConfig.from_hf(CONFIG)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def chunks_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = 4 * CONFIG["intermediate_size"] * torch.float64.itemsize
    monkeypatch.setattr(decoders, "CHUNK_BYTES", rows * row)


@pytest.mark.parametrize("rows", [1, 16, 25, 49, 50])
def test_a_decoder_in_chunks(decoder: Decoder, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, positions = torch.randn(ROWS, 256, dtype=torch.float64), torch.arange(ROWS)
    with torch.no_grad():
        whole = decoder(hidden.clone(), positions, causal)
        chunks_of(rows, monkeypatch)
        given = hidden.clone()
        torch.testing.assert_close(decoder(given, positions, causal), whole, atol=1e-10, rtol=0)
    assert torch.equal(given, hidden) == (rows == ROWS)  # spent where it is long


def test_gradients_through_chunks(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> tuple[Tensor, Tensor]:
        hidden = start.clone().requires_grad_()
        decoder.zero_grad()
        decoder(hidden, torch.arange(ROWS), causal).square().sum().backward()
        weight = decoder.layers[0].qkv.weight.grad
        assert hidden.grad is not None
        assert weight is not None
        assert torch.equal(hidden, start)
        return hidden.grad, weight

    start = torch.randn(ROWS, 256, dtype=torch.float64)
    whole = gradient()
    chunks_of(16, monkeypatch)
    torch.testing.assert_close(gradient(), whole, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("rows", [1, 16, 50, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_in_chunks_and_in_place(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [(torch.randn(ROWS, 4, 8).to(dtype), 9 * torch.randn(4, ROWS)) for _ in range(3)]
    parts[1][1][:, :5] = -torch.inf
    out, lse = merge(parts)
    monkeypatch.setattr(partials, "MERGE_BYTES", rows * 4 * 8 * 4)
    first = parts[0][0]
    merged = merge_into(first, parts)
    assert torch.equal(merged, lse)
    assert torch.equal(first, out.to(dtype))
