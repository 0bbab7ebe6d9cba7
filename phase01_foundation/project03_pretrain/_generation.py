"""Generation with the plain cache at the 124M shape, beside `transformers` with the same weights.

Once in the model's own clothes, which `transformers` calls Llama, and once in GPT-2's. There `transformers`
stores matrices the other way round, (in, out), which the one-row product of MKL reads faster; so a third side
is our model with its matrices laid out like that, the same numbers in the same order of multiplication.
"""

import copy
import tempfile
from functools import partial

import torch
from torch import nn

from common import hub, profiling
from common.generate import Sampling, generate
from common.model import GPT, ModelConfig
from common.variants import gpt2

SENTENCES = {
    "generation": "Generation with the plain cache is at least as fast as `transformers` generate, 124M",
    "generation-gpt2": "The same with the model dressed as GPT-2",
    "generation-gpt2-turned": "The same with our matrices stored as `transformers` stores them",
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::mv", "aten::addmv")


def shape(b, d_ff):
    """GPT-2 small, 124M weights; something that fits into a test where that is asked for."""
    full = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": d_ff}
    small = {"vocab_size": 300, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "d_model": 64, "d_ff": d_ff // 12}
    sizes = b.pick(smoke=small, quick=full, full=full)
    return ModelConfig(**sizes, max_seq_len=1024, tie_embeddings=True)


def turned(model):
    """A copy whose blocks hold each matrix transposed in memory: (out, in) to the eye, (in, out) inside."""
    model = copy.deepcopy(model)
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
    return model


def bench_generation(b):
    """Greedy, batch 1, a prompt of 128 tokens and 128 new ones: the same tokens, then the same clock."""
    claim = {"unit": "tok/s", "better": "higher", "goal": (">=", 1.0)}
    if not b.library("transformers"):
        for name, sentence in SENTENCES.items():
            b.not_run(name, sentence, why="transformers is not installed", **claim)
        return
    torch.manual_seed(0)
    own, dressed = GPT(shape(b, 2048)), gpt2(GPT(shape(b, 3072)))
    generate_with(b, claim, own.eval().to(b.device), {"ours": ("generation", own)})
    dressed = dressed.eval().to(b.device)
    sides = {"ours": ("generation-gpt2", dressed),
             "ours, turned": ("generation-gpt2-turned", turned(dressed))}  # fmt: skip
    generate_with(b, claim, dressed, sides)


def generate_with(b, claim, model, ours):
    """A claim for each of `ours`, {name: (claim, model)}, beside `transformers` with the same weights."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval().to(b.device)
    new = b.pick(smoke=4, quick=32, full=128)
    prompt = torch.randint(model.config.vocab_size, (1, 128), generator=torch.Generator().manual_seed(0))
    greedy = Sampling(max_tokens=new, temperature=0.0, ignore_eos=True)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True}
    given = prompt.to(b.device)
    sides = {"transformers": lambda: theirs.generate(given, **options, pad_token_id=0)[0, 128:].tolist()}
    for name, (_, mine) in ours.items():
        sides[name] = partial(answer, mine, prompt.tolist(), greedy)
    run = b.compare(sides, check=lambda a, c: a == c, budget=b.pick(smoke=0.5, quick=15, full=180))
    weights = sum(p.numel() for p in model.parameters()) * 4
    decode = weights / b.ceilings.read  # each new token reads every weight once
    for name, (id, _) in ours.items():
        b.claim(id, SENTENCES[id], measured=run.figures(name, "transformers", work=new), **claim,
                bound=run.sides["transformers"].median / (new * decode),
                why="the bound reads every weight once a token, and does nothing else",
                settings={"prompt": 128, "new": new, "dtype": "float32", "batch": 1,
                          "of its time in matrix products": products(sides[name], b.device)})  # fmt: skip


def products(call, device):
    """The share of a call's time that is spent in products of matrices."""
    rows = profiling.profile(call, device, steps=1, rows=20)["operations"]
    return round(sum(row["share"] for row in rows if row["name"] in PRODUCTS), 2)


def answer(model, prompt, sampling):
    return list(generate(model, prompt, sampling)[0].ids)
