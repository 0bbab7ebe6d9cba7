"""Measure the claims: the cache beside recomputing, `transformers` and the memory; two modes; groups."""

import copy
import tempfile

import torch

from common import hub
from common.benchmark import paired, values
from common.cli.bench import bench, break_even
from common.model import GPT, ModelConfig, attend
from data.tinytown import TinyTown

from ._gpu import bench_gpu
from ._groups import divisors
from ._lab import batches, fit, loss
from ._long import Run, crossing, long_run
from ._modes import MODES, Fastest, dual, equal_but_ties
from ._theory import cost_of
from .gqa import cache_bytes, folded, regroup
from .kv_cache import KVCache, caches_for, decode

SPEED = {"unit": "tok/s", "better": "higher"}
PROMPT = 32


def model_124m(b):
    """123.5 million weights, tied: GPT-2's depth, width and vocabulary in the course's architecture."""
    full = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
    small = {"vocab_size": 300, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "d_model": 32, "d_ff": 64}
    torch.manual_seed(0)
    sizes = b.pick(smoke=small, quick=full, full=full)
    return GPT(ModelConfig(**sizes, max_seq_len=1024, tie_embeddings=True)).eval().to(b.device)


def random_prompt(b, model, T=PROMPT, seed=0):
    """Random ids (1, T)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (1, T), generator=draw).to(b.device)


def bench_long(b, model, fastest):
    """32 + 992 tokens, greedy, batch 1: recomputed at every 16th step and integrated, against the cache."""
    new, runs = b.pick(smoke=24, quick=160, full=992), b.pick(smoke=1, quick=1, full=6)
    prompt, cost = random_prompt(b, model), cost_of(model)
    b.say(f"measuring {PROMPT} + {new} tokens, every 16th of them also without a cache …")
    found = [long_run(model, fastest, prompt, new, 16 * runs, 16 * i) for i in range(runs)]
    totals = [run.totals() for run in found]
    bound = cost.bound(PROMPT, new, b.ceilings)
    without, with_cache = cost.totals(PROMPT, new)
    settings = {"prompt": PROMPT, "new": new, "batch": 1, "dtype": "float32", "runs": runs, "every": 16,
                "times fewer operations": without / with_cache}  # fmt: skip
    rates = [[new / spent for spent in side] for side in zip(*totals, strict=True)]
    b.claim("speed", "An answer of 32 + 992 tokens at the 124M shape comes at least 15 times as fast with "
            "the cache as by recomputing", headline=True, goal=(">=", 15), settings=settings, **SPEED,
            measured=values("cache, one graph", rates[1], "recomputed", rates[0]),
            bound=totals[0][0] / bound[1], prediction=bound[0] / bound[1],
            why="the bound reads every weight once a token as fast as memory was ever read")  # fmt: skip
    for ratio in (10, 30):
        at, seen = crossing(found, ratio)
        claim = {"unit": "new tokens", "better": "lower", "goal": ("<=", 992)}
        sentence = f"The whole answer is {ratio} times as fast within 992 new tokens"
        if at is None:
            b.not_run(f"crossing-{ratio}", sentence, why="not crossed within 20,000 tokens", **claim)
            continue
        b.claim(f"crossing-{ratio}", sentence, measured=values("cache, one graph", [at]), **claim,
                only="" if seen else f"extrapolated beyond the {new} measured tokens",
                why="by the parabola and the line through what was measured")  # fmt: skip
    bench_bandwidth(b, cost, found)
    return totals


def bench_bandwidth(b, cost, runs):
    """The share of the read bandwidth at which the decode steps take in weights and cache."""
    n = len(runs[0].cached)
    read = sum(cost.weights + cost.kv * (PROMPT + i) for i in range(1, n))
    shares = [read / sum(run.cached[1:]) / b.ceilings.read for run in runs]
    b.claim("bandwidth", "Decoding reads weights and cache at 70 % of the measured read bandwidth or more",
            unit="of the bandwidth", better="higher", goal=(">=", 0.7), bound=1.0,
            measured=values("cache, one graph", shares),
            settings={"bytes/s": b.ceilings.read, "weights": cost.weights, "cache bytes/token": cost.kv},
            why="the ceiling is the best moment of a plain sum over 256 MB")  # fmt: skip


def bench_confirm(b, model, fastest, totals):
    """One answer, every uncached step timed, against its sixteenths integrated. Full only: many minutes."""
    claim = {"unit": "s", "better": "lower", "goal": ("<=", 1.05)}
    sentence = "Every step recomputed takes within 5 % of what is integrated from every 16th"
    if b.mode == "quick":
        b.not_run("integral", sentence, why="only a full bench has the ten minutes", **claim)
        return
    new = b.pick(smoke=24, quick=0, full=992)
    b.say(f"recomputing all {new} tokens, to confirm the sum …")
    run = long_run(model, fastest, random_prompt(b, model), new, every=1)
    steps, spent = list(run.uncached.items()), sum(run.uncached.values())
    parts = [Run(run.prompt, run.cached, dict(steps[i::16])).totals()[0] for i in range(16)]
    pairs = [(max(spent, part), min(spent, part)) for part in parts]
    b.claim("integral", sentence, **claim,
            measured=values("the larger", [p[0] for p in pairs], "the smaller", [p[1] for p in pairs]),
            settings={"all steps, s": spent, "integrated, s": parts,
                      "integrated minutes before, s": [u for u, _ in totals]},
            why="a clock that drifts would show in both sides: one run, cut into its sixteenths")  # fmt: skip


def bench_transformers(b, model, fastest, totals):
    """The same weights in `transformers`, with its growing and its static cache; greedy, the same tokens."""
    goals = {"transformers": 1.2, "transformers, static": 1.0}
    sentences = {
        "transformers": "Ours is at least 1.2 times as fast as `transformers` generate with its cache",
        "transformers, static": "Ours is at least as fast as `transformers` generate with its static cache",
    }
    new = b.pick(smoke=8, quick=48, full=992)
    if not b.library("transformers"):
        for name, goal in goals.items():
            b.not_run(name.replace(", ", "-"), sentences[name], goal=(">=", goal), **SPEED,
                      why="transformers is not installed")  # fmt: skip
        return
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval().to(b.device)
    prompt = random_prompt(b, model)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True,
               "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}  # fmt: skip
    sides = {
        "transformers": lambda: theirs.generate(prompt, **options)[:, PROMPT:],
        "transformers, static": lambda: theirs.generate(prompt, **options, cache_implementation="static")[
            :, PROMPT:],
        "ours, plain": lambda: decode(model, prompt, new, caches_for(model, KVCache, 1, PROMPT + new)),
        "ours, one graph": lambda: fastest(prompt, new),
    }  # fmt: skip
    run = b.compare(sides, check=lambda a, c: equal_but_ties(model, prompt, a, c), warm=False,
                    budget=b.pick(smoke=0.5, quick=25, full=400))  # fmt: skip
    settings = {"prompt": PROMPT, "new": new, "dtype": "float32", "batch": 1}
    for name, goal in goals.items():
        fewest = cost_of(model).bound(PROMPT, new, b.ceilings)[1]
        b.claim(name.replace(", ", "-"), sentences[name], goal=(">=", goal), settings=settings, **SPEED,
                measured=run.figures("ours, one graph", name, work=new),
                bound=run.sides[name].median / fewest,
                why="both read the same weights; a library's product for one row reads them slower")
    b.claim("plain", "The plain counting cache, without any compiling, is no slower than `transformers`",
            goal=(">=", 1.0), measured=run.figures("ours, plain", "transformers", work=new), **SPEED,
            settings=settings, why="the same products by the same library")  # fmt: skip


def bench_dual(b):
    """Prompts of 10, 50, 100 and 200 tokens, 100 new ones each, on the base model's shape; two modes."""
    base = {"n_head": 8, "n_kv_head": 4, "d_ff": 640}
    tiny = {"n_layer": 2, "d_model": 32, "n_head": 4, "n_kv_head": 2, "d_ff": 48, "vocab_size": 97}
    sizes = b.pick(smoke=tiny, quick=base, full=base)
    torch.manual_seed(0)
    model = GPT(ModelConfig(**sizes, tie_embeddings=True)).eval().to(b.device)
    new, each = b.pick(smoke=4, quick=100, full=100), b.pick(smoke=1, quick=1, full=8)
    lengths = (10, 50, 100, 200)
    order = [T for _ in range(each) for T in lengths]
    b.say(f"measuring {len(order)} prompts in two modes …")
    runs = dual(model, [random_prompt(b, model, T, seed) for seed, T in enumerate(order)], new)
    rows, predicted, cost = [], {}, cost_of(model)
    for T in lengths:
        rates = {m: [new / r.total for r, at in zip(runs[m], order, strict=True) if at == T] for m in MODES}
        ratio, interval = paired(rates["cache"], rates["no cache"])
        fewest = cost.bound(T, new, b.ceilings)
        rows.append({"at": T, "ratio": ratio, "interval": interval})
        predicted[T] = fewest[0] / fewest[1]
    b.claim("dual", "100 tokens after 200 come at least twice as fast with the cache, two modes in turn",
            goal=(">=", 2), measured=values("cache", rates["cache"], "no cache", rates["no cache"]),
            prediction=predicted[200], **SPEED,
            settings={"new": new, "prompts of each length": each, "predictions": list(predicted.values()),
                      "sweep": {"over": "tokens of the prompt", "rows": rows,
                                "break_even": break_even([(r["at"], r["ratio"]) for r in rows])}},
            why="the prediction knows arithmetic and memory, and no Python between operations")  # fmt: skip


