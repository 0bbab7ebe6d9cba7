"""The kernels in Triton's interpreter: against torch in float64, in three types, at the edges of tiles."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT, Cache, set_attend
from common.testing import AddressedCache, check_attend, close, tiny

pytest.importorskip("triton")

from phase03_core_inference.project09_flash_attention import tiled, triton_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def qkv(B, H, K, T, S, D, dtype=torch.float32):
    return draw(B, H, T, D, seed=1, dtype=dtype), *(draw(B, K, S, D, seed=i, dtype=dtype) for i in (2, 3))


def reach_of(T, S):
    return torch.arange(S - T + 1, S + 1, device=DEVICE)[None]


def truth(q, k, v, reach):
    """torch's attention in float64."""
    look = torch.arange(k.size(2), device=DEVICE) < reach[:, None, :, None]
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), look, enable_gqa=True)


def ulps(dtype, n, want):
    """The distance of n neighbouring numbers of a type, of the size of the largest wanted."""
    return n * torch.finfo(dtype).eps * want.abs().max().item()


def both_ways(fn, inputs, weight):
    """(y, dq, dk, dv)"""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = fn(*inputs)
    return y, *torch.autograd.grad(y, inputs, weight.to(y.dtype))


@pytest.mark.exercise("sum_tiles")
@pytest.mark.parametrize("shape", [(1, 2, 1, 40, 40, 32), (1, 1, 1, 3, 50, 64), (2, 1, 1, 17, 17, 128)])
def test_matches_sdpa(shape):
    """float32, lengths that no tile divides, heads in groups, offsets: torch's attention."""
    q, k, v = qkv(*shape)
    reach = reach_of(*shape[3:5])
    close(triton_kernel.flash(q, k, v, reach), truth(q, k, v, reach), f"{shape}", rtol=1e-5, atol=1e-5)


@pytest.mark.exercise("sum_tiles")
def test_scores_that_overflow_without_the_maximum():
    """Scores of some thousands: exp of them is no number, and the softmax is one all the same."""
    q, k, v = qkv(1, 1, 1, 20, 20, 16)
    q, reach = 500 * q, reach_of(20, 20)
    close(triton_kernel.flash(q, k, v, reach), truth(q, k, v, reach), "large scores", rtol=1e-3, atol=1e-3)


