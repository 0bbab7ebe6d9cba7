"""Measure the claims: first tokens behind what is held, repeats, misses, traces; and what a search finds."""

import copy
import tempfile

import torch

from common import hub
from common.benchmark import values
from common.cli.bench import bench
from common.generate import Sampling
from common.model import GPT, ModelConfig
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode

from . import _bench_search, _servers
from ._chunks import hot_cache, zipf
from ._trace import conversations, hit_rate, optimal_rate, paths_of
from .chunk_cache import ChunkCache
from .eviction import TokenStore
from .exact_cache import ExactCache
from .prefix_cache import PrefixCache

SHARED, OWN, BLOCK = 1024, 54, 16
BUDGET = {"smoke": 0.3, "quick": 8, "full": 100}  # seconds a comparison


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
    run = b.compare({"read anew": lambda: plain_prefill(model, prompt), "prefix held": behind}, check=1e-4,
                    budget=BUDGET[b.mode])  # fmt: skip
    b.claim("ttft", f"Behind a shared prefix of {shared} tokens, a prompt with {own} of its own gets its "
            "first token at least 12 times as soon", headline=True, unit="prompts/s", better="higher",
            goal=(">=", 12), measured=run.figures("prefix held", work=1), bound=(shared + own) / own,
            settings={"shared": shared, "own": own, "block": BLOCK, "dtype": "float32"},
            why="the bound counts tokens; copying the blocks and the products of few rows take their share")
    off = (cache.prefill(prompt).logits - plain_prefill(model, prompt)).abs().max().item()
    b.claim("logits", "The logits are within 1e-5 of recomputing", unit="in a logit", better="lower",
            goal=("<=", 1e-5), measured=values("prefix held", [off]))  # fmt: skip
    bench_bits(b, cache, prompt, shared)
    bench_library(b, model, behind, prompt, shared)


def bench_bits(b, cache, prompt, shared):
    """Requests go on from a prefix and write; what is held, and what is handed out, stays to the bit."""
    first = [block.clone() for block in cache.index.match(prompt[:shared])[1]]
    for seed in range(5):
        done = cache.prefill(prompt[:shared] + random_ids(cache.model, 8, seed), room=8)
        decode(cache.model, done.logits.argmax()[None, None], 8, done.caches)
    again = cache.prefill(prompt)
    whole = torch.cat(first, dim=2)
    handed = torch.stack([x[0, :, :shared] for c in again.caches for x in (c.k, c.v)])
    off = sum((a != z).sum().item() for a, z in
              zip(first, cache.index.match(prompt[:shared])[1], strict=True))  # fmt: skip
    b.claim("bits", "Blocks that are used again are those first written, to the bit", unit="numbers off",
            better="lower", goal=("<=", 0),
            measured=values("prefix held", [float(off + (handed != whole).sum().item())]))  # fmt: skip


def bench_library(b, model, behind, prompt, shared):
    """The same weights in transformers, whose recipe is a deep copy of the prefix's cache."""
    sentence = "A first token behind a held prefix comes no later than by the recipe of transformers"
    if not b.library("transformers"):
        b.not_run("library", sentence, unit="prompts/s", better="higher", goal=(">=", 1),
                  why="transformers is not installed")  # fmt: skip
        return
    from transformers import AutoModelForCausalLM, DynamicCache

    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval().to(b.device)
    start, rest = (torch.tensor([part], device=b.device) for part in (prompt[:shared], prompt[shared:]))
    with torch.no_grad():
        kept = theirs(start, past_key_values=DynamicCache(config=theirs.config)).past_key_values

    @torch.no_grad()
    def recipe():
        done = theirs(rest, past_key_values=copy.deepcopy(kept), logits_to_keep=1)
        return done.logits[0, -1]

    run = b.compare({"transformers, deep copy": recipe, "prefix held": behind}, check=1e-3, memory=False,
                    budget=BUDGET[b.mode])  # fmt: skip
    b.claim("library", sentence, unit="prompts/s", better="higher", goal=(">=", 1),
            measured=run.figures("prefix held", work=1), settings={"shared": shared},
            why="both copy the prefix once; ours also looks it up, and holds the new end")  # fmt: skip


def bench_miss(b, model):
    """A prompt that shares nothing: what looking, copying and keeping cost."""
    n = b.pick(smoke=64, quick=SHARED + OWN, full=SHARED + OWN)
    prompt, cache = random_ids(model, n, 2), PrefixCache(model, 2 * n, BLOCK)

    def missed():
        cache.index.evict(cache.index.tokens)
        return cache.prefill(prompt).logits

    run = b.compare({"project 8": lambda: plain_prefill(model, prompt), "prefix cache": missed}, check=1e-4,
                    budget=BUDGET[b.mode])  # fmt: skip
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
                    check=lambda a, c: a == c, memory=False, budget=BUDGET[b.mode])  # fmt: skip
    b.claim("repeats", "An exact repeat is answered at least 50 times as fast", unit="answers/s",
            better="higher", goal=(">=", 50), measured=run.figures("exact cache", work=1),
            settings={"prompt": n, "new": new}, why="a lookup takes microseconds, however large the model")


