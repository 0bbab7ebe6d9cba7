"""Several teachers: what they say together, and whom to believe where they differ.

Came before: `logit_kd.Teacher`, one opinion a place. New here: `Teachers`, which reads like one and has the
opinions of all, mixed in one of two ways. The mean of shares holds everything that any of them holds for
possible; the mean of logarithms only what all of them do. And weights: alike, or more for who is surer.

Seam: none; the objective of `logit_kd` takes what reads as a Teacher does.
Hinton, Vinyals, Dean 2015, 1503.02531 (ensembles); Hinton 2002, Neural Comput. 14(8), products of experts;
weights by entropy: Kwon et al. 2020, ICASSP, "Adaptive Knowledge Distillation Based on Entropy".
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise

from .logit_kd import Teacher

# ---- the naive version: a distance to each of them ----


def naive_to_each(log_ps, weights, log_q):
    """Sum over M teachers of weight times KL(p_m ‖ q), (N,): log_ps (M, N, V), weights (M, N), log_q (N, V).

    It needs the student beside each of them. Its slope by q is that of KL(mean ‖ q), which needs their mean
    alone: the two differ by `disagreement`, in which there is no q.
    """
    apart = (log_ps.exp() * (log_ps - log_q)).sum(-1)  # (M, N)
    return (weights * apart).sum(0)


# ---- one opinion from several ----


@exercise
def arithmetic(log_ps: Tensor, weights: Tensor) -> Tensor:
    """ln of the weighted mean of shares: log_ps (M, N, V), weights (M, N) that sum to 1 over M -> (N, V)."""
    return (log_ps + weights.log()[..., None]).logsumexp(0)


@exercise
def geometric(log_ps: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of ln shares, (N, V), so that shares sum to 1 again: what no teacher rules out."""
    return (weights[..., None] * log_ps).sum(0).log_softmax(-1)


def alike(log_ps: Tensor) -> Tensor:
    """The same weight for each: log_ps (M, N, V) -> (M, N)."""
    return torch.full(log_ps.shape[:2], 1 / len(log_ps), device=log_ps.device)


@exercise
def by_confidence(log_ps: Tensor) -> Tensor:
    """More weight for who is surer, place by place: softmax over M of minus the entropy in nats. (M, N)"""
    entropy = -(log_ps.exp() * log_ps).sum(-1)  # (M, N)
    return (-entropy).softmax(0)


def disagreement(log_ps: Tensor, weights: Tensor) -> Tensor:
    """How far teachers lie from their mean, in nats, (N,): 0 where they agree, at most ln M."""
    return naive_to_each(log_ps, weights, arithmetic(log_ps, weights))


MEANS = {"arithmetic": arithmetic, "geometric": geometric}
WEIGHTS = {"alike": alike, "confidence": by_confidence}


class Teachers:
    """Several models that read as one `Teacher`. mean: of MEANS; weights: of WEIGHTS."""

    def __init__(self, models: Sequence[nn.Module], mean: str = "arithmetic", weights: str = "alike"):
        demand(models, "there is no teacher: name at least one")
        demand(mean in MEANS, f"there is no mean {mean!r}: choose one of {', '.join(MEANS)}")
        demand(weights in WEIGHTS, f"there are no weights {weights!r}: choose one of {', '.join(WEIGHTS)}")
        sizes = sorted({model.config.vocab_size for model in models})
        demand(len(sizes) == 1, f"teachers of {sizes} ids: all must have one tokenizer")
        self.models, self.mean, self.weights = list(models), mean, weights
        self.teachers = [Teacher(model) for model in models]

    def read(self, tokens: Tensor, T: float, keep: Tensor, **where):
        """As `Teacher.read`: rows -> ln of the common opinion (n, V)."""
        each = [teacher.read(tokens, T, keep, **where) for teacher in self.teachers]

        def rows_of(rows):
            log_ps = torch.stack([log_p(rows) for log_p in each])  # (M, n, V)
            return MEANS[self.mean](log_ps, WEIGHTS[self.weights](log_ps))

        return rows_of
