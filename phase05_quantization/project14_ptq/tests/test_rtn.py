"""Grids, codes, bytes, and layers and folders of them: against torch's observers and Python's integers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.ao.quantization import PerChannelMinMaxObserver

from common import hub
from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase05_quantization.project14_ptq import rtn
from phase05_quantization.project14_ptq.rtn import (
    Grid,
    QuantLinear,
    dequantize,
    grid_of,
    pack,
    quantize,
    unpack,
)

LAYOUTS = [(bits, group, symmetric) for bits in rtn.BITS for group in (None, 12, "tensor")
           for symmetric in (True, False)]  # fmt: skip


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grids():
    """Numbers that need no function: two rows of two groups of two weights, 4 bits."""
    w = torch.tensor([[7.0, -3.4, 0.25, -1.75], [0.0, 0.0, 14.0, 3.0]])
    return w, Grid(torch.tensor([[1.0, 0.25], [1.0, 2.0]]), None), [[7, -3, 1, -7], [0, 0, 7, 2]]


# ---- the grid ----


@pytest.mark.exercise("grid_of")
@pytest.mark.parametrize("bits", rtn.BITS)
def test_matches_torch_s_observer(bits):
    """Scales and zero points of a grid that is not symmetric: torch.ao's, row by row."""
    w, most = drawn(9, 40, seed=bits) + 0.7, rtn.qmax(bits)
    w[3], w[4] = w[3].abs(), -w[4].abs()  # rows on one side of 0, which stays exact all the same
    observer = PerChannelMinMaxObserver(ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_affine,
                                        quant_min=-most - 1, quant_max=most)  # fmt: skip
    observer(w)
    scale, zero = observer.calculate_qparams()
    mine = grid_of(w, bits, symmetric=False, dtype=torch.float32)
    close(mine.scale[:, 0], scale, "scales", rtol=1e-6, atol=0.0)
    assert mine.zero.dtype == torch.int8 and mine.zero[:, 0].tolist() == zero.tolist()


@pytest.mark.exercise("grid_of")
def test_a_symmetric_grid_reaches_the_largest():
    """Absmax of each group, over the largest code; kept in float16; a group of zeros has a step of 1."""
    w, want, _ = grids()
    grid = grid_of(w, 4, 2)
    low = grid_of(torch.full((1, 4), 0.3), 8)  # 0.3 / 127 lies between two numbers of float16
    assert low.scale.float() * 127 >= 0.3 > low.scale.float() * 127 * (1 - 2**-10)
    assert grid.zero is None and grid.scale.dtype == torch.float16
    assert torch.equal(grid.scale, want.scale.half())
    assert grid_of(w, 8, "tensor").scale.shape == (1, 1)
    close(grid_of(w, 4, None, dtype=torch.float32).scale, torch.tensor([[1.0], [2.0]]), "rows")
    assert grid_of(torch.zeros(2, 8), 4, symmetric=False).scale.tolist() == [[1.0], [1.0]]


@pytest.mark.exercise("grid_of")
def test_what_has_no_grid_is_refused():
    """Other bits, groups that do not divide, NaN, infinity, weights beyond float16: a line each."""
    w, nan = drawn(4, 36), drawn(4, 36)
    nan[1, 2] = float("nan")
    for weights, bits, group, why in (
            (w, 5, None, "codes have 2, 3, 4, 8 bits, not 5"), (w, 16, None, "not 16"),
            (w, 4, 7, "groups of 7 do not divide rows of 36"), (w, 4, 0, "groups of 0"),
            (w, 4, 72, "groups of 72"), (w, 4, "column", "groups of column"),
            (nan, 4, None, "1 of 144 weights"), (w / 0, 8, None, "NaN or infinite"),
            (w * 1e7, 4, None, "no scale in torch.float16")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            grid_of(weights, bits, group)


# ---- codes ----


@pytest.mark.exercise("quantize")
def test_codes_by_hand():
    """Half to even, within the codes there are, each group by its own step."""
    w, grid, codes = grids()
    assert quantize(w, grid, 4).tolist() == codes and quantize(w, grid, 4).dtype == torch.int8
    halves = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 99.0, -99.0]])
    assert quantize(halves, Grid(torch.ones(1, 1), None), 4).tolist() == [[0, 2, 2, 0, -2, 7, -8]]
    shifted = Grid(torch.full((1, 1), 0.5), torch.tensor([[-3]], dtype=torch.int8))
    assert quantize(halves, shifted, 4).tolist() == [[-2, 0, 2, -4, -6, 7, -8]]


