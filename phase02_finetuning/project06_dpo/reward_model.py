"""A model that gives an answer a number: learned from preferences, it stands in for those who stated them.

What came before: `dpo.py`, where the policy is its own reward model. What is new: a reward that stands
outside the policy, so that answers nobody has compared can be scored, which is what PPO and GRPO ask for. The
head that gave V logits gives one number, read at the answer's last token; the chosen answer's must be larger
(Bradley and Terry 1952; Stiennon et al. 2020, arXiv:2009.01325; Ouyang et al. 2022, arXiv:2203.02155).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.exercise import exercise
from common.model import GPT

from .dpo import Pairs


class RewardModel(nn.Module):
    """A GPT whose head is a single number; `score` begins at zero: every answer is worth the same."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model, self.score = model, nn.Linear(model.config.d_model, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    @exercise
    def forward(self, tokens: Tensor, ends: Tensor, positions=None, mask=None) -> Tensor:
        """tokens (R, T) -> (n,): the score at each of the n places `ends` in the rows laid end to end.

        A place must be the last token of an answer: only that one has seen the whole of it.
        """
        hidden = self.model.hidden(tokens, positions=positions, mask=mask)  # (R, T, C)
        return self.score(hidden.flatten(0, 1)[ends]).squeeze(-1)  # (n,)


@exercise
def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(B,), (B,) -> (B,): -ln of the probability that chosen beats rejected, σ(chosen - rejected)."""
    return -F.logsigmoid(chosen - rejected)


class RewardLoss(nn.Module):
    """The objective: pairs -> mean loss. `.scores` (2, B) are the scores of the last batch.

    Only differences are learned; `centre` adds that times the mean of (chosen + rejected)², which keeps the
    scores about zero (Eisenstein et al. 2023, arXiv:2312.09244).
    """

    def __init__(self, reward: RewardModel, centre: float = 0.0):
        super().__init__()
        self.reward, self.centre = reward, centre

    def forward(self, pairs: Pairs) -> Tensor:
        scores = self.reward(pairs.tokens, pairs.ends, pairs.positions, pairs.mask).float()
        chosen, rejected = scores.view(2, -1)  # (B,) each
        self.scores = torch.stack((chosen, rejected)).detach()
        return bradley_terry(chosen, rejected).mean() + self.centre * (chosen + rejected).square().mean()
