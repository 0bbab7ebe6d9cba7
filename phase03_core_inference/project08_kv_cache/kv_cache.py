"""A KV cache: keys and values of the past never change, so compute them once.

Came before: `common.model` gives logits for a whole row; to draw one more token, the naive loop feeds the
whole row again. New here: the loop feeds the new token only, and a cache keeps the rest.

Seam: the contract, `model(tokens, positions=…, caches=…)`.
Shazeer 2019, 1911.02150 (what a decode step costs); Pope et al. 2022, 2211.05102 (caches at scale).
"""

import torch

from common.errors import demand
from common.exercise import exercise
from common.sampling import draw, sample

# ---- how a token is chosen: choose(logits (B, V), i) -> ids (B,), for the i-th new token ----


def greedy(logits, i):
    """The likeliest token of each row."""
    return logits.argmax(-1)


def drawn(samplings):
    """A chooser that draws as `common.generate` does: one Sampling with a seed for each row."""
    demand(all(row.seed is not None for row in samplings), "to draw twice alike, each row needs a seed")

    def choose(logits, i):
        draws = torch.tensor([draw(row.seed, i) for row in samplings], dtype=torch.float64)
        return sample(logits, samplings, draws)

    return choose


# ---- the naive versions: no cache at all, and a cache that grows ----


@torch.no_grad()
def recompute(model, tokens, n, choose=greedy):
    """n tokens after tokens (B, T), every one from the whole row again: (B, n). The text and the oracle."""
    T = tokens.size(1)
    for i in range(n):
        logits = model.head(model.hidden(tokens)[:, -1])  # (B, V): the head reads one token, not T
        tokens = torch.cat((tokens, choose(logits, i)[:, None]), dim=1)  # (B, T + i + 1)
    return tokens[:, T:]


class GrowingCache:
    """The naive counting cache of one block: every step copies everything it holds into a longer tensor."""

    def __init__(self, B, K, D, size, like=None):
        like = torch.empty(0) if like is None else like
        self.k, self.v = (like.new_empty(B, K, 0, D) for _ in "kv")

    @property
    def length(self):
        """How many tokens it holds; setting it rewinds."""
        return self.k.size(2)

    @length.setter
    def length(self, n):
        self.k, self.v = self.k[:, :, :n], self.v[:, :, :n]

    def update(self, k, v, positions):
        """Append (B, K, T, D); return all there is, (B, K, S, D)."""
        demand(positions.dim() == 1, "a counting cache holds uniform rows: give positions (T,)")
        self.k, self.v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        return self.k, self.v


# ---- the counting cache: room made once, and a length ----


class KVCache:
    """Keys and values of one block, for B rows of at most `size` tokens, all rows equally long.

    `like`: a tensor whose dtype and device it takes.
    """

    def __init__(self, B, K, D, size, like=None):
        like = torch.empty(0) if like is None else like
        self.k, self.v, self._length = like.new_empty(B, K, size, D), like.new_empty(B, K, size, D), 0

    @property
    def length(self):
        """How many tokens it holds. To rewind, set it: what lies beyond is forgotten, then overwritten."""
        return self._length

    @length.setter
    def length(self, n):
        demand(0 <= n <= self._length, f"a cache of {self._length} tokens can only go back, not to {n}")
        self._length = n

    def check(self, k, positions):
        """UserError unless k (B, K, T, D) fits behind what is held, and positions (T,) say so too."""
        T, size = k.size(2), self.k.size(2)
        demand(positions.shape == (T,), f"a counting cache takes positions ({T},): all rows at one place, "
               f"not {tuple(positions.shape)}; rows at different places need a StaticCache")  # fmt: skip
        demand(k.shape[:2] == self.k.shape[:2] and k.size(3) == self.k.size(3),
               f"keys {tuple(k.shape)} into a cache of {tuple(self.k.shape)}: other rows, heads")  # fmt: skip
        demand(self._length + T <= size, f"{T} tokens behind {self._length} do not fit into {size}: make "
               "the cache as long as prompt and answer together")  # fmt: skip
        if T and positions.device.type == "cpu":  # elsewhere the question would make the host wait
            at = positions[0].item(), positions[-1].item()
            due = self._length, self._length + T - 1
            demand(at == due, f"positions {at[0]} to {at[1]}, but the cache stands at {due[0]} to {due[1]}")

    @exercise
    def update(self, k, v, positions):
        """Write k and v (B, K, T, D) behind what is held; return exactly what is filled, (B, K, S, D).

        Afterwards `_length` counts them too. Nothing that was held is copied. UserError: see `check`.
        """
        self.check(k, positions)
        start, end = self._length, self._length + k.size(2)
        self.k[:, :, start:end], self.v[:, :, start:end] = k, v
        self._length = end
        return self.k[:, :, :end], self.v[:, :, :end]