@pytest.mark.exercise("quantize")
@pytest.mark.parametrize("symmetric", [True, False])
def test_matches_torch_s_fake_quantisation(symmetric):
    """torch.fake_quantize_per_channel_affine gives the same weights, in float16 too."""
    w = drawn(7, 64).half()
    grid = grid_of(w, 4, None, symmetric, dtype=torch.float32)
    zero = torch.zeros(7, dtype=torch.int32) if symmetric else grid.zero[:, 0].int()
    want = torch.fake_quantize_per_channel_affine(w.float(), grid.scale[:, 0], zero, 0, -8, 7)
    got = (quantize(w, grid, 4).float() - zero[:, None]) * grid.scale
    far = (got - want).abs() > 1e-6
    between = ((w / grid.scale).abs() % 1 - 0.5).abs() < 1e-4  # torch multiplies by the inverse
    assert not (far & ~between).any() and far.float().mean() < 0.01


@pytest.mark.exercise("dequantize")
def test_codes_back_by_hand():
    """scale · (code - zero), by groups, in the type asked for."""
    _, grid, codes = grids()
    codes = torch.tensor(codes, dtype=torch.int8)
    assert dequantize(codes, grid).tolist() == [[7.0, -3.0, 0.25, -1.75], [0.0, 0.0, 14.0, 4.0]]
    shifted = Grid(grid.scale.half(), torch.tensor([[2, -1], [0, 127]], dtype=torch.int8))
    back = dequantize(codes, shifted, torch.bfloat16)
    assert back.dtype == torch.bfloat16
    assert back.tolist() == [[5.0, -5.0, 0.5, -1.5], [0.0, 0.0, -240.0, -250.0]]
    whole = Grid(torch.tensor([[0.5]]), torch.tensor([[-128]], dtype=torch.int8))
    assert dequantize(codes, whole)[0, 0] == 0.5 * 135  # in a byte 7 + 128 would be -121


@given(seed=st.integers(0, 10**6), size=st.sampled_from((1e-6, 1e-3, 300.0)), layout=st.sampled_from(LAYOUTS))
@settings(max_examples=40, deadline=None)
def test_no_weight_moves_further_than_half_a_step(seed, size, layout):
    """And what was rounded is left alone when it is rounded again."""
    bits, group, symmetric = layout
    w = drawn(5, 36, seed=seed) * size * torch.rand(5, 1, generator=torch.Generator().manual_seed(seed))
    grid = grid_of(w, bits, group, symmetric)
    codes = quantize(w, grid, bits)
    q = dequantize(codes, grid)
    steps = dequantize(torch.ones_like(codes), Grid(grid.scale, None))
    assert ((q - w).abs() <= steps * 0.5001).all()
    assert torch.equal(quantize(q, grid, bits), codes)


# ---- bytes ----


