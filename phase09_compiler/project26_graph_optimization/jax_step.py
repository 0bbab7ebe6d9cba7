"""The same model for XLA, written in JAX: pure functions of arrays, a cache that is given up and given back.

New here: the compiler is told not by capturing, but by the language. A JAX function has no side effects, so
"write into the cache" reads as "a cache like this one, but for one slot"; `donate_argnums` tells XLA that
nobody will look at the old one, and it writes in place. What plan.py did by hand is a promise here.

Seam: none; the weights go over, the mathematics is written again. Frostig et al. 2018 (JAX); XLA: the OpenXLA
project.
"""

import math
from functools import partial

from .exporters import needed


def weights_of(model):
    """The model's weights as JAX arrays, in nested dicts and lists: what a pure function can be given."""
    jnp = needed("jax.numpy")

    def array(parameter):
        return jnp.asarray(parameter.detach().float().cpu().numpy())

    def block(b):
        linear = {name: array(getattr(b.attn, name).weight) for name in ("wq", "wk", "wv", "wo")}
        linear |= {name: array(getattr(b.ffn, name).weight) for name in ("w_gate", "w_up", "w_down")}
        return {**linear, "norm_attn": array(b.norm_attn.weight), "norm_ffn": array(b.norm_ffn.weight)}

    return {"embed": array(model.embed.weight), "norm": array(model.norm.weight),
            "head": array(model.head.weight), "blocks": [block(b) for b in model.blocks]}  # fmt: skip


def step(config, weights, caches, token, at):
    """One token: (caches, logits (V,)). caches: [(k, v)], each (K, size, D); token and at: whole numbers."""
    jax, jnp = needed("jax"), needed("jax.numpy")
    K, D, H = config.n_kv_head, config.head_dim, config.n_head

    def norm(x, gain):
        return x / jnp.sqrt((x * x).mean() + config.norm_eps) * gain

    angles = at * config.rope_theta ** (-jnp.arange(0, D, 2, dtype=jnp.float32) / D)  # (D/2,)
    cos, sin = jnp.cos(angles), jnp.sin(angles)

    def turned(x):  # (n, D)
        a, b = x[:, : D // 2], x[:, D // 2 :]
        return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), -1)

    x, new = weights["embed"][token], []  # (C,)
    for w, (k, v) in zip(weights["blocks"], caches, strict=True):
        y = norm(x, w["norm_attn"])
        q, key, value = ((w[name] @ y).reshape(-1, D) for name in ("wq", "wk", "wv"))
        k = jax.lax.dynamic_update_slice(k, turned(key)[:, None], (0, at, 0))
        v = jax.lax.dynamic_update_slice(v, value[:, None], (0, at, 0))
        scores = jnp.einsum("kgd,ksd->kgs", turned(q).reshape(K, H // K, D), k) / math.sqrt(D)
        scores = jnp.where(jnp.arange(k.shape[1]) <= at, scores, -jnp.inf)
        y = jnp.einsum("kgs,ksd->kgd", jax.nn.softmax(scores, -1), v).reshape(-1)
        x = x + w["wo"] @ y
        y = norm(x, w["norm_ffn"])
        x = x + w["w_down"] @ (jax.nn.silu(w["w_gate"] @ y) * (w["w_up"] @ y))
        new.append((k, v))
    return new, weights["head"] @ norm(x, weights["norm"])


def compiled(config):
    """`step` for a config, compiled by XLA when it is first called; the caches it is given are used up."""
    return needed("jax").jit(partial(step, config), donate_argnums=(1,))


def empty(config, size):
    """Caches for one row of `size` tokens."""
    zeros = needed("jax.numpy").zeros
    shape = config.n_kv_head, size, config.head_dim
    return [(zeros(shape), zeros(shape)) for _ in range(config.n_layer)]