# ---- the addressed cache: slot s of a row holds position s, and nothing ever changes its shape ----


class StaticCache:
    """Keys and values of one block; the driver says where each token of each row stands.

    It has no length, so no Python number changes between two steps: one graph serves them all.
    """

    def __init__(self, B, K, D, size, like=None):
        like = torch.empty(0) if like is None else like
        self.k, self.v = (like.new_zeros(B, K, size, D) for _ in "kv")

    def check(self, k, positions):
        """UserError unless positions (B, T) are those of k (B, K, T, D), and within the slots there are."""
        B, T, size = k.size(0), k.size(2), self.k.size(2)
        demand(positions.shape == (B, T), f"a static cache takes positions ({B}, {T}): where each row stands")
        demand(k.shape[:2] == self.k.shape[:2],
               f"keys {tuple(k.shape)} into a cache of {tuple(self.k.shape)}: other rows, heads")  # fmt: skip
        if positions.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (end.item() for end in positions.aminmax())
            demand(low >= 0 and high < size, f"positions {low} to {high} in a cache of {size} slots")

    @exercise
    def update(self, k, v, positions):
        """Write k and v (B, K, T, D) at positions (B, T), in place; return all slots, (B, K, size, D).

        The same tensors as ever, filled or not: the mask that `attend` makes from the positions hides what
        is not. UserError: see `check`.
        """
        self.check(k, positions)
        rows = torch.arange(k.size(0), device=k.device)[:, None]  # (B, 1), beside positions (B, T)
        self.k[rows, :, positions] = k.transpose(1, 2)  # (B, T, K, D)
        self.v[rows, :, positions] = v.transpose(1, 2)
        return self.k, self.v


def caches_for(model, kind, B, size):
    """One cache of a kind for each block, for B rows of at most `size` tokens, as the block's weights are."""
    layers = [block.attn for block in model.blocks]
    return [kind(B, a.wk.out_features // a.head_dim, a.head_dim, size, a.wk.weight) for a in layers]


# ---- the loop: prefill once, then a token at a time ----


def check_room(model, longest, n):
    """UserError unless a prompt of 1 token or more and n new ones fit the context; the last is never fed."""
    demand(longest >= 1, "the prompt is empty: begin with a token, such as the tokenizer's end of text")
    demand(n >= 1, f"{n} new tokens: ask for at least 1")
    room = model.config.max_seq_len
    demand(longest + n - 1 <= room, f"{longest} tokens and {n} new ones are more than the context of {room}")


@exercise
@torch.no_grad()
def decode(model, tokens, n, caches=None, choose=greedy):
    """n tokens after tokens (B, T): (B, n). The switch is `caches`: None recomputes everything.

    With counting caches, the first forward reads the prompt (prefill), each further one a single token, at
    the position that the caches count on to. What the caches held before comes before the prompt.
    """
    check_room(model, tokens.size(1), n)
    if caches is None:
        return recompute(model, tokens, n, choose)
    ids, fed = [], tokens
    for i in range(n):
        logits = model.head(model.hidden(fed, caches=caches)[:, -1])  # (B, V)
        fed = choose(logits, i)[:, None]  # (B, 1)
        ids.append(fed)
    return torch.cat(ids, dim=1)


@exercise
@torch.no_grad()
def decode_ragged(model, prompts, n, caches, choose=greedy, step=None):
    """n tokens after each prompt, rows of any lengths, with addressed caches: (B, n).

    prompts: B lists of ids. Short rows are padded on the right, by anything: a row's first new token is read
    off its own last one and then overwrites the padding. step: called in the model's place for single
    tokens, `step(tokens (B, 1), positions=(B, 1), caches=…) -> logits (B, 1, V)`; it may be compiled.
    """
    check_room(model, min(map(len, prompts), default=0), n)
    device, T, step = model.embed.weight.device, max(map(len, prompts)), model if step is None else step
    check_room(model, T, n)
    tokens = torch.tensor([[*row, *[0] * (T - len(row))] for row in prompts], device=device)  # (B, T)
    ends = torch.tensor([[len(row)] for row in prompts], device=device)  # (B, 1): where the next one stands
    positions = torch.arange(T, device=device).expand(len(prompts), -1)  # (B, T)
    hidden = model.hidden(tokens, positions=positions, caches=caches)  # (B, T, C)
    last = hidden.gather(1, (ends - 1)[..., None].expand(-1, -1, hidden.size(2)))  # (B, 1, C)
    ids = [choose(model.head(last)[:, -1], 0)[:, None]]
    for i in range(1, n):
        logits = step(ids[-1], positions=ends + i - 1, caches=caches)[:, -1]  # (B, V)
        ids.append(choose(logits, i)[:, None])
    return torch.cat(ids, dim=1)
