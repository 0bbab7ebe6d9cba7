"""Measure the claims: bytes, context, perplexity, facts far back, and how long a decode step takes."""

import torch
import torch.nn.functional as F

from common import hub, tokenizer
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench, break_even
from common.model import GPT, ModelConfig, attend, set_attend
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for

from . import kv_quant
from ._gpu import bench_gpu
from ._lab import answers, facts, forms_for, kind, lookup_model, surprise, unseen
from .bags import integer_scores
from .kv_quant import QuantizedCache, read, with_floats
from .rows import INT2, INT4, INT8, Format

SPEED = {"unit": "steps/s", "better": "higher"}
FORMS = {"8 bits": INT8, "4 bits": INT4, "2 bits": INT2}


def on_meta(kind, S, K=8, D=128):
    """Bytes of a float16 cache for one layer, with heads as a Llama of 8 billion has; nothing is made."""
    cache = kind(1, K, D, S, torch.empty(0, dtype=torch.float16, device="meta"))
    return cache.nbytes if isinstance(cache, QuantizedCache) else cache.k.nbytes + cache.v.nbytes


def fits(kind, nbytes):
    """How many tokens a cache of so many bytes can hold."""
    low, high = 1, 2**24
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if on_meta(kind, middle) <= nbytes else (low, middle)
    return low


def bench_bytes(b):
    """What a token takes, and how many fit. Heads of 128, keys in groups of 256, a window of 64."""
    S = b.pick(smoke=4096, quick=32_768, full=32_768)
    nbytes = on_meta(KVCache, S)
    tokens = {name: fits(kind(form), nbytes) for name, form in FORMS.items()}
    settings = {"MB a layer": nbytes / 1e6, "heads": 8, "channels": 128, "window": INT8.window,
                **{f"tokens, {name}": n for name, n in tokens.items()}}  # fmt: skip
    b.claim("capacity", "In the memory of 32,768 float16 tokens fit at least 1.88 times as many in 8 bits, "
            "scales and window included", headline=True, unit="tokens", better="higher", goal=(">=", 1.88),
            measured=values("8 bits", [float(tokens["8 bits"])], "float16", [float(S)]), settings=settings,
            bound=2.0, prediction=1 / INT8.share(128),
            why="a code is half of a float16; the prediction counts scales, the rest is the window")
    used, more = (on_meta(kind(INT8), n) for n in (8192 + 64, 2 * 8192 + 64))
    b.claim("share", "A token in 8 bits takes at most 53.2 % of float16, not 50 %", unit="bytes/token",
            better="lower", goal=("<=", 0.532), bound=0.5, prediction=INT8.share(128),
            measured=values("8 bits", [(more - used) / 8192], "float16", [float(on_meta(KVCache, 1))]),
            settings={f"share, {name}, heads of {D}": form.share(D) for name, form in FORMS.items()
                      for D in (32, 64, 128)},
            why="a row of 256 keys, or of 128 values, has 8 bytes of scale and low; small heads pay more")
    wrong = 0.0
    for form in (*FORMS.values(), Format(8, 64, 1), Format(4, 32, 100), Format(2, 16, 7)):
        for n in (1, 500, 4099):
            codes = max(0, n - form.window) // form.group * form.group * form.bytes_per_token(8, 128)
            floats = min(n, form.window + form.group) * 2 * 2 * 8 * 128
            wrong += abs(on_meta(kind(form), n) - codes - floats)
    b.claim("formula", "What caches take is what the formula says, to the byte", unit="bytes off",
            better="lower", goal=("==", 0), measured=values("18 caches", [wrong]),
            why="the tests hold it for the storage of caches that are filled")  # fmt: skip


def bench_perplexity(b):
    """Unseen text through the cache, 8 tokens at a time, so that most of what is looked at is codes."""
    folder = chain.find("base", say=b.say)
    model, words = hub.load(folder, device=b.device).eval(), tokenizer.load(folder)
    T, rows = min(512, model.config.max_seq_len), b.pick(smoke=1, quick=16, full=96)
    pages, found = unseen(words, rows * T).view(rows, T).to(b.device), {}
    b.say(f"reading {rows} x {T} tokens through each cache …")
    kinds = {"full": KVCache} | {name: kind(form) for name, form in forms_for(model.config.head_dim).items()}
    for name, make in kinds.items():
        parts = [surprise(model, part, caches_for(model, make, *part.shape)) for part in pages.split(32)]
        found[name] = torch.cat(parts).mean(1).exp().tolist()  # of each row
    goals = {"8 bits": ("perplexity-8", 1.001, "0.1 %"), "4 bits": ("perplexity-4", 1.01, "1 %")}
    for name, (id, goal, said) in goals.items():
        b.claim(id, f"{name} raise the base model's perplexity by at most {said}", unit="perplexity",
                better="lower", goal=("<=", goal),
                measured=values(name, found[name], "full cache", found["full"]),
                settings={"tokens": rows * T, "form": str(forms_for(model.config.head_dim)[name]),
                          "2 bits, ratio": values("", found["2 bits"], "full", found["full"])["ratio"]},
                why="the ratio is the median of stretches of 512 tokens")  # fmt: skip


