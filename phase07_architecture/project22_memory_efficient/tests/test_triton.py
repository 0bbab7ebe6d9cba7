"""The two kernels, in Triton's interpreter where there is no GPU: against float64, in the cache, refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT, Cache, set_attend
from common.testing import check_attend, close, reference, tiny

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.language import constexpr

from phase07_architecture.project22_memory_efficient import _sides, triton_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def qkv(B, H, K, T, S, D, dtype=torch.float32):
    return _sides.inputs(B, H, K, T, S, D, dtype=dtype, device=DEVICE)


def seen(*rows):
    return torch.tensor(rows, device=DEVICE)


def truth(q, k, v, reach):
    look = torch.arange(k.size(2), device=reach.device) < reach[:, None, :, None]
    return reference(*(x.cpu() for x in (q, k, v)), look.cpu())


@triton.jit
def ask(ys, lses, y, N: constexpr, D: constexpr):
    n, d = tl.arange(0, N), tl.arange(0, D)
    tl.store(y + d, triton_kernel.merged(tl.load(ys + n[:, None] * D + d[None, :]), tl.load(lses + n)))


def merged(ys, lses):
    """`triton_kernel.merged` of tensors."""
    y = torch.empty(ys.size(1), device=DEVICE)
    ask[(1,)](ys.to(DEVICE), lses.to(DEVICE), y, *ys.shape)
    return y.cpu()


@pytest.mark.exercise("merged")
@pytest.mark.parametrize("shift", [0.0, 300.0, -300.0])
def test_merged_shares(shift):
    """Weights are powers of 2, and may overflow before the largest is taken off."""
    lses, ys = torch.tensor([1.0, -2.0, 0.5, 3.0]) + shift, torch.randn(4, 16)
    weights = torch.exp2(lses - lses.max()).double()
    close(merged(ys, lses), (weights[:, None] * ys).sum(0) / weights.sum(), f"shift {shift}")


@pytest.mark.exercise("merged")
def test_merged_with_shares_that_are_empty():
    """They count for nothing; where all are, the answer is 0."""
    ys, lses = torch.randn(4, 16), torch.tensor([2.0, -1e30, -1e30, 1.0])
    ys[1:3] = 0
    close(merged(ys, lses), (2 * ys[0] + ys[3]) / 3, "two of four")
    assert merged(torch.zeros(4, 16), torch.full((4,), -1e30)).eq(0).all()


@pytest.mark.parametrize("splits", [1, 3, None])
def test_matches_float64(splits):
    """Two rows at different places, groups of two heads, two queries each; junk lies beyond."""
    q, k, v = qkv(2, 4, 2, 2, 70, 16)
    reach = seen([49, 50], [8, 9])
    want = truth(q, k, v, reach)
    k[:, :, 50:], v[:, :, 50:] = 1e3, 1e3
    close(triton_kernel.split(q, k, v, reach, splits=splits).cpu(), want, f"{splits} shares")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types(dtype):
    q, k, v = qkv(1, 2, 1, 1, 40, 32, dtype)
    got = triton_kernel.split(q, k, v, seen([40]), splits=2).cpu()
    assert got.dtype == dtype
    atol = 2e-3 if dtype == torch.float16 else 8e-3
    close(got, truth(q, k, v, seen([40])), str(dtype), rtol=0.0, atol=atol)


def test_is_on(monkeypatch):
    """A model decodes through the kernels, in strided views of a cache; where they raise, so does it."""
    model = GPT(tiny(n_layer=1, head_dim=16)).eval().to(DEVICE)
    tokens = torch.randint(97, (1, 6), device=DEVICE)
    with torch.no_grad():
        want, caches = model(tokens), [Cache()]
        set_attend(model, triton_kernel.attend)
        got = [model(part, caches=caches) for part in tokens.split([4, 1, 1], 1)]
        close(torch.cat(got, 1).cpu(), want.cpu(), "decoded", rtol=1e-5, atol=1e-5)

        class Broken:
            def __getitem__(self, grid):
                raise ZeroDivisionError("unplugged")

        monkeypatch.setattr(triton_kernel, "merge_kernel", Broken())
        with pytest.raises(ZeroDivisionError, match="unplugged"):
            model(tokens[:, :1], caches=caches)


def test_masks_and_prompts_go_elsewhere():
    """A mask to the chunks, a prompt to project 9's kernel: the same answers."""
    q, k, v = qkv(1, 2, 1, 18, 18, 16)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    look, positions = torch.ones(18, 18, device=DEVICE).tril().bool(), torch.arange(18, device=DEVICE)
    for mask in (None, look):
        got = triton_kernel.attend(q, k, v, positions=positions, mask=mask)
        close(got, want, f"mask {mask is not None}")


def test_what_the_kernel_does_not_take_is_refused():
    for shape, dtype, why in (((1, 4, 3, 1, 5, 16), torch.float32, "4 query heads do not divide among 3"),
                              ((1, 1, 1, 1, 5, 24), torch.float32, "not 24: use split_k"),
                              ((1, 1, 1, 1, 5, 16), torch.float64, "float64: use split_k")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            triton_kernel.split(*qkv(*shape, dtype), seen([5]))
    with pytest.raises(UserError, match="at least 1"):
        triton_kernel.split(*qkv(1, 1, 1, 1, 5, 16), seen([5]), splits=0)


@pytest.mark.slow
def test_attend_keeps_its_contract():
    check_attend(triton_kernel.attend)


@pytest.mark.slow
def test_compiles_for_a_gpu_that_is_not_here():
    """Triton's compiler takes both kernels to machine code for a Hopper GPU; none is needed for that."""
    done = subprocess.run([sys.executable, Path(__file__).with_name("compile_kernels.py")], text=True,
                          capture_output=True, env={**os.environ, "TRITON_INTERPRET": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["share_kernel", "merge_kernel"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_at_length(dtype):  # pragma: no cover - gpu
    """Compiled, 20,000 keys: no further from float64 than twice torch's own; and a CUDA graph holds it."""
    q, k, v = qkv(1, 32, 8, 1, 20_000, 128, dtype)
    want, reach = truth(q, k, v, seen([20_000])), seen([20_000])
    torchs = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).cpu()
    mine = triton_kernel.split(q, k, v, reach)
    assert (mine.cpu() - want).abs().max() <= 2 * (torchs - want).abs().max() + 1e-6
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = triton_kernel.split(q, k, v, reach)
    graph.replay()
    assert torch.equal(held, mine)
