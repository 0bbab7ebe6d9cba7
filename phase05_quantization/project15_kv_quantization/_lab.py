"""What the experiments share: the chain's model and text it never saw, a cache that rounds as it is told, a
model wired by hand that looks things up, and surprise through a cache."""

import functools
from functools import cached_property

import torch
import torch.nn.functional as F

from common.cli import explore
from common.errors import UserError
from common.model import GPT, Cache, ModelConfig, rotate, set_attend
from common.model import attend as core
from data.tinytown import TinyTown
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode

from .kv_quant import QuantizedCache, attend
from .rows import Format

UNSEEN = 1  # a stream of TinyTown's pages; models are trained on stream 0


def kind(form):
    """A QuantizedCache of a form, for `caches_for`."""
    return functools.partial(QuantizedCache, form=form)


@torch.no_grad()
def surprise(model, tokens, caches, chunk=8):
    """Nats for each token but the first, (B, T - 1), of tokens (B, T) that come `chunk` at a time."""
    logits = torch.cat([model(part, caches=caches) for part in tokens.split(chunk, 1)], 1)
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


class Rounding(Cache):
    """A full cache that hands out rounded keys and values, but for the last `window`: for trying things out.

    on_keys, on_values: fn(x, start, first), x (B, K, n * group, D) from position `start` on, once for all;
    first (B, K, group, D): the very first ones, as they came.
    """

    def __init__(self, on_keys, on_values=lambda v, *_: v, group=32, window=32):
        super().__init__()
        self.ways, self.done, self.group, self.window = (on_keys, on_values), [None, None], group, window

    def update(self, k, v, positions):
        old = max(0, self.length - self.window) // self.group * self.group  # by the end of the last forward
        return tuple(self.rounded(i, x, old) for i, x in enumerate(super().update(k, v, positions)))

    def rounded(self, i, x, old):
        """x (B, K, S, D) with its first `old` tokens rounded."""
        done = x[:, :, :0] if self.done[i] is None else self.done[i]
        if old > done.size(2):
            new = self.ways[i](x[:, :, done.size(2) : old], done.size(2), x[:, :, : self.group])
            done = self.done[i] = torch.cat((done, new), 2)
        return torch.cat((done, x[:, :, old:]), 2)


# ---- a model that looks things up: an induction head, wired by hand ----

WIDTH, HEAD, LOUD = 40, 64, 200.0  # numbers of a word's own vector; channels of a head; a loud one
THETA = 1e12  # so that the last channels hardly turn, however far apart two tokens are