def bench_recall(b):
    """A fact at the start, asked for at the end, of a model wired by hand to look it up."""
    far, count = b.pick(smoke=512, quick=2048, full=6144), b.pick(smoke=2, quick=16, full=64)
    model = set_attend(lookup_model(context=far + 8), kv_quant.attend)
    prompts, right = facts(model, count, far)

    def answered(make):
        def caches(size):
            return caches_for(model, make, min(8, count), size)

        return torch.cat([answers(model, some, right.size(1), caches) for some in prompts.split(8)])

    full = answered(KVCache)
    settings = {"facts": count, "tokens between": far, "right with the full cache": share(full, right)}
    for name, id in (("8 bits", "recall-8"), ("4 bits", "recall-4")):
        b.claim(id, f"With {name}, all facts at the start of a long text are found as with the full cache",
                unit="of the answers", better="higher", goal=(">=", 1.0), settings=settings,
                measured=values(name, [share(answered(kind(FORMS[name])), full)]),
                why="an induction head over rounded keys, two channels of which are loud")  # fmt: skip


def share(a, c):
    """The share of rows that are the same in all places."""
    return float((a == c).all(1).float().mean())


# ---- the clock ----


def model_124m(b):
    """GPT-2's depth, width and vocabulary, untrained: weights do not change speed."""
    full = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
    small = {"vocab_size": 97, "n_layer": 2, "n_head": 2, "n_kv_head": 2, "d_model": 128, "d_ff": 64}
    torch.manual_seed(0)
    sizes = b.pick(smoke=small, quick=full, full=full)
    return GPT(ModelConfig(**sizes, max_seq_len=40_000, tie_embeddings=True)).eval()


def filled(model, make, rows, S):
    """Caches that hold S tokens of noise, the same for every kind."""
    caches, draw = caches_for(model, make, rows, S + 8), torch.Generator().manual_seed(0)
    for cache in caches:
        for start in range(0, S, 1024):
            new = torch.randn(2, rows, cache.k.size(1), min(1024, S - start), cache.k.size(3), generator=draw)
            if isinstance(cache, QuantizedCache):  # without making floats of all that is there
                cache.put(*new)
                cache.settle()
            else:
                cache.update(*new, torch.arange(start, start + new.size(3)))
    return caches


def steps(model, rows, S, ways):
    """{name: a decode step of `rows` texts of S tokens}. ways: {name: (kind of cache, attend)}."""
    token, sides = torch.zeros(rows, 1, dtype=torch.long), {}

    def side(caches, fn):
        @torch.no_grad()
        def step():
            set_attend(model, fn)
            for cache in caches:
                cache.length = S
            return model(token, caches=caches)

        return step

    for name, (make, fn) in ways.items():
        sides[name] = side(filled(model, make, rows, S), fn)
    return sides


def near(a, c):
    """The same step, but for the rounding: logits of untrained weights, nearly the same direction."""
    return bool(F.cosine_similarity(a.flatten(), c.flatten(), dim=0) > 0.98)


def ways(names):
    return {"float32": (KVCache, attend)} | {name: (kind(FORMS[name]), kv_quant.attend) for name in names}


def bound(model, b, rows, S):
    """By bytes alone, how many times faster a step can be in 8 bits."""
    config = model.config
    weights = 4 * (sum(p.numel() for p in model.parameters()))
    full = rows * S * config.n_layer * 8 * config.n_kv_head * config.head_dim
    return (weights + full) / (weights + full * INT8.share(config.head_dim, itemsize=4))


