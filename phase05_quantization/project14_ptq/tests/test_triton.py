"""The kernel of 4-bit weights in Triton's interpreter: against whole weights, in three types, at edges."""

import pytest
import torch

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase05_quantization.project14_ptq import rtn
from phase05_quantization.project14_ptq.rtn import QuantLinear

triton_kernel = pytest.importorskip("phase05_quantization.project14_ptq.triton_kernel", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def layer(out, into, group, symmetric=True, bits=4):
    linear = torch.nn.Linear(into, out, bias=False, device=DEVICE)
    linear.weight.data = drawn(out, into, seed=1)
    return QuantLinear.from_linear(linear, bits, group, symmetric)


@pytest.mark.exercise("add_bytes")
@pytest.mark.parametrize("case", [(1, 40, 64, 32, True, 1), (5, 33, 96, None, False, 1),
                                  (17, 70, 128, 64, True, 3), (3, 16, 160, 32, False, 2)])  # fmt: skip
def test_matches_whole_weights(case):
    """Rows and outputs that no tile divides, groups, zero points, columns in parts: float32 to 1e-5."""
    rows, out, into, group, symmetric, parts = case
    one, x = layer(out, into, group, symmetric), drawn(rows, into)
    want = x @ one.whole().T
    got = triton_kernel.w4a16(x, one.packed, one.grid.scale, one.zero, parts)
    close(got, want, f"{case}", rtol=1e-5, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_inputs(dtype):
    """Within two neighbouring numbers of the type: the interpreter truncates bfloat16."""
    one, x = layer(32, 64, 32), drawn(4, 64).to(dtype)
    got, want = triton_kernel.w4a16(x, one.packed, one.grid.scale), x.double() @ one.whole().double().T
    assert got.dtype == dtype
    close(got, want, f"{dtype}", rtol=0.0, atol=2 * torch.finfo(dtype).eps * want.abs().max().item())


def test_is_on_in_a_model(monkeypatch):
    """The blocks multiply by the kernel: the same logits; where it raises, so does the model."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny(n_layer=1, d_ff=64)).to(DEVICE), torch.randint(97, (1, 5), device=DEVICE)
    coded = rtn.apply(model, 4, 32)
    want = coded(tokens)
    made = triton_kernel.plug(coded)
    close(made(tokens), want, "logits", rtol=1e-4, atol=1e-5)

    class Broken:
        def __getitem__(self, grid):
            raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(triton_kernel, "w4a16_kernel", Broken())
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        made(tokens)


def test_what_the_kernel_does_not_take_is_refused():
    """One line that says what to use instead."""
    for bad, why in ((layer(8, 64, None, bits=8), "takes 4 bits, not 8"), (layer(8, 64, 16), "not of 16"),
                     (layer(8, 64, "tensor"), "steps for each row")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            triton_kernel.W4Linear(bad)
    one = layer(8, 64, 32)
    with pytest.raises(UserError, match="float64: use QuantLinear"):
        triton_kernel.w4a16(drawn(2, 64).double(), one.packed, one.grid.scale)
    with pytest.raises(UserError, match="66 columns"):
        triton_kernel.w4a16(drawn(2, 66), one.packed, one.grid.scale)
