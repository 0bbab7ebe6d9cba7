"""What the bench tries beside the methods: least squares by rows, and the same model in other units."""

import copy

import pytest
import torch

from common.model import GPT
from common.testing import close, tiny
from phase05_quantization.project14_ptq.calibration import layer_error
from phase06_compression.project17_pruning import _attempts, magnitude, wanda
from phase06_compression.project17_pruning.magnitude import largest, matrices, sparsity_of


def model_and_texts():
    torch.manual_seed(0)
    model = GPT(tiny()).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
    return model, [torch.randint(97, (1, 24)) for _ in range(4)]


def test_rows_are_fitted_as_lstsq_fits_them():
    draw = torch.Generator().manual_seed(0)
    x = (torch.randn(300, 12, generator=draw) @ torch.randn(12, 12, generator=draw)).double()
    w = torch.randn(7, 12, generator=draw).double()
    mask = largest(torch.rand(7, 12, generator=draw), 5)
    left = _attempts.fit_rows(w, x.T @ x / 300, mask, rows=3)
    for row in range(7):
        want = torch.linalg.lstsq(x[:, mask[row]], x @ w[row]).solution
        close(left[row, mask[row]], want, f"row {row}", rtol=1e-6, atol=1e-6)
    assert (left[~mask] == 0).all()
    assert (layer_error(w, left, x.T @ x / 300) <= layer_error(w, w * mask, x.T @ x / 300)).all()


def test_other_units_are_the_same_model_and_wanda_s_mask():
    """The same logits; Wanda prunes the same weights, magnitude others."""
    model, texts = model_and_texts()
    other = _attempts.in_other_units(model)
    close(other(texts[0]), model(texts[0]), "logits", rtol=1e-4, atol=1e-4)
    assert not torch.equal(other.blocks[0].attn.wq.weight, model.blocks[0].attn.wq.weight)
    same = {}
    for name, prune in (("wanda", lambda m: wanda.apply(m, texts, 0.5)),
                        ("magnitude", lambda m: magnitude.apply(m, 0.5))):
        a, b = (matrices(prune(copy.deepcopy(m)))["blocks.0.ffn.w_up"].weight != 0 for m in (model, other))
        same[name] = (a == b).float().mean().item()
    assert same["wanda"] > 0.999 and same["magnitude"] < 0.9


@pytest.mark.parametrize("name", ["wanda over the matrix", "wanda, fitted"])
def test_attempts_leave_half(name):
    model, texts = model_and_texts()
    assert sparsity_of(_attempts.METHODS[name](model, texts, 0.5)) == pytest.approx(0.5, abs=0.01)
