"""The kernel in Triton's interpreter: against torch's attention over each row's own stretch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.testing import close

pytest.importorskip("triton")

from phase04_advanced_inference.project13_paged_attention import triton_kernel
from phase04_advanced_inference.project13_paged_attention.paged_attention import View

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def scattered(lengths, T=1, H=2, K=1, D=16, size=4, dtype=torch.float32):
    """(q, k, v, view, truth): rows in blocks all over a pool of NaN; T queries at the end of each."""
    need = [-(-n // size) for n in lengths]
    blocks = torch.randperm(sum(need), generator=torch.Generator().manual_seed(1)).tolist()
    tables = [[blocks.pop() for _ in range(n)] for n in need]
    positions = torch.tensor([[n - T + t for t in range(T)] for n in lengths], device=DEVICE)
    k, v = (torch.full((sum(need), K, size, D), torch.nan, device=DEVICE, dtype=dtype) for _ in "kv")
    view, q, truth = View(tables, size, positions), draw(len(lengths), H, T, D, seed=3, dtype=dtype), []
    for row, n in enumerate(lengths):
        blocks, places = (x[0] for x in view.locate(torch.arange(n, device=DEVICE)[None], [row]))
        rows = [draw(K, n, D, seed=row + i, dtype=dtype) for i in (10, 50)]
        for pool, x in zip((k, v), rows, strict=True):
            pool[blocks, :, places] = x.transpose(0, 1)
        look = torch.arange(n, device=DEVICE) <= positions[row][:, None]
        rows = [x.double().repeat_interleave(H // K, 0) for x in rows]
        truth.append(F.scaled_dot_product_attention(q[row].double(), *rows, attn_mask=look))
    return q, k, v, view, torch.stack(truth)


@pytest.mark.exercise("sum_pages")
@pytest.mark.parametrize("options", [
    {"lengths": (3, 50)}, {"lengths": (70,), "T": 3, "K": 2, "H": 4, "size": 16},
    {"lengths": (40, 33), "D": 32, "size": 1}, {"lengths": (200, 2), "size": 16}])  # fmt: skip
def test_matches_sdpa(options):
    """Lengths that no tile and no block divides; several tiles, several parts, heads in groups."""
    q, k, v, view, truth = scattered(**options)
    close(triton_kernel.paged(q, k, v, view), truth, f"{options}", rtol=1e-5, atol=1e-5)


@pytest.mark.exercise("sum_pages")
def test_scores_that_overflow_without_the_maximum():
    q, k, v, view, _ = scattered((40,))
    got = triton_kernel.paged(500 * q, k, v, view)
    assert got.isfinite().all() and got.abs().max() > 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types(dtype):
    q, k, v, view, truth = scattered((40, 7), dtype=dtype)
    got = triton_kernel.paged(q, k, v, view)
    assert got.dtype == dtype
    close(got, truth, str(dtype), rtol=0.0, atol=4 * torch.finfo(dtype).eps * float(truth.abs().max()))


def test_parts_joined():
    """Two halves of a softmax give the whole; a part that saw nothing counts nothing."""
    scores, values = draw(6, seed=1).double(), draw(6, 3, seed=2).double()
    halves = [(scores[i].softmax(0) @ values[i], scores[i].logsumexp(0) * triton_kernel.LOG2E.value)
              for i in (slice(0, 2), slice(2, 6))]  # fmt: skip
    lowest = torch.tensor(triton_kernel.LOW.value, device=DEVICE).double()
    halves.append((torch.zeros(3, device=DEVICE).double(), lowest))
    y, lse = (torch.stack(list(x)) for x in zip(*halves, strict=True))
    close(triton_kernel.joined(y, lse), scores.softmax(0) @ values, "joined")


def test_what_the_kernel_does_not_take_is_refused():
    q, k, v, view, _ = scattered((5,))
    for wrong, why in (((q.double(), k, v), "float64"), ((q[..., :8], k[..., :8], v[..., :8]), "not 8"),
                       ((q.repeat(1, 2, 1, 1)[:, :3], k.repeat(1, 2, 1, 1), v), "divide")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            triton_kernel.paged(*wrong, view)


@pytest.mark.slow
def test_compiles_for_a_gpu_that_is_not_here():
    """Triton's compiler takes the kernel to machine code for a Hopper GPU; none is needed for that."""
    done = subprocess.run([sys.executable, Path(__file__).with_name("compile_kernel.py")], text=True,
                          capture_output=True, env={**os.environ, "TRITON_INTERPRET": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["paged_kernel"]


@pytest.mark.gpu
def test_on_a_gpu_at_length():  # pragma: no cover - gpu
    """Compiled, texts of some thousands in bfloat16."""
    q, k, v, view, truth = scattered((3000, 17, 1024), H=8, K=2, D=128, size=16, dtype=torch.bfloat16)
    close(triton_kernel.paged(q, k, v, view), truth, "on a GPU", rtol=0.0, atol=2e-2)
