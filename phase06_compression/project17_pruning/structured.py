"""Structured pruning: heads, neurons and whole layers go, and every matrix is a smaller matrix afterwards.

Before: `magnitude.py`, `wanda.py` and `sparsegpt.py` leave zeros, and a matrix with zeros takes as long as
one without. New here: what goes is a part that the model can do without as a whole.

    a neuron    a row of w_gate and of w_up, and the column of w_down that reads it
    a head      D rows of wq, and the D columns of wo that read them; of wk and wv those of its group: heads
                that share keys and values (GQA) go together, so that all groups stay alike
    a layer     a block of the model

Neurons and heads are *inputs* of w_down and wo. So both are chosen alike: by what the output of that matrix
would lose on some texts (`energy`). And as inputs are correlated, those that stay can do some of what went,
by one problem of least squares (`refit`). Seams: `model.blocks` is an open list; `attend`, for the gates of
`head_importance`.

Michel, Levy, Neubig 2019, 1905.10650 (heads); Men et al. 2024, 2403.03853 (layers by their influence); He,
Zhang, Sun 2017, 1707.06168 (channels go, what stays is fitted anew by least squares).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.model import SwiGLU
from phase05_quantization.project14_ptq.calibration import walk

from .magnitude import demand_share, largest

# ---- what a part is worth ----


@exercise
def energy(w: Tensor, H: Tensor, width: int = 1) -> Tensor:
    """What the output of a matrix loses, in the mean of |y|², without each part of its inputs.

    w (out, in), H (in, in) the mean of x xᵀ; a part is `width` inputs side by side, so -> (in / width,).
    Of part g alone y is w_g x_g, and the mean of its square is the trace of w_g H_gg w_gᵀ.
    """
    parts = w.unflatten(1, (-1, width))  # (out, G, width)
    at = torch.arange(w.size(1), device=w.device).view(-1, width)  # (G, width)
    own = H[at[:, :, None], at[:, None, :]]  # (G, width, width): the blocks on the diagonal
    return torch.einsum("ogi,gij,ogj->g", parts, own.to(w.dtype), parts)


def head_importance(model, batches) -> Tensor:
    """(layers, heads): how much the loss minds each head, on batches of tokens (1, T): Michel et al.

    Each head's output is multiplied by a gate that is 1. The slope of the loss by the gate says what would
    happen if it closed a little; of its magnitude the mean over the batches is taken.
    """
    device = model.norm.weight.device
    gates = [torch.ones(block.attn.wq.out_features // block.attn.head_dim, device=device, requires_grad=True)
             for block in model.blocks]  # fmt: skip
    before = [block.attn.attend for block in model.blocks]
    found = [torch.zeros_like(gate) for gate in gates]
    try:
        for block, gate in zip(model.blocks, gates, strict=True):
            block.attn.attend = gated(block.attn.attend, gate)
        for tokens in batches:
            tokens = tokens.to(device)
            loss = F.cross_entropy(model(tokens[:, :-1]).float().flatten(0, 1), tokens[:, 1:].flatten())
            for total, slope in zip(found, torch.autograd.grad(loss, gates), strict=True):
                total += slope.abs() / len(batches)
    finally:
        for block, attend in zip(model.blocks, before, strict=True):
            block.attn.attend = attend
    return nn.utils.rnn.pad_sequence(found, batch_first=True)  # blocks may hold different numbers of heads


@exercise
def gated(attend, gate: Tensor):
    """An attend that multiplies what each head gives, y (B, H, T, D) of another attend, by gate (H,)."""

    def closing(q, k, v, **where):
        return attend(q, k, v, **where) * gate[:, None, None].to(v.dtype)

    return closing


@exercise
@torch.no_grad()
def influence(model, batches) -> Tensor:
    """(layers,): how far each block turns what passes through it: the mean over all tokens of batches, each
    (1, T), of 1 - the cosine between x before and after the block. Little influence: little is lost."""
    turned, n = torch.zeros(len(model.blocks)), 0
    for tokens in batches:
        tokens = tokens.to(model.norm.weight.device)
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x, rope = model.embed(tokens, positions), model.rope(positions)
        for i, block in enumerate(model.blocks):
            y = block(x, rope=rope, positions=positions)
            turned[i] += (1 - F.cosine_similarity(x.float(), y.float(), dim=-1)).sum().item()
            x = y
        n += tokens.numel()
    return turned / n


# ---- taking parts out ----


@exercise
def refit(w: Tensor, H: Tensor, keep: Tensor, damp: float = 1e-4) -> Tensor:
    """The best weights for the inputs that stay: w (out, in), H (in, in), keep (k,) -> v (out, k), float64.

    v makes the mean of |w x - v x_K|², and `damp` times the mean of H's diagonal times |v - w_K|², as small
    as can be, for inputs K = keep:  v = (w H[:, K] + λ w[:, K]) (H[K, K] + λ)⁻¹
    """
    w, H = w.double(), H.double()
    still = damp * H.diagonal().mean()
    left = H[keep][:, keep] + still * torch.eye(len(keep), dtype=H.dtype, device=H.device)
    return torch.linalg.solve(left, w @ H[:, keep] + still * w[:, keep], left=False)


def part_of(linear: nn.Linear, rows=slice(None), columns=slice(None), weight: Tensor | None = None):
    """A new Linear of some outputs and inputs; weight: what stands for the old one's (out, len(columns))."""
    found = linear.weight.detach()[:, columns] if weight is None else weight.to(linear.weight.dtype)
    found = found[rows]
    made = nn.Linear(found.size(1), found.size(0), bias=linear.bias is not None, device="meta")
    made.weight = nn.Parameter(found.clone())
    if linear.bias is not None:
        made.bias = nn.Parameter(linear.bias.detach()[rows].clone())
    return made.train(linear.training)


