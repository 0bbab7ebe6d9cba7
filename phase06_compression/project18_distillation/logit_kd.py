"""Logit distillation: a small model learns what a large one thinks of every token, not only which came next.

Came before: `CausalLM` of project 3, whose target is one id a place: all others are equally wrong. New here:
the target is the teacher's whole distribution, softened by a temperature, beside that one id; and a head that
works on a few places at a time, since V logits a place, of two models, are far more than all else together.

Seam: the objective. The student is an unchanged GPT, and so is what it is afterwards.
Hinton, Vinyals, Dean 2015, 1503.02531; head and loss in pieces: Hsu et al. 2024 (Liger), 2410.10989.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from phase01_foundation.project03_pretrain.objectives import IGNORE

# ---- the naive version: the loss from all logits at once ----


def naive_kd(logits, teacher, targets, T, alpha):
    """logits and teacher (N, V), targets (N,) -> mean loss, as in the paper. The text and the oracle.

    (1 - alpha) of the surprise at the true ids, and alpha T² of the distance to the teacher, both at T.
    """
    hard = F.cross_entropy(logits, targets)
    p, q = (teacher / T).softmax(-1), (logits / T).softmax(-1)
    soft = (p * (p / q).log()).sum(-1).mean()
    return (1 - alpha) * hard + alpha * T**2 * soft


# ---- two distributions ----


def soften(logits: Tensor, T: float) -> Tensor:
    """ln of the distribution at temperature T, shaped as logits, float32: flatter where T is above 1."""
    return (logits.float() / T).log_softmax(-1)


@exercise
def soft_loss(logits: Tensor, log_p: Tensor, T: float) -> Tensor:
    """T² KL(p ‖ q) in nats, summed over all places: logits (N, V) of the student, log_p (N, V) at T.

    KL(p ‖ q) is the mean of ln p - ln q under p. Its slope by a logit is (q - p) / T, and q - p shrinks by
    another T as both get flatter: T² makes up for that, so that alpha keeps its meaning as T rises.
    """
    log_q = soften(logits, T)
    return T**2 * (log_p.exp() * (log_p - log_q)).sum()


@exercise
def overlap(log_p: Tensor, log_q: Tensor) -> Tensor:
    """What two distributions (..., V) have in common, (...): the sum of the smaller of each two shares.

    It is the chance that a guess drawn from q is kept by speculative decoding (Leviathan et al. 2022).
    """
    return torch.minimum(log_p, log_q).exp().sum(-1)


# ---- the head, a few places at a time ----


def whole(x: Tensor, weight: Tensor, loss) -> Tensor:
    """loss(logits, rows) of all logits at once: the naive head, and the oracle of `chunked`."""
    return loss(F.linear(x, weight).float(), slice(None))


@exercise
def chunked(x: Tensor, weight: Tensor, loss, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of the loss, its gradient by x (N, C), and by weight (V, C)): never more than `chunk` x V logits.

    loss(logits (n, V) float32, rows) -> scalar, a sum over the places of the slice `rows`. Each piece goes
    all the way: logits, loss, slope of the logits, that into both gradients; then its logits are forgotten.
    """
    total, dx, dw = x.new_zeros((), dtype=torch.float32), torch.empty_like(x), torch.zeros_like(weight)
    for start in range(0, len(x), chunk):
        rows = slice(start, start + chunk)
        logits = F.linear(x[rows], weight).float().detach().requires_grad_()  # (n, V)
        with torch.enable_grad():
            some = loss(logits, rows)
        (slope,) = torch.autograd.grad(some, logits)
        slope = slope.to(weight.dtype)
        dx[rows] = slope @ weight
        dw += slope.T @ x[rows]
        total += some.detach()
    return total, dx, dw


class HeadLoss(torch.autograd.Function):
    """x (N, C), weight (V, C) -> the sum of the loss. The gradients are made on the way there."""

    @staticmethod
    def forward(ctx, x, weight, loss, chunk):
        total, *gradients = chunked(x, weight, loss, chunk)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx, by):
        dx, dw = ctx.saved_tensors
        return by * dx, by * dw, None, None


# ---- teacher and student ----


