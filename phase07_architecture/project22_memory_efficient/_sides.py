"""What the scripts compare: ways of attending over a whole row, and ways of reading a long cache."""

import math

import torch
import torch.nn.functional as F

from common import model
from common.cli.extras import command
from phase03_core_inference.project09_flash_attention import tiled

from . import chunked, split_k
from .parts import group, part, ungroup

SIDES = {"materialised": tiled.plain, "torch's SDPA": model.attend, "chunked": chunked.attend,
         "split": split_k.attend}  # fmt: skip


def kernel(head_dim, say):
    """The module of the Triton kernels; None, with a line that says why, where they cannot be had."""
    try:
        from . import triton_kernel
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        say(f"triton is not installed, so the kernel is left out: the extra kernels, {command('kernels')}")
        return None
    if head_dim not in triton_kernel.HEAD_DIMS:
        say(f"the kernel has head_dim {triton_kernel.HEAD_DIMS} and this model {head_dim}: it is left out")
        return None
    return triton_kernel


def causal(T, device="cpu"):
    """reach (1, T) of a row without a cache."""
    return torch.arange(1, T + 1, device=device)[None]


def inputs(B, H, K, T, S, D, *, device="cpu", dtype=torch.float32, seed=0, gradients=False):
    """q (B, H, T, D), k and v (B, K, S, D), normal."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (B, H, T, D), (B, K, S, D), (B, K, S, D)
    drawn = [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]
    return [x.requires_grad_(gradients) for x in drawn]


# ---- a whole row -------------------------------------------------------------------------------------------


def rows_of(q, k, v, queries=chunked.QUERIES, keys=chunked.KEYS):
    """{name: a call that computes causal attention of these}"""
    reach, gqa = causal(q.size(2), q.device), q.size(1) != k.size(1)

    def matrix():
        look = torch.arange(k.size(2), device=q.device) < reach[:, None, :, None]  # (1, 1, T, S)
        return tiled.materialised(q, k, v, look)

    return {
        "materialised": matrix,
        "torch's SDPA": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa),
        "tiles of project 9": lambda: tiled.flash(q, k, v, reach),
        "chunked": lambda: chunked.chunked(q, k, v, reach, queries=queries, keys=keys),
    }


def and_back(call, inputs):
    """The same call, and the gradients of its inputs."""
    return lambda: torch.autograd.grad(call().sum(), inputs)


def counted(T, D, queries, keys, back):
    """Bytes that chunks should hold, a head in float32: by counting.

    There: q scaled and y; beside them either the answers of one chunk of queries and a chunk of scores three
    times over, or, while they are merged, those answers three times. There and back: dy and a gradient as
    well, the answers of all queries (of the past alone), and a chunk of scores five times.
    """
    queries = min(queries, T)
    row, chunk = queries * (D + 1), queries * min(keys, T)  # of one chunk of keys: answers, scores
    parts = [math.ceil(stop / keys) for stop in range(queries, T + 1, queries)]
    last = row * parts[-1]
    if not back:
        return 4 * (2 * T * D + max(last + 3 * chunk, 3 * last))
    return 4 * (4 * T * D + row * sum(parts) + max(last + 5 * chunk, 2 * last))


# ---- one token over a long cache ---------------------------------------------------------------------------


def repeated(x, G):
    """Keys or values (B, K, S, D) for each of K * G query heads, copied: (B, H, S, D)."""
    return x.repeat_interleave(G, dim=1)


def by_heads(q, k, v, threads=None):
    """Unsplit: a piece of work for each row and key head, each done by one worker; all keys are seen."""
    rows, (B, K) = group(q, k).flatten(2, 3), k.shape[:2]  # (B, K, G * T, D)
    pieces = [(b, h) for b in range(B) for h in range(K)]
    one = torch.no_grad()(lambda at: part(rows[at], k[at], v[at])[0])
    threads = threads or torch.get_num_threads()
    found = list(map(one, pieces) if threads == 1 else split_k.pool(threads).map(one, pieces))
    return ungroup(torch.stack(found).view(B, K, q.size(1) // K, q.size(2), -1), q)


def steps_of(q, k, v, threads=None):
    """{name: a call that attends with one query to all of these keys}

    The profiler counts what the calling thread allocates: for memory, threads=1, where one share holds as
    much as all shares together.
    """
    G, reach = q.size(1) // k.size(1), torch.full((1, q.size(2)), k.size(2), device=q.device)
    sdpa = F.scaled_dot_product_attention
    return {
        "SDPA, heads repeated": lambda: sdpa(q, repeated(k, G), repeated(v, G)),
        "torch's SDPA": lambda: sdpa(q, k, v, enable_gqa=G > 1),
        "unsplit": lambda: by_heads(q, k, v, threads),
        "torch's own threads": lambda: split_k.split(q, k, v, reach, splits=1),
        "split": lambda: split_k.split(q, k, v, reach, threads=threads),
    }


def bytes_of(k, v):
    """What one step has to read: every key and value once."""
    return k.nbytes + v.nbytes
