"""One model on several ranks, each with a part of every matrix.

Before: DDP copies the model to every rank, FSDP2 gathers each layer before it is used. New here: a layer is
*computed* in parts, and no rank ever holds the whole of it. Seam: the surgery, through `swap`.

    y = B f(A x)      A = [A1; A2] by its outputs      B = [B1, B2] by its inputs
      = B1 f(A1 x) + B2 f(A2 x)

f works on each number by itself (SwiGLU), or on each head (attention), so each rank goes from A to B without
a word, and one sum at the end joins the ranks. Two sums a block forwards, two backwards.

The table is cut by its rows, the head by its logits; the loss is taken of the parts (`vocabulary.py`).
Names of weights stay as they are; a rank's are slices.

Shoeybi et al. 2019, 1909.08053; Korthikanti et al. 2022, 2205.05198 (sequence parallelism).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import demand
from common.exercise import exercise
from common.model import Attention, Embedding, SwiGLU, swap

from .regions import Region
from .vocabulary import VocabEmbedding, VocabHead

# ---- who has what ------------------------------------------------------------------------------------------


def share(size, rank, world):
    """(start, stop) of what rank `rank` has of `size` things: ceil(size / world) each, the last ranks less,
    and possibly nothing. So torch.chunk and DTensor share out, and checkpoints can be read by them."""
    most = -(-size // world)
    return min(size, rank * most), min(size, (rank + 1) * most)


@exercise
def head_shares(n_head, n_kv_head, rank, world):
    """((start, stop) of the query heads, (start, stop) of the key/value heads) of rank `rank`.

    Query heads are shared out evenly. So are key/value heads; where there are fewer of them than ranks, each
    goes whole to n ranks, n = world / n_kv_head, whose queries all use it. UserError where it does not come
    out even.
    """
    demand(n_head % world == 0, f"{n_head} query heads cannot be shared out over {world} ranks: start some "
           "number that divides them")  # fmt: skip
    fits = n_kv_head % world == 0 or world % n_kv_head == 0
    demand(fits, f"{n_kv_head} key/value heads and {world} ranks: one must be a multiple of the other")
    queries, keys = n_head // world, max(1, n_kv_head // world)
    first = rank * n_kv_head // world
    return (rank * queries, (rank + 1) * queries), (first, first + keys)


class Cut(NamedTuple):
    """How a parameter is shared out: in `parts` along `dim`; where there are more ranks, several have copies
    of one part. shared: each copy serves other queries, so that each sees only a share of the gradient."""

    parts: int = 1
    dim: int = 0
    shared: bool = False


def cuts(model):
    """{name of a parameter: its Cut}, in the model's order; what is whole on every rank is Cut(1)."""
    found = {
        f"{place}.{name}": cut
        for place, module in model.named_modules()
        for name, cut in getattr(module, "cuts", {}).items()
    }
    return {name: found.get(name, Cut()) for name, _ in model.named_parameters()}


# ---- the two kinds of layer --------------------------------------------------------------------------------


def columns(linear, start, stop):
    """A Linear with the outputs start:stop of another, and their biases. Its input is whole."""
    part = nn.Linear(linear.in_features, stop - start, bias=linear.bias is not None, device="meta")
    part.weight = nn.Parameter(linear.weight.detach()[start:stop].clone())  # (out/N, in)
    if linear.bias is not None:
        part.bias = nn.Parameter(linear.bias.detach()[start:stop].clone())
    return part