def lookup_model(vocab_size=512, context=8192, seed=0):
    """Writes what came after the last token when that was last read. Two layers of one head:

    the first copies each token's predecessor into its place, the second looks for a place whose predecessor
    is the token at hand, and copies the token there. Its keys have two loud channels, as real ones have, at
    which no query looks. Olsson et al. 2022, 2209.11895 (induction heads).
    """
    model = GPT(ModelConfig(vocab_size=vocab_size, n_layer=2, n_head=1, n_kv_head=1, head_dim=HEAD, d_ff=1,
                            d_model=3 * WIDTH + 1, max_seq_len=context, rope_theta=THETA)).eval()  # fmt: skip
    own, before, found = (slice(i * WIDTH, (i + 1) * WIDTH) for i in range(3))
    words = torch.randn(vocab_size, WIDTH, generator=torch.Generator().manual_seed(seed))
    words = F.normalize(words, dim=1) * WIDTH**0.5  # equally long, so that a norm treats them alike
    pairs = [i for i in range(HEAD) if i % (HEAD // 2) >= HEAD // 2 - WIDTH // 2]  # channels that hardly turn
    eye = torch.eye(WIDTH)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float(p.dim() == 1))  # norms 1, matrices 0
        model.embed.weight[:, own], model.embed.weight[:, -1] = words, 1.0
        first, second = (block.attn for block in model.blocks)
        here = torch.zeros(1, 1, 1, HEAD)
        here[..., : HEAD // 2 - WIDTH // 2] = 16.0  # in channels that turn quickly, one place is far
        first.wq.weight[:, -1] = here.flatten()
        first.wk.weight[:, -1] = rotate(here, model.rope(torch.ones(1))).flatten()
        for layer, target in ((first, before), (second, found)):
            layer.wv.weight[:WIDTH, own], layer.wo.weight[target, :WIDTH] = eye, eye
        second.wq.weight[pairs, own], second.wk.weight[pairs, before] = 4 * eye, eye
        second.wk.weight[[pairs[0] - 1, pairs[0] - 1 + HEAD // 2], -1] = LOUD
        model.head.weight[:, found] = words
    return model


def facts(model, count, length, answer=6, seed=0):
    """(prompts (count, length), what is right (count, answer)): a fact is told from the second token on, and
    its first token said again at the end. No token of the fact comes in between."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        words = torch.randperm(model.config.vocab_size, generator=draw)
        fact, others = words[: answer + 1], words[answer + 1 :]
        hay = others[torch.randint(len(others), (length - answer - 2,), generator=draw)]
        rows.append(torch.cat((hay[:1], fact, hay[1:], fact[:1])))
    rows = torch.stack(rows)
    return rows, rows[:, 2 : answer + 2]


@torch.no_grad()
def answers(model, prompts, n, make):
    """n tokens after prompts (B, T), of which the last is fed alone; make(size): caches."""
    caches = make(prompts.size(1) + n)
    for part in prompts[:, :-1].split(256, 1):
        model.hidden(part, caches=caches)
    return decode(model, prompts[:, -1:], n, caches)


class Lab(explore.Reader):
    """`model`: of the chain. `pages`: text that it has never seen. `lookup`: the one wired by hand."""

    @cached_property
    def model(self):
        model = super().model
        if model.config.max_seq_len < 192 or model.config.head_dim % 16:
            raise UserError(f"a context of {model.config.max_seq_len} tokens and heads of "
                            f"{model.config.head_dim}: at least 192, and a multiple of 16")  # fmt: skip
        return set_attend(model, attend)

    @cached_property
    def lookup(self):
        return set_attend(lookup_model(context=2 * self.config.far), attend)

    @cached_property
    def pages(self):
        """Rows of unseen text, (rows, context)."""
        T = min(self.config.context, self.model.config.max_seq_len)
        ids = unseen(self.words, self.config.rows * T)
        return ids.view(-1, T).to(self.device)

    @cached_property
    def seen(self):
        """For each layer q (1, H, T, D), and k as the weights give it, k turned, v (1, K, T, D)."""
        found, positions = [], torch.arange(self.pages.size(1), device=self.device)
        cos, sin = self.model.rope(positions)

        def look(q, k, v, **where):
            found.append((q, rotate(k, (cos, -sin)), k, v))  # turned back
            return core(q, k, v, **where)

        set_attend(self.model, look)
        with torch.no_grad():
            self.model.hidden(self.pages[:1])
        set_attend(self.model, attend)
        return found

    def change(self, make):
        """How much more perplexity, as a share, than with the full cache. make(): caches."""
        return float((surprise(self.model, self.pages, make(), 16) - self.full).mean().exp() - 1)

    @property
    def two_bits(self):
        """A group that 2 bits can have."""
        return min(32, self.model.config.head_dim)

    @cached_property
    def full(self):
        return surprise(self.model, self.pages, caches_for(self.model, KVCache, *self.pages.shape), 64)

    def quantised(self, form):
        return lambda: caches_for(self.model, kind(form), *self.pages.shape)

    def rounding(self, *how, of=None, **sizes):
        return lambda: [Rounding(*how, **sizes) for _ in (of or self.model).blocks]


def unseen(words, n):
    """n ids of TinyTown's unseen pages."""
    characters = 6 * n
    while len(ids := words.encode(TinyTown().text(characters, seed=UNSEEN))) < n:
        characters *= 2
    return torch.tensor(ids[:n])


def forms_for(D, window=32):
    """{"8 bits": Format, …} with groups that heads of D channels can have, for short contexts."""
    return {f"{bits} bits": Format(bits, group, window) for bits, group in ((8, 64), (4, 32), (2, 32))}
