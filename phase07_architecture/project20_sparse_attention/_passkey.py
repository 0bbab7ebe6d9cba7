"""A digit in noise, and the question for it at the end: what a pattern of attention can reach."""

import torch
import torch.nn.functional as F
from torch import nn

from common.model import GPT, ModelConfig, attend, set_attend

NOISE, DIGITS = 24, 8
ASK, VOCABULARY = NOISE + DIGITS, NOISE + DIGITS + 1


def tokens(rows, length, seed, depth=None):
    """(rows, length) tokens, the last of them the question; and the digits, (rows,). depth: where the digit
    stands, as a share of the row; None: anywhere."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(NOISE, (rows, length), generator=draw)
    digits = torch.randint(DIGITS, (rows,), generator=draw)
    places = torch.randint(length - 1, (rows,), generator=draw)
    if depth is not None:
        places = torch.full((rows,), min(length - 2, int(depth * (length - 1))))
    x[torch.arange(rows), places], x[:, -1] = NOISE + digits, ASK
    return x, digits


class Keeper(nn.Module):
    """Loss of the one answer at the end of each row."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        x, digits = batch
        return F.cross_entropy(self.model.head(self.model.hidden(x)[:, -1]), NOISE + digits)


def small(length, seed=0):
    torch.manual_seed(seed)
    return GPT(ModelConfig(vocab_size=VOCABULARY, n_layer=2, n_head=2, n_kv_head=2, d_model=32, d_ff=64,
                           max_seq_len=length))  # fmt: skip


def written(fn):
    """The same attention with its mask written out: for rows as short as these, that is quicker."""

    def call(q, k, v, *, positions, cache=None, mask=None):
        causal = torch.ones(q.size(2), q.size(2), dtype=torch.bool, device=q.device).tril()
        return fn(q, k, v, positions=positions, mask=causal)

    return call


def trained(length, steps, fn=attend, device="cpu", rows=32):
    """A small model that has learnt, looking through `fn`, to give the digit of rows of so many tokens."""
    model = set_attend(small(length), fn if fn is attend else written(fn)).to(device)
    keeper, optimizer = Keeper(model), torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * max(0.05, 1 - step / steps)
        loss = keeper([x.to(device) for x in tokens(rows, length, 1000 + step)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return set_attend(model, fn).eval()


@torch.no_grad()
def found(model, length, depth, rows=64):
    """The share of digits that the model gives; guessing gives 1 / DIGITS."""
    x, digits = tokens(rows, length, 7, depth)
    device = next(model.parameters()).device
    logits = model.head(model.hidden(x.to(device))[:, -1])
    return (logits.argmax(-1).cpu() == NOISE + digits).float().mean().item()
