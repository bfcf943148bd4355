"""Rotary embedding against its definition."""

import pytest
import torch

from spava_app.kernels.rope import apply_rotary, rotary_frequencies, rotary_table


def test_rotary_is_a_rotation_by_position_times_frequency() -> None:
    frequencies = rotary_frequencies(8, 100.0)
    x = torch.randn(3, 2, 8, dtype=torch.float64)
    rotated = apply_rotary(x, rotary_table(torch.tensor([0, 5, 70_000]), frequencies))
    assert rotated.dtype == x.dtype
    for row, position in enumerate((0, 5, 70_000)):
        for pair in range(4):
            angle = torch.tensor(position * 100.0 ** (-2 * pair / 8), dtype=torch.float64)
            a, b = x[row, :, pair], x[row, :, pair + 4]
            expected = torch.stack(
                (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())
            )
            got = torch.stack((rotated[row, :, pair], rotated[row, :, pair + 4]))
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_multimodal_rotary_takes_each_sections_axis() -> None:
    frequencies = rotary_frequencies(12, 1e4)
    positions = torch.tensor([[3, 9], [5, 0], [7, 2]])
    cos, _ = rotary_table(positions, frequencies, [1, 2, 3])
    axes = [0, 1, 1, 2, 2, 2]
    for row in range(2):
        angles = positions[axes, row] * frequencies
        torch.testing.assert_close(cos[row], angles.cos().float())
    with pytest.raises(ValueError, match="must sum to"):
        rotary_table(positions, frequencies, [1, 2, 2])