@exercise
def cut_neurons(block, keep: Tensor, w_down: Tensor | None = None) -> None:
    """Leave a block the neurons of its SwiGLU that keep (k,) numbers; w_down (C, k): weights fitted anew."""
    ffn = block.ffn
    ffn.w_gate, ffn.w_up = part_of(ffn.w_gate, keep), part_of(ffn.w_up, keep)
    ffn.w_down = part_of(ffn.w_down, columns=keep, weight=w_down)


@exercise
def cut_heads(block, keep: Tensor, wo: Tensor | None = None) -> None:
    """Leave a block the groups of heads that keep (k,) numbers: their keys, values and all their queries.

    Group g has rows g D … of wk and wv, and rows g R … of wq and columns g R … of wo, where R is D times the
    heads of a group. wo (C, k R): weights fitted anew.
    """
    attn = block.attn
    D, groups = attn.head_dim, attn.wk.out_features // attn.head_dim
    keys, queries = inputs_of(keep, D), inputs_of(keep, attn.wq.out_features // groups)
    attn.wq, attn.wk, attn.wv = part_of(attn.wq, queries), part_of(attn.wk, keys), part_of(attn.wv, keys)
    attn.wo = part_of(attn.wo, columns=queries, weight=wo)


def inputs_of(keep: Tensor, width: int) -> Tensor:
    """Parts (k,) of `width` neighbours each -> the numbers of all of them, (k width,)."""
    return (keep[:, None] * width + torch.arange(width, device=keep.device)).flatten()


def keep_layers(model, keep):
    """Leave a model the blocks that `keep` numbers, in their order; returns the model."""
    keep = sorted(set(keep))
    there = len(model.blocks)
    fits = keep and keep[0] >= 0 and keep[-1] < there
    demand(fits, f"of {there} layers, 0 to {there - 1}, at least one stays, not {keep}")
    model.blocks = nn.ModuleList(model.blocks[i] for i in keep)
    model.config = replace(model.config, n_layer=len(keep))
    return model


# ---- all of it ----


def sizes(config, share: float, step: int = 16) -> tuple[int, int]:
    """(groups of heads, neurons) that each block keeps if a share of its weights goes, heads and neurons
    alike as near as whole groups allow; neurons a multiple of `step`. UserError where nothing would be left.
    """
    demand_share(share)
    K, C = config.n_kv_head, config.d_model
    groups = max(1, round((1 - share) * K))
    a_group = 2 * C * config.head_dim * (config.n_head // K + 1)  # weights of its queries, keys, values, wo
    left = (1 - share) * (a_group * K + 3 * C * config.d_ff) - a_group * groups
    neurons = int(left / (3 * C) / step) * step
    demand(neurons >= 1, f"blocks of this size cannot lose {share:.0%}: {groups} group(s) of heads and no "
           "neurons would be left; take a smaller share")  # fmt: skip
    return groups, neurons


def apply(model, batches, groups: int, neurons: int, layers: int | None = None, fitted: bool = True):
    """Prune on batches of tokens (1, T): each block keeps so many groups of heads and so many neurons, the
    model so many layers (None: all); the model is changed and returned. fitted=False: weights as they were.

    UserError: more than there is of something, or none of it.
    """
    there = {"layers": len(model.blocks), "groups": model.config.n_kv_head, "neurons": model.config.d_ff}
    wanted = {"layers": layers or len(model.blocks), "groups": groups, "neurons": neurons}
    for name, n in there.items():
        demand(wanted[name] in range(1, n + 1), f"of {n} {name} 1 to {n} can stay, not {wanted[name]}")
    demand(all(isinstance(block.ffn, SwiGLU) for block in model.blocks), "only SwiGLU loses neurons here")
    if layers and layers < len(model.blocks):
        keep_layers(model, influence(model, batches).argsort(descending=True)[:layers].tolist())

    def visit(block, names, moments):
        if names[0] not in ("attn.wo", "ffn.w_down"):
            return
        matrix, H = block.get_submodule(names[0]), moments.hessian
        heads = names[0] == "attn.wo"
        width = matrix.in_features // (block.attn.wk.out_features // block.attn.head_dim) if heads else 1
        worth = energy(matrix.weight.detach(), H, width)
        keep = largest(worth, groups if heads else neurons).nonzero()[:, 0]
        new = refit(matrix.weight.detach(), H, inputs_of(keep, width)) if fitted else None
        (cut_heads if heads else cut_neurons)(block, keep, new)

    return walk(model, batches, visit)


def shapes(model) -> list[dict]:
    """What is left of each block, for a folder: [{"groups": of heads, "neurons": …}, …]."""
    return [{"groups": block.attn.wk.out_features // block.attn.head_dim,
             "neurons": block.ffn.w_down.in_features} for block in model.blocks]  # fmt: skip


def shaped(model, blocks: list[dict]):
    """A model whose blocks have the sizes that `shapes` gave, with whatever weights; UserError: no such."""
    fits = len(blocks) == len(model.blocks) and all(
        1 <= new[key] <= there for new, old in zip(blocks, shapes(model), strict=True)
        for key, there in old.items())  # fmt: skip
    demand(fits, "the folder's shapes are not those of a model that was cut out of its config.json")
    for block, size in zip(model.blocks, blocks, strict=True):
        cut_heads(block, torch.arange(size["groups"]))
        cut_neurons(block, torch.arange(size["neurons"]))
    return model
