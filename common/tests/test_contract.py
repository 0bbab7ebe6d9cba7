"""What thirty projects rely on, word by word: who changes a name or a signature here changes it for all."""

import dataclasses
import inspect
import json

import pytest
import torch

from common import generate, hub, model, testing, tokenizer, variants
from common.model import GPT, ModelConfig
from common.testing import tiny

SIGNATURES = {
    "ModelConfig": "(*, vocab_size: int = 10000, n_layer: int = 6, n_head: int = 4, n_kv_head: int = 2, "
    "head_dim: int | None = None, d_model: int = 256, d_ff: int = 688, max_seq_len: int = 512, "
    "rope_theta: float = 10000.0, norm_eps: float = 1e-05, tie_embeddings: bool = False, "
    "dropout: float = 0.0) -> None",
    "GPT": "(config, attend=attend)",
    "GPT.forward": "(self, tokens, *, positions=None, caches=None, mask=None)",
    "GPT.hidden": "(self, tokens, *, positions=None, caches=None, mask=None)",
    "GPT.init_weights": "(self)",
    "Block": "(config, attend=attend)",
    "Block.forward": "(self, x, **where)",
    "Attention": "(config, attend=attend)",
    "Attention.project": "(self, x, rope)",
    "Attention.forward": "(self, x, *, rope, positions, cache=None, mask=None)",
    "SwiGLU": "(config)",
    "SwiGLU.forward": "(self, x)",
    "Embedding": "(config)",
    "Embedding.forward": "(self, tokens, positions)",
    "RMSNorm": "(dim, eps=1e-05)",
    "RMSNorm.forward": "(self, x)",
    "Rope": "(head_dim, theta)",
    "Rope.inv_freq": "(self, device)",
    "Rope.forward": "(self, positions)",
    "rotate": "(x, rope)",
    "distance": "(positions, S, cache=None)",
    "attend": "(q, k, v, *, positions, cache=None, mask=None)",
    "Cache": "()",
    "Cache.update": "(self, k, v, positions)",
    "swap": "(model, kind, make, where=where)",
    "set_attend": "(model, fn, where=where)",
    "untie": "(model)",
}
OTHERS = {
    (generate, "generate"): "(model, prompts, sampling=None, *, tokenizer=None, caches=None, eos_ids=None)",
    (generate, "stream"): "(model, prompts, sampling=None, *, tokenizer=None, caches=None, eos_ids=None)",
    (generate, "sample"): "(logits, sampling, draws, *, seen=None)",
    (generate, "draw"): "(seed, i)",
    (generate, "Sampling"): "(max_tokens: int = 128, temperature: float = 1.0, top_k: int = 0, "
    "top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0, stop: tuple[str, ...] = (), "
    "seed: int | None = None, logprobs: int = 0, ignore_eos: bool = False) -> None",
    (generate, "TextStream"): "(tokenizer, stop=())",
    (hub, "load"): "(folder_or_name, *, device='cpu', dtype=None, restore=None)",
    (hub, "save"): "(model, folder, *, tokenizer=None, card=None, shard_bytes=2147483648)",
    (hub, "mark"): "(model, by, **args)",
    (tokenizer, "load"): "(folder)",
    (testing, "tiny"): "(**overrides)",
    (
        testing,
        "check_attend",
    ): "(fn, *, bias=None, masks=True, caches=True, gradients=True, dtype=torch.float32)",
    (testing, "check_cache"): "(make, *, lossy=0.0, gradients=False)",
    (testing, "spawn"): "(fn, world, *args, timeout=60.0)",
    (testing, "copy_weights"): "(source, target, names)",
    (testing, "trained"): "(*, steps=120, seed=0, **overrides)",
    (variants, "gpt2"): "(model)",
    (variants, "alibi_attend"): "(q, k, v, *, positions, cache=None, mask=None)",
}
SHAPES = {
    "embed.weight": (97, 32),
    "blocks.0.norm_attn.weight": (32,),
    "blocks.0.attn.wq.weight": (32, 32),
    "blocks.0.attn.wk.weight": (16, 32),
    "blocks.0.attn.wv.weight": (16, 32),
    "blocks.0.attn.wo.weight": (32, 32),
    "blocks.0.norm_ffn.weight": (32,),
    "blocks.0.ffn.w_gate.weight": (48, 32),
    "blocks.0.ffn.w_up.weight": (48, 32),
    "blocks.0.ffn.w_down.weight": (32, 48),
    "norm.weight": (32,),
    "head.weight": (97, 32),
}