def bench_decode(b):
    """Whole decode steps: float32, and 8, 4 and 2 bits; short and long, one text and several."""
    model = model_124m(b)
    cases = (
        ("decode-512", b.pick(smoke=(1, 400), quick=(1, 512), full=(1, 512)), 0.95,
         "With 512 tokens a step is at least 0.95 times as fast as with a float32 cache"),
        ("decode", b.pick(smoke=(2, 500), quick=(4, 4096), full=(4, 4096)), 1.2,
         "Four texts of 4,096 tokens: a step with 8 bits is at least 1.2 times as fast as with float32"),
        ("decode-long", b.pick(smoke=(1, 600), quick=(1, 8192), full=(1, 16_384)), 1.2,
         "One long text: a step with 8 bits is at least 1.2 times as fast as with float32"))  # fmt: skip
    for id, (rows, S), goal, sentence in cases:
        run = b.compare(steps(model, rows, S, ways(FORMS)), check=near, memory=False,
                        budget=b.pick(smoke=0.5, quick=12, full=120))  # fmt: skip
        others = {f"{name}, ratio": run.speedup(name)[0] for name in ("4 bits", "2 bits")}
        b.claim(id, sentence, goal=(">=", goal), **SPEED,
                measured=run.figures("8 bits", "float32", work=rows),
                bound=bound(model, b, rows, S), settings={"texts": rows, "tokens": S, **others},
                why="the weights are read in either case; the bound counts bytes")  # fmt: skip
    sweep = []
    for S in b.pick(smoke=(400, 600), quick=(1024, 4096), full=(512, 1024, 2048, 4096, 8192, 16_384)):
        run = b.compare(steps(model, 1, S, ways(("8 bits",))), check=near, memory=False,
                        budget=b.pick(smoke=0.2, quick=6, full=40))  # fmt: skip
        value, interval = run.speedup("8 bits")
        sweep.append({"at": S, "ratio": value, "interval": interval})
    even = break_even([(row["at"], row["ratio"]) for row in sweep])
    b.claim("break-even", "From 2,048 tokens on, a single text is no slower in 8 bits", unit="tokens",
            better="lower", goal=("<=", 2048),
            measured=values("8 bits", [float(even if even is not None else sweep[0]["at"])]),
            settings={"sweep": {"over": "tokens of the text", "rows": sweep, "break_even": even}},
            why="below that, the operations of a step outweigh the bytes that it spares")  # fmt: skip


def bench_ways(b):
    """The attention alone, at 4,096 tokens: codes as they lie, floats first, and whole numbers."""
    S, H, D = b.pick(smoke=512, quick=4096, full=4096), 12, 64
    draw = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 1, H, S, D, generator=draw)
    q = torch.randn(1, H, 1, D, generator=draw)
    cache = QuantizedCache(1, H, D, S, k, INT8)
    cache.update(k, v, torch.arange(S))
    sides = {"floats first": lambda: F.scaled_dot_product_attention(q, *kv_quant.floats(*cache.past)),
             "codes": lambda: read(q, cache),
             "whole numbers": lambda: read(q, cache, integer_scores),
             "float32 cache": lambda: F.scaled_dot_product_attention(q, k, v)}  # fmt: skip
    assert torch.allclose(with_floats(q, *cache.past), sides["codes"](), atol=1e-4)
    run = b.compare(sides, check=0.05, memory=False, budget=b.pick(smoke=0.5, quick=10, full=90))
    settings = {f"{name}, ms": 1e3 * side.median for name, side in run.sides.items()}
    b.claim("codes", "Attention that reads codes is at least 4 times as fast as making floats of them first",
            unit="tok/s", better="higher", goal=(">=", 4), settings={"tokens": S, **settings},
            measured=run.figures("codes", "floats first", work=1),
            why="floats first: 1 byte is read, 4 are written, and 4 are read again")  # fmt: skip
    b.claim("attention", "Attention over 8 bits is at least twice as fast as torch's over a float32 cache",
            unit="tok/s", better="higher", goal=(">=", 2), settings={"tokens": S},
            measured=run.figures("codes", "float32 cache", work=1), bound=1 / INT8.share(D, itemsize=4),
            why="a quarter of the bytes, and some ten small operations more")  # fmt: skip


@torch.no_grad()
def main(b):
    bench_bytes(b)
    bench_perplexity(b)
    bench_recall(b)
    bench_ways(b)
    bench_decode(b)
    bench_gpu(b)


def profiled(b):
    model, (rows, S) = model_124m(b), b.pick(smoke=(1, 400), quick=(1, 4096), full=(1, 4096))
    return steps(model, rows, S, ways(("8 bits",)))["8 bits"]


if __name__ == "__main__":
    bench(main, profiled)
