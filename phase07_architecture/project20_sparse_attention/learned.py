"""A pattern that the text chooses: each query reads the few blocks of keys that look most like it.

Before: `patterns.py`, where positions alone decide, and what lies outside the window is lost however much
it is wanted. New here: the keys are cut into blocks, and a block is judged by its mean key. A query reads its
own block and those `top` - 1 before it whose mean fits it best. q and k are what the model has learnt: so the
choice is learnt too, and no weight is added. Judging costs T / block products a query, not T.

Every query chooses for itself. To let a tile of queries choose together would be cheaper, and wrong: a token
would be read, or not, because of what comes after it. Attention over the choice is that of `block_sparse.py`,
with the pieces turned round: a block, and the queries that chose it. Seam: `attend`.

Roy et al. 2020, arXiv 2003.05997 (routing by content, with clusters that are trained); Lu et al. 2025, arXiv
2502.13189 (MoBA: blocks by their mean key, as here); Yuan et al. 2025, arXiv 2502.11089 (NSA)."""

import torch
import torch.nn.functional as F

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project09_flash_attention.tiled import materialised

from .block_sparse import CHUNK, attention


@exercise
def means(k, block):
    """The mean key of each whole block: k (B, K, S, D) -> (B, K, S // block, D). The rest has none."""
    whole = k.size(2) // block
    return k[:, :, : whole * block].unflatten(2, (whole, block)).mean(3)


@exercise
def route(q, centres, slots, block, top):
    """The blocks that each query reads, (B, H, T, N + 1) bool, of N whole ones and the unfinished one.

    q (B, H, T, D); centres (B, K, N, D), the mean keys; H / K query heads share one key head. slots (B or 1,
    T): where each query's own key lies. It reads its own block, and of those before it the top - 1 with the
    largest q · centre, or all where there are fewer. Blocks after its own are never read, nor compared.
    """
    (B, K, N, _), H = centres.shape, q.size(1)
    own = (slots // block)[:, None, :, None]  # (B or 1, 1, T, 1)
    earlier = torch.arange(N, device=q.device) < own  # (B or 1, 1, T, N)
    fit = (q.unflatten(1, (K, H // K)) @ centres[:, :, None].mT).flatten(1, 2)  # (B, H, T, N)
    best = fit.masked_fill(~earlier, -torch.inf).topk(min(top - 1, N), -1).indices
    chosen = torch.zeros_like(fit, dtype=torch.bool).scatter(-1, best, True) & earlier
    chosen = F.pad(chosen, (0, 1))  # (B, H, T, N + 1)
    return chosen.scatter(-1, own.expand(B, H, -1, -1), True)


def choose(q, k, slots, block, top):
    """`route`, from the keys. No gradient goes through the choice: q and k learn from what is read."""
    with torch.no_grad():
        return route(q, means(k, block), slots, block, top)


@exercise
def readers(chosen, slots, block, S, chunk=CHUNK):
    """The work, for B * K sequences laid end to end: yields (rows (N,), keys (M,), look (N, M)).

    chosen (B, K, G, T, blocks) bool; slots (B or 1, T) of the queries; S slots of keys. A piece is one block
    and at most `chunk` of the queries that chose it, none without. rows: indices into the (B, K, G, T)
    queries, flattened; keys: into the (B, K, S) keys, flattened. look: keys at or before the query's own.
    """
    B, K, G, T, n_blocks = chosen.shape
    own = slots.expand(B, T)[:, None, None].expand(B, K, G, T).flatten()  # of every query
    for row in range(B * K):
        base = row * G * T
        for number, picked in enumerate(chosen.view(B * K, G * T, n_blocks)[row].unbind(-1)):
            keys = torch.arange(number * block, min((number + 1) * block, S), device=chosen.device)
            for rows in (picked.nonzero().flatten() + base).split(chunk):
                if len(rows) and len(keys):
                    yield rows, row * S + keys, keys <= own[rows, None]


def routed(block=32, top=4):
    """An attend for the seam; with any cache or none. Blocks are counted from the first key that is here.

    A mask written out is laid over the choice; blocks after the own one are the mask's business alone.
    UserError for a block or a top below 1.
    """
    demand(min(block, top) >= 1, f"block {block} and top {top}: both must be at least 1")

    def attend(q, k, v, *, positions, cache=None, mask=None):
        if cache is not None:
            k, v = cache.update(k, v, positions)  # (B, K, S, D)
        (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
        demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
        slots = torch.arange(T, device=q.device) if cache is None else positions
        slots = slots.reshape(-1, T)  # (B or 1, T)
        chosen = choose(q, k, slots, block, top)  # (B, H, T, blocks)
        if mask is not None:
            later = torch.arange(S, device=q.device) // block > (slots // block)[:, None, :, None]
            return materialised(q, k, v, mask & (chosen.repeat_interleave(block, -1)[..., :S] | later))

        def work():
            return readers(chosen.unflatten(1, (K, H // K)), slots, block, S)

        flat = [x.reshape(1, 1, -1, D) for x in (q, k, v)]  # one long sequence: a piece says whose it is
        return attention(*flat, work).view(B, H, T, D)

    return attend
