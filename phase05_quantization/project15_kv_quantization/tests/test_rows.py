"""Rows of codes: torch's own codes, the paper's formulas, the bound, the bytes, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.testing import close
from phase05_quantization.project15_kv_quantization.rows import (
    INT2,
    INT4,
    INT8,
    Format,
    Rows,
    dequantize,
    key_rows,
    keys_of,
    pack,
    per_tensor,
    quantize,
    room,
    unpack,
    value_rows,
)

BITS = (8, 4, 2)
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- what nobody here wrote ----


@pytest.mark.exercise("quantize")
@pytest.mark.parametrize("bits, name", [(8, "byte"), (4, "4bit"), (2, "2bit")])
def test_matches_the_rows_of_embedding_tables(bits, name):
    """torch's own packed tables, bit for bit: codes, their places, scale and low."""
    x = drawn(50, 64) * torch.logspace(-3, 3, 50)[:, None] + drawn(50, 1, seed=1)
    packed = getattr(torch.ops.quantized, f"embedding_bag_{name}_prepack")(x)
    assert torch.equal(quantize(x, bits).table, packed)


@pytest.mark.exercise("unpack")
@pytest.mark.parametrize("bits, name", [(8, "byte"), (4, "4bit"), (2, "2bit")])
def test_matches_the_floats_of_embedding_tables(bits, name):
    """What torch makes of such a table, we make of it too."""
    ops, x = torch.ops.quantized, drawn(50, 64)
    packed = getattr(ops, f"embedding_bag_{name}_prepack")(x)
    theirs = getattr(ops, f"embedding_bag_{name}_unpack")(packed)
    close(dequantize(Rows(packed, bits)), theirs, "unpacked", rtol=0, atol=1e-6)


@pytest.mark.exercise("quantize")
@pytest.mark.filterwarnings("ignore::UserWarning")  # it is on its way out
def test_matches_quantize_per_channel():
    """torch's per-channel codes for our scales, each with its own zero; a tie may fall either way."""
    x = drawn(40, 64) * torch.logspace(-2, 2, 40)[:, None]
    rows = quantize(x, 8)
    scale, zero = rows.scale.flatten(), (-rows.low / rows.scale).flatten()
    theirs = torch.quantize_per_channel(x, scale, zero, 0, torch.quint8).int_repr()
    off = (unpack(rows.codes, 8).int() - theirs.int()).abs()
    assert off.max() <= 1 and (off == 0).float().mean() > 0.999


@pytest.mark.exercise("quantize", "unpack")
@pytest.mark.parametrize("bits", [4, 2])
def test_matches_the_formulas_of_kivi(bits):
    """Q = round((x - z) / s), z = min, s = (max - min) / (2^B - 1), in float64: exactly, where float16 holds
    z and s exactly. Keys by channel in groups of tokens, values by token."""
    top, x = 2**bits - 1, torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(bits)).double()
    x, diagonal = x * top / 4 - 2, (torch.arange(32)[:, None] - torch.arange(32)) % 8  # from -2 on
    x[:, diagonal == 0], x[:, diagonal == 1] = -2, top / 4 - 2  # in each token and channel: steps of 0.25

    def kivi(x, dim):
        z = x.amin(dim, keepdim=True)
        s = (x.amax(dim, keepdim=True) - z) / top
        return ((x - z) / s).round() * s + z

    keys, values = (dequantize(quantize(rows, bits), torch.float64) for rows in (key_rows(x, 16), x))
    for i in range(0, 32, 16):
        close(keys_of(keys)[:, i : i + 16], kivi(x[:, i : i + 16], 1), f"keys from {i} on")
    close(values, kivi(x, 2), "values")


# ---- the bound ----


@pytest.mark.exercise("quantize")
@given(bits=st.sampled_from(BITS), loud=st.floats(-6, 3), off=st.floats(-20, 20), seed=st.integers(0, 99))
@EXAMPLES
def test_within_half_a_step(bits, loud, off, seed):
    """Whatever the size of the numbers, and however far from 0: never further off than `bound` says."""
    x = drawn(6, 32, seed=seed, dtype=torch.float64) * 10**loud + off
    rows = quantize(x, bits)
    assert ((dequantize(rows, torch.float64) - x).abs() <= rows.bound * (1 + 1e-6)).all()


@pytest.mark.exercise("quantize")
@pytest.mark.parametrize("bits", BITS)
def test_no_step_is_larger_than_needed(bits):
    """From a row's own lowest to its highest number in as many steps as there are codes, and all are used."""
    x, top = drawn(20, 64) * torch.logspace(-2, 2, 20)[:, None], 2**bits - 1
    rows = quantize(x, bits)
    close(rows.scale.flatten().float(), (x.amax(-1) - x.amin(-1)) / top, "scales", rtol=2e-3, atol=0)
    codes = unpack(rows.codes, bits)
    assert (codes.amax(-1) == top).all() and (codes.amin(-1) == 0).all()


@pytest.mark.exercise("quantize")
def test_rows_of_one_number():
    """Constant rows, which float16 may not hold, come back to its digits; zeros come back as zeros."""
    x = torch.tensor([[50.01] * 8, [-3.3333] * 8, [0.0] * 8, [1e-9] * 8])
    for bits in BITS:
        rows = quantize(x, bits)
        back = dequantize(rows)
        assert ((back - x).abs() <= rows.bound * (1 + 1e-6)).all() and (back[2] == 0).all()


