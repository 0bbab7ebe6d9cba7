"""Measure the claims: beside static batches and `transformers`; waiting times; what the host costs."""

import statistics
import tempfile

import torch

from common import hub
from common.benchmark import values
from common.cli.bench import bench
from common.model import GPT, ModelConfig
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode

from ._workload import continuous, differences, served, served_in_batches, spread, traffic
from .batching import bound, continuous_steps, static, static_steps

SPEED = {"unit": "tok/s", "better": "higher"}
B = 16
MAX_WAIT = 0.05  # seconds that dynamic batching waits for a batch to fill


def base_model(b):
    """The base model's shape, with random weights: they do not change how long a step takes."""
    tiny = {"vocab_size": 97, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    torch.manual_seed(0)
    sizes = b.pick(smoke=tiny, quick={}, full={})
    return GPT(ModelConfig(**sizes, max_seq_len=512, tie_embeddings=True)).eval().to(b.device)


def workload(b, model, **options):
    """Log-normal answers (sigma 1), by default all there at once."""
    longest, median = b.pick(smoke=24, quick=400, full=400), b.pick(smoke=4, quick=12, full=12)
    count = options.pop("count", b.pick(smoke=20, quick=128, full=1024))
    return traffic(count, vocab_size=model.config.vocab_size, median=median, longest=longest,
                   prompt=(4, 16), **options)  # fmt: skip


class Alike:
    """Two sides' answers agree, but for ties, which it counts; a fault stops the comparison."""

    def __init__(self, model, requests):
        self.model, self.prompts, self.ties = model, [one.prompt for one in requests], 0

    def __call__(self, a, b):
        ties, faults = differences(self.model, self.prompts, a, b)
        self.ties += ties
        return faults == 0


def padded(b, model, requests):
    """`transformers` generate on batches of B, padded on the left, each as long as its longest answer."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval().to(b.device)

    def run():
        answers = []
        for i in range(0, len(requests), B):
            batch = requests[i : i + B]
            T, n = max(len(one.prompt) for one in batch), max(one.n for one in batch)
            rows = [[0] * (T - len(one.prompt)) + list(one.prompt) for one in batch]
            mask = [[0] * (T - len(one.prompt)) + [1] * len(one.prompt) for one in batch]
            ids = theirs.generate(torch.tensor(rows, device=b.device), do_sample=False, pad_token_id=0,
                                  attention_mask=torch.tensor(mask, device=b.device),
                                  max_new_tokens=n, min_new_tokens=n)[:, T:]  # fmt: skip
            answers += [row[: one.n] for row, one in zip(ids.tolist(), batch, strict=True)]
        return answers

    return run


def bench_static(b, model, requests):
    """The same requests in static batches and continuously, both over B places."""
    prompts, lengths = [list(one.prompt) for one in requests], [one.n for one in requests]
    sides = {"static": lambda: static(model, prompts, lengths, B),
             "continuous": lambda: continuous(model, requests, B)[0]}  # fmt: skip
    check = Alike(model, requests)
    run = b.compare(sides, check=check, warm=False, memory=False,
                    budget=b.pick(smoke=0.5, quick=30, full=700))  # fmt: skip
    most, gain = bound(lengths, B), run.speedup("continuous")[0]
    settings = {"requests": len(lengths), "batch": B, "sigma": 1.0, "tokens": sum(lengths),
                "forwards, static": static_steps(lengths, B), "answers that part at a tie": check.ties,
                "forwards, continuous": continuous_steps(lengths, B)}  # fmt: skip
    b.claim("static", "On answers of log-normal length, continuous batching gives at least 3 times the "
            "tokens a second of static batches", headline=True, goal=(">=", 3), **SPEED, settings=settings,
            measured=run.figures("continuous", "static", work=sum(lengths)), bound=most, prediction=most,
            why="the bound counts forwards: a static batch runs as long as its longest answer")  # fmt: skip
    b.claim("schedule", "It reaches at least 85 % of what the schedule allows, counted in forwards",
            unit="of the bound", better="higher", goal=(">=", 0.85), bound=1.0, settings=settings,
            measured=values("continuous", [gain / most]), why="prompts are read beside the answers, and cost "
            "both sides the same")  # fmt: skip


def bench_transformers(b, model, requests):
    """The same requests in padded batches of `transformers`, and continuously."""
    sentence = "At least 3 times the tokens a second of padded batches of `transformers` generate"
    if not b.library("transformers"):
        b.not_run("transformers", sentence, goal=(">=", 3), why="transformers is not installed", **SPEED)
        return
    check, tokens = Alike(model, requests), sum(one.n for one in requests)
    run = b.compare({"transformers": padded(b, model, requests),
                     "continuous": lambda: continuous(model, requests, B)[0]}, check=check, warm=False,
                    memory=False, budget=b.pick(smoke=0.5, quick=30, full=350))  # fmt: skip
    b.claim("transformers", sentence, goal=(">=", 3), **SPEED,
            measured=run.figures("continuous", "transformers", work=tokens),
            settings={"requests": len(requests), "batch": B, "answers that part at a tie": check.ties},
            why="the schedule's gain, times what a forward costs there")  # fmt: skip


def bench_equal(b, model, requests):
    """Each request alone, with a cache of project 8, beside the engine's answers."""
    some, device = requests[: b.pick(smoke=8, quick=32, full=128)], b.device
    alone = [decode(model, torch.tensor([one.prompt], device=device), one.n,
                    caches_for(model, KVCache, 1, len(one.prompt) + one.n))[0].tolist()
             for one in some]  # fmt: skip
    mine, _ = continuous(model, some, B)
    ties, faults = differences(model, [one.prompt for one in some], mine, alone)
    b.claim("equal", "Each request's tokens are those it gets alone", unit="answers that differ",
            better="lower", goal=("==", 0), measured=values("continuous", [float(faults)]),
            settings={"requests": len(some), "answers that part at a tie": ties},
            why="float32: an answer may part where its two highest logits lie within 1e-4; in float64, where "
            "the tests run, none does")  # fmt: skip


def bench_scheduling(b, model, requests):
    """The share of the time in which the model waits for the scheduler; returns tokens a second."""
    runs = [continuous(model, requests, B)[1] for _ in range(b.pick(smoke=1, quick=1, full=3))]
    b.claim("scheduling", "Scheduling takes at most 5 % of the time", unit="of the time", better="lower",
            goal=("<=", 0.05), measured=values("continuous", [stats["scheduling"] for stats in runs]),
            why="planning a step and laying out its rows, against forwards and draws")  # fmt: skip
    return statistics.median(stats["tokens drawn"] / sum(stats["seconds"].values()) for stats in runs)


def bench_waiting(b, model, speed):
    """Poisson arrivals: what senders wait at half of what the engine can do, and beside dynamic batching."""
    count, runs = b.pick(smoke=12, quick=64, full=128), b.pick(smoke=1, quick=1, full=3)
    tokens = statistics.fmean(one.n for one in workload(b, model, count=2000))
    rates = {share: share * speed / tokens for share in (0.2, 0.5)}
    modes = {"static": lambda some: served_in_batches(model, some, B),
             "dynamic": lambda some: served_in_batches(model, some, B, MAX_WAIT),
             "continuous": lambda some: served(model, some, B)}  # fmt: skip
    found = {name: [spread(mode(workload(b, model, count=count, rate=rates[0.2], seed=seed))[0])
                    for seed in range(1, runs + 1)] for name, mode in modes.items()}  # fmt: skip
    table = {f"{name}, {key}, s": statistics.median(one[key] for one in per)
             for name, per in found.items() for key in per[0]}  # fmt: skip
    late = {name: [one["ttft p95"] for one in per] for name, per in found.items()}
    b.claim("dynamic", "Under Poisson arrivals that dynamic batches can just bear, 95 of 100 requests have "
            "their first token after at most a fifth of the wait", unit="s", better="lower",
            goal=("<=", 0.2), measured=values("continuous", late["continuous"], "dynamic", late["dynamic"]),
            settings={"arrivals a second": rates[0.2], "max wait, s": MAX_WAIT, "requests": count, **table},
            why="who comes while a batch runs waits for its end; here, for the end of a step")  # fmt: skip
    half = [spread(served(model, workload(b, model, count=count, rate=rates[0.5], seed=seed), B)[0])
            for seed in range(1, runs + 1)]  # fmt: skip
    b.claim("waiting", "At half of the engine's speed, 95 of 100 requests have their first token within a "
            "second", unit="s", better="lower", goal=("<=", 1.0),
            measured=values("continuous", [one["ttft p95"] for one in half]),
            settings={"arrivals a second": rates[0.5], "requests": count,
                      **{f"{key}, s": statistics.median(one[key] for one in half) for key in half[0]}},
            why="a step, and the prompts that came before")  # fmt: skip


def main(b):
    model = base_model(b)
    requests = workload(b, model)
    bench_static(b, model, requests)
    bench_transformers(b, model, requests)
    bench_equal(b, model, requests)
    bench_waiting(b, model, bench_scheduling(b, model, requests))
    b.not_run("h200", "On an H200, Qwen3-0.6B's shape and 256 texts give at least 20,000 tokens a second",
              goal=(">=", 20_000), why="needs a CUDA device, and a step recorded for it", **SPEED)


def profiled(b):
    model = base_model(b)
    requests = workload(b, model)[:8]
    return lambda: continuous(model, requests, 8)


if __name__ == "__main__":
    bench(main, profiled)