@torch.no_grad()
def grouped_step(b, groups, rows, length, fn=attend):
    """(model, a decode step of `rows` texts of `length` tokens with so many key and value heads)."""
    torch.manual_seed(0)
    width = b.pick(smoke=64, quick=512, full=512)
    model = GPT(ModelConfig(n_layer=4, n_head=8, n_kv_head=groups, d_model=width, d_ff=8 * width // 3,
                            tie_embeddings=True, max_seq_len=length, vocab_size=1000), fn).eval()  # fmt: skip
    caches = caches_for(model.to(b.device), KVCache, rows, length)
    tokens = torch.zeros(rows, length - 1, dtype=torch.long, device=b.device)
    model.hidden(tokens, caches=caches)

    @torch.no_grad()
    def step():
        for cache in caches:
            cache.length = length - 1
        return model(tokens[:, :1], caches=caches)

    return model, step


def bench_groups(b):
    """A decode step of a batch at a long context, by the number of key and value heads."""
    rows, length = b.pick(smoke=2, quick=16, full=16), b.pick(smoke=32, quick=512, full=1024)
    made = {groups: grouped_step(b, groups, rows, length) for groups in divisors(8)[::-1]}
    made["folded"] = grouped_step(b, 1, rows, length, folded)
    names = {groups: f"{groups} of 8 heads" for groups in made} | {"folded": "1 of 8 heads, folded"}
    sides = {names[groups]: step for groups, (_, step) in made.items()}
    counts = {names[g]: {"cache bytes/token": cache_bytes(m.config)} for g, (m, _) in made.items()}
    run = b.compare(sides, check=lambda a, c: a.shape == c.shape and bool(c.isfinite().all()), counts=counts,
                    memory=False, budget=b.pick(smoke=0.5, quick=10, full=60))  # fmt: skip
    speed = [{"at": g, "ratio": value, "interval": interval}
             for g in divisors(8)[::-1] for value, interval in [run.speedup(names[g])]]  # fmt: skip
    read = {g: cost_of(m).weights + rows * length * cache_bytes(m.config) for g, (m, _) in made.items()}
    b.claim("groups", "With one key and value head instead of eight, a step of 16 rows at a long context "
            "takes at most 0.6 times as long", unit="s", better="lower", goal=("<=", 0.6),
            measured=run.figures(names["folded"]), prediction=read[1] / read[8],
            settings={"rows": rows, "tokens": length,
                      "sweep": {"over": "key and value heads", "rows": speed, "break_even": None}},
            why="the prediction counts bytes; the sweep has the core's attend, not folded")  # fmt: skip