@pytest.mark.exercise("quantize")
def test_a_nan_is_not_hidden():
    x = drawn(3, 8)
    x[1, 2] = math.nan
    for bits in BITS:
        back = dequantize(quantize(x, bits))
        assert back[1].isnan().all() and back[[0, 2]].isfinite().all()


@pytest.mark.exercise("quantize")
def test_again_changes_nothing():
    """What was rounded once keeps its codes when it is rounded again: a rewound group is no worse."""
    x = drawn(10, 32)
    for bits in BITS:
        once = dequantize(quantize(x, bits))
        assert (dequantize(quantize(once, bits)) - once).abs().max() < 1e-5


@pytest.mark.exercise("quantize")
def test_half_precision_is_rounded_in_float32():
    x = drawn(10, 32)
    for bits in BITS:
        low, wide = quantize(x.bfloat16(), bits), quantize(x.bfloat16().float(), bits)
        assert torch.equal(low.codes, wide.codes) and torch.equal(low.scale, wide.scale)


def test_a_loud_channel_costs_only_itself():
    """One scale for everything leaves the quiet channels nothing; a scale each does."""
    k = drawn(64, 16)
    k[:, 3] *= 100
    quiet = [i for i in range(16) if i != 3]
    rounded = keys_of(dequantize(quantize(key_rows(k, 64), 4)))
    assert (rounded - k)[:, quiet].abs().max() < 0.4
    assert (per_tensor(k, 4)[:, quiet] == 0).all()


# ---- bytes ----


@pytest.mark.exercise("unpack")
def test_unpack_by_hand():
    """The lowest bits of a byte come first."""
    assert unpack(torch.tensor([[0x21, 0x43]], dtype=torch.uint8), 4).tolist() == [[1, 2, 3, 4]]
    assert unpack(torch.tensor([0b11100100, 1], dtype=torch.uint8), 2).tolist() == [0, 1, 2, 3, 1, 0, 0, 0]
    assert unpack(torch.tensor([[7, 255]], dtype=torch.uint8), 8).tolist() == [[7, 255]]


@pytest.mark.exercise("unpack")
@pytest.mark.parametrize("bits", BITS)
def test_unpack_undoes_pack(bits):
    codes = torch.randint(2**bits, (3, 2, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (3, 2, 2 * bits) and packed.dtype == torch.uint8
    back = unpack(packed, bits)
    assert torch.equal(back, codes) and back.dtype == torch.uint8


@pytest.mark.exercise("Format.bytes_per_token")
@given(bits=st.sampled_from(BITS), power=st.integers(4, 7), K=st.integers(1, 4), heads=st.integers(4, 7),
       n=st.integers(1, 3))  # fmt: skip
@EXAMPLES
def test_bytes_are_those_of_the_formula(bits, power, K, heads, n):
    """Rows for n groups of tokens take exactly what the formula says, scales and lows included."""
    form, D = Format(bits, group=2**power), 2**heads
    g = form.channels(D)
    keys = room((K, n, D, form.group), bits, torch.empty(0))
    values = room((K, n * form.group, D // g, g), bits, torch.empty(0))
    assert keys.table.nbytes + values.table.nbytes == n * form.group * form.bytes_per_token(K, D)
    x = torch.zeros(K, n * form.group, D)
    assert (key_rows(x, form.group).shape, value_rows(x, g).shape) == (
        (K, n, D, form.group), (K, n * form.group, D // g, g))  # fmt: skip


@pytest.mark.exercise("Format.bytes_per_token")
def test_it_is_not_a_half():
    """By hand: with heads of 128 int8 takes 51 to 53 % of float16, with smaller ones more; never 50 %."""
    assert Format(8, 128).bytes_per_token(1, 64) == 64 + 64 * 8 / 128 + 64 + 8
    assert Format(8, 128).share(128) == 272 / 512 and 0.51 < INT8.share(128) < 0.53
    assert INT8.share(64) == (64 + 2 + 64 + 8) / 256 and Format(8, 64).share(32) == (32 + 4 + 32 + 8) / 128
    assert Format(4, 32).bytes_per_token(3, 32) == 3 * 2 * (16 + 4)
    assert Format(4, 32).share(64) == 20 / 64 and INT2.share(128) == 12 / 64
    assert INT4.share(64, itemsize=4) == (32 + 4) / 256


# ---- what is refused ----


@pytest.mark.parametrize("wrong, message", [
    ({"bits": 3}, "3 bits are not supported"), ({"bits": 16}, "16 bits"), ({"group": 0}, "rows of 0"),
    ({"bits": 8, "group": 30}, "multiple of 4"), ({"bits": 4, "group": 20}, "multiple of 8"),
    ({"bits": 2, "group": 24}, "multiple of 16"),
    ({"window": 0}, "window of 0"), ({"window": -1}, "window of -1"),
])  # fmt: skip
def test_forms_that_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Format(**wrong)


def test_groups_that_do_not_divide_a_head():
    with pytest.raises(UserError, match="a group of 48 does not divide the 64 channels"):
        Format(8, 48).channels(64)
    with pytest.raises(UserError, match="words of 4 bytes"):
        Format(2, 32).channels(8)
    assert (Format(8, 48).channels(32), Format(8, 16).channels(64)) == (32, 16)
