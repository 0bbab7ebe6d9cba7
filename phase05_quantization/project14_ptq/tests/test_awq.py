"""AWQ: in floats nothing changes, on a grid the layer errs less, and never more than round to nearest."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model import GPT, RMSNorm
from common.testing import close, tiny
from common.variants import gpt2
from phase05_quantization.project14_ptq import awq, rtn
from phase05_quantization.project14_ptq.calibration import Moments, layer_error
from phase05_quantization.project14_ptq.rtn import QuantLinear, dequantize, grid_of, quantize


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loud(model):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
    return model.eval()


def seen(x):
    moments = Moments(x.size(-1))
    moments.add(x)
    return moments


@pytest.mark.exercise("unit")
def test_units_are_balanced_powers():
    """size^α, the largest times the smallest 1; α = 0 leaves everything; sizes of 0 have a unit too."""
    size = torch.tensor([1.0, 4.0, 16.0])
    close(awq.unit(size, 0.5), torch.tensor([0.5, 1.0, 2.0]), "α = 1/2")
    close(awq.unit(size, 1.0), torch.tensor([0.25, 1.0, 4.0]), "α = 1")
    assert torch.equal(awq.unit(size, 0.0), torch.ones(3))
    small = awq.unit(torch.tensor([0.0, 1e-4, 1.0]), 0.5)
    close(small, torch.tensor([0.1, 0.1, 10.0]), "below 1e-4")


@pytest.mark.exercise("search")
@given(seed=st.integers(0, 10**6), bits=st.sampled_from((2, 3, 4)), symmetric=st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_best_of_twenty(seed, bits, symmetric):
    """No other α on the list has a lower error, 0, which is round to nearest, among them."""
    weights = [drawn(6, 16, seed=seed), drawn(3, 16, seed=seed + 1)]
    moments = seen(drawn(50, 16, seed=seed + 2) * torch.logspace(-1, 1, 16))
    s = awq.search(weights, moments, bits, 8, symmetric)

    def error(s):
        total = 0.0
        for w in weights:
            grid = grid_of(w * s, bits, 8, symmetric)
            q = dequantize(quantize(w * s, grid, bits), grid) / s
            total += layer_error(w, q, moments.hessian).sum().item()
        return total

    least = min(error(awq.unit(moments.size, i / 20)) for i in range(20))
    assert error(s) == pytest.approx(least, rel=1e-5)


@pytest.mark.exercise("search")
def test_large_inputs_get_larger_units():
    """Where a few inputs are large, their columns are rounded more finely, and the error falls by a third."""
    size = torch.ones(32)
    size[::8] = 30.0
    w, moments = drawn(40, 32), seen(drawn(400, 32, seed=1) * size)
    s = awq.search([w], moments, 3)
    near = dequantize(quantize(w, grid := grid_of(w, 3), 3), grid)
    errors = [layer_error(w, q, moments.hessian).sum() for q in (awq.rounded(w, s, 3, None, True), near)]
    assert s[0] > 1.5 * s[1] and errors[0] < 0.67 * errors[1]
    alike = awq.search([w], moments, 3, size=torch.ones(32))
    assert torch.equal(alike, torch.ones(32))  # the sizes given stand in for those that were seen


@pytest.mark.exercise("fold")
@torch.no_grad()
def test_folding_changes_no_product():
    """A norm, or a layer with a bias, before two readers: what the readers put out is the same."""
    s, x = torch.rand(8) + 0.5, drawn(5, 6)
    for maker, given_ in ((RMSNorm(8), drawn(5, 8)), (torch.nn.LayerNorm(8), drawn(5, 8)),
                          (torch.nn.Linear(6, 8), x)):  # fmt: skip
        readers = [torch.nn.Linear(8, n) for n in (3, 4)]
        if getattr(maker, "bias", None) is not None:
            maker.bias.copy_(drawn(8, seed=3))
        want = [reader(maker(given_)) for reader in readers]
        before = [maker.weight.clone(), *(reader.weight.clone() for reader in readers)]
        awq.fold(maker, readers, s)
        for reader, true in zip(readers, want, strict=True):
            close(reader(maker(given_)), true, type(maker).__name__)
        assert all(not torch.equal(a, b.weight) for a, b in zip(before, [maker, *readers], strict=True))


@pytest.mark.exercise("fold")
@torch.no_grad()
def test_folding_where_an_output_is_read_twice():
    """Two query heads read one value: columns by s, rows of the maker by the shared part of it."""
    maker, reader, x = torch.nn.Linear(6, 4), torch.nn.Linear(8, 3), drawn(5, 6)
    rows, want = torch.rand(4) + 0.5, reader(maker(x).repeat(1, 2))
    awq.fold(maker, [reader], rows.repeat(2), rows)
    close(reader(maker(x).repeat(1, 2)), want, "shared")


@pytest.mark.parametrize("dress", [lambda model: model, gpt2])
@pytest.mark.parametrize("heads", [4, 2])
def test_matches_the_floats_before_anything_is_rounded(dress, heads):
    """The worked property of the paper: a balanced model computes what it did, and its weights differ."""
    torch.manual_seed(0)
    if dress is gpt2 and heads == 2:
        pytest.skip("GPT-2 has no grouped heads")
    model, texts = loud(dress(GPT(tiny(n_kv_head=heads)))), [torch.randint(97, (1, 30)) for _ in range(3)]
    made = awq.balance(copy.deepcopy(model), texts, 3, 16)
    close(made(texts[0]), model(texts[0]), "logits", rtol=1e-4, atol=1e-4)
    after = dict(made.named_parameters())
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, after[name])]
    assert any("attn.wo" in name for name in changed) and any("norm_ffn" in name for name in changed)


def test_is_on_in_a_model():
    """All matrices are in codes, other codes than those of round to nearest."""
    torch.manual_seed(0)
    model, texts = loud(GPT(tiny())), [torch.randint(97, (1, 30)) for _ in range(3)]
    made, near = awq.apply(copy.deepcopy(model), texts, 3, 16), rtn.apply(copy.deepcopy(model), 3, 16)
    coded = [name for name, m in made.named_modules() if isinstance(m, QuantLinear)]
    assert len(coded) == 14
    assert any(not torch.equal(made.get_submodule(n).codes, near.get_submodule(n).codes) for n in coded)
    want = model(texts[0])
    assert 1e-3 < (made(texts[0]) - want).norm() / want.norm() < 0.6
