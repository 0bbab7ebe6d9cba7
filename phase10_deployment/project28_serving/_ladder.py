"""For the bench: the engine alone, and what each technique adds to those before it."""

import os
import time

import torch

from common import hub, tokenizer
from common.benchmark import values
from common.cli import restores
from common.generate import Sampling

from . import _load
from .assemble import Switches, assemble

LADDER = {
    "cache": {"prefix_cache": False, "paged": False, "max_batch": 1},
    "prefix": {"prefix_cache": True},
    "paging": {"paged": True},
    "batching": {"max_batch": 32},
    "quantised": {"weights": "int8", "kv": "int8"},
    "speculative": {"speculative": "ngram"},
}


def pin(cores):
    """Let this process compute on these processors alone, where the system can."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) >= 2:
        os.sched_setaffinity(0, cores)


class Offline:
    """The engine alone, in this process, on the server's core: the same requests, no HTTP."""

    def __init__(self, folder, **switches):
        self.words = tokenizer.load(folder)
        model = hub.load(folder, restore=restores.table())
        self.engine = assemble(model, self.words, Switches(**switches))

    def run(self, some):
        """Texts of these requests, all put in at once."""
        ids = [fitted(self.words, self.engine.model, one) for one in some]
        how = [Sampling(max_tokens=one["max_tokens"], temperature=0, ignore_eos=True) for one in some]
        return [answer.text for answer in self.engine.generate(ids, how)]


def fitted(words, model, one):
    """The ids of a request's prompt, as many as leave room for its answer."""
    return words.encode(one["prompt"])[: model.config.max_seq_len - one["max_tokens"]]


@torch.no_grad()
def recomputed(model, words, some):
    """No cache at all: every token anew for every token. Seconds a token, of a few requests."""
    began, drawn = time.perf_counter(), 0
    for one in some:
        ids = fitted(words, model, one)
        for _ in range(one["max_tokens"]):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            drawn += 1
    return (time.perf_counter() - began) / drawn


def bench_ablation(b, folder):
    """Many prompts that share a fifth: what each technique adds to those before it, offline, on one core."""
    count, new = b.pick(smoke=3, quick=16, full=100), b.pick(smoke=2, quick=12, full=24)
    some = [
        {**one, "max_tokens": new}
        for one in _load.bodies(
            folder.name,
            count,
            prompt=b.pick(smoke=(20, 20), quick=(500, 500), full=(500, 500)),
            shared="The story of the town goes like this. " * b.pick(smoke=1, quick=3, full=3),
        )
    ]
    pin({0})
    plain = hub.load(folder, restore=restores.table())
    each = recomputed(plain, tokenizer.load(folder), some[: b.pick(smoke=1, quick=1, full=3)])
    rates, waits, switches = {"no cache": 1 / each}, {"no cache": each * new}, {}
    for name, step in LADDER.items():
        switches |= step
        offline = Offline(folder, **{"tokens": 16384, **switches})
        offline.run(some[:2])  # kernels are chosen, pages are touched
        began = time.perf_counter()
        offline.run(some)
        rates[name] = count * new / (time.perf_counter() - began)
        done = [one["latency"] for one in list(offline.engine.done)[-count:]]
        waits[name] = _load.middle([one["tpot"] * new for one in list(offline.engine.done)[-count:]])
        b.say(
            f"  {name:12} {rates[name]:9.1f} tokens/s, an answer {waits[name]:.3f} s, all {max(done):.2f} s"
        )
    pin({0, 1})
    table = {f"{name}, tok/s": rate for name, rate in rates.items()}
    best = max(rates, key=rates.get)
    b.claim(
        "together",
        "All techniques together give at least 8 times the tokens a second of none",
        unit="tok/s",
        better="higher",
        goal=(">=", 8),
        measured=values(best, [rates[best]], "no cache", [rates["no cache"]]),
        settings={**table, "requests": count, "new tokens": new},
        why="each line stands on those above it; the best of them counts",
    )
    least = min(list(waits)[1:], key=waits.get)
    b.claim(
        "latency",
        "An answer is written at least 10 times sooner than without any of them",
        unit="s",
        better="lower",
        goal=("<=", 0.1),
        measured=values(least, [waits[least]], "no cache", [waits["no cache"]]),
        settings={f"{name}, s": wait for name, wait in waits.items()},
        why="more in a batch is more tokens a second, and each of them later",
    )