def bench_trace(b):
    """A replayed trace of 40 chats at once, under a budget, against a cache that knows the future."""
    turns, rates = conversations(b.pick(smoke=30, quick=300, full=1000), seed=0, users=40), {}
    distinct = len({number for path in paths_of(turns, BLOCK) for number in path}) * BLOCK
    for share in (0.1, 0.2, 0.3):
        budget = int(share * distinct)
        rates[share] = hit_rate(turns, budget, BLOCK), optimal_rate(turns, budget, BLOCK)
    ours, best = rates[0.2]
    b.claim("hits", "On a multi-turn trace, with room for a fifth of its different tokens, the hit rate is "
            "at least 0.96 of the offline optimum's", unit="of prompt tokens", better="higher",
            goal=(">=", 0.96), bound=1.0,
            measured=values("least recently used", [ours], "knows the future", [best]),
            settings={"turns": len(turns), "different tokens": distinct,
                      "[ours, optimum] by share of room": {str(k): list(v) for k, v in rates.items()}},
            why="the yardstick lets go of the block that is needed again last")  # fmt: skip


def bench_chunks(b, model):
    """Four passages and a question: the passages kept, and read at once."""
    size, own = b.pick(smoke=16, quick=256, full=256), b.pick(smoke=6, quick=OWN, full=OWN)
    passages, question = [random_ids(model, size, 10 + i) for i in range(4)], random_ids(model, own, 20)
    cache, whole = ChunkCache(model, TokenStore(8 * size)), [i for passage in passages for i in passage]
    cache.prefill(passages, question)

    def finite(a, c):
        return bool(a.isfinite().all() and c.isfinite().all()) and a.shape == c.shape

    run = b.compare({"read at once": lambda: plain_prefill(model, whole + question),
                     "passages kept": lambda: cache.prefill(passages, question).logits},
                    check=finite, budget=BUDGET[b.mode])  # fmt: skip
    b.claim("chunks", f"Behind four kept passages of {size} tokens, a question of {own} gets its first token "
            "at least 8 times as soon", unit="prompts/s", better="higher", goal=(">=", 8),
            measured=run.figures("passages kept", work=1), bound=(4 * size + own) / own,
            settings={"answers": "are not equal: claim mended says how far off"},
            why="the keys are turned and copied; the bound counts tokens")  # fmt: skip


def bench_hot(b, model):
    """A stream of retrieved passages, few of them popular: nothing kept, and the hot ones."""
    n, size = b.pick(smoke=20, quick=60, full=200), b.pick(smoke=8, quick=64, full=128)
    passages, question = [random_ids(model, size, 30 + i) for i in range(n)], random_ids(model, 16, 29)
    asked = zipf(n, b.pick(smoke=20, quick=30, full=60))
    kinds = {"nothing kept": ChunkCache(model, TokenStore(1)),
             "the hot kept": hot_cache(model, size * n // 5)}  # fmt: skip

    def serve(cache):
        return [cache.prefill([passages[i] for i in row], question).logits for row in asked]

    run = b.compare({name: lambda c=cache: serve(c) for name, cache in kinds.items()}, check=1e-4,
                    memory=False, budget=BUDGET[b.mode])  # fmt: skip
    b.claim("hot", "On a Zipf trace of retrieved passages, keeping the hot ones in room for a fifth of all "
            "takes at least 30 % less time to the first tokens", unit="s", better="lower", goal=("<=", 0.7),
            measured=run.figures("the hot kept"), settings={"passages": n, "tokens": size, "power": 1.1})


def bench_servers(b):
    """The same chats on 1 to 64 servers, in turn and by the ring."""
    numbers = b.pick(smoke=(1, 4), quick=(1, 4, 16), full=(1, 2, 4, 8, 16, 32, 64))
    found = _servers.sweep(numbers, b.pick(smoke=60, quick=500, full=2000), 16_384)
    at = min(16, numbers[-1])
    ours, turns = (1 - found[way][at]["hit rate"] for way in ("by chat", "in turn"))
    b.claim("servers", f"On {at} servers, the ring by chat computes at most 0.8 of what taking turns does",
            unit="of prompt tokens", better="lower", goal=("<=", 0.8),
            measured=values("ring, by chat", [ours], "in turn", [turns]),
            settings={"budget of each": 16_384, "slack": 1.25,
                      "sweep of servers": {way: {str(n): row for n, row in rows.items()}
                                           for way, rows in found.items()}})  # fmt: skip


def main(b):
    model = timed_model(b)
    bench_prefix(b, model)
    bench_miss(b, model)
    bench_repeats(b, model)
    bench_chunks(b, model)
    bench_hot(b, model)
    bench_trace(b)
    bench_servers(b)
    _bench_search.measure(b)


def profiled(b):
    model = timed_model(b)
    prompt, cache = random_ids(model, 256, 0), PrefixCache(model, 4096, BLOCK)
    return lambda: cache.prefill(prompt)


if __name__ == "__main__":
    bench(main, profiled)
