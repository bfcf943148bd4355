"""What the vision tower does for speed changes nothing but that."""

import pytest
import torch
import torch.nn.functional as F

from spava_app.engine.models.flops import qwen_config
from spava_app.engine.models.qwen2_5_vl import VisionBlock, VisionTower
from spava_app.engine.models.vision_batch import MAX_UNITS, units_per_call


@torch.no_grad()
def test_an_inner_width_that_is_no_multiple_of_eight() -> None:
    config = qwen_config(64, 16)
    assert config.intermediate_size % 8
    block = VisionBlock(config)
    x = torch.randn(6, config.hidden_size)
    gate, up = block.gate_up(x).chunk(2, dim=-1)
    expected = block.down(F.silu(gate) * up)
    torch.testing.assert_close(block._mlp(x), expected, atol=1e-6, rtol=0)


def test_units_per_call_bound_the_patches() -> None:
    assert units_per_call(102 * 182, "cuda") == 3  # 1440p
    assert units_per_call(26 * 46, "cuda") == 54  # 360p
    assert units_per_call(26 * 46, "cpu") == 3
    assert units_per_call(1000 * 1000, "cpu") == 1
    assert units_per_call(2 * 2, "cpu") == MAX_UNITS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_half_precision_on_a_gpu_is_close_to_float32() -> None:
    """Large enough that every fused kernel serves; units apart give what they give together."""
    torch.manual_seed(0)
    config = qwen_config(256, 2)
    grid = (4, 26, 46)
    with torch.device("cuda"):
        tower = VisionTower(config)
        patches = torch.randn(4 * 26 * 46, config.patch_dim)
    expected = tower(patches, grid)
    tower, patches = tower.to(torch.bfloat16), patches.to(torch.bfloat16)
    got = tower(patches, grid)
    single = torch.cat([tower(unit, (1, 26, 46)) for unit in patches.chunk(4)])
    for found in (got, single):
        assert (found - expected).norm() / expected.norm() < 2e-2
