"""positions.py: each way against its formula worked out by hand, against common, and against its promise."""

import cmath
import math

import pytest
import torch

from common import variants
from common.model import Embedding, ModelConfig, Rope, attend
from common.model import rotate as common_rotate
from common.variants import SinusoidalPositions
from phase01_foundation.project01_minimal_gpt.positions import (
    LearnedPositions,
    alibi,
    alibi_slopes,
    rope_angles,
    rotate,
    sinusoids,
)


@pytest.mark.exercise("sinusoids")
def test_sinusoids_follow_the_paper():
    """PE(p, 2i) = sin(p / 10000^(2i/C)) and PE(p, 2i + 1) = cos of the same, number by number."""
    table = sinusoids(torch.arange(7), d_model=8)
    assert table.shape == (7, 8)
    for p in range(7):
        for i in range(4):
            angle = p / 10_000 ** (2 * i / 8)
            pair = [math.sin(angle), math.cos(angle)]
            assert table[p, 2 * i : 2 * i + 2].tolist() == pytest.approx(pair, abs=1e-6)


@pytest.mark.exercise("sinusoids")
def test_sinusoids_match_common():
    """common puts all sines before all cosines; apart from that order the tables are the same."""
    old = Embedding(ModelConfig(vocab_size=1, d_model=16))
    with torch.no_grad():
        old.weight.zero_()
    theirs = SinusoidalPositions(old)(torch.zeros(1, 9, dtype=torch.long), torch.arange(9))[0]
    ours = sinusoids(torch.arange(9), d_model=16).unflatten(-1, (8, 2)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.exercise("sinusoids")
def test_sinusoids_tell_distance():
    """The dot product of two places depends on how far they are apart, not on where they are."""
    table = sinusoids(torch.arange(100), d_model=16)
    products = table @ table.T
    torch.testing.assert_close(products.diagonal(5), products[0, 5].expand(95), atol=1e-4, rtol=1e-4)


def test_learned_positions_are_a_table():
    """Position p gets row p, and only rows that were used learn."""
    layer = LearnedPositions(max_seq_len=6, d_model=4)
    out = layer(torch.tensor([2, 0]))
    assert torch.equal(out, layer.table[[2, 0]])
    out.sum().backward()
    assert layer.table.grad.sum(dim=1).tolist() == [4, 0, 4, 0, 0, 0]


@pytest.mark.exercise("rope_angles", "rotate")
def test_rope_matches_common():
    """Angles and rotation equal common's Rope and rotate, for any theta."""
    x, positions = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40, 49)
    for theta in (10_000.0, 500_000.0):
        ours = rotate(x, rope_angles(positions, 8, theta))
        torch.testing.assert_close(ours, common_rotate(x, Rope(8, theta)(positions)), atol=1e-6, rtol=1e-6)


@pytest.mark.exercise("rope_angles")
def test_rope_angles_count_on():
    """The first pair turns one radian a token; each later pair turns more slowly, by the same factor."""
    angles = rope_angles(torch.tensor([0, 1, 5]), head_dim=6, theta=1000.0)
    assert angles.shape == (3, 3)
    assert angles[0].tolist() == [0, 0, 0]
    assert angles[1].tolist() == pytest.approx([1, 0.1, 0.01])
    assert angles[2].tolist() == pytest.approx([5, 0.5, 0.05])


@pytest.mark.exercise("rotate")
def test_rotate_is_a_product_of_complex_numbers():
    """The pair (x[i], x[i + D/2]) as a complex number, times exp(i·angle)."""
    x, angles = torch.randn(1, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([[0.3, 2.0]])
    turned = rotate(x, angles)[0]
    for i in range(2):
        expected = complex(x[0, i], x[0, i + 2]) * cmath.exp(1j * angles[0, i].item())
        assert complex(turned[i], turned[i + 2]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.exercise("rotate")
def test_rope_scores_know_distance_only():
    """q turned by 10 and k by 7 score as q turned by 1003 and k by 1000: three apart is three apart."""
    draw = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 1, 8, generator=draw, dtype=torch.float64)
    rates = torch.tensor([1, 0.1, 0.01, 0.001], dtype=torch.float64)

    def score(at_q, at_k):
        return (rotate(q, at_q * rates[None]) * rotate(k, at_k * rates[None])).sum().item()

    assert score(10, 7) == pytest.approx(score(1003, 1000), abs=1e-9)
    assert abs(score(10, 7) - score(7, 10)) > 1e-3  # behind is not ahead
    assert rotate(q, 10 * rates[None]).norm().item() == pytest.approx(q.norm().item())  # not stretched


@pytest.mark.exercise("alibi_slopes")
@pytest.mark.parametrize("n_head, slopes", [
    (1, [2**-8]),
    (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
    (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
    (12, [2**-1, 2**-2, 2**-3, 2**-4, 2**-5, 2**-6, 2**-7, 2**-8, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
])  # fmt: skip
def test_alibi_slopes_are_the_paper_s(n_head, slopes):
    """Powers of two by the formula; others borrow from the next power of two, as in the paper's code."""
    assert alibi_slopes(n_head).tolist() == pytest.approx(slopes)


@pytest.mark.exercise("alibi")
def test_alibi_is_a_slope():
    """No bias on oneself, minus one slope a step back, the same at every place."""
    bias = alibi(torch.arange(5), n_head=2)
    assert bias.shape == (2, 5, 5)
    for head, slope in enumerate((2**-4, 2**-8)):
        for t in range(5):
            for s in range(t + 1):
                assert bias[head, t, s].item() == pytest.approx(-slope * (t - s))


@pytest.mark.exercise("alibi", "alibi_slopes")
@pytest.mark.parametrize("n_head", [4, 6])
def test_alibi_matches_common(n_head):
    """Our bias as a mask of scaled_dot_product_attention gives what common's alibi_attend gives."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, n_head, 7, 8, generator=draw)
    places = torch.arange(7)
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    bias = alibi(places, n_head).masked_fill(future, -torch.inf)
    ours = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(ours, variants.alibi_attend(q, k, v, positions=places), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(ours, attend(q, k, v, positions=places))  # the slope does something
