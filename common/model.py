"""The one model, a Llama-shaped decoder. Projects change it at three seams: its contract, `attend`, `swap`.

Letters, here and everywhere: B rows of a batch, T new tokens (queries), S tokens looked at (keys), C d_model,
H query heads, K key/value heads, D head_dim, V vocab_size; x (B, T, C), q (B, H, T, D), k and v (B, K, S, D).
Touvron et al. 2023 (Llama); Su et al. 2021 (RoPE); Ainslie et al. 2023 (GQA); Shazeer 2020 (SwiGLU)."""

from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import demand


@dataclass(frozen=True, kw_only=True)
class ModelConfig:  # sizes only: how a project differs is never a setting
    vocab_size: int = 10_000
    n_layer: int = 6
    n_head: int = 4
    n_kv_head: int = 2
    head_dim: int | None = None  # None becomes d_model // n_head: when you replace d_model, say None again
    d_model: int = 256
    d_ff: int = 688
    max_seq_len: int = 512
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    dropout: float = 0.0  # on the embedding and the two residual branches, never on attention weights

    def __post_init__(self):
        for name in ("vocab_size", "n_layer", "n_head", "n_kv_head", "d_model", "d_ff", "max_seq_len"):
            demand(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        demand(self.head_dim or self.d_model % self.n_head == 0, "d_model must be a multiple of n_head")
        object.__setattr__(self, "head_dim", self.head_dim or self.d_model // self.n_head)
        demand(self.head_dim % 2 == 0, f"head_dim must be even, as RoPE turns pairs: {self.head_dim}")
        demand(self.n_head % self.n_kv_head == 0, "n_head must be a multiple of n_kv_head: groups are alike")
        demand(0 <= self.dropout < 1, f"dropout must lie in [0, 1), not {self.dropout}")
        demand(min(self.rope_theta, self.norm_eps) > 0, "rope_theta and norm_eps must be above 0")


def distance(positions, S, cache=None):
    """How far key s lies behind query t: (T, S) or (B, 1, T, S). In a cache, slot s holds position s."""
    keys = positions if cache is None else torch.arange(S, device=positions.device)
    behind = positions[..., :, None] - keys[..., None, :]  # (T, S) or (B, T, S)
    return behind if behind.dim() == 2 else behind[:, None]


def attend(q, k, v, *, positions, cache=None, mask=None):
    """q (B, H, T, D), k and v (B, K, T, D) -> (B, H, T, D). Causal, unless a mask is given (True = look)."""
    if cache is not None:
        k, v = cache.update(k, v, positions)  # (B, K, S, D)
        if mask is None and not (positions.dim() == 1 and q.size(2) in (1, k.size(2))):
            mask = distance(positions, k.size(2), cache) >= 0
    # is_causal is the fast path of training and prefill: a mask written out costs 1.6 to 2.5 times as much
    causal = mask is None and bool(q.size(2) > 1)
    gqa = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


class Rope(nn.Module):  # positions (T,) or (B, T) -> (cos, sin), which rotate takes
    def __init__(self, head_dim, theta):
        super().__init__()
        self.head_dim, self.theta = head_dim, theta

    def inv_freq(self, device):
        """Each pair's angle per position, float32 (D/2,). No buffer: that could be cast, or stay on meta."""
        return self.theta ** (-torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim)

    def forward(self, positions):
        angles = positions[..., None].float() * self.inv_freq(positions.device)  # (T, D/2) or (B, T, D/2)
        return angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)  # (1, T, D/2) or (B, 1, T, D/2)


def rotate(x, rope):
    """Turn x (B, H, T, D) by its positions; the first half of D pairs with the second, as in transformers."""
    if rope is None:
        return x
    (cos, sin), (x1, x2) = rope, x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).type_as(x)


class RMSNorm(nn.Module):  # (..., C) -> (..., C), of root mean square 1, times a learned gain
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Embedding(nn.Module):  # tokens (B, T) -> (B, T, C); the positions are for variants
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens, positions):
        return self.dropout(F.embedding(tokens, self.weight))


class Attention(nn.Module):  # (B, T, C) -> (B, T, C)
    def __init__(self, config, attend=attend):
        super().__init__()
        C, D, self.head_dim, self.attend = config.d_model, config.head_dim, config.head_dim, attend
        self.wq = nn.Linear(C, config.n_head * D, bias=False)
        self.wk, self.wv = (nn.Linear(C, config.n_kv_head * D, bias=False) for _ in "kv")
        self.wo = nn.Linear(config.n_head * D, C, bias=False)

    def project(self, x, rope):
        """x (B, T, C) -> q (B, H, T, D), k and v (B, K, T, D), as many heads as the weights hold."""
        q, k, v = (w(x).unflatten(-1, (-1, self.head_dim)) for w in (self.wq, self.wk, self.wv))
        return rotate(q.transpose(1, 2), rope), rotate(k.transpose(1, 2), rope), v.transpose(1, 2)

    def forward(self, x, *, rope, positions, cache=None, mask=None):
        y = self.attend(*self.project(x, rope), positions=positions, cache=cache, mask=mask)  # (B, H, T, D)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, T, C)


