"""The smallest GPT that works: tokens in, a guess at the next token out, at every place at once.

Before it: attention.py. New here: what stands around attention in a GPT (Radford et al. 2019), and how text
comes out of it.

    FeedForward       each token thinks by itself about what attention brought it
    Block             attention and feed-forward, each on a normalised copy, each added to what was there
    GPT               token + position -> blocks -> one score (logit) for every symbol of the vocabulary
    loss              how surprised the model was by what really came next
    pick              one token from the logits: temperature, top-k, top-p
    generate          pick, append, repeat

It imports nothing from common.model; the names are the same on purpose, so that common's model dressed as
GPT-2 takes these weights and gives the same logits.

The Transformer of 2017 had ReLU, and its norms after each branch. Norm first: Xiong et al. 2020, 2002.04745.
LayerNorm: Ba, Kiros & Hinton 2016, 1607.06450. GELU: Hendrycks & Gimpel 2016, 1606.08415.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from common.exercise import exercise

from .attention import Attention


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT. The defaults are about 0.8 million parameters."""

    vocab_size: int = 65  # V: how many different symbols there are
    n_layer: int = 4
    n_head: int = 4
    d_model: int = 128  # C: numbers per token
    max_seq_len: int = 64  # the context: the longest text it can look at, in tokens
    dropout: float = 0.0
    init_std: float = 0.02  # GPT-2's; small enough that the first guess is nearly uniform, loss = ln V
    norm_eps: float = 1e-5
    causal: bool = True  # False: every token sees the whole text, also what it has to guess

    def __post_init__(self):
        sizes = (self.vocab_size, self.n_layer, self.n_head, self.d_model, self.max_seq_len)
        if min(sizes) < 1:
            raise UserError(f"every size of a GPT must be at least 1; got {self}")
        if self.d_model % self.n_head:
            raise UserError(f"d_model={self.d_model} does not divide into n_head={self.n_head} equal heads; "
                            f"choose d_model as a multiple of n_head")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is the share of numbers to drop, from 0 to below 1; got {self.dropout}")


class FeedForward(nn.Module):
    """x (..., C) -> (..., C) through a hidden layer four times as wide, each token for itself."""

    def __init__(self, d_model):
        super().__init__()
        self.w_up = nn.Linear(d_model, 4 * d_model)
        self.w_down = nn.Linear(4 * d_model, d_model)

    @exercise
    def forward(self, x):
        return self.w_down(F.gelu(self.w_up(x), approximate="tanh"))


class Block(nn.Module):
    """One layer: x (B, T, C) -> (B, T, C). Tokens talk (attention), then each one thinks (feed-forward)."""

    def __init__(self, config):
        super().__init__()
        self.norm_attn = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.attn = Attention(config.d_model, config.n_head, config.causal)
        self.norm_ffn = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.ffn = FeedForward(config.d_model)
        self.drop = nn.Dropout(config.dropout)

    @exercise
    def forward(self, x):
        x = x + self.drop(self.attn(self.norm_attn(x)))
        return x + self.drop(self.ffn(self.norm_ffn(x)))


class GPT(nn.Module):
    """tokens (B, T), integers below vocab_size -> logits (B, T, V). Row t scores what comes after token t."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)  # what a token is
        self.positions = nn.Embedding(config.max_seq_len, config.d_model)  # where it stands
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.head.weight = self.embed.weight  # one table reads and writes (Press & Wolf 2017, 1608.05859)
        self.init_weights()

    def init_weights(self):
        """GPT-2's start: small random matrices, zero biases. LayerNorm starts as its own, 1 and 0.

        2 n_layer branches add up in x; each divided by √(2 n_layer), their sum starts as large as one.
        """
        for name, weight in self.named_parameters():
            ends_branch = name.endswith(("wo.weight", "w_down.weight"))
            if weight.dim() == 2:
                std = self.config.init_std / (math.sqrt(2 * self.config.n_layer) if ends_branch else 1)
                nn.init.normal_(weight, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    @exercise
    def forward(self, tokens):
        if tokens.size(1) > self.config.max_seq_len:
            raise ValueError(f"{tokens.size(1)} tokens, but the context is {self.config.max_seq_len} long")
        x = self.drop(self.embed(tokens) + self.positions.weight[: tokens.size(1)])  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # (B, T, V)


@exercise
def loss(logits, targets):
    """Mean surprise in nats: logits (B, T, V), targets (B, T) -> scalar, the mean of -ln(the right share).

    A model that knows nothing gives every one of V symbols the share 1/V and scores ln V.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@exercise
def top_k(logits, k):
    """Only the k highest of logits (B, V) stay, the others become -inf. k = 0, or k >= V, keeps all."""
    if k == 0 or k >= logits.size(-1):
        return logits
    kth = logits.topk(k).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < kth, float("-inf"))


@exercise
def top_p(logits, p):
    """Only the fewest logits (B, V) whose shares add up to p or more stay, the rest become -inf; 1 keeps all.

    Nucleus sampling, Holtzman et al. 2019 (1904.09751). The most likely token always stays.
    """
    if p >= 1:
        return logits
    ordered, order = logits.sort(descending=True)
    shares = ordered.softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares  # what the tokens ahead of this one add up to already
    drop = (before >= p).scatter(-1, order, before >= p)  # back from sorted places to token ids
    return logits.masked_fill(drop, float("-inf"))


@exercise
def pick(logits, temperature=1.0, k=0, p=1.0, generator=None):
    """A token for each row: logits (B, V) -> ids (B,). Temperature 0 takes the likeliest: no division."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = top_p(top_k(logits / temperature, k), p)
    return torch.multinomial(logits.softmax(dim=-1), num_samples=1, generator=generator).squeeze(1)


@torch.no_grad()
@exercise
def generate(model, tokens, n_new, *, temperature=1.0, k=0, p=1.0, generator=None):
    """tokens (B, T) -> (B, T + n_new). Each step reads the last max_seq_len tokens anew and adds one."""
    for _ in range(n_new):
        logits = model(tokens[:, -model.config.max_seq_len :])[:, -1]  # (B, V)
        new = pick(logits, temperature, k, p, generator)
        tokens = torch.cat((tokens, new[:, None]), dim=1)
    return tokens
