"""The model writes, a reward judges, and what was written becomes more or less likely: PPO.

What came before: `dpo.py` learned from answers that somebody else wrote. What is new: the answers are the
policy's own, drawn while it learns, and all it hears about each is one number at its end. Four parts make
that bearable: a **value head** that guesses the number early, so that what counts is the surprise (GAE:
Schulman et al. 2015, arXiv:1506.02438); a **clipped ratio**, so that one batch is used a few times and no
more (Schulman et al. 2017, arXiv:1707.06347); a **price on KL**, so that the policy stays near the reference,
and what sets the price (Ziegler et al. 2019, arXiv:1909.08593). The seam is the objective.

Everywhere (B, L) are rows of L places, and mask (B, L) is True where a place holds a token of the answer; in
a row these stand together. What the other places hold does not matter.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.exercise import exercise
from common.model import GPT

from .dpo import token_logprobs


class Rollout(NamedTuple):
    """B answers that a policy wrote, and what was known of them when it did; L = T - 1."""

    tokens: Tensor  # (B, T) prompt and answer, padded on the right
    mask: Tensor  # (B, L): token t + 1 is of the answer
    logprobs: Tensor  # (B, L) of each token, under the policy that wrote it
    reference: Tensor  # (B, L) under the reference
    advantages: Tensor  # (B, L); for GRPO (B, 1)
    values: Tensor  # (B, L) as guessed then; GRPO has none: zeros
    returns: Tensor  # (B, L) what the value head should have guessed

    def rows(self, which) -> "Rollout":
        return Rollout(*(part[which] for part in self))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x (B, L) over all places of the mask, all rows together; 0 where there is none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, L) less its mean and divided by its standard deviation, both over the mask; 0 outside it."""
    centred = (x - masked_mean(x, mask)) * mask
    return centred * (masked_mean(centred.square(), mask) + 1e-8).rsqrt()


# ---- from one number to one for each token ----


@exercise
def shaped(scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """scores (B,) -> rewards (B, L): -beta (logprob - reference) at each token, at the last the score too.

    Their sum is the score less beta times an estimate of the KL from the reference.
    """
    rewards = -beta * (logprobs - reference) * mask
    last = mask.int().cumsum(1).argmax(1)  # (B,) the first place where the count is full
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards))


@exercise
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """(B, L) x 3 -> advantages (B, L), 0 outside the mask: how much better it went than the values said.

    δ_t = r_t + γ V_{t+1} - V_t, with V 0 behind the last token; A_t = δ_t + γ λ A_{t+1}.
    """
    values, after = values * mask, torch.zeros_like(values[:, 0])  # (B, L), (B,)
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.size(1))):
        following = values[:, t + 1] if t + 1 < values.size(1) else torch.zeros_like(after)
        after = (rewards[:, t] + gamma * following - values[:, t] + gamma * lam * after) * mask[:, t]
        advantages[:, t] = after
    return advantages


# ---- what an update minimises ----


@exercise
def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """Mean of -min(ρ A, clip(ρ, 1 - clip, 1 + clip) A), ρ = exp(new - old) (Schulman et al. 2017, eq. 7).

    new, old (B, L): log-probabilities of the tokens under the policy as it is, and as it wrote them.
    """
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask)


@exercise
def value_loss(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """Half the mean of the larger of (new - R)² and (old + clamp(new - old, ± clip) - R)²."""
    near = old + (new - old).clamp(-clip, clip)
    worse = torch.maximum((new - returns).square(), (near - returns).square())
    return 0.5 * masked_mean(worse, mask)


class KLControl(nn.Module):
    """The price of KL, which rises while KL is above its target and falls while it is below.

    beta is a buffer: a resumed run goes on with the price that it had.
    """

    def __init__(self, beta: float, target: float, horizon: float):
        super().__init__()
        self.target, self.horizon = target, horizon
        self.register_buffer("beta", torch.tensor(float(beta)))

    @exercise
    def update(self, kl: float, n: int) -> None:
        """After n answers of mean KL `kl` (nats): beta grows by clamp(kl / target - 1, ± 0.2) n / horizon."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * n / self.horizon


class ActorCritic(nn.Module):
    """The policy and its value head: a second head on the same states, zero to begin with."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model, self.value = model, nn.Linear(model.config.d_model, 1)
        for weight in self.value.parameters():
            nn.init.zeros_(weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T), mask (B, T - 1) -> log-probabilities of the tokens, values before them; (B, T - 1).

        The value at a place is guessed from what stood before its token. 0 outside the mask.
        """
        states = self.model.hidden(tokens[:, :-1])[mask]  # (N, C)
        empty = states.new_zeros(mask.shape, dtype=torch.float32)  # (B, L)
        logprobs = token_logprobs(self.model.head, states, tokens[:, 1:][mask])  # (N,)
        values = self.value(states).squeeze(-1).float()  # (N,)
        return empty.masked_scatter(mask, logprobs), empty.masked_scatter(mask, values)


class PPOLoss(nn.Module):
    """The objective: Rollout -> policy loss + `weight` times value loss."""

    def __init__(self, actor: ActorCritic, control: KLControl, clip: float = 0.2, weight: float = 0.1):
        super().__init__()
        self.actor, self.control, self.clip, self.weight = actor, control, clip, weight

    def forward(self, batch: Rollout) -> Tensor:
        logprobs, values = self.actor(batch.tokens, batch.mask)  # (B, L) each
        policy = policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, self.clip)
        return policy + self.weight * value_loss(values, batch.values, batch.returns, batch.mask, self.clip)
