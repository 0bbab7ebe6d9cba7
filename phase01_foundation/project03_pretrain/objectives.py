"""Three things to guess: the next token, the rest after a prefix, the tokens behind a mask.

Before: project 1 asked for the next token and nothing else. New here: what is asked is a module of its own,
`forward(batch) -> loss`, that holds the model. It changes the model through its contract alone, by the mask
that says who may look at whom:

    CausalLM    1 0 0 0     PrefixLM    1 1 0 0     MaskedLM    1 1 1 1     a row looks at the columns with
    a 1 1 1 0 0     (2 given)   1 1 0 0                 1 1 1 1 1 1 1 0                 1 1 1 0
    1 1 1 1 1 1 1 1                 1 1 1 1                 1 1 1 1

Their losses are not the same quantity and cannot be compared: a masked token has its right neighbours to
help, and a prefix is never guessed. What can be compared is a probe that all three can answer.

Causal: Radford et al. 2018. Prefix: Raffel et al. 2019, 1910.10683. Masked: Devlin et al. 2018, 1810.04805.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common.exercise import exercise

IGNORE = -100  # a target that is not asked for: cross_entropy leaves it out of the mean


@exercise
def token_loss(logits, targets):
    """Mean surprise in nats over the targets that are asked for: logits (B, T, V), targets (B, T) -> scalar
    float32.

    Targets equal to IGNORE do not count, in the sum nor in the number that it is divided by. Where none is
    asked for, 0.
    """
    logits, targets = logits.flatten(0, 1).float(), targets.flatten()
    total = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    return total / (targets != IGNORE).sum().clamp(min=1)


class CausalLM(nn.Module):
    """(inputs, targets), each (B, T), where target t is the token after input t -> loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @exercise
    def forward(self, batch):
        """Every token is guessed from those before it: what the model does by itself."""
        inputs, targets = batch
        return token_loss(self.model(inputs), targets)


@exercise
def prefix_mask(lengths, T):
    """(B,) lengths of the prefixes -> bool (B, 1, T, T), True = look: all of a prefix sees all of it; the
    rest is causal."""
    place = torch.arange(T, device=lengths.device)
    causal = place[:, None] >= place[None, :]  # (T, T)
    given = place[None, None, :] < lengths[:, None, None]  # (B, 1, T): keys that everybody may see
    return (causal | given)[:, None]


class PrefixLM(nn.Module):
    """(inputs, targets), each (B, T) -> loss: a prefix of random length is given, what comes after it is
    guessed."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @exercise
    def forward(self, batch):
        """Draws each row's length from 1 … T - 1, with torch.randint(1, T, (B,)). Only what lies behind the
        prefix is asked for: input t asks for the token after it, so the last token of the prefix asks for
        the first one behind it, and those before it ask for nothing (IGNORE).
        """
        inputs, targets = batch
        B, T = inputs.shape
        lengths = torch.randint(1, T, (B,)).to(inputs.device)
        inside = torch.arange(T, device=inputs.device) < lengths[:, None] - 1  # (B, T)
        logits = self.model(inputs, mask=prefix_mask(lengths, T))
        return token_loss(logits, targets.masked_fill(inside, IGNORE))


class MaskedLM(nn.Module):
    """(inputs, targets), each (B, T) -> loss: some inputs are hidden and guessed from both sides; targets
    do not count.

    mask_id: the token that stands for a hidden one. share: how many are hidden (BERT's 15 %). Of those 80 %
    become mask_id, 10 % a random token, 10 % stay, so that the model cannot rely on a token being right
    because it is in view.
    """

    def __init__(self, model, mask_id, share=0.15):
        super().__init__()
        self.model, self.mask_id, self.share = model, mask_id, share

    def hide(self, tokens):
        """tokens (B, T) -> (what the model sees, targets with IGNORE where nothing is asked)."""
        asked = torch.rand(tokens.shape).to(tokens.device) < self.share
        kind = torch.rand(tokens.shape).to(tokens.device)
        noise = torch.randint(self.model.config.vocab_size, tokens.shape).to(tokens.device)
        seen = tokens.masked_fill(asked & (kind < 0.8), self.mask_id)
        seen = torch.where(asked & (kind >= 0.9), noise, seen)
        return seen, tokens.masked_fill(~asked, IGNORE)

    @exercise
    def forward(self, batch):
        """Everybody sees everybody: a mask of True, (1, 1, T, T). Row t is asked for token t itself, not
        for the next one."""
        tokens, _ = batch
        seen, targets = self.hide(tokens)
        everything = torch.ones(1, 1, tokens.size(1), tokens.size(1), dtype=torch.bool, device=tokens.device)
        return token_loss(self.model(seen, mask=everything), targets)
