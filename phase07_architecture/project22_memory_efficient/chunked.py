"""Attention in chunks, forward and backward: memory for one chunk of scores, and not for all of them.

Came before: project 9 saves the same memory with a running sum and with gradients worked out by hand. New
here: every chunk is an ordinary differentiable `part`, wrapped in `Forget`, which keeps what went in and lets
go of everything computed from it; the way back computes the chunk once more and asks autograd. No derivative
is written down, so that what is done to the scores may be changed without doing the calculus again.

What it costs: a part's answer is kept for each chunk of keys until they are merged, T * S / keys * (D + 1)
numbers a head on the way to gradients, beside chunks of queries * keys scores. Small chunks make the first
large and large ones the second; the least of the two is at about the square root of S.

Seam: `attend`. Rabe & Staats 2021, arXiv 2112.05682, section 3 (chunks of queries outside, of keys inside,
each chunk checkpointed); Chen et al. 2016, arXiv 1604.06174 (to forget and compute again)."""

from functools import partial

import torch
from torch.autograd.function import once_differentiable

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project09_flash_attention.tiled import reach_of

from .parts import group, look_at, merge, part, spans, ungroup

QUERIES, KEYS = 256, 1024  # a chunk: 1 MB of scores a head in float32


@exercise
def gradients(fn, inputs, needs, grads):
    """Run fn(*inputs) once more, now with autograd recording, and send grads back through it.

    inputs: tensors; needs: for each, whether its gradient is wanted; grads: what flows back into each output
    of fn. -> one entry for each input, None where none is wanted. It stops at the inputs: the copies that are
    computed with are cut off from whatever made them. Autograd does not record when this is called.
    """
    copies = [x.detach().requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]
    with torch.enable_grad():
        outputs = fn(*copies)
    found = iter(torch.autograd.grad(outputs, [x for x in copies if x.requires_grad], grads))
    return [next(found) if need else None for need in needs]


class Forget(torch.autograd.Function):
    """(fn, *tensors) -> fn(*tensors), a tuple of tensors. Until the way back only the inputs are kept."""

    @staticmethod
    def forward(ctx, fn, *inputs):
        ctx.fn = fn
        ctx.save_for_backward(*inputs)
        return fn(*inputs)  # autograd records nothing in here

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        return None, *gradients(ctx.fn, ctx.saved_tensors, ctx.needs_input_grad[1:], grads)


def forget(fn, *inputs):
    """fn(*inputs); where gradients are wanted, without keeping what was computed on the way."""
    return Forget.apply(fn, *inputs)


def summarise(q, k, v, *, look=None):
    """`part` for a chunk: q (B, K, G, N, D), k and v (B, K, M, D); look() -> as `part` takes it, made only
    when it is needed, and not kept. -> y (B, K, G * N, D), lse (B, K, G * N, 1)"""
    return part(q.flatten(2, 3), k, v, look and look())


@exercise
def attend_rows(q, ks, vs, reach, mask, keys):
    """The answer of one chunk of queries: y (B, K, G, N, D).

    q (B, K, G, N, D); ks and vs: lists of chunks (B, K, up to `keys`, D). reach (B or 1, N), and mask (B, K,
    G, N, S) or None, say who sees whom: `spans` gives the chunks that are needed, the i-th of which is ks[i],
    and `look_at` what to hide in one that is not whole. A `summarise` of each, forgotten; then one merge.
    """
    S, G, found = sum(k.size(2) for k in ks), q.size(2), []
    for (start, stop, whole), k, v in zip(spans(keys, S, reach, mask), ks, vs, strict=False):
        look = None if whole else partial(look_at, start, stop, reach, mask, G)
        seen = stop - start  # the last chunk may reach further than any of these queries sees
        found.append(forget(partial(summarise, look=look), q, k[:, :, :seen], v[:, :, :seen]))
    ys, lses = (torch.stack(some) for some in zip(*found, strict=True))  # (parts, B, K, G * N, D or 1)
    return merge(ys, lses)[0].unflatten(2, (G, -1))


def chunked(q, k, v, reach, mask=None, *, queries=QUERIES, keys=KEYS):
    """Exact attention, q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D), in q's dtype.

    reach (B or 1, T): query t sees keys 0 .. reach[t] - 1; a mask (broadcasts to (B, H, T, S), True = look)
    replaces it. queries and keys: tokens of a chunk. 16-bit input is computed in float32. A query that sees
    no key gets 0. UserError where H is no multiple of K, or a chunk holds no token.
    """
    demand(min(queries, keys) >= 1, f"chunks of {queries} queries and {keys} keys: take at least 1 of each")
    (B, H, T, _), (K, S) = q.shape, k.shape[1:3]
    with torch.autocast(q.device.type, enabled=False):  # it would make the parts 16-bit again
        rows = group(q, k)  # (B, K, G, T, D)
        if mask is not None:
            mask = mask.expand(B, H, T, S).unflatten(1, (K, H // K))  # (B, K, G, T, S), a view
        ks, vs = (x.to(rows.dtype).split(keys, 2) for x in (k, v))  # once: the gradients of all rows add up
        found = []
        for i in range(0, T, queries):
            at = slice(i, i + queries)
            who = (None, mask[..., at, :]) if mask is not None else (reach[:, at], None)
            found.append(attend_rows(rows[..., at, :], ks, vs, *who, keys))
        return ungroup(torch.cat(found, 3), q) if found else torch.empty_like(q)


def attend(q, k, v, *, positions, cache=None, mask=None, queries=QUERIES, keys=KEYS):
    """For the seam: what `common.model.attend` does, in chunks."""
    if cache is not None:
        k, v = cache.update(k, v, positions)  # (B, K, S, D)
    return chunked(q, k, v, reach_of(positions, cache), mask, queries=queries, keys=keys)
