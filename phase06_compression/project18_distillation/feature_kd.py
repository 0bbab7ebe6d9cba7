"""Feature distillation: the student also learns how the teacher gets there, from states and from relations.

Came before: `logit_kd`, which sees what the teacher says at the end. New here: what it computes on the way.
Hidden states are told through a bridge, a matrix that is thrown away afterwards, as the student is narrower.
Relations need no bridge: who attends to whom is a T x T table, however wide the vectors were.

Seam: the contract. `taps` drives `model.blocks` itself; nothing is hooked and nothing replaced.
States: Romero et al. 2014 (FitNets), 1412.6550; Jiao et al. 2019 (TinyBERT), 1909.10351. Relations: Wang et
al. 2020 (MiniLM), 2002.10957, of queries and keys, and of values; MiniLMv2, 2012.15828, of each with itself.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from phase01_foundation.project03_pretrain.objectives import token_loss

from .logit_kd import Teacher, check_pair

MINILM, MINILM_V2 = ("qk", "vv"), ("qq", "kk", "vv")
FAR = -1e4  # the score of a key in the future: exp is 0, and it can still be subtracted from itself


class Taps(NamedTuple):
    """What a model computed on the way, C its width, H and K its heads."""

    states: list[Tensor]  # n_layer of (B, T, C), what each block left
    q: Tensor  # (B, H, T, D), of one block, after RoPE
    k: Tensor  # (B, K, T, D)
    v: Tensor  # (B, K, T, D)
    hidden: Tensor  # (B, T, C), what the head reads


@exercise
def taps(model: nn.Module, tokens: Tensor, layer: int = -1) -> Taps:
    """tokens (B, T) -> Taps, with q, k and v of block `layer`. What `model.hidden` does, block by block.

    A block is called as block(x, rope=…, positions=…), and makes q, k and v by
    attn.project(norm_attn(x), rope) of the x that comes in.
    """
    positions = torch.arange(tokens.size(1), device=tokens.device)
    x, rope = model.embed(tokens, positions), model.rope(positions)
    states = [x]
    for block in model.blocks:
        states.append(block(states[-1], rope=rope, positions=positions))
    asked = model.blocks[layer]
    q, k, v = asked.attn.project(asked.norm_attn(states[:-1][layer]), rope)
    return Taps(states[1:], q, k, v, model.norm(states[-1]))


def followed(n_student: int, n_teacher: int) -> list[int]:
    """Which of the teacher's blocks each of the student's follows, from 0: evenly, the last the last."""
    demand(n_student <= n_teacher, f"a student of {n_student} blocks has no teacher in {n_teacher}")
    return [(i + 1) * n_teacher // n_student - 1 for i in range(n_student)]


@exercise
def state_loss(mine: list[Tensor], theirs: list[Tensor], bridges) -> Tensor:
    """Mean squared distance of bridges[i](mine[i]) to theirs[i], each of whose places has mean square 1.

    mine (B, T, C), theirs (B, T, C'), bridges[i]: C -> C'. Mean over pairs. 1 is what a bridge of zeros gets:
    states grow from block to block, and without `F.rms_norm` the last one would be all that counts.
    """
    pairs = zip(bridges, mine, theirs, strict=True)
    far = [(bridge(x) - F.rms_norm(y, y.shape[-1:])).square().mean() for bridge, x, y in pairs]
    return torch.stack(far).mean()


# ---- relations ----


@exercise
def relation(a: Tensor, b: Tensor, heads: int) -> Tensor:
    """Who looks at whom, as ln of shares: a and b (B, T, W) -> (B, heads, T, T), rows that sum to 1.

    W is cut into `heads` parts; scores are divided by the root of a part's width, those of the future are
    FAR. Of queries and keys with the model's own heads this is its attention. W differs from model to model.
    """
    a, b = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (a, b))  # (B, heads, T, W / heads)
    scores = a.float() @ b.float().mT / math.sqrt(a.size(-1))
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=a.device).triu(1)  # (T, T)
    return scores.masked_fill(future, FAR).log_softmax(-1)


def sides(tapped: Taps, pair: str) -> list[Tensor]:
    """The two letters of a pair, "qk" say, each with its heads joined: (B, T, W), k as often as q has it."""
    a, b = (getattr(tapped, letter) for letter in pair)
    b = b.repeat_interleave(a.size(1) // b.size(1), 1)
    return [x.transpose(1, 2).flatten(2) for x in (a, b)]


@exercise
def relation_loss(mine: Tensor, theirs: Tensor) -> Tensor:
    """KL(theirs ‖ mine) in nats, the mean over rows: both (B, R, T, T), ln of shares."""
    return (theirs.exp() * (theirs - mine)).sum(-1).mean()


class FeatureKD(nn.Module):
    """(inputs, targets), each (B, T) -> the student's surprise, and beta times its distance on the way.

    pairs: which relations, MINILM or MINILM_V2, in the block that follows the teacher's last; heads: into how
    many parts both models' vectors are cut for it, by default the student's key heads. states: compare hidden
    states too. The bridges are trained and belong to nobody afterwards. `.parts` as in LogitKD.
    """

    def __init__(self, student, teacher, pairs=MINILM, heads=None, states=True, beta=1.0):
        super().__init__()
        check_pair(student, teacher)
        self.model, self.teacher, self.pairs, self.beta = student, Teacher(teacher), pairs, beta
        self.heads = heads or student.config.n_kv_head
        self.follows = followed(len(student.blocks), len(teacher.blocks))
        narrow, wide = student.config.d_model, teacher.config.d_model
        self.bridges = nn.ModuleList(nn.Linear(narrow, wide, bias=False) for _ in self.follows if states)
        for config in (student.config, teacher.config):
            widths = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
            cannot = f"vectors of {widths[0]} and {widths[1]} numbers cannot be cut into {self.heads} parts"
            demand(all(width % self.heads == 0 for width in widths), cannot)

    def forward(self, batch):
        inputs, targets = batch
        mine = taps(self.model, inputs)
        with torch.no_grad():
            theirs = taps(self.teacher.model, inputs)
        self.parts = {"hard": token_loss(self.model.head(mine.hidden), targets)}
        for pair in self.pairs:
            both = [relation(*sides(tapped, pair), self.heads) for tapped in (mine, theirs)]
            self.parts[pair] = relation_loss(*both)
        if len(self.bridges):
            chosen = [theirs.states[i] for i in self.follows]
            self.parts["states"] = state_loss(mine.states, chosen, self.bridges)
        hard, *soft = self.parts.values()
        self.parts = {name: value.detach() for name, value in self.parts.items()}
        return hard + self.beta * sum(soft)
