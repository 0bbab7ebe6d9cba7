"""Measure the claims: beside static batches and `transformers`; waiting times; what the host costs."""

import tempfile

import torch

from common import hub
from common.benchmark import values
from common.cli.bench import bench
from common.model import GPT, ModelConfig

from ._workload import built, continuous, percentile, served, traffic
from .batching import bound, static

SPEED = {"unit": "tok/s", "better": "higher"}
B = 16


def base_model(b):
    """The base model's shape, with random weights: they do not change how long a step takes."""
    tiny = {"vocab_size": 97, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    torch.manual_seed(0)
    sizes = b.pick(smoke=tiny, quick={}, full={})
    return GPT(ModelConfig(**sizes, max_seq_len=512, tie_embeddings=True)).eval().to(b.device)


def workload(b, model):
    """Log-normal answers (sigma 1), all there at once."""
    longest = b.pick(smoke=24, quick=400, full=400)
    median, count = b.pick(smoke=4, quick=16, full=24), b.pick(smoke=20, quick=96, full=256)
    return traffic(count, vocab_size=model.config.vocab_size, median=median, longest=longest)


def alike(a, b):
    """Nearly all tokens agree: in float32, a tie may fall either way, and the rest of that text with it."""
    same = [x == y for x, y in zip(a, b, strict=True)]
    return sum(same) >= 0.9 * len(same) and all(len(x) == len(y) for x, y in zip(a, b, strict=True))


def bench_static(b, model, requests):
    """The same requests in static batches of 16 and continuously over 16 slots."""
    prompts, lengths = [list(one.prompt) for one in requests], [one.n for one in requests]
    sides = {"static": lambda: static(model, prompts, lengths, B),
             "continuous": lambda: continuous(model, requests, B)[0]}  # fmt: skip
    run = b.compare(sides, check=alike, warm=False, memory=False,
                    budget=b.pick(smoke=0.5, quick=40, full=400))  # fmt: skip
    most, gain = bound(lengths, B), run.speedup("continuous")[0]
    settings = {"requests": len(lengths), "batch": B, "sigma": 1.0, "tokens": sum(lengths)}
    b.claim("static", "On answers of log-normal length, continuous batching gives at least 3 times the "
            "tokens a second of static batches", headline=True, goal=(">=", 3), **SPEED, settings=settings,
            measured=run.figures("continuous", "static", work=sum(lengths)), bound=most, prediction=most,
            why="the bound counts forwards: a static batch runs as long as its longest answer")  # fmt: skip
    b.claim("schedule", "It reaches at least 85 % of what the schedule allows, counted in forwards",
            unit="of the bound", better="higher", goal=(">=", 0.85), bound=1.0, settings=settings,
            measured=values("continuous", [gain / most]), why="prompts are read beside the answers")


def bench_scheduling(b, model, requests):
    """The share of the time in which the model waits for the scheduler."""
    runs = range(b.pick(smoke=1, quick=2, full=6))
    shares = [continuous(model, requests, B)[1]["scheduling"] for _ in runs]
    b.claim("scheduling", "Scheduling takes at most 5 % of the time", unit="of the time", better="lower",
            goal=("<=", 0.05), measured=values("continuous", shares),
            why="planning a step and laying out its rows, against forwards and draws")  # fmt: skip


def bench_transformers(b, model, requests):
    """`transformers` generate on batches of 16, padded on the left, each as long as its longest answer."""
    sentence = "At least 3 times the tokens a second of padded batches of `transformers` generate"
    if not b.library("transformers"):
        b.not_run("transformers", sentence, goal=(">=", 3), why="transformers is not installed", **SPEED)
        return
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval().to(b.device)

    def padded():
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

    tokens = sum(one.n for one in requests)
    run = b.compare({"transformers": padded, "continuous": lambda: continuous(model, requests, B)[0]},
                    check=alike, warm=False, memory=False,
                    budget=b.pick(smoke=0.5, quick=40, full=400))  # fmt: skip
    b.claim("transformers", sentence, goal=(">=", 3), **SPEED, bound=bound([one.n for one in requests], B),
            measured=run.figures("continuous", "transformers", work=tokens),
            why="both read the same weights; the bound counts forwards")  # fmt: skip


def bench_waiting(b, model, requests):
    """Waiting times at half of what the engine can do, arrivals drawn as a Poisson process."""
    _, stats = continuous(model, requests, B)
    tokens = sum(one.n for one in requests) / sum(stats["seconds"].values())
    rate = 0.5 * tokens * len(requests) / sum(one.n for one in requests)
    coming = traffic(len(requests), vocab_size=model.config.vocab_size, rate=rate,
                     longest=b.pick(smoke=24, quick=400, full=400),
                     median=b.pick(smoke=4, quick=16, full=24), seed=1)  # fmt: skip
    found, _ = served(model, coming, B)
    spread = {f"{name} p{p}, s": percentile([one[name] for one in found["requests"]], p)
              for name in ("ttft", "tpot", "latency") for p in (50, 95, 99)}  # fmt: skip
    b.claim("ttft", "At half load, 95 of 100 requests have their first token within a second", unit="s",
            better="lower", goal=("<=", 1.0), measured=values("continuous", [spread["ttft p95, s"]]),
            settings={"arrivals a second": rate, **spread}, why="a step, and the prompts before it")


def main(b):
    model = base_model(b)
    requests = workload(b, model)
    bench_static(b, model, requests)
    bench_scheduling(b, model, requests)
    bench_transformers(b, model, requests)
    bench_waiting(b, model, requests)
    b.not_run("h200", "On an H200, Qwen3-0.6B's shape and 256 texts give at least 20,000 tokens a second",
              goal=(">=", 20_000), why="needs a CUDA device, and a step recorded for it", **SPEED)


def profiled(b):
    model = base_model(b)
    requests = workload(b, model)[:8]
    engine = built(model, requests, 8)
    return lambda: engine.generate([one.prompt for one in requests], [one.sampling for one in requests])


if __name__ == "__main__":
    bench(main, profiled)
