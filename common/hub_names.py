"""What transformers calls the core: config keys and weight names of the families that `common/hub.py` knows.

    llama    Llama 2 and 3, SmolLM2, and the chain's own models
    qwen3    Llama with a norm on each head's queries and keys
    gpt2     LayerNorm, GELU, learned positions, biases; q, k and v in one matrix; matrices on their side

RoPE is half-split on both sides, so no weight is permuted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.errors import demand
from common.model import GPT, Attention, ModelConfig, Rope, swap
from common.variants import LearnedPositions, Llama3Rope, QKNormAttention, YarnRope, gpt2


@dataclass(frozen=True)
class Family:
    """One architecture, in both directions. Weights are {name: tensor} dictionaries."""

    architecture: str  # transformers' class
    build: Callable  # config.json -> GPT, dressed
    describe: Callable  # GPT so dressed -> config.json
    to_theirs: Callable  # weights by our names -> by theirs
    to_ours: Callable
    wears: Callable  # whether a GPT that may have been through surgery was this family's


def must_be(config, **allowed):
    """UserError unless each key of config.json is absent or has one of the values that the core computes."""
    for key, values in allowed.items():
        value = config.get(key, values[0])
        known = " or ".join(map(str, values))
        demand(value in values, f"config.json says {key} {value!r}, and the core computes {known} only")


# Llama and Qwen3

BLOCK = {
    "norm_attn": "input_layernorm", "norm_ffn": "post_attention_layernorm",
    "attn.wq": "self_attn.q_proj", "attn.wk": "self_attn.k_proj", "attn.wv": "self_attn.v_proj",
    "attn.wo": "self_attn.o_proj", "attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm",
    "ffn.w_gate": "mlp.gate_proj", "ffn.w_up": "mlp.up_proj", "ffn.w_down": "mlp.down_proj",
}  # fmt: skip
TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}


def renamed(weights, layer, block, top, new_layer):
    """Each name {layer}.{i}.{module}.{kind} or {module}.{kind} with the module's name, and the layer's,
    exchanged. A name that is in neither table stays as it is, for the strict load to complain of."""

    def new(name):
        module, _, kind = name.rpartition(".")
        found = re.fullmatch(re.escape(layer) + r"\.(\d+)\.(.+)", module)
        if found and found[2] in block:
            return f"{new_layer}.{found[1]}.{block[found[2]]}.{kind}"
        return f"{top[module]}.{kind}" if module in top else name

    return {new(name): tensor for name, tensor in weights.items()}


def inverse(table):
    return {theirs: ours for ours, theirs in table.items()}


def llama_to_theirs(weights):
    return renamed(weights, "blocks", BLOCK, TOP, "model.layers")


def llama_to_ours(weights):
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    return renamed(kept, "model.layers", inverse(BLOCK), inverse(TOP), "blocks")


def rope_of(config):
    """make(old) for the Rope that config.json asks for, or None for the plain one."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    demand(
        kind in ("default", "llama3", "yarn"), f"RoPE of type {kind!r} is not among default, llama3 and yarn"
    )
    if kind == "default":
        return None
    context = rope.get("original_max_position_embeddings", config["max_position_embeddings"])
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        return lambda old: Llama3Rope(old, rope["factor"], low, high, context)
    must_be(rope, truncate=(True,), mscale=(None, 1.0), mscale_all_dim=(None, 0))
    fast, slow = rope.get("beta_fast") or 32.0, rope.get("beta_slow") or 1.0
    return lambda old: YarnRope(old, rope["factor"], context, fast, slow, rope.get("attention_factor"))


def rope_parameters(rope):
    """The inverse of rope_of: what config.json says of a Rope."""
    said = {"rope_type": "default", "rope_theta": rope.theta}
    if type(rope) is Llama3Rope:
        said |= {"rope_type": "llama3", "factor": rope.factor, "low_freq_factor": rope.low}
        said |= {"high_freq_factor": rope.high, "original_max_position_embeddings": rope.original_max_seq_len}
    if type(rope) is YarnRope:
        said |= {"rope_type": "yarn", "factor": rope.factor, "attention_factor": rope.scale}
        said |= {"beta_fast": rope.fast, "beta_slow": rope.slow}
        said |= {"original_max_position_embeddings": rope.original_max_seq_len}
    return said


def llama_config(config):
    rope = config.get("rope_parameters") or {}
    return ModelConfig(
        vocab_size=config["vocab_size"],
        n_layer=config["num_hidden_layers"],
        n_head=config["num_attention_heads"],
        n_kv_head=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_dim=config.get("head_dim"),
        d_model=config["hidden_size"],
        d_ff=config["intermediate_size"],
        max_seq_len=config["max_position_embeddings"],
        rope_theta=rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
        norm_eps=config["rms_norm_eps"],
        tie_embeddings=config.get("tie_word_embeddings", False),
        dropout=config.get("dropout", 0.0),
    )


def build_llama(config):
    must_be(
        config, hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,), rope_interleaved=(False,)
    )
    model = GPT(llama_config(config))
    make = rope_of(config)
    return swap(model, Rope, make) if make else model


