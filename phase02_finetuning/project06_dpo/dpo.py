"""Learn from "this answer is better than that one", with nothing but log-probabilities.

What came before: project 4 taught a model to say what an example says. What is new: two answers to one
prompt, of which one was preferred. A model that has learned the preference gives the preferred answer more
probability *relative to a reference*, the model that it was; how much more is its own reward model (Rafailov
et al. 2023, DPO, arXiv:2305.18290). IPO (Azar et al. 2023, arXiv:2310.12036) aims at a margin instead of
pushing for ever; SimPO (Meng et al. 2024, arXiv:2405.14734) needs no reference. The seam is the objective.

Two things make a step cheap. Only places that are asked for an answer's token go through the head, a few at
a time (`token_logprobs`), so the logits (2B, T, V) are never in memory; and both answers of a pair may stand
in one row behind one copy of the prompt (`shared`), where a mask keeps them from seeing each other.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import demand
from common.exercise import exercise
from common.model import GPT


class Pair(NamedTuple):
    """One preference, as ids: what was asked, the answer that was preferred and the one that was not."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Pairs(NamedTuple):
    """B pairs as a model reads them. Sequence i is the chosen answer of pair i, sequence B + i its rejected.

    The N answer tokens are written flat: which hidden state is asked, for which id, and whose token it is.
    """

    tokens: Tensor  # (R, T) ids in R rows
    positions: Tensor  # (R, T)
    mask: Tensor | None  # (R, 1, T, T), True = look; None: causal
    asks: Tensor  # (N,) places in the rows laid end to end, R * T
    targets: Tensor  # (N,) the id to come next there
    owners: Tensor  # (N,) which of the 2 B sequences this token belongs to
    ends: Tensor  # (2 B,) where each sequence's last token stands
    reference: Tensor  # (2, B) log-probabilities under the reference; chosen first

    def to(self, device) -> "Pairs":
        return Pairs(*(part if part is None else part.to(device) for part in self))

    @property
    def lengths(self) -> Tensor:
        """(2, B): the tokens of each answer."""
        return torch.bincount(self.owners, minlength=self.ends.numel()).view(2, -1)


def naive_logprobs(model: GPT, pair: Pair) -> Tensor:
    """(2,) ln of the probability of both answers, one after the other, all logits in memory: the oracle."""
    found = []
    for answer in (pair.chosen, pair.rejected):
        tokens = torch.tensor([pair.prompt + answer])  # (1, T)
        logprobs = model(tokens).log_softmax(-1)[0, :-1]  # (T - 1, V)
        found.append(logprobs.gather(1, tokens[0, 1:, None])[len(pair.prompt) - 1 :].sum())
    return torch.stack(found)


# ---- how pairs are laid out ----


def side_by_side(pairs: Sequence[Pair], pad: int = 0) -> Pairs:
    """A row for each answer, its prompt before it: 2 B rows, padded on the right, where nobody looks."""
    rows = [p.prompt + p.chosen for p in pairs] + [p.prompt + p.rejected for p in pairs]
    starts = [len(p.prompt) for p in pairs] * 2
    T = max(map(len, rows))
    tokens = torch.tensor([row + [pad] * (T - len(row)) for row in rows])  # (2 B, T)
    asks = [range(i * T + start - 1, i * T + len(row) - 1)
            for i, (row, start) in enumerate(zip(rows, starts, strict=True))]  # fmt: skip
    targets = [row[start:] for row, start in zip(rows, starts, strict=True)]
    ends = [i * T + len(row) - 1 for i, row in enumerate(rows)]
    return Pairs(tokens, torch.arange(T).expand(len(rows), T), None, *_flat(asks, targets, ends))


@exercise
def shared(pairs: Sequence[Pair], pad: int = 0) -> Pairs:
    """A row for each pair: prompt, chosen, rejected. The prompt is read once: B rows, padded on the right.

    A rejected token takes the position that it would have right behind the prompt, and sees no chosen one.
    """
    sizes = [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in pairs]
    T = max(map(sum, sizes))
    tokens = torch.tensor([[*p.prompt, *p.chosen, *p.rejected, *[pad] * (T - sum(size))]
                           for p, size in zip(pairs, sizes, strict=True)])  # (B, T) # fmt: skip
    P, R = (torch.tensor(bounds)[:, None] for bounds in zip(*((p, p + c) for p, c, _ in sizes), strict=True))
    place = torch.arange(T)[None]  # (1, T)
    positions = torch.where(place < R, place, place - R + P)  # (B, T)
    branch = (place >= P).int() + (place >= R).int()  # (B, T): 0 prompt, 1 chosen, 2 rejected
    seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])  # (B, T, T)
    mask = (seen & (place[0] <= place[0, :, None]))[:, None]  # (B, 1, T, T)
    starts = [(i * T + p - 1, i * T + p, c) for i, (p, c, _) in enumerate(sizes)]  # the prompt's end, ...
    starts += [(i * T + p - 1, i * T + p + c, r) for i, (p, c, r) in enumerate(sizes)]  # its answer
    asks = [[asked, *range(first, first + n - 1)] for asked, first, n in starts]
    targets = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    ends = [first + n - 1 for _, first, n in starts]
    return Pairs(tokens, positions, mask, *_flat(asks, targets, ends))


