"""The kernel in Triton's interpreter: against torch in float64, at the edges of tiles; and its layout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT, Cache, set_attend
from common.testing import AddressedCache, close, tiny

pytest.importorskip("triton")

from phase07_architecture.project20_sparse_attention import block_sparse, patterns, triton_kernel
from phase07_architecture.project20_sparse_attention.triton_kernel import attention, layout, sparse

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SOME = {"window": patterns.window(9), "sinks": patterns.sinks(5, 2), "fixed": patterns.fixed(8, 2),
        "strided": patterns.strided(6), "bigbird": patterns.bigbird(8, 1)}  # fmt: skip


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def qkv(B, H, K, T, D, dtype=torch.float32):
    return draw(B, H, T, D, seed=1, dtype=dtype), *(draw(B, K, T, D, seed=i, dtype=dtype) for i in (2, 3))


def truth(q, k, v, pattern, first=0):
    """torch's attention in float64, the pattern written out."""
    t = torch.arange(first, first + q.size(2), device=DEVICE)[:, None]
    look = pattern.look(t, torch.arange(k.size(2), device=DEVICE))
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), look, enable_gqa=True)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(("first", "T"), [(0, 40), (13, 9)], ids=str)
def test_layout_holds_the_pattern(name, first, T):
    """Every pair once, by the keys and masks that the kernel is given; chunks without a mask are whole."""
    plan = layout(SOME[name], first, T, tile=16, chunk=8)
    found = torch.zeros(T, first + T + 1, dtype=torch.int)
    for tile in range(-(-T // 16)):
        rows = torch.arange(16 * tile, min(16 * tile + 16, T))
        for chunk in range(plan.starts[tile], plan.starts[tile + 1]):
            keys = plan.keys[8 * chunk : 8 * chunk + 8].long()
            look = plan.masks[plan.which[chunk], : len(rows)].int() if chunk >= plan.middles[tile] else 1
            found[rows[:, None], keys] += look
    t = torch.arange(first, first + T)[:, None]
    assert torch.equal(found[:, :-1], SOME[name].look(t, torch.arange(first + T)).int())
    assert found[:, -1].eq(0).all()


def test_masks_are_few():
    """A window looks the same from everywhere: the masks of 64 tiles are no more than those of 8."""
    short, long = (layout(patterns.window(40), 0, T, tile=16, chunk=8) for T in (128, 1024))
    assert len(long.masks) == len(short.masks) < 12 and len(long.which) > 200


@pytest.mark.exercise("sum_chunks")
@pytest.mark.parametrize("name", ["window", "fixed", "strided"])
def test_matches_sdpa(name):
    """float32, a length that no tile divides, heads in groups."""
    inputs = qkv(1, 2, 1, 37, 16)
    close(attention(*inputs, SOME[name]), truth(*inputs, SOME[name]), name, rtol=1e-5, atol=1e-5)


@pytest.mark.exercise("sum_chunks")
def test_scores_that_overflow_without_the_maximum():
    """Scores of some thousands: exp of them is no number, and the softmax is one all the same."""
    q, k, v = qkv(1, 1, 1, 20, 16)
    got = attention(500 * q, k, v, SOME["sinks"])
    close(got, truth(500 * q, k, v, SOME["sinks"]), "large scores", rtol=1e-3, atol=1e-3)


def test_matches_block_sparse_in_caches():
    """A prompt in two chunks through a counting cache, then a token; and rows at different places."""
    q, k, v = qkv(2, 2, 1, 24, 16)
    fn, other, cache = sparse(SOME["fixed"]), block_sparse.sparse(SOME["fixed"]), Cache()
    want = other(q, k, v, positions=torch.arange(24, device=DEVICE))
    with torch.no_grad():
        for start, stop in ((0, 9), (9, 23), (23, 24)):
            part = [x[:, :, start:stop] for x in (q, k, v)]
            got = fn(*part, positions=torch.arange(start, stop, device=DEVICE), cache=cache)
            close(got, want[:, :, start:stop], f"tokens {start} to {stop}")
    if DEVICE == "cpu":
        ragged = AddressedCache(2, 1, 16, 30)
        places = torch.arange(6) + torch.tensor([[0], [0]])
        got = fn(*(x[:, :, :6] for x in (q, k, v)), positions=places, cache=ragged)
        close(got, want[:, :, :6], "rows with a place each")


def test_is_on(monkeypatch):
    """The model calls the kernel where nothing flows back, and block_sparse where something does."""
    class Broken:
        def __getitem__(self, grid):
            raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(triton_kernel, "forward_kernel", Broken())
    model = set_attend(GPT(tiny(head_dim=16)).to(DEVICE), sparse(SOME["window"]))
    tokens = torch.arange(12, device=DEVICE)[None]
    with torch.no_grad(), pytest.raises(ZeroDivisionError, match="unplugged"):
        model(tokens)
    model(tokens).sum().backward()
    assert model.blocks[0].attn.wq.weight.grad.abs().sum() > 0


def test_what_the_kernel_does_not_take_is_refused():
    for shape, dtype, why in (((1, 4, 3, 5, 16), torch.float32, "4 query heads do not divide among 3"),
                              ((1, 1, 1, 5, 24), torch.float32, "not 24: use block_sparse"),
                              ((1, 1, 1, 5, 16), torch.float64, "float64: use block_sparse")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            attention(*qkv(*shape, dtype), SOME["window"])
    with pytest.raises(UserError, match="there is a slot for each"):
        attention(*qkv(1, 1, 1, 5, 16), SOME["window"], first=3)


@pytest.mark.slow
def test_compiles_for_a_gpu_that_is_not_here():
    """Triton's compiler takes the kernel to machine code for a Hopper GPU; none is needed for that."""
    done = subprocess.run([sys.executable, Path(__file__).with_name("compile_kernel.py")], text=True,
                          capture_output=True, env={**os.environ, "TRITON_INTERPRET": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["forward_kernel"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_at_length(dtype):  # pragma: no cover - gpu
    """Compiled, 1,000 tokens, every pattern: within one part in a hundred of float64."""
    for name, pattern in SOME.items():
        inputs = qkv(2, 8, 2, 1000, 64, dtype)
        want = truth(*inputs, pattern)
        close(attention(*inputs, pattern), want, name, rtol=0.0, atol=0.01 * want.abs().max().item())