class SwiGLU(nn.Module):  # (..., C) -> (..., C), one half of what is in between gating the other
    def __init__(self, config):
        super().__init__()
        self.w_gate, self.w_up = (nn.Linear(config.d_model, config.d_ff, bias=False) for _ in range(2))
        self.w_down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x):
        return self.w_down(F.silu(self.w_gate(x)) * self.w_up(x))


class Block(nn.Module):  # (B, T, C) -> (B, T, C)
    def __init__(self, config, attend=attend):
        super().__init__()
        self.norm_attn, self.attn = RMSNorm(config.d_model, config.norm_eps), Attention(config, attend)
        self.norm_ffn, self.ffn = RMSNorm(config.d_model, config.norm_eps), SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, **where):  # the norms stand inside the branches: the sum itself is never normalised
        x = x + self.dropout(self.attn(self.norm_attn(x), **where))
        return x + self.dropout(self.ffn(self.norm_ffn(x)))


class GPT(nn.Module):  # tokens (B, T) -> logits (B, T, V)
    def __init__(self, config, attend=attend):
        super().__init__()
        self.config, self.embed = config, Embedding(config)
        self.rope = Rope(config.head_dim, config.rope_theta)
        self.blocks = nn.ModuleList(Block(config, attend) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    def init_weights(self):
        """Tie, and draw all weights anew (also after to_empty): norms 1, biases 0, matrices normal, of which
        those that end a residual branch are smaller, as 2 n_layer of them add up (Radford et al. 2019)."""
        if self.config.tie_embeddings:
            self.head.weight = self.embed.weight
        for name, parameter in self.named_parameters():
            ends_branch = name.endswith(("wo.weight", "w_down.weight"))
            nn.init.constant_(parameter, float(name.endswith("weight")))
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.n_layer) ** (0.5 * ends_branch))

    def hidden(self, tokens, *, positions=None, caches=None, mask=None):  # -> (B, T, C), before the head
        if positions is None:
            start = caches[0].length if caches else 0
            positions = start + torch.arange(tokens.size(1), device=tokens.device)  # (T,)
        x, rope = self.embed(tokens, positions), self.rope(positions)
        for i, block in enumerate(self.blocks):
            x = block(x, rope=rope, positions=positions, cache=caches and caches[i], mask=mask)
        return self.norm(x)

    def forward(self, tokens, *, positions=None, caches=None, mask=None):
        """(B, T) -> (B, T, V). positions: (T,), counted on from the caches, or (B, T); mask: True = look."""
        return self.head(self.hidden(tokens, positions=positions, caches=caches, mask=mask))


class Cache:  # keys and values of one block; all rows hold as many tokens, length says how many
    def __init__(self):
        self.length, self.k, self.v = 0, None, None

    def update(self, k, v, positions):
        """Append (B, K, T, D); return just what is filled, (B, K, S, D). To rewind, set length."""
        demand(positions.dim() == 1, "rows at different places need an addressed cache; never pad left")
        start, self.length = self.length, self.length + k.size(2)
        self.k, self.v = self._append(self.k, k, start), self._append(self.v, v, start)
        return self.k[:, :, : self.length], self.v[:, :, : self.length]

    def _append(self, store, new, start):
        store = new[:, :, :0] if store is None else store
        if store.size(2) < self.length or new.requires_grad:  # autograd needs what was returned before
            room = new.new_empty(*new.shape[:2], -self.length % 256, new.size(3))  # grows 256 slots at a time
            return torch.cat((store[:, :, :start], new, room), 2)
        store[:, :, start : self.length] = new
        return store


def swap(model, kind, make, where=lambda name: True):
    """Replace each module of exactly class kind whose dotted name passes where by make(old)."""
    found = {n: m for n, m in model.named_modules(remove_duplicate=False) if type(m) is kind and where(n)}
    demand(found, f"swap found no {kind.__name__}: already replaced, sharded, or filtered out by where")
    made = {old: make(old).train(old.training) for old in dict.fromkeys(found.values())}  # once each
    for name, old in found.items():
        model.set_submodule(name, made[old])
    return model


def set_attend(model, fn, where=lambda name: True):
    """Set .attend of every module that has one and whose dotted name passes where; return the model."""
    found = [module for name, module in model.named_modules() if hasattr(module, "attend") and where(name)]
    demand(found, "set_attend found no module with .attend: replaced, or filtered out by where")
    for module in found:
        module.attend = fn
    return model


def untie(model):
    """Give the head a weight of its own, before anything replaces one side; return the model."""
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    model.config = replace(model.config, tie_embeddings=False)
    return model
