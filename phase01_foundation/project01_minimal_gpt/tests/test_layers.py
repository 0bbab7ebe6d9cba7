"""layers.py against torch's layers and against common's, outputs and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common import model
from phase01_foundation.project01_minimal_gpt.layers import LayerNorm, RMSNorm, SwiGLU, gelu, hidden_width


def both_agree(ours, theirs, x):
    """Outputs, and gradients of the input and of every weight, equal to 1e-6, in float64."""
    weights = list(zip(ours.double().parameters(), theirs.double().parameters(), strict=True))
    with torch.no_grad():
        for mine, other in weights:
            other.copy_(mine.uniform_(-1, 1))
    y, reference = ours(x), theirs(x)
    torch.testing.assert_close(y, reference, atol=1e-6, rtol=1e-6)
    count = torch.arange(y.numel()).view(y.shape).cos()
    mine = torch.autograd.grad((y * count).sum(), [x, *(w for w, _ in weights)])
    other = torch.autograd.grad((reference * count).sum(), [x, *(w for _, w in weights)])
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def drawn(*shape):
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(*shape, generator=draw, dtype=torch.float64) + 1).requires_grad_()


@pytest.mark.exercise("LayerNorm.forward")
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_layer_norm_matches_torch(eps):
    """Equal to nn.LayerNorm, also with an eps so large that its place shows."""
    both_agree(LayerNorm(12, eps), nn.LayerNorm(12, eps), drawn(2, 5, 12))


@pytest.mark.exercise("LayerNorm.forward")
def test_layer_norm_of_equal_numbers():
    """A token whose numbers are all the same has no spread: the answer is the shift, not nan."""
    layer = LayerNorm(4)
    assert torch.equal(layer(torch.full((1, 4), 7.0)), torch.zeros(1, 4))


@pytest.mark.exercise("RMSNorm.forward")
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_matches_torch_and_common(eps):
    """Equal to F.rms_norm and to common's RMSNorm."""
    both_agree(RMSNorm(12, eps), nn.RMSNorm(12, eps), drawn(2, 5, 12))
    both_agree(RMSNorm(12, eps), model.RMSNorm(12, eps), drawn(2, 5, 12))


@pytest.mark.exercise("gelu")
def test_gelu_matches_torch():
    """Equal to F.gelu with the tanh approximation from -8 to 8, slope included, and near the exact one."""
    x = torch.linspace(-8, 8, 401, dtype=torch.float64, requires_grad=True)
    y, reference = gelu(x), F.gelu(x, approximate="tanh")
    torch.testing.assert_close(y, reference, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(reference.sum(), x))
    assert (y - F.gelu(x)).abs().max() < 1e-3


@pytest.mark.exercise("SwiGLU.forward")
def test_swiglu_matches_common():
    """Equal to common's SwiGLU with the same weights."""
    config = model.ModelConfig(vocab_size=5, n_layer=1, n_head=2, n_kv_head=2, d_model=12, d_ff=20)
    both_agree(SwiGLU(12, d_ff=20), model.SwiGLU(config), drawn(2, 5, 12))


def test_swiglu_weighs_what_gelu_weighs():
    """Three matrices of C x 8/3 C: within a rounding of the 8 C² of a GELU layer, and never less."""
    for d_model in (64, 128, 384, 768, 4096):
        width = hidden_width(d_model)
        assert width % 8 == 0 and 0 <= 3 * d_model * width - 8 * d_model**2 < 3 * d_model * 8, d_model
    assert hidden_width(100, multiple=32) == 288
    assert isinstance(hidden_width(100), int)