def build_qwen3(config):
    must_be(config, use_sliding_window=(False,))
    model = build_llama({"head_dim": 128, **config})
    return swap(model, Attention, lambda old: QKNormAttention(old, model.config.norm_eps))


def describe_llama(model):
    c, rope = model.config, rope_parameters(model.rope)
    return {
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "vocab_size": c.vocab_size, "num_hidden_layers": c.n_layer, "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head, "head_dim": c.head_dim, "hidden_size": c.d_model,
        "intermediate_size": c.d_ff, "max_position_embeddings": c.max_seq_len, "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings, "dropout": c.dropout,
        "rope_parameters": rope,
        "rope_theta": rope["rope_theta"],  # for transformers before 5, as is the next
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
    }  # fmt: skip


# GPT-2


def build_gpt2(config):
    must_be(
        config, activation_function=("gelu_new", "gelu_pytorch_tanh"), scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,), add_cross_attention=(False,),
    )  # fmt: skip
    sizes = ModelConfig(
        vocab_size=config["vocab_size"],
        n_layer=config["n_layer"],
        n_head=config["n_head"],
        n_kv_head=config["n_head"],
        d_model=config["n_embd"],
        d_ff=config.get("n_inner") or 4 * config["n_embd"],
        max_seq_len=config["n_positions"],
        norm_eps=config["layer_norm_epsilon"],
        tie_embeddings=config.get("tie_word_embeddings", True),
        dropout=config.get("resid_pdrop", 0.0),
    )
    return gpt2(GPT(sizes))


def describe_gpt2(model):
    c = model.config
    demand(c.n_kv_head == c.n_head and c.head_dim * c.n_head == c.d_model, "GPT-2 has no GQA and no head_dim")
    return {
        "activation_function": "gelu_new", "vocab_size": c.vocab_size, "n_layer": c.n_layer,
        "n_embd": c.d_model, "n_head": c.n_head, "n_inner": c.d_ff,
        "n_positions": c.max_seq_len, "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings, "resid_pdrop": c.dropout, "embd_pdrop": c.dropout,
        "attn_pdrop": 0.0,
    }  # fmt: skip


GPT2_BLOCK = {
    "norm_attn": "ln_1", "norm_ffn": "ln_2", "attn.wqkv": "attn.c_attn", "attn.wo": "attn.c_proj",
    "ffn.w_up": "mlp.c_fc", "ffn.w_down": "mlp.c_proj",
}  # fmt: skip
GPT2_TOP = {
    "embed": "transformer.wte", "positions": "transformer.wpe", "norm": "transformer.ln_f", "head": "lm_head",
}  # fmt: skip
ON_ITS_SIDE = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")  # Conv1D keeps (in, out), nn.Linear (out, in)


def gpt2_to_theirs(weights):
    weights = dict(weights)
    weights["positions.weight"] = weights.pop("embed.positions")
    for name in [name for name in weights if ".attn.wq." in name]:
        parts = [weights.pop(name.replace(".wq.", f".w{letter}.")) for letter in "qkv"]
        weights[name.replace(".wq.", ".wqkv.")] = torch.cat(parts)  # (3 C, C) or (3 C,)
    named = renamed(weights, "blocks", GPT2_BLOCK, GPT2_TOP, "transformer.h")
    return {name: t.T if ON_ITS_SIDE.fullmatch(name) else t for name, t in named.items()}


def gpt2_to_ours(weights):
    """The published files lack the prefix `transformer.` and hold the causal masks, as attn.bias."""
    full = {re.sub(r"^(?!transformer\.|lm_head\.)", "transformer.", name): t for name, t in weights.items()}
    kept = {name: t for name, t in full.items() if not re.fullmatch(r".*\.attn\.(bias|masked_bias)", name)}
    upright = {name: t.T if ON_ITS_SIDE.fullmatch(name) else t for name, t in kept.items()}
    named = renamed(upright, "transformer.h", inverse(GPT2_BLOCK), inverse(GPT2_TOP), "blocks")
    for name in [name for name in named if ".attn.wqkv." in name]:
        for letter, part in zip("qkv", named.pop(name).chunk(3), strict=True):
            named[name.replace(".wqkv.", f".w{letter}.")] = part
    return {"embed.positions" if name == "positions.weight" else name: t for name, t in named.items()}


def wears_gpt2(model):
    return isinstance(model.embed, LearnedPositions)


def wears_qwen3(model):
    return any(isinstance(module, QKNormAttention) for module in model.modules())


FAMILIES = {
    "gpt2": Family("GPT2LMHeadModel", build_gpt2, describe_gpt2, gpt2_to_theirs, gpt2_to_ours, wears_gpt2),
    "qwen3": Family(
        "Qwen3ForCausalLM", build_qwen3, describe_llama, llama_to_theirs, llama_to_ours, wears_qwen3
    ),
    "llama": Family(
        "LlamaForCausalLM", build_llama, describe_llama, llama_to_theirs, llama_to_ours, lambda model: True
    ),
}
