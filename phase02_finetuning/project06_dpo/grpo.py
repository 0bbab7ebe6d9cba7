"""PPO without a value head: an answer is as good as it is better than its siblings.

What came before: `ppo.py`, where a second head guesses what an answer will be worth. What is new: draw a
group of answers to each prompt, and let the group's mean be the guess. Nothing is trained but the policy, and
the KL is a term of the loss, by an estimate that is never negative (Shao et al. 2024, arXiv:2402.03300;
Schulman 2020, "Approximating KL Divergence"). The clipped ratio stays. The seam is the objective.
"""

import torch
from torch import Tensor, nn

from common.exercise import exercise
from common.model import GPT

from .dpo import token_logprobs
from .ppo import Rollout


@exercise
def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """rewards (n, G), a row for each prompt -> (n, G): less the row's mean, over its standard deviation.

    The deviation of a sample (G - 1), plus 1e-4: a group whose answers are all alike teaches nothing. scale
    False leaves the division out (Liu et al. 2025, arXiv:2503.20783).
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + 1e-4) if scale else centred


@exercise
def kl_estimate(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(B, L) x 2 -> (B, L): r - 1 - ln r with r = reference's probability over ours.

    Drawn from our policy its mean is KL(ours || reference); unlike ln(1 / r) no single one is below 0.
    """
    behind = reference - logprobs
    return behind.exp() - 1 - behind


@exercise
def grpo_loss(new: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor,
              clip: float = 0.2, beta: float = 0.04) -> Tensor:  # fmt: skip
    """-min(ρ A, clip(ρ) A) + beta ρ KL: the mean over each answer's tokens, then over answers.

    new, old, reference, mask (B, L); advantages (B, 1), one for the whole answer. Equation 3 has KL alone;
    times ρ, the gradient of the estimate is that of the KL itself (DeepSeek-AI 2025, arXiv:2512.02556).
    """
    ratio = (new - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    loss = (beta * ratio * kl_estimate(new, reference) - gain) * mask  # (B, L)
    return (loss.sum(1) / mask.sum(1).clamp(min=1)).mean()


class GRPOLoss(nn.Module):
    """The objective: Rollout -> loss."""

    def __init__(self, model: GPT, clip: float = 0.2, beta: float = 0.04):
        super().__init__()
        self.model, self.clip, self.beta = model, clip, beta

    def logprobs(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, T), mask (B, T - 1) -> (B, T - 1): the tokens' log-probabilities; 0 outside the mask."""
        states = self.model.hidden(tokens[:, :-1])[mask]  # (N, C)
        found = token_logprobs(self.model.head, states, tokens[:, 1:][mask])  # (N,)
        return found.new_zeros(mask.shape).masked_scatter(mask, found)

    def forward(self, batch: Rollout) -> Tensor:
        new = self.logprobs(batch.tokens, batch.mask)
        old, reference, advantages = batch.logprobs, batch.reference, batch.advantages
        return grpo_loss(new, old, reference, advantages, batch.mask, self.clip, self.beta)
