"""Generation with the plain cache at the 124M shape, beside `transformers` with the same weights."""

import tempfile

import torch

from common import hub
from common.generate import Sampling, generate
from common.model import GPT, ModelConfig
from common.variants import gpt2

SENTENCE = "Generation with the plain cache is at least as fast as `transformers` generate at GPT-2's shape"


def shape(b):
    """GPT-2 small, 124M weights; something that fits into a test where that is asked for."""
    full = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 3072}
    small = {"vocab_size": 300, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "d_model": 64, "d_ff": 256}
    sizes = b.pick(smoke=small, quick=full, full=full)
    return ModelConfig(**sizes, max_seq_len=1024, tie_embeddings=True)


def bench_generation(b):
    """Greedy, batch 1, a prompt of 128 tokens and 128 new ones: the same tokens, then the same clock."""
    claim = {"unit": "tok/s", "better": "higher", "goal": (">=", 1.0)}
    if not b.library("transformers"):
        b.not_run("generation", SENTENCE, why="transformers is not installed", **claim)
        return
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = gpt2(GPT(shape(b))).eval()
    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval().to(b.device)
    model, new = model.to(b.device), b.pick(smoke=4, quick=32, full=128)
    prompt = torch.randint(model.config.vocab_size, (1, 128), generator=torch.Generator().manual_seed(0))
    greedy = Sampling(max_tokens=new, temperature=0.0, ignore_eos=True)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True}
    given = prompt.to(b.device)
    sides = {
        "transformers": lambda: theirs.generate(given, **options, pad_token_id=0)[0, 128:].tolist(),
        "ours": lambda: list(generate(model, prompt.tolist(), greedy)[0].ids),
    }
    run = b.compare(sides, check=lambda a, c: a == c, budget=b.pick(smoke=0.5, quick=15, full=80))
    weights = sum(p.numel() for p in model.parameters()) * 4
    decode = weights / b.ceilings.read  # each new token reads every weight once
    b.claim("generation", SENTENCE, measured=run.figures("ours", work=new), **claim,
            bound=run.sides["transformers"].median / (new * decode),
            why="the bound reads every weight once a token, and does nothing else",
            settings={"prompt": 128, "new": new, "dtype": "float32", "batch": 1})