@pytest.mark.exercise("pack")
@pytest.mark.parametrize("bits", rtn.BITS)
def test_packed_codes_are_one_long_number(bits):
    """Python's own integers: code i, made positive, stands bits · i places up, the lowest byte first."""
    most = rtn.qmax(bits)
    for n in (1, 8, 13):
        codes = torch.randint(-most - 1, most + 1, (3, n), generator=torch.Generator().manual_seed(n))
        packed = pack(codes.to(torch.int8), bits)
        each, size = rtn.cycle(bits)
        assert packed.dtype == torch.uint8 and packed.shape == (3, -(-n // each) * size)
        for row, held in zip(codes.tolist(), packed.tolist(), strict=True):
            number = sum((code + most + 1) << bits * i for i, code in enumerate(row))
            assert int.from_bytes(bytes(held), "little") == number


@pytest.mark.exercise("unpack")
@pytest.mark.parametrize("bits", rtn.BITS)
def test_unpacked_codes_are_the_bits_of_a_long_number(bits):
    """The other way round, from bytes that nobody packed; and with any axes in front."""
    each, size = rtn.cycle(bits)
    held = torch.randint(256, (2, 3, 4 * size), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    got = unpack(held, bits, 4 * each - 1)
    assert got.shape == (2, 3, 4 * each - 1) and got.dtype == torch.int8
    for row, given_ in zip(got.flatten(0, 1).tolist(), held.flatten(0, 1).tolist(), strict=True):
        number, most = int.from_bytes(bytes(given_), "little"), rtn.qmax(bits)
        assert row == [(number >> bits * i) % 2**bits - most - 1 for i in range(4 * each - 1)]


@given(bits=st.sampled_from(rtn.BITS), n=st.integers(1, 70), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_packing_loses_nothing(bits, n, seed):
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(-rtn.qmax(bits) - 1, rtn.qmax(bits) + 1, (2, n), generator=draw).to(torch.int8)
    assert torch.equal(unpack(pack(codes, bits), bits, n), codes)


# ---- layers and models ----


@pytest.mark.parametrize("layout", LAYOUTS[::3])
def test_layer_is_linear_over_whole_weights(layout):
    """With a bias, with any axes, in bfloat16; a cast leaves codes and steps alone."""
    linear, x = torch.nn.Linear(36, 10), drawn(2, 3, 36)
    layer = QuantLinear.from_linear(linear, *layout)
    grid = grid_of(linear.weight, *layout)
    w = dequantize(quantize(linear.weight.detach(), grid, layout[0]), grid)
    close(layer(x), F.linear(x, w, linear.bias), f"{layout}", rtol=0.0, atol=1e-6)
    low = copy.deepcopy(layer).to(torch.bfloat16)
    assert torch.equal(low.codes, layer.codes) and torch.equal(low.grid.scale, layer.grid.scale)
    close(low(x.bfloat16()), layer(x), "bfloat16", rtol=0.05, atol=0.05)


def test_other_scales_are_kept_exactly():
    """Scales of float32, as training finds them: the layer gives what they give."""
    w = drawn(6, 24)
    grid = grid_of(w, 4, 8, dtype=torch.float32)
    layer = QuantLinear.from_codes(quantize(w, grid, 4), grid, 4)
    assert torch.equal(layer.grid.scale, grid.scale)
    assert torch.equal(layer.whole(), dequantize(layer.codes, grid))


def test_is_on():
    """Every matrix of the blocks is in codes, nothing else is, and the logits differ a little."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny()).eval(), torch.randint(97, (2, 9))
    made = rtn.apply(copy.deepcopy(model), 4, 16)
    kinds = {name: type(module) for name, module in made.named_modules()}
    coded = {name for name, kind in kinds.items() if kind is QuantLinear}
    assert coded == {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"head"}
    lost = (made(tokens) - model(tokens)).norm() / model(tokens).norm()
    assert 1e-3 < lost < 0.5
    with pytest.raises(UserError, match="swap found no Linear"):
        rtn.apply(made, 4)


@pytest.mark.parametrize("tied", [True, False])
def test_tables_look_up_what_the_head_multiplies(tied):
    """The embedding's rows are those of its codes; tied, there is one set of codes."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny(tie_embeddings=tied)), torch.randint(97, (2, 5))
    made = rtn.apply_to_tables(copy.deepcopy(model), 4, 16)
    assert (made.embed.table is made.head) == tied
    want = made.embed.table.whole()[tokens]
    assert torch.equal(made.embed(tokens, None), want)
    assert not torch.equal(want, model.embed.weight[tokens]) and made.embed.weight.numel() == 0
    lone = rtn.apply_to_tables(copy.deepcopy(model), 8, "tensor")
    assert torch.equal(lone.embed(tokens, None), lone.embed.table.whole()[tokens])


@pytest.mark.parametrize("how", [{"bits": 3}, {"bits": 4, "group": 16, "symmetric": False, "tables": 8},
                                 {"bits": 8, "group": "tensor", "tables": 2}])  # fmt: skip
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_comes_back_bit_for_bit(tmp_path, how, tied):
    """Saved, loaded with restore: the same logits; as a plain folder it is refused by name."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny(tie_embeddings=tied)).eval(), torch.randint(97, (1, 7))
    layout = {key: value for key, value in how.items() if key != "tables"}
    made = rtn.apply(model, **layout)
    if "tables" in how:
        rtn.apply_to_tables(made, how["tables"], how.get("group"), how.get("symmetric", True))
    hub.save(hub.mark(made, "project14_ptq", **how), tmp_path)
    again = hub.load(tmp_path, restore={"project14_ptq": rtn.restore})
    assert torch.equal(again(tokens), made(tokens))
    low = hub.load(tmp_path, restore={"project14_ptq": rtn.restore}, dtype=torch.bfloat16)
    assert low(tokens).dtype == torch.bfloat16
    with pytest.raises(UserError, match="was changed by project14_ptq"):
        hub.load(tmp_path)


def test_codes_of_another_layout_are_refused(tmp_path):
    """config.json says 8 bits, the file holds 4: nothing is loaded half."""
    made = hub.mark(rtn.apply(GPT(tiny()), 4), "project14_ptq", bits=8)
    hub.save(made, tmp_path)
    with pytest.raises(UserError, match="do not belong together"):
        hub.load(tmp_path, restore={"project14_ptq": rtn.restore})


@pytest.mark.slow
def test_matches_torchao():
    """Its weights in 8 bits are ours, but where two codes are equally near."""
    quantization = pytest.importorskip("torchao.quantization")
    linear = torch.nn.Linear(64, 32, bias=False)
    ours = QuantLinear.from_codes(quantize(linear.weight.detach(), grid := grid_of(
        linear.weight, 8, dtype=torch.float32), 8), grid, 8)  # fmt: skip
    quantization.quantize_(linear, quantization.Int8WeightOnlyConfig(version=2))
    theirs = linear.weight.dequantize()
    assert (theirs - ours.whole()).abs().max() <= 1.01 * grid.scale.max()