def signature(thing):
    """As it stands in the source: a function that is a default goes by its parameter's name."""
    found = inspect.signature(thing)
    named = [
        p.replace(default=Named(p.name)) if inspect.isfunction(p.default) else p
        for p in found.parameters.values()
    ]
    return str(found.replace(parameters=named)).split(" -> collections")[0].split(" -> list")[0]


class Named(str):
    __repr__ = str.__str__


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_of_the_core(name):
    owner, _, method = name.partition(".")
    thing = getattr(model, owner)
    assert signature(getattr(thing, method) if method else thing) == SIGNATURES[name]


@pytest.mark.parametrize("module, name", OTHERS)
def test_signatures_around_it(module, name):
    assert signature(getattr(module, name)).split(" -> common")[0] == OTHERS[module, name]


def test_weights_and_their_names():
    gpt = GPT(tiny(n_layer=1))
    assert {name: tuple(p.shape) for name, p in gpt.named_parameters()} == SHAPES
    assert {name: tuple(p.shape) for name, p in gpt.state_dict().items()} == SHAPES, (
        "no buffer, no other state"
    )
    tied = GPT(tiny(n_layer=1, tie_embeddings=True))
    assert list(dict(tied.named_parameters())) == list(SHAPES)[:-1]


def test_the_order_of_parts():
    """Order of modules is the order of the computation: pipelines cut by it, pictures are drawn by it."""
    gpt = GPT(tiny(n_layer=1))
    assert [name for name, _ in gpt.named_children()] == ["embed", "rope", "blocks", "norm", "head"]
    assert [name for name, _ in gpt.blocks[0].named_children()] == [
        "norm_attn", "attn", "norm_ffn", "ffn", "dropout",
    ]  # fmt: skip


def test_a_block_is_told_where_it_stands():
    """Every block is called with exactly these keywords, so that one that is swapped in can count on them."""
    gpt, seen = GPT(tiny()), []
    gpt.blocks[0].register_forward_hook(
        lambda m, args, where, y: seen.append((args, where)), with_kwargs=True
    )
    gpt(torch.zeros(2, 3, dtype=torch.long))
    [((x,), where)] = seen
    assert x.shape == (2, 3, 32) and set(where) == {"rope", "positions", "cache", "mask"}
    assert where["positions"].tolist() == [0, 1, 2] and where["cache"] is where["mask"] is None
    cos, sin = where["rope"]
    assert cos.shape == sin.shape == (1, 3, 4)


def test_frozen_dataclasses_can_be_saved_beside_a_result():
    for value in (tiny(), generate.Sampling(stop=("a",))):
        said = json.loads(json.dumps(dataclasses.asdict(value)))
        assert type(value)(**said) == value
    assert [field.name for field in dataclasses.fields(ModelConfig)][:4] == [
        "vocab_size",
        "n_layer",
        "n_head",
        "n_kv_head",
    ]


def test_answers_and_pieces():
    fields = {kind: [field.name for field in dataclasses.fields(getattr(generate, kind))] for kind in
              ("Piece", "Answer", "TokenLogprob")}  # fmt: skip
    assert fields == {
        "Piece": ["row", "id", "text", "logprob", "finish"],
        "Answer": ["ids", "text", "logprobs", "finish"],
        "TokenLogprob": ["id", "logprob", "top"],
    }


@pytest.mark.parametrize("kind", ["CharTokenizer", "BPETokenizer", "ForeignTokenizer"])
def test_every_tokenizer_keeps_the_protocol(kind):
    made = getattr(tokenizer, kind)
    for name in ("encode", "decode", "token_bytes", "chat_text", "chat_ids", "save"):
        wanted = inspect.signature(getattr(tokenizer.Tokenizer, name)).parameters
        assert list(inspect.signature(getattr(made, name)).parameters) == list(wanted), name
    letters = tokenizer.CharTokenizer("ab")
    for name in tokenizer.Tokenizer.__annotations__:
        assert hasattr(letters, name), name
    assert tokenizer.SPECIAL == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