class Teacher:
    """A model that is asked and never changed: no part of the objective, so neither trained nor saved."""

    def __init__(self, model: nn.Module):
        self.model = model.eval().requires_grad_(False)
        self.models = [self.model]

    @torch.no_grad()
    def read(self, tokens: Tensor, T: float, keep: Tensor, **where):
        """A function rows -> ln p (n, V) at T of the places that `keep` (B, T) chooses, flat. where: mask …

        Only hidden states are held; the logits are made when they are asked for, and the asking is free of
        gradients too.
        """
        hidden = self.model.hidden(tokens, **where)[keep]  # (N, C)
        return torch.no_grad()(lambda rows: soften(self.model.head(hidden[rows]), T))


def check_pair(student: nn.Module, teacher: nn.Module) -> None:
    """UserError unless one can learn from the other: the same ids, and no more weights than the teacher."""
    mine, theirs = student.config.vocab_size, teacher.config.vocab_size
    demand(mine == theirs, f"the student has {mine} ids and the teacher {theirs}: logits are compared id by "
           "id, so both need one tokenizer")  # fmt: skip
    mine, theirs = (sum(p.numel() for p in model.parameters()) for model in (student, teacher))
    demand(mine <= theirs, f"the student has {mine:,} weights and the teacher only {theirs:,}: take the "
           "larger one for the teacher, or a smaller student")  # fmt: skip


def check_words(mine, theirs) -> None:
    """UserError unless two tokenizers are the same: an id that means another word teaches another word."""
    demand(mine.sha256 == theirs.sha256, "student and teacher have different tokenizers: id 5 of one is not "
           "id 5 of the other; distil between models of one tokenizer")  # fmt: skip


class LogitKD(nn.Module):
    """(inputs, targets), each (B, T) -> loss: the student's surprise, and its distance to a teacher.

    alpha: the teacher's share, 0 to 1. T: the temperature of both. In `.parts`, after forward, the two losses
    in nats a token, detached: "hard", "soft". teacher: a Teacher, or what reads as one does.
    """

    def __init__(self, student, teacher, T=1.0, alpha=0.9, chunk=512):
        super().__init__()
        demand(T > 0, f"the temperature is {T}: it must be above 0")
        demand(0 <= alpha <= 1, f"alpha is {alpha}: it is a share, from 0 to 1")
        demand(chunk >= 1, f"{chunk} places at a time: at least 1")
        for model in teacher.models:
            check_pair(student, model)
        self.model, self.teacher, self.T, self.alpha, self.chunk = student, teacher, T, alpha, chunk

    def forward(self, batch):
        inputs, targets = batch
        return self.of(inputs, targets)

    @exercise
    def of(self, inputs: Tensor, targets: Tensor, **where) -> Tensor:
        """The mean over the places whose target is not IGNORE; 0 where there is none. where: positions, mask.

        Both models read the same inputs. `HeadLoss` over the counted hidden states, with a loss that adds up
        (1 - alpha) of the cross entropy and alpha of `soft_loss` for its rows.
        """
        keep = targets != IGNORE  # (B, T)
        x, ids = self.model.hidden(inputs, **where)[keep], targets[keep]  # (N, C), (N,)
        log_p = self.teacher.read(inputs, self.T, keep, **where)
        sums = {"hard": 0.0, "soft": 0.0}

        def loss(logits, rows):
            hard = F.cross_entropy(logits, ids[rows], reduction="sum")
            soft = soft_loss(logits, log_p(rows), self.T)
            sums["hard"], sums["soft"] = sums["hard"] + hard.detach(), sums["soft"] + soft.detach()
            return (1 - self.alpha) * hard + self.alpha * soft

        N = max(1, len(ids))
        total = HeadLoss.apply(x, self.model.head.weight, loss, self.chunk) / N
        self.parts = {name: value / N for name, value in sums.items()}
        return total


# ---- what it brought ----


@exercise
def gap_closed(alone: float, distilled: float, teacher: float) -> float:
    """The share of the way from the student that learned alone to its teacher: 0 as before, 1 all of it."""
    return (alone - distilled) / (alone - teacher)
