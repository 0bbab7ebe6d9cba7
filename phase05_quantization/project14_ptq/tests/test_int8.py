"""Products of whole numbers, the choice of a kernel, outliers in floats: against int64 and bitsandbytes."""

import copy
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase05_quantization.project14_ptq import integer, llm_int8, rtn
from phase05_quantization.project14_ptq.integer import KERNELS, Chooser, FastLinear
from phase05_quantization.project14_ptq.llm_int8 import Int8Linear
from phase05_quantization.project14_ptq.rtn import QuantLinear


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bytes_of(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, generator=draw).to(torch.int8)


def layer(out=32, into=64, bits=8, group=None, seed=0, symmetric=True, bias=False):
    linear = torch.nn.Linear(into, out, bias=bias)
    linear.weight.data = drawn(out, into, seed=seed)
    return QuantLinear.from_linear(linear, bits, group, symmetric)


@pytest.fixture
def bnb():
    found = pytest.importorskip("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return found


# ---- whole numbers ----


@given(rows=st.integers(1, 20), out=st.integers(1, 20), into=st.integers(1, 90), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_products_are_those_of_64_bits(rows, out, into, seed):
    """The largest codes among them, in every shape: not one number differs."""
    a, b = bytes_of(rows, into, seed=seed), bytes_of(out, into, seed=seed + 1)
    a[0], b[-1] = -128, -128
    assert torch.equal(integer.product(a, b).long(), integer.plain_product(a, b))


def test_sums_that_could_overflow_are_refused():
    with pytest.raises(UserError, match="may overflow 32 bits"):
        integer.product(torch.zeros(1, 2**17, dtype=torch.int8), torch.zeros(1, 2**17, dtype=torch.int8))


@pytest.mark.exercise("absmax_rows")
def test_rows_by_hand():
    """A row's largest onto 127, half to even; a row of zeros; float16 is computed in float32."""
    x = torch.tensor([[127.0, -63.5, 0.5, 1.5, -2.5], [0.0] * 5, [0.1, -0.2, 0.0, 0.05, 0.0]])
    codes, scale = integer.absmax_rows(x)
    assert codes.dtype == torch.int8 and scale.shape == (3, 1) and scale.dtype == torch.float32
    assert codes.tolist() == [[127, -64, 0, 2, -2], [0] * 5, [64, -127, 0, 32, 0]]
    assert (scale > 0).all() and scale[0] == 1
    halves = (drawn(4, 30) * 1000).half()
    codes, scale = integer.absmax_rows(halves)
    close(codes * scale, halves, "float16", rtol=0.0, atol=(halves.abs().max() / 253).item())


def test_matches_bitsandbytes_rows(bnb):
    """Its vector-wise codes and row statistics, but where two codes are equally near."""
    x = drawn(7, 200, seed=3).half()
    codes, largest, _ = bnb.functional.int8_vectorwise_quant(x)
    mine, scale = integer.absmax_rows(x)
    close(127 * scale[:, 0], largest.float(), "largest of each row", rtol=1e-5, atol=1e-5)
    assert (mine.int() - codes.int()).abs().max() <= 1 and (mine != codes).float().mean() < 0.02


@pytest.mark.exercise("int8_linear")
def test_a_linear_layer_of_whole_numbers():
    """What both roundings together give, computed in float64; and both scales are on."""
    x = drawn(5, 64) * torch.tensor([[1.0], [10], [100], [0.1], [0]])
    codes, scale = bytes_of(9, 64), torch.rand(9)
    got = integer.int8_linear(x, codes, scale)
    rounded = (x.double() / (x.abs().amax(1, keepdim=True).double() / 127)).round()
    rounded[4] = 0
    steps = x.abs().amax(1, keepdim=True).double() / 127
    want = (rounded * steps) @ (codes.double() * scale.double()[:, None]).T
    assert got.shape == (5, 9) and got.dtype == torch.float32
    close(got, want, "product", rtol=1e-4, atol=1e-2)
    plain = x.double() @ (codes.double() * scale.double()[:, None]).T
    assert 1e-4 < (got - plain).norm() / plain.norm() < 0.02


# ---- the kernels ----


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_every_kernel_computes_the_layer(name, rows):
    """Those that serve a layer agree with whole weights, as far as rounded inputs can."""
    make, serves = KERNELS[name]
    cases = [layer(), layer(bits=4, group=32), layer(bits=4, group=64, symmetric=False), layer(bits=3)]
    served = [one for one in cases if serves(one)]
    assert served
    x = drawn(rows, 64, seed=rows)
    for one in served:
        want = x @ one.whole().T
        close(make(one)(x), want, name, rtol=0.0, atol=0.03 * want.abs().max().item())


class Clock:
    """Stands in for a measurement: says the seconds that a test wants, and counts."""

    def __init__(self, seconds):
        self.seconds, self.calls = iter(seconds), 0

    def __call__(self, call, x):
        self.calls += 1
        assert call(x).shape[0] == x.shape[0]
        return next(self.seconds)


@pytest.mark.exercise("Chooser.choose")
def test_the_fastest_is_chosen_once_a_shape():
    """By the seconds that were measured; another shape is measured anew, the same one is not."""
    clock = Clock([3.0, 1.0, 2.0, 1.0, 5.0, 6.0])
    chooser, one = Chooser(("whole", "int_mm", "int8 weights", "int4 weights"), measure=clock), layer()

    def choose(layer, rows):
        return chooser.choose(layer, rows, lambda name: KERNELS[name][0](layer))

    assert choose(one, 1) == "int_mm" and clock.calls == 3  # the one for 4 bits does not serve it
    assert choose(layer(seed=5), 1) == "int_mm" and clock.calls == 3
    assert choose(one, 8) == "whole" and clock.calls == 6
    assert chooser.times == {(1, 32, 64, 8): {"whole": 3.0, "int_mm": 1.0, "int8 weights": 2.0},
                             (8, 32, 64, 8): {"whole": 1.0, "int_mm": 5.0, "int8 weights": 6.0}}  # fmt: skip


@pytest.mark.exercise("Chooser.choose")
def test_a_fast_wrong_kernel_is_not_timed():
    """One that saturates is left out however fast it is; where none is left, a line says so."""
    clock, one = Clock([2.0]), layer()

    def kernel(name):
        call = KERNELS["whole"][0](one)
        return call if name == "whole" else lambda x: call(x).clamp(-1, 1)

    assert Chooser(("whole", "int_mm"), measure=clock).choose(one, 4, kernel) == "whole" and clock.calls == 1
    with pytest.raises(UserError, match="none of the kernels int_mm serves 8 bits"):
        Chooser(("int_mm",), measure=clock).choose(one, 4, kernel)
    with pytest.raises(UserError, match="none of the kernels int_mm serves 4 bits"):
        Chooser(("int_mm",)).choose(layer(bits=4), 4, kernel)


def test_kernels_that_are_none():
    with pytest.raises(UserError, match="no kernel is called cuda"):
        Chooser(("cuda",))


def test_is_on_in_a_model():
    """Blocks and a quantised head multiply by the kernel named; a bias is added; shapes are kept."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny()).eval(), torch.randint(97, (2, 9))
    coded = rtn.apply_to_tables(rtn.apply(model, 8), 8)
    want, chooser = coded(tokens), Chooser(("int_mm",))
    made = integer.plug(copy.deepcopy(coded), chooser)
    fast = [name for name, m in made.named_modules() if isinstance(m, FastLinear)]
    assert len(fast) == 15 and "head" in fast
    lost = (made(tokens) - want).norm() / want.norm()
    assert 1e-5 < lost < 0.05  # 0 would mean that nothing was rounded
    assert {rows for rows, *_ in chooser.times} == {32}
    one = layer(bias=True)
    fast, x = FastLinear(one, Chooser(("whole",))), drawn(3, 2, 64)
    close(fast(x), one(x), "bias", rtol=0.0, atol=1e-5)
    with pytest.raises(UserError, match="swap found no QuantLinear"):
        integer.plug(GPT(tiny()))


# ---- outliers ----


@pytest.mark.exercise("outliers")
def test_outliers_by_hand():
    x = torch.tensor([[1.0, -6.0, 5.9, 0.0], [2.0, 0.0, -5.9, 70.0]])
    assert llm_int8.outliers(x).tolist() == [False, True, False, True]
    assert llm_int8.outliers(x, 2.0).tolist() == [True, True, True, True]


@pytest.mark.exercise("decomposed")
def test_outliers_do_not_set_the_step_of_others():
    """One input a thousand times too large: as good as if it were not there, and its own product is exact."""
    x, one = drawn(6, 64, seed=1), layer()
    x[:, 7] *= 1000
    codes, scale, want = one.codes, one.grid.scale.float()[:, 0], x @ one.whole().T
    got, plain = llm_int8.decomposed(x, codes, scale), integer.int8_linear(x, codes, scale)
    rest = x.clone()
    rest[:, 7] = 0
    quiet = (integer.int8_linear(rest, codes, scale) - rest @ one.whole().T).norm()
    assert (got - want).norm() < 1.1 * quiet and (plain - want).norm() > 20 * quiet
    none = llm_int8.decomposed(rest, codes, scale, torch.inf)
    assert torch.equal(none, integer.int8_linear(rest, codes, scale))


def test_matches_bitsandbytes(bnb):
    """Its layer on the CPU, with outliers: as near to it as float16 is, and nearer than without them."""
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 48, bias=False), drawn(9, 64, seed=2)
    x[:, 5] *= 40
    theirs = bnb.nn.Linear8bitLt(64, 48, bias=False, has_fp16_weights=False, threshold=6.0)
    theirs.load_state_dict(linear.state_dict())
    with torch.no_grad():
        want = theirs.to("cpu").eval()(x).float()
    made = Int8Linear(QuantLinear.from_linear(linear, 8))
    off = (made(x) - want).norm() / want.norm()
    plain = Int8Linear(QuantLinear.from_linear(linear, 8), threshold=torch.inf)
    assert off < 0.01 and (plain(x) - want).norm() / want.norm() > 2 * off
    assert made.seen.tolist() == [int(i == 5) for i in range(64)]


def test_is_on_with_outliers():
    """A model whose inputs are loud: the outliers are counted, and it is nearer to whole weights."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny()).eval(), torch.randint(97, (1, 12))
    with torch.no_grad():
        for block in model.blocks:
            block.norm_attn.weight[3] *= 50
    coded = rtn.apply(model, 8)
    made, plain = llm_int8.plug(copy.deepcopy(coded)), llm_int8.plug(copy.deepcopy(coded), torch.inf)
    errors = [(m(tokens) - coded(tokens)).norm() for m in (made, plain)]
    assert made.blocks[0].attn.wq.seen[3] == 1 and errors[0] < 0.5 * errors[1]


def test_layers_that_have_no_rows_of_bytes():
    for bad in (layer(bits=4), layer(group=32), layer(symmetric=False)):
        with pytest.raises(UserError, match=r"LLM.int8\(\) takes 8 bits, one step to a row and no zero"):
            Int8Linear(bad)
    with pytest.raises(UserError, match="must be above 0"):
        Int8Linear(layer(), 0.0)