def _flat(asks, targets, ends) -> tuple[Tensor, ...]:
    """What both layouts share: the lists of each sequence, laid end to end. UserError for an empty answer."""
    demand(all(map(len, targets)), "an answer of no tokens has no probability: leave such pairs out")
    owners = torch.tensor([len(row) for row in targets])
    return (torch.tensor([i for row in asks for i in row]), torch.tensor([i for row in targets for i in row]),
            torch.arange(len(targets)).repeat_interleave(owners), torch.tensor(ends),
            torch.zeros(2, len(targets) // 2))  # fmt: skip


# ---- log-probabilities ----


@exercise
def token_logprobs(head: Callable, hidden: Tensor, targets: Tensor, chunk: int = 512) -> Tensor:
    """hidden (N, C), targets (N,) -> (N,): ln of the probability of each target, float32.

    The head sees `chunk` states at a time, and computes their logits again on the way back instead of keeping
    them: memory chunk * V, not N * V.
    """

    def some(h, ids):
        logits = head(h).float()  # (chunk, V)
        return logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(1)

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(some, h, ids, use_reentrant=False) for h, ids in parts])


@exercise
def sequence_logprobs(model: GPT, pairs: Pairs, chunk: int = 512) -> Tensor:
    """(2, B): ln of the probability of each answer given its prompt, a sum over the answer's tokens."""
    hidden = model.hidden(pairs.tokens, positions=pairs.positions, mask=pairs.mask)  # (R, T, C)
    logprobs = token_logprobs(model.head, hidden.flatten(0, 1)[pairs.asks], pairs.targets, chunk)  # (N,)
    return logprobs.new_zeros(pairs.ends.numel()).index_add(0, pairs.owners, logprobs).view(2, -1)


@torch.no_grad()
def with_reference(model: GPT, pairs: Pairs) -> Pairs:
    """The same pairs, with what `model` gives them as the reference: it never changes, so once is enough."""
    return pairs._replace(reference=sequence_logprobs(model, pairs))


# ---- the losses: policy, reference and lengths (2, B) -> (B,) ----


@exercise
def dpo_loss(policy: Tensor, reference: Tensor, lengths: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """-ln σ(β Δ), Δ the difference of the answers' log-ratios to the reference (Rafailov et al., eq. 7)."""
    chosen, rejected = policy - reference
    return -F.logsigmoid(beta * (chosen - rejected))


@exercise
def ipo_loss(policy: Tensor, reference: Tensor, lengths: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """(Δ - 1/2β)², Δ of log-ratios per token: a margin to reach and then to keep (Azar et al., eq. 17).

    Per token, as the authors do it in code; the paper's equation has sums.
    """
    chosen, rejected = (policy - reference) / lengths
    return (chosen - rejected - 1 / (2 * beta)) ** 2


@exercise
def simpo_loss(policy: Tensor, reference: Tensor, lengths: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """-ln σ(β Δ - γ), Δ of log-probabilities per token, without a reference (Meng et al., eq. 6)."""
    chosen, rejected = policy / lengths
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


LOSSES = {"dpo": dpo_loss, "ipo": ipo_loss, "simpo": simpo_loss}


class PreferenceLoss(nn.Module):
    """The objective: pairs -> mean loss of the method, and in `.logprobs` what it was made from, (2, B)."""

    def __init__(self, model: GPT, method: str = "dpo", beta: float = 0.1, gamma: float = 0.0,
                 chunk: int = 512):  # fmt: skip
        super().__init__()
        demand(method in LOSSES, f"there is no method {method!r}: choose one of {', '.join(LOSSES)}")
        demand(beta >= 0 and (beta > 0 or method != "ipo"), f"beta is {beta}: ipo's margin is 1 / (2 beta)")
        self.model, self.method, self.beta, self.gamma, self.chunk = model, method, beta, gamma, chunk

    def forward(self, pairs: Pairs) -> Tensor:
        policy = sequence_logprobs(self.model, pairs, self.chunk)
        self.logprobs = policy.detach()
        return LOSSES[self.method](policy, pairs.reference, pairs.lengths, self.beta, self.gamma).mean()


def rewards(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """(2, B): the reward that the policy itself implies for each answer, up to a term of the prompt alone."""
    return beta * (policy - reference)
