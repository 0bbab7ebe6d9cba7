"""History: a step of decoding in TorchScript, once scripted and once traced (deprecated in PyTorch 2)."""

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.model import distance, set_attend
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for


def decode_step(token: Tensor, at: int, x: Tensor, head: Tensor, norm: Tensor,
                blocks: list[dict[str, Tensor]], ks: list[Tensor], vs: list[Tensor],
                D: int, theta: float, eps: float) -> Tensor:  # fmt: skip
    """The model once more, for one token (1,) at position `at`, in the part of Python that can be scripted.

    x: the table of embeddings; ks and vs: caches (1, K, S, D), written in place. Returns logits (1, V).
    """
    h = x[token]  # (1, C)
    angle = float(at) * theta ** (-torch.arange(0, D, 2).float() / D)
    cos, sin = angle.cos(), angle.sin()
    for i in range(len(blocks)):
        w = blocks[i]
        n = F.rms_norm(h, [h.size(1)], w["norm_attn"], eps)
        q, k, v = (n @ w["wq"].t()).view(1, -1, 1, D), (n @ w["wk"].t()).view(1, -1, 1, D), n @ w["wv"].t()
        a, b = q.chunk(2, -1)
        q = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        a, b = k.chunk(2, -1)
        ks[i][:, :, at : at + 1] = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        vs[i][:, :, at : at + 1] = v.view(1, -1, 1, D)
        y = F.scaled_dot_product_attention(q, ks[i][:, :, : at + 1], vs[i][:, :, : at + 1], enable_gqa=True)
        h = h + y.view(1, -1) @ w["wo"].t()
        n = F.rms_norm(h, [h.size(1)], w["norm_ffn"], eps)
        h = h + (F.silu(n @ w["w_gate"].t()) * (n @ w["w_up"].t())) @ w["w_down"].t()
    return F.rms_norm(h, [h.size(1)], norm, eps) @ head.t()


def attend(q, k, v, *, positions, cache, mask=None):
    """`common.model.attend` without its questions: in a trace every answer would be frozen."""
    k, v = cache.update(k, v, positions)  # (1, K, S, D)
    mask = distance(positions, k.size(2), cache) >= 0
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


class Step(nn.Module):
    """What can be traced: tokens and positions (1, 1) in, logits out; the caches are buffers."""

    def __init__(self, model, size):
        super().__init__()
        self.model = set_attend(copy.deepcopy(model), attend)
        self.caches = caches_for(model, StaticCache, 1, size)
        for i, cache in enumerate(self.caches):
            self.register_buffer(f"k{i}", cache.k)
            self.register_buffer(f"v{i}", cache.v)

    def forward(self, tokens, positions):
        return self.model(tokens, positions=positions, caches=self.caches)


def weights_of(block):
    """A block's weights by their last names."""
    return {name.split(".")[-2]: p.detach() for name, p in block.named_parameters()}


def steps(model, prompt):
    """{"scripted": call, "traced": call}: one token after a prompt (1, T), as `_sides.step_of`; and what
    TorchScript said: {"deprecated": …, "refused": …}."""
    T, c, said = prompt.size(1), model.config, {}
    with warnings.catch_warnings(record=True) as heard, torch.no_grad():
        warnings.simplefilter("always")
        try:
            torch.jit.script(model)
        except (RuntimeError, torch.jit.frontend.FrontendError) as error:
            said["refused"] = next(line for line in str(error).splitlines() if line.strip())
        scripted = torch.jit.script(decode_step)
        held = Step(model, T + 1)
        held.model.hidden(prompt, positions=torch.arange(T)[None], caches=held.caches)
        place = torch.tensor([[T]])
        traced = torch.jit.trace(held, (prompt[:, -1:], place), check_trace=False)
    said["deprecated"] = next((str(w.message).splitlines()[0] for w in heard
                               if issubclass(w.category, DeprecationWarning)), "no word of it")  # fmt: skip
    blocks = [weights_of(block) for block in model.blocks]
    ks, vs = ([x.clone() for x in column] for column in zip(*((k.k, k.v) for k in held.caches), strict=True))
    about = model.embed.weight, model.head.weight, model.norm.weight, blocks, ks, vs
    numbers = c.head_dim, float(c.rope_theta), float(c.norm_eps)

    @torch.no_grad()
    def script():
        return scripted(prompt[0, -1:], T, *about, *numbers)[None]

    @torch.no_grad()
    def trace():
        return traced(prompt[:, -1:], place)

    return {"scripted": script, "traced": trace}, said