@pytest.mark.exercise("query_gradients", "key_gradients")
def test_matches_gradients_of_sdpa():
    """What flows back to q, k and v, where one key head serves two, and the last tiles are not full."""
    inputs, reach, weight = qkv(1, 2, 1, 40, 40, 32), reach_of(40, 40), draw(1, 2, 40, 32, seed=7)
    got = both_ways(lambda q, k, v: triton_kernel.flash(q, k, v, reach), inputs, weight)
    want = both_ways(lambda q, k, v: truth(q, k, v, reach), inputs, weight)
    for name, mine, true in zip(("y", "dq", "dk", "dv"), got, want, strict=True):
        close(mine, true, name, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types(dtype):
    """Forward and back within two neighbouring numbers of the type: the interpreter truncates bfloat16."""
    inputs, reach = qkv(1, 1, 1, 33, 33, 32, dtype), reach_of(33, 33)
    weight = draw(1, 1, 33, 32, seed=7, dtype=dtype)
    got = both_ways(lambda q, k, v: triton_kernel.flash(q, k, v, reach), inputs, weight)
    want = both_ways(lambda q, k, v: truth(q, k, v, reach), inputs, weight)
    for name, mine, true in zip(("y", "dq", "dk", "dv"), got, want, strict=True):
        assert mine.dtype == dtype
        close(mine, true, name, rtol=0.0, atol=ulps(dtype, 2, true))


def test_in_a_cache_and_in_ragged_rows():
    """A counting cache in chunks, and an addressed one with rows at different places and junk beyond."""
    q, k, v = qkv(2, 2, 1, 12, 12, 16)
    want, cache = truth(q, k, v, reach_of(12, 12)), Cache()
    for start, stop in ((0, 5), (5, 6), (6, 12)):
        part = (x[:, :, start:stop] for x in (q, k, v))
        got = triton_kernel.attend(*part, positions=torch.arange(start, stop, device=DEVICE), cache=cache)
        close(got, want[:, :, start:stop], f"tokens {start}:{stop}")
    cache, positions = AddressedCache(2, 1, 16, 16), torch.arange(5) + torch.tensor([[0], [3]])
    cache.k, cache.v = cache.k.to(DEVICE), cache.v.to(DEVICE)
    cache.k[1, :, :3], cache.v[1, :, :3] = k[1, :, :3], v[1, :, :3]
    rows = positions[:, None, :, None].to(DEVICE)
    part = (x.gather(2, rows.expand(2, x.size(1), 5, 16)) for x in (q, k, v))
    got = triton_kernel.attend(*part, positions=positions.to(DEVICE), cache=cache)
    close(got, want.gather(2, rows.expand(2, 2, 5, 16)), "rows at different places")


@pytest.mark.slow
def test_attend_keeps_its_contract():
    """All that is asked of an attend; minutes in the interpreter of a slow machine."""
    check_attend(triton_kernel.attend)


def test_matches_tiled_in_a_model_that_trains():
    """The loss and every gradient of a model, with the tiles of PyTorch and with the kernels."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny(n_layer=1, n_head=2, n_kv_head=1, head_dim=16)), torch.randint(97, (1, 19))
    model, tokens, found = model.to(DEVICE), tokens.to(DEVICE), []
    for fn in (tiled.attend, triton_kernel.attend):
        loss = F.cross_entropy(set_attend(model, fn)(tokens)[0, :-1], tokens[0, 1:])
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for mine, true in zip(*found, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-6)


def test_is_on(monkeypatch):
    """The model calls the kernel itself: where that raises, so does the model."""
    class Broken:
        def __getitem__(self, grid):
            raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(triton_kernel, "forward_kernel", Broken())
    model = set_attend(GPT(tiny(head_dim=16)).to(DEVICE), triton_kernel.attend)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        model(torch.randint(97, (1, 9), device=DEVICE))


def test_what_the_kernel_does_not_take_is_refused():
    """One line that says what to use instead."""
    for shape, dtype, why in (((1, 4, 3, 5, 5, 16), torch.float32, "4 query heads do not divide among 3"),
                              ((1, 1, 1, 5, 5, 24), torch.float32, "not 24: use tiled.attend"),
                              ((1, 1, 1, 5, 5, 16), torch.float64, "float64: use tiled.attend")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            triton_kernel.flash(*qkv(*shape, dtype), reach_of(5, 5))


def test_first_and_clear():
    """From which query on a key is seen by some, and by all."""
    first, clear = triton_kernel.sight(torch.tensor([[1, 2, 3, 4], [3, 1, 4, 5]]), 5)
    assert first.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 2, 3]]
    assert clear.tolist() == [[0, 1, 2, 3, 4], [0, 2, 2, 2, 3]]


@pytest.mark.slow
def test_compiles_for_a_gpu_that_is_not_here():
    """Triton's compiler takes all three kernels to machine code for a Hopper GPU; none is needed for that."""
    done = subprocess.run([sys.executable, Path(__file__).with_name("compile_kernels.py")], text=True,
                          capture_output=True, env={**os.environ, "TRITON_INTERPRET": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["forward_kernel", "back_to_queries", "back_to_keys"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_at_length(dtype):  # pragma: no cover - gpu
    """Compiled and tuned, 1,000 tokens: no further from float64 than twice torch's own kernel."""
    inputs, reach, weight = qkv(2, 8, 2, 1000, 1000, 128, dtype), reach_of(1000, 1000), draw(2, 8, 1000, 128)
    want = both_ways(lambda q, k, v: truth(q, k, v, reach), inputs, weight)
    mine = both_ways(lambda q, k, v: triton_kernel.flash(q, k, v, reach), inputs, weight)
    sdpa = functools.partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    torchs = both_ways(sdpa, inputs, weight)
    for name, a, b, true in zip(("y", "dq", "dk", "dv"), mine, torchs, want, strict=True):
        assert (a - true).abs().max() <= 2 * (b - true).abs().max() + 1e-6, name
