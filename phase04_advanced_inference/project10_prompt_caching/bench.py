"""Measure the claims: a first token behind a shared prefix, exact repeats, and what a miss costs."""

import numpy as np
import torch

from common.benchmark import values
from common.cli.bench import bench
from common.generate import Sampling
from common.model import GPT, ModelConfig
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode

from ._trace import conversations, hit_rate, optimal_rate
from .eviction import TokenStore
from .exact_cache import ExactCache
from .hnsw import HNSW, exact
from .prefix_cache import PrefixCache

SHARED, OWN, BLOCK = 1024, 54, 16


def timed_model(b):
    """The base model's shape, untrained: what a prefill costs depends on sizes alone."""
    tiny = {"n_layer": 2, "d_model": 32, "n_head": 4, "n_kv_head": 2, "d_ff": 48, "vocab_size": 97}
    sizes = b.pick(smoke=tiny, quick={}, full={})
    torch.manual_seed(0)
    return GPT(ModelConfig(**sizes, max_seq_len=2048, tie_embeddings=True)).eval().to(b.device)


def random_ids(model, n, seed):
    """n ids, other ones for each seed."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (n,), generator=draw).tolist()


@torch.no_grad()
def plain_prefill(model, ids):
    """Project 8's prefill: the logits (V,) after ids, and caches to decode on with; nothing is kept."""
    caches = caches_for(model, KVCache, 1, len(ids))
    tokens = torch.tensor([ids], device=model.embed.weight.device)
    return model.head(model.hidden(tokens, caches=caches)[0, -1])


def bench_prefix(b, model):
    """95 % of a prompt of 1,024 + 54 tokens is held."""
    shared, own = b.pick(smoke=64, quick=SHARED, full=SHARED), b.pick(smoke=6, quick=OWN, full=OWN)
    prompt = random_ids(model, shared, 0) + random_ids(model, own, 1)
    cache = PrefixCache(model, 8 * (shared + own), BLOCK)
    cache.prefill(prompt[:shared])

    def behind():
        cache.index.evict(cache.index.tokens - shared)  # the end of the run before, never the beginning
        return cache.prefill(prompt).logits

    assert cache.prefill(prompt).reused == shared
    run = b.compare({"read anew": lambda: plain_prefill(model, prompt), "prefix held": behind}, check=1e-4)
    b.claim("ttft", f"Behind a shared prefix of {shared} tokens, a prompt with {own} of its own gets its "
            "first token at least 12 times as soon", headline=True, unit="prompts/s", better="higher",
            goal=(">=", 12), measured=run.figures("prefix held", work=1), bound=(shared + own) / own,
            settings={"shared": shared, "own": own, "block": BLOCK, "dtype": "float32"},
            why="the bound counts tokens; copying the blocks and the products of few rows take their share")
    off = (cache.prefill(prompt).logits - plain_prefill(model, prompt)).abs().max().item()
    b.claim("logits", "The logits are within 1e-5 of recomputing", unit="in a logit", better="lower",
            goal=("<=", 1e-5), measured=values("prefix held", [off]))  # fmt: skip


def bench_miss(b, model):
    """A prompt that shares nothing: what looking, copying and keeping cost."""
    n = b.pick(smoke=64, quick=SHARED + OWN, full=SHARED + OWN)
    prompt, cache = random_ids(model, n, 2), PrefixCache(model, 2 * n, BLOCK)

    def missed():
        cache.index.evict(cache.index.tokens)
        return cache.prefill(prompt).logits

    run = b.compare({"project 8": lambda: plain_prefill(model, prompt), "prefix cache": missed}, check=1e-4)
    b.claim("miss", "A prompt that shares nothing takes at most 1 % longer", unit="prompts/s",
            better="higher", goal=(">=", 0.99), measured=run.figures("prefix cache", work=1),
            settings={"tokens": n}, why="every block is copied once, into storage of its own")  # fmt: skip