class RowLinear(nn.Module):
    """The inputs start:stop of a Linear; the sum over all ranks is what the whole one gives."""

    def __init__(self, linear, start, stop, region: Region):
        super().__init__()
        self.region, self.bias = region, None
        self.weight = nn.Parameter(linear.weight.detach()[:, start:stop].clone())  # (out, in/N)
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().clone())  # (out,), whole on every rank
        self.cuts = {"weight": Cut(region.group.world, 1)}

    @exercise
    def forward(self, x):
        """This rank's inputs (B, T, in/N) -> (B, T, out): the sum of the ranks' products, and the bias."""
        y = self.region.leave(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


class SplitAttention(Attention):
    """Some of the heads of an Attention: (B, T, C) -> (B, T, C), the sum over all ranks' heads."""

    def __init__(self, old, config, region: Region):
        nn.Module.__init__(self)
        self.head_dim, self.attend, self.region = old.head_dim, old.attend, region
        world = region.group.world
        shares = head_shares(config.n_head, config.n_kv_head, region.group.rank, world)
        queries, keys = ([end * old.head_dim for end in ends] for ends in shares)
        self.wq, self.wo = columns(old.wq, *queries), RowLinear(old.wo, *queries, region)
        self.wk, self.wv = columns(old.wk, *keys), columns(old.wv, *keys)
        few = Cut(min(world, config.n_kv_head), shared=config.n_kv_head < world)
        kinds = {"wq": Cut(world), "wk": few, "wv": few}
        self.cuts = {f"{w}.{name}": cut for w, cut in kinds.items() for name in ("weight", "bias")}

    def forward(self, x, **where):
        return super().forward(self.region.enter(x), **where)


class SplitSwiGLU(SwiGLU):
    """Some of the inner numbers of a SwiGLU: (B, T, C) -> (B, T, C), the sum over all ranks'."""

    def __init__(self, old, region: Region):
        nn.Module.__init__(self)
        self.region, world = region, region.group.world
        start, stop = share(old.w_gate.out_features, region.group.rank, world)
        self.w_gate, self.w_up = columns(old.w_gate, start, stop), columns(old.w_up, start, stop)
        self.w_down = RowLinear(old.w_down, start, stop, region)
        self.cuts = {f"{w}.{name}": Cut(world) for w in ("w_gate", "w_up") for name in ("weight", "bias")}

    def forward(self, x):
        return super().forward(self.region.enter(x))


def apply(model, group, sequence=False):
    """Leave this rank its part of every matrix; return the model, which gives whole logits on every rank.

    All ranks must have had the same weights. sequence: norms and residuals on T/N rows each; then T must be a
    multiple of N, and `hidden` gives (B, T/N, C). UserError where heads or vocabulary cannot be shared out.
    """
    region, tied = Region(group, sequence), model.head.weight is model.embed.weight
    start, stop = share(model.config.vocab_size, group.rank, group.world)
    demand(
        stop > start, f"{model.config.vocab_size} ids leave rank {group.rank} without any: start fewer ranks"
    )
    swap(model, Attention, lambda old: SplitAttention(old, model.config, region))
    swap(model, SwiGLU, lambda old: SplitSwiGLU(old, region))
    swap(model, Embedding, lambda old: VocabEmbedding(old, start, stop, region))
    swap(model, nn.Linear, lambda old: VocabHead(old, start, stop, region), lambda name: name == "head")
    if tied:
        model.head.weight = model.embed.weight
    for module in (model.embed, model.head):
        module.cuts = {"weight": Cut(group.world)}
    return model


# ---- after the backward pass -------------------------------------------------------------------------------


@exercise
def finish_gradients(model, group, sequence=False):
    """Make gradients whole of which each rank has computed only a share; in place, after backward.

    Only parameters that lie on several ranks (world > parts) can be such. Copies of a key/value head are:
    each has served the queries of one rank (`Cut.shared`). With `sequence` all of them are: each rank has
    put T/N rows through its norms. Copies of one part are summed: each rank lays its gradient where its part
    lies in the whole, (parts, …), and all ranks are summed.
    """
    parameters = dict(model.named_parameters())
    for name, cut in cuts(model).items():
        if cut.parts < group.world and (cut.shared or sequence):
            grad, mine = parameters[name].grad, group.rank * cut.parts // group.world
            whole = grad.new_zeros(cut.parts, *grad.shape)
            whole[mine] = grad
            grad.copy_(group.all_reduce(whole)[mine])


@exercise
def gradient_norm(model, group):
    """The norm of the gradient of the whole model, a scalar, the same on every rank and on any number.

    Each part counts once, on however many ranks a copy of it lies: there are world / parts copies of each.
    """
    parameters, total = dict(model.named_parameters()), 0.0
    for name, cut in cuts(model).items():
        total = total + parameters[name].grad.square().sum() * cut.parts / group.world
    return group.all_reduce(torch.as_tensor(total)).sqrt()