def bench_quality(b):
    """Loss on unseen text of a model whose eight key and value heads became fewer, at once and re-trained."""
    text = TinyTown().text(b.pick(smoke=20_000, quick=200_000, full=800_000)).encode()
    ids, steps = torch.tensor(list(text), device=b.device), b.pick(smoke=4, quick=150, full=400)
    train, held_out, context = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :][:20_000], 64
    found, more_steps = {}, max(1, steps // 10)
    for seed in range(b.pick(smoke=1, quick=1, full=3)):
        torch.manual_seed(seed)
        model = GPT(ModelConfig(vocab_size=256, n_layer=2, n_head=8, n_kv_head=8, d_model=128, d_ff=256,
                                max_seq_len=context, tie_embeddings=True)).to(b.device)  # fmt: skip
        fit(model, batches(train, context, seed=seed), steps, 3e-3)
        more = batches(train, context, seed=1000 + seed)
        for groups in b.pick(smoke=(8, 4), quick=(8, 4, 2), full=(8, 4, 2, 1)):
            converted = regroup(copy.deepcopy(model), groups)
            found.setdefault(f"{groups} of 8, at once", []).append(loss(converted, held_out, context))
            fit(converted, more, more_steps, 2e-3)
            found.setdefault(f"{groups} of 8, re-trained", []).append(loss(converted, held_out, context))
    names = "4 of 8, re-trained", "8 of 8, re-trained"
    b.claim("quality", "Half of the key and value heads cost at most 5 % of loss, after re-training for a "
            "tenth of the steps", unit="nats", better="lower", goal=("<=", 1.05),
            measured=values(names[0], found[names[0]], names[1], found[names[1]]),
            settings={"steps": steps, "re-training": more_steps, **found},
            why="the model with all heads was trained for as many steps more")  # fmt: skip


def main(b):
    model = model_124m(b)
    backend = b.pick(smoke="aot_eager", quick="inductor", full="inductor")  # seconds, or one minute
    fastest = Fastest(model, PROMPT + b.pick(smoke=24, quick=160, full=992), backend=backend)
    b.say("compiling the step …")
    fastest(random_prompt(b, model), 3)
    totals = bench_long(b, model, fastest)
    bench_transformers(b, model, fastest, totals)
    bench_confirm(b, model, fastest, totals)
    bench_dual(b)
    bench_groups(b)
    bench_quality(b)
    bench_gpu(b)


def profiled(b):
    model = model_124m(b)
    prompt = random_prompt(b, model)
    return lambda: decode(model, prompt, 8, caches_for(model, KVCache, 1, PROMPT + 8))


if __name__ == "__main__":
    bench(main, profiled)
