"""Medusa heads: the model itself guesses several tokens ahead, from the hidden state it has anyway.

Came before: a draft model, with weights, a cache and K forwards of its own. New here: K small heads beside
the model's own. Head 1 guesses the token after the next from the same hidden state, head 2 the one after
that. Guessing costs one product, and nothing has to be rolled back; but no head knows what the others chose.

Seam: the contract; `model.hidden` gives what the heads read. The model is frozen.
Cai et al. 2024, 2401.10774 (Medusa-1; theirs have matrices to the vocabulary of their own, and check a tree).
"""

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import demand
from common.exercise import exercise

from .drafts import may_guess
from .speculative import Draft

FADE = 0.8  # how much less each further head counts: it can know less


class Medusa(nn.Module):
    """K heads for hidden states of d_model numbers. They end in the model's own head."""

    def __init__(self, d_model, K):
        super().__init__()
        demand(K >= 1, f"{K} heads: at least 1")
        self.layers = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(K))
        for layer in self.layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @exercise
    def forward(self, hidden):
        """hidden (…, C) -> (…, K, C), for the model's head: hidden plus the SiLU of each layer of it.

        The layers begin at zero, so that each head begins as the model's own.
        """
        return torch.stack([hidden + F.silu(layer(hidden)) for layer in self.layers], dim=-2)


class MedusaLoss(nn.Module):
    """(inputs, targets), each (B, T), target t being the token after input t -> loss of the heads alone."""

    def __init__(self, model, heads):
        super().__init__()
        self.heads, self.frozen = heads, [model.requires_grad_(False)]  # a list hides it from training

    @exercise
    def forward(self, batch):
        """Mean over the heads of FADE**i times the mean surprise of head i (from 0), in nats.

        Head i at place t is asked for target t + 1 + i: target t is what the model's own head guesses. The
        last places have no such target and are not asked.
        """
        inputs, targets = batch
        model, T = self.frozen[0], targets.size(1)
        with torch.no_grad():
            hidden = model.hidden(inputs)  # (B, T, C)
        x, losses = self.heads(hidden), []  # (B, T, K, C)
        for i in range(min(x.size(2), T - 1)):
            logits = model.head(x[:, : T - 1 - i, i])  # (B, T - 1 - i, V)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets[:, 1 + i :].flatten())
            losses.append(FADE**i * loss)
        return torch.stack(losses).mean()


class MedusaDraft(Draft):
    """The likeliest token of each head, from the hidden state that the last check left behind."""

    def __init__(self, model, heads, K=None):
        super().__init__()
        self.model, self.heads, self.K, self.hidden = model, heads, K or len(heads.layers), {}

    @torch.no_grad()
    def propose(self, texts):
        ready = [(text, n) for text, n in may_guess(texts, self.K) if text.id in self.hidden]
        if not ready:
            return
        x = self.heads(torch.stack([self.hidden[text.id] for text, _ in ready]))  # (R, K, C)
        best = self.model.head(x).argmax(-1).tolist()  # (R, K)
        for (text, n), guesses in zip(ready, best, strict=True):
            text.guesses = guesses[:n]

    def note(self, text, hidden):
        self.hidden[text.id] = hidden

    def close(self, id):
        super().close(id)
        self.hidden.pop(id, None)
