"""Rotary positions against their definition with complex numbers (Su et al. 2021, equation 12)."""

import pytest
import torch

from tinygpt.config import ModelConfig
from tinygpt.model import RotaryPositions


def positions(d_head=8, theta=10_000.0, block_size=64):
    return RotaryPositions(
        ModelConfig(n_embd=4 * d_head, block_size=block_size, positions="rotary", d_head=d_head, rope_theta=theta)
    )


def turned(x, start, theta):
    """The pair (x[j], x[j + K/2]) as one complex number, times e^(i t theta^(-2j/K)); in double precision."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half].double(), x[..., half:].double())
    t = torch.arange(start, start + x.shape[-2], dtype=torch.float64)[:, None]
    frequencies = theta ** -(torch.arange(half, dtype=torch.float64) * 2 / x.shape[-1])
    z = z * torch.exp(1j * t * frequencies)
    return torch.cat((z.real, z.imag), -1).float()


@pytest.mark.parametrize("d_head", [2, 8, 64])
@pytest.mark.parametrize("theta", [100.0, 10_000.0, 1e6])
@pytest.mark.parametrize(("start", "T"), [(0, 1), (0, 64), (5, 7), (63, 1)])
def test_rotation_is_the_complex_product(d_head, theta, start, T):
    x = torch.randn(2, 3, T, d_head, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(positions(d_head, theta).rotate(x, start), turned(x, start, theta), atol=2e-5, rtol=0)


def test_scores_depend_on_the_distance_alone():
    """The reason for the rotation: q at t and k at s meet in q k^T as if they stood at t - s and 0."""
    p = positions()
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(1))
    score = lambda t, s: (p.rotate(q, t) * p.rotate(k, s)).sum().item()  # noqa: E731
    for distance in (0, 1, 17):
        scores = [score(s + distance, s) for s in (0, 1, 20, 46)]
        assert max(scores) - min(scores) < 1e-4
    assert abs(score(17, 0) - score(0, 0)) > 1e-2


def test_lengths_are_kept_and_number_formats_too():
    x = torch.randn(1, 2, 64, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(positions().rotate(x, 0).norm(dim=-1), x.norm(dim=-1))
    assert positions().rotate(x.bfloat16(), 0).dtype == torch.bfloat16
