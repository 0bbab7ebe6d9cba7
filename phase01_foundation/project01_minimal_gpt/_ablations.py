"""Take one part of a small GPT away, or put another in its place, and train again: what was it worth?

The model is common's; the parts of positions.py and layers.py are put in at its seams.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common import plots
from common.model import GPT, Embedding, ModelConfig, RMSNorm, Rope, SwiGLU, set_attend, swap
from common.model import attend as common_attend
from common.variants import NoRope

from . import layers
from .gpt import loss
from .positions import LearnedPositions, alibi, rope_angles, rotate, sinusoids
from .text import batch, split_loss


class Placed(nn.Module):
    """common's Embedding, plus what `place` makes of the positions."""

    def __init__(self, old, place, scale=1.0):
        super().__init__()
        self.weight, self.place, self.scale = old.weight, place, scale

    def forward(self, tokens, positions):
        return self.scale * F.embedding(tokens, self.weight) + self.place(positions)


class FeedForward(nn.Module):
    """Two matrices and a bend between them, in the place of common's SwiGLU."""

    def __init__(self, old, bend):
        super().__init__()
        d_model, self.bend = old.w_up.in_features, bend
        self.w_up, self.w_down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        return self.w_down(self.bend(self.w_up(x)))


def rope_attend(q, k, v, *, positions, **how):
    """common's attend, after our own RoPE has turned q and k."""
    angles = rope_angles(positions, q.size(-1))
    return common_attend(rotate(q, angles), rotate(k, angles), v, positions=positions, **how)


def alibi_attend(q, k, v, *, positions, **how):
    """Causal attention with our own ALiBi added to the scores."""
    future = positions[None, :] > positions[:, None]
    bias = alibi(positions, q.size(1)).masked_fill(future, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def learned(model):
    size = model.config
    return swap(model, Embedding, lambda old: Placed(old, LearnedPositions(size.max_seq_len, size.d_model)))


def sinusoidal(model):
    C = model.config.d_model  # tokens times √C, as in the paper, or the waves drown them
    return swap(model, Embedding, lambda old: Placed(old, lambda where: sinusoids(where, C), scale=C**0.5))


def rope(model):
    return set_attend(model, rope_attend)


def slopes(model):
    return set_attend(model, alibi_attend)


def nothing(model):
    return model


def norm(make):
    return lambda model: swap(model, RMSNorm, lambda old: make(old.weight.numel()))


def bend(function):
    return lambda model: swap(model, SwiGLU, lambda old: FeedForward(old, function))


def swiglu(model):
    return swap(model, SwiGLU, lambda old: layers.SwiGLU(old.w_up.in_features))


LAYER_NORM, GELU = norm(layers.LayerNorm), bend(layers.gelu)
LADDER = {  # (positions, norm, feed-forward); the first is GPT-2's choice, each other changes one part of it
    "GPT-2: learned table, LayerNorm, GELU": (learned, LAYER_NORM, GELU),
    "positions: sinusoids": (sinusoidal, LAYER_NORM, GELU),
    "positions: RoPE": (rope, LAYER_NORM, GELU),
    "positions: ALiBi": (slopes, LAYER_NORM, GELU),
    "positions: none": (nothing, LAYER_NORM, GELU),
    "norm: RMSNorm": (learned, norm(layers.RMSNorm), GELU),
    "norm: none": (learned, norm(lambda d_model: nn.Identity()), GELU),
    "feed-forward: ReLU": (learned, LAYER_NORM, bend(torch.relu)),
    "feed-forward: SwiGLU": (learned, LAYER_NORM, swiglu),
    "Llama: RoPE, RMSNorm, SwiGLU": (rope, norm(layers.RMSNorm), swiglu),
}


def build(parts, n_symbols, seed, *, n_layer=2, n_head=4, d_model=64, context=64):
    """A small model with these three parts, all weights drawn from the seed as in GPT-2."""
    torch.manual_seed(seed)
    model = GPT(ModelConfig(vocab_size=n_symbols, n_layer=n_layer, n_head=n_head, n_kv_head=n_head,
                            d_model=d_model, d_ff=4 * d_model, max_seq_len=context, tie_embeddings=True))
    for dress in (lambda bare: swap(bare, Rope, NoRope), *parts):
        dress(model)
    model.init_weights()
    return model


def fit(model, batch_at, steps, learning_rate=3e-3):
    """Train with AdamW: a tenth of the steps warm-up, then a cosine to zero. Returns each step's loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    losses = []
    for i in range(steps):
        inputs, targets = batch_at(i)
        surprise = loss(model(inputs), targets)
        surprise.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(surprise.item())
    return losses


def ablate(parts, n_symbols, train_ids, val_ids, *, steps, seed, windows=None, size=16, **sizes):
    """Validation loss after `steps` of training with these parts."""
    model = build(parts, n_symbols, seed, **sizes)
    context = model.config.max_seq_len
    fit(model, lambda i: batch(train_ids, context, size, seed=seed * 1_000_003 + i), steps)
    return split_loss(model, val_ids, windows)


def draw(found):
    """One line a variant: its seeds as dots, their mean in figures; dashes mark the first one's mean."""
    fig, ((ax,),) = plots.figure(width=9.0, height=4.6)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    for row, (name, values) in enumerate(found.items()):
        better = means[name] <= next(iter(means.values()))
        colour = plots.COLOURS[2 if better else 1]
        ax.plot(values, [row] * len(values), "o", color=colour, markersize=7, alpha=0.75)
        ax.annotate(f"{means[name]:.3f}", (1.01, row), size=11, va="center",
                    xycoords=("axes fraction", "data"))
    ax.axvline(next(iter(means.values())), color=plots.QUIET, linewidth=1, linestyle=(0, (4, 3)))
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set(xlabel="validation loss, nats per character; each dot is one start")
    ax.set_title("one part exchanged at a time")
    return fig
