"""How fast: one product in several forms, and a model that decodes and reads, whole and pruned."""

import copy
import time
import warnings

import torch
import torch.nn.functional as F

from common.model import GPT, Cache, ModelConfig

from . import _lab, structured
from .magnitude import kept, largest
from .storage import compress, expand

# GPT-2's 124M shape with the course's vocabulary: 93 million weights, of which the blocks have 85
FULL = {"vocab_size": 10_000, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
BASE = {"vocab_size": 10_000, "n_layer": 6, "n_head": 8, "n_kv_head": 4, "d_model": 256, "d_ff": 640}
SMALL = {"vocab_size": 320, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "d_model": 64, "d_ff": 128}
PROMPT, WHOLE = 64, "whole"


def matrix_of(width, share, seed=0):
    """Random weights (width, width), of which the smallest share is 0."""
    w = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)) / width**0.5
    return w * largest(w.abs().flatten(), kept(w.numel(), share)).view_as(w)


def forms(w, x):
    """{name: call} of x @ w.T in every form that a matrix with zeros can have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse tensors a beta
        sparse = w.to_sparse_csr()
    bits, turned = compress(w), x.T.contiguous()
    return {"zeros in a plain matrix": lambda: F.linear(x, w),
            "sparse rows (CSR)": lambda: (sparse @ turned).T,
            "bitmask, made whole": lambda: F.linear(x, expand(*bits, w.shape))}  # fmt: skip


def smaller(w, x, share):
    """A call with as many weights gone as rows and columns: both shorter by the root."""
    n = round(w.size(0) * (1 - share) ** 0.5)
    part, y = w[:n, :n].contiguous(), x[:, :n].contiguous()
    return lambda: F.linear(y, part)


def shortest(calls, rounds=9):
    """{name: seconds of the shortest call}, the calls in turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name] = min(found[name], time.perf_counter() - start)
    return found


@torch.inference_mode()
def products(width, rows, shares):
    """{form: {share: how many times as fast as the whole matrix}}"""
    x, found = torch.randn(rows, width, generator=torch.Generator().manual_seed(1)), {}
    whole = torch.randn(width, width) / width**0.5
    for share in shares:
        w = matrix_of(width, share)
        best = shortest({WHOLE: lambda: F.linear(x, whole), **forms(w, x),
                         "fewer rows and columns": smaller(w, x, share)})  # fmt: skip
        for name in best.keys() - {WHOLE}:
            found.setdefault(name, {})[share] = best[WHOLE] / best[name]
    return dict(sorted(found.items()))


def model_of(sizes, context=1024):
    """Random weights of these sizes."""
    torch.manual_seed(0)
    return GPT(ModelConfig(max_seq_len=context, tie_embeddings=True, **sizes)).eval()


def smaller_model(model, share):
    """A copy without a share of all its weights, the last heads and neurons: a clock minds not which."""
    groups, neurons = structured.sizes(model.config, _lab.of_blocks(model, share))
    size = {"groups": groups, "neurons": neurons}
    return structured.shaped(copy.deepcopy(model), [size] * len(model.blocks))


def weights_read(model) -> int:
    """Weights that one token reads: those of the blocks, and of the head."""
    return sum(p.numel() for part in (model.blocks, model.head) for p in part.parameters())


def silent(model, pruned):
    """The large model with what the small one lacks set to 0: both give the same logits."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block, small in zip(model.blocks, pruned.blocks, strict=True):
            block.attn.wo.weight[:, small.attn.wo.in_features :] = 0
            block.ffn.w_down.weight[:, small.ffn.w_down.in_features :] = 0
    return model


def decoding(model, new):
    """A call that feeds `new` given tokens one after the other behind a prompt; the logits, (new, V)."""
    draw, caches = torch.Generator().manual_seed(0), [Cache() for _ in model.blocks]
    device, V = model.norm.weight.device, model.config.vocab_size
    prompt = torch.randint(V, (1, PROMPT), generator=draw).to(device)
    tokens = torch.randint(V, (new, 1, 1), generator=draw).to(device)
    with torch.inference_mode():
        model(prompt, caches=caches)

    @torch.inference_mode()
    def call():
        for cache in caches:
            cache.length = PROMPT
        return torch.cat([model(token, caches=caches)[0] for token in tokens])

    return call


def reading(model, length):
    """A call that reads a prompt; the logits behind its last token, (1, V)."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (1, length), generator=draw).to(model.norm.weight.device)

    @torch.inference_mode()
    def call():
        return model.head(model.hidden(tokens)[:, -1])

    return call
