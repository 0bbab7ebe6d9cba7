"""Attention, from one token by hand to many heads that cannot see the future.

Before it, a network read text with one memory that every new word overwrote a little. New here: every token
looks at all the others and takes from each as much as it needs (Vaswani et al. 2017, arXiv 1706.03762).

It is a ladder. Read it from top to bottom; each rung says the one below it in fewer words.

    look                      one token, plain Python numbers: the whole idea
    attend                    all tokens at once: the same as three lines of matrix algebra
    hide_future               the causal mask: a token may look back, never ahead
    split_heads, merge_heads  several small looks side by side instead of one large one
    Attention                 the layer: four learned matrices around attend

Letters: B sequences in a batch, T tokens that look, S tokens looked at, C numbers per token, H heads,
D = C / H numbers per token and head.
"""

import math

import torch
from torch import nn

from common.exercise import exercise


@exercise
def look(query, keys, values):
    """One token looks at S tokens, in plain Python.

    query: D numbers, what the token looks for. keys: S lists of D, what each token offers. values: S lists,
    all of one length, what each token has to say. Returns (mixed, weights): the values mixed into one list,
    and the S shares they were mixed in, which are positive and sum to 1.

    >>> mixed, weights = look([4.0, 0.0], keys=[[3.0, 0.0], [0.0, 3.0]], values=[[10.0], [20.0]])
    >>> [round(w, 3) for w in weights], round(mixed[0], 2)
    ([1.0, 0.0], 10.0)
    """
    scale = 1 / math.sqrt(len(query))  # a sum of D products grows like √D; this keeps the scores near 1
    scores = [scale * sum(q * k for q, k in zip(query, key, strict=True)) for key in keys]
    top = max(scores)  # exp(800) overflows, exp(800 - 800) does not, and the shares are the same
    parts = [math.exp(score - top) for score in scores]
    weights = [part / sum(parts) for part in parts]
    columns = zip(*values, strict=True)
    return [sum(w * x for w, x in zip(weights, column, strict=True)) for column in columns], weights


@exercise
def hide_future(scores):
    """Scores (..., T, T) with -inf wherever the column (looked at) lies after the row (the one that looks).

    exp(-inf) is 0, so softmax gives the future no share at all.
    """
    T, S = scores.shape[-2:]
    future = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(diagonal=1)
    return scores.masked_fill(future, float("-inf"))


@exercise
def attend(q, k, v, causal=True):
    """All tokens look at once: q (..., T, D), k and v (..., S, D) -> y (..., T, D), weights (..., T, S).

    Row t of the weights is what `look` returns for query t. `causal` hides the future first (it needs S = T).
    The dots are any leading dimensions: none for one head, (B, H) for many heads in many sequences.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (..., T, S)
    if causal:
        scores = hide_future(scores)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights  # (..., T, D)


@exercise
def split_heads(x, n_head):
    """(B, T, C) -> (B, H, T, D): head h gets the h-th run of D numbers of every token."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


@exercise
def merge_heads(y):
    """(B, H, T, D) -> (B, T, C): `split_heads` undone, the heads side by side again."""
    return y.transpose(1, 2).flatten(start_dim=2)


class Attention(nn.Module):
    """Multi-head self-attention: x (B, T, C) -> (B, T, C). C must be a multiple of n_head.

    `causal=False` lets every token look both ways, as in an encoder; a model that writes text needs True.
    """

    def __init__(self, d_model, n_head, causal=True):
        super().__init__()
        self.n_head, self.causal = n_head, causal
        self.wq = nn.Linear(d_model, d_model)  # what each token looks for
        self.wk = nn.Linear(d_model, d_model)  # what each token offers
        self.wv = nn.Linear(d_model, d_model)  # what each token says
        self.wo = nn.Linear(d_model, d_model)  # how the heads' findings are put together

    def project(self, x):
        """x (B, T, C) -> q, k and v, each (B, H, T, D)."""
        return tuple(split_heads(w(x), self.n_head) for w in (self.wq, self.wk, self.wv))

    @exercise
    def forward(self, x):
        y, _ = attend(*self.project(x), causal=self.causal)  # (B, H, T, D)
        return self.wo(merge_heads(y))  # (B, T, C)