def bench_repeats(b, model):
    """The same request again."""
    n, new = b.pick(smoke=8, quick=64, full=64), b.pick(smoke=4, quick=32, full=32)
    ids, sampling = random_ids(model, n, 3), Sampling(temperature=0, max_tokens=new)
    tokens, cache = torch.tensor([ids], device=b.device), ExactCache(TokenStore(1 << 20))

    def compute():
        return decode(model, tokens, new, caches_for(model, KVCache, 1, n + new))[0].tolist()

    run = b.compare({"computed": lambda: list(compute()),
                     "exact cache": lambda: list(cache.answer(ids, sampling, compute))},
                    check=lambda a, c: a == c, memory=False)  # fmt: skip
    b.claim("repeats", "An exact repeat is answered at least 50 times as fast", unit="answers/s",
            better="higher", goal=(">=", 50), measured=run.figures("exact cache", work=1),
            settings={"prompt": n, "new": new}, why="a lookup takes microseconds, however large the model")


def bench_trace(b):
    """A replayed multi-turn trace, under a budget, against a cache that knows the future."""
    turns = conversations(b.pick(smoke=8, quick=60, full=200), seed=0)
    rates = {}
    for share in (0.1, 0.25, 0.5):
        budget = int(share * sum({tuple(t): len(t) for t in turns}.values()))
        rates[share] = hit_rate(turns, budget, BLOCK), optimal_rate(turns, budget, BLOCK)
    ours, best = rates[0.25]
    b.claim("hits", "On a multi-turn trace the hit rate is at least 0.96 of the offline optimum's",
            unit="of prompt tokens", better="higher", goal=(">=", 0.96),
            measured=values("least recently used", [ours], "knows the future", [best]),
            settings={"turns": len(turns), "budget": 0.25, "rates": {str(k): v for k, v in rates.items()}},
            why="the yardstick lets go of the block that is needed again last")  # fmt: skip


def bench_graph(b):
    """Recall at 10 and distances a query, from small to large."""
    draw, rows = np.random.default_rng(0), []
    largest, dim = b.pick(smoke=200, quick=2000, full=50_000), b.pick(smoke=16, quick=128, full=128)
    # of low inner dimension, as embeddings are: uniform noise has no near and far
    mix = draw.normal(size=(16, dim))
    points = (draw.normal(size=(largest + 100, 16)) @ mix).astype(np.float32)
    points, queries = points[:-100], points[-100:]
    graph = HNSW(dim, M=16, ef_construction=100)
    for n in [largest // 8, largest // 4, largest // 2, largest]:
        while len(graph) < n:
            graph.add(points[len(graph)])
        graph.calls = 0
        found = [set(graph.search(q, 10, 100)) for q in queries]
        calls = graph.calls / len(queries)
        right = [len(f & set(exact(points[:n], q, 10))) / 10 for f, q in zip(found, queries, strict=True)]
        rows.append({"at": n, "calls": calls, "recall": sum(right) / len(right)})
    b.claim("recall", f"Recall at 10 among {largest} vectors of {dim} is at least 0.95", unit="of 1",
            better="higher", goal=(">=", 0.95), measured=values("HNSW", [rows[-1]["recall"]]),
            settings={"ef": 100, "sizes": rows})  # fmt: skip
    b.claim("calls", "Eight times the vectors cost at most twice the distances a query", unit="distances",
            better="lower", goal=("<=", 2), settings={"sizes": rows},
            measured=values("largest", [rows[-1]["calls"]], "an eighth", [rows[0]["calls"]]))  # fmt: skip


def main(b):
    model = timed_model(b)
    bench_prefix(b, model)
    bench_miss(b, model)
    bench_repeats(b, model)
    bench_trace(b)
    bench_graph(b)


def profiled(b):
    model = timed_model(b)
    prompt, cache = random_ids(model, 256, 0), PrefixCache(model, 4096, BLOCK)
    return lambda: cache.prefill(prompt)


if __name__ == "__main__":
    bench(main, profiled)
