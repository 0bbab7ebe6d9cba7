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
    """The engine alone, in this process, on the server's core and device: the same requests, no HTTP."""

    def __init__(self, folder, device="cpu", **switches):
        self.words = tokenizer.load(folder)
        model = hub.load(folder, device=device, restore=restores.table())
        self.engine = assemble(model, self.words, Switches(**switches))

    def run(self, some):
        """Texts of these requests, all put in at once."""
        ids = [self.words.encode(one["prompt"]) for one in some]
        how = [Sampling(max_tokens=one["max_tokens"], temperature=0, ignore_eos=True) for one in some]
        return [answer.text for answer in self.engine.generate(ids, how)]

    def run_and_look(self, some):
        """The same, and how many bytes of keys and values requests held at most."""
        for one in some:
            how = Sampling(max_tokens=one["max_tokens"], temperature=0, ignore_eos=True)
            self.engine.begin(self.words.encode(one["prompt"]), how)
        most, store, shape = 0.0, self.engine.store, self.engine.model.config
        while self.engine.busy:
            self.engine.step()
            most = max(most, self.engine.used())
        room = len(store.refs) * self.engine.switches.size if hasattr(store, "refs") else store.budget
        float32 = 8 * shape.n_layer * shape.n_kv_head * shape.head_dim * room
        return most * getattr(store, "nbytes", float32)


@torch.no_grad()
def recomputed(model, words, some):
    """No cache at all: every token anew for every token. Seconds a token, of a few requests."""
    began, drawn = time.perf_counter(), 0
    for one in some:
        ids = words.encode(one["prompt"])
        for _ in range(one["max_tokens"]):
            tokens = torch.tensor([ids], device=model.norm.weight.device)
            ids.append(int(model(tokens)[0, -1].argmax()))
            drawn += 1
    return (time.perf_counter() - began) / drawn


def bench_ablation(b, folder):
    """Many prompts that share a fifth: what each technique adds to those before it, offline, on one core."""
    count, new = b.pick(smoke=3, quick=16, full=100), b.pick(smoke=2, quick=12, full=24)
    long = b.pick(smoke=20, quick=1200, full=1200)  # characters: 1,500 in all, about 350 tokens
    shared = "The story of the town goes like this. " * b.pick(smoke=1, quick=8, full=8)
    some = _load.bodies(folder, count, median=1e9, longest=new, prompt=(long, long), shared=shared)
    new = some[0]["max_tokens"]  # less, where the context is short
    pin({0})
    plain = hub.load(folder, device=b.device, restore=restores.table())
    each = recomputed(plain, tokenizer.load(folder), some[: b.pick(smoke=1, quick=1, full=3)])
    rates, waits, bytes_held, switches = {"no cache": 1 / each}, {"no cache": each * new}, {}, {}
    for name, step in LADDER.items():
        switches |= step
        offline = Offline(folder, b.device, **{"tokens": 16384, **switches})
        offline.run(some[:2])  # kernels are chosen, pages are touched
        began = time.perf_counter()
        bytes_held[name] = offline.run_and_look(some)
        seconds = time.perf_counter() - began
        rates[name] = count * new / seconds
        waits[name] = _load.middle([one["tpot"] * new for one in list(offline.engine.done)[-count:]])
        b.say(f"  {name:12} {rates[name]:9.1f} tokens/s, an answer {waits[name]:.3f} s, all {seconds:.2f} s, "
              f"keys and values at most {bytes_held[name] / 2**20:.1f} MB")  # fmt: skip
    pin({0, 1})
    table = {f"{name}, tok/s": rate for name, rate in rates.items()}
    table |= {f"{name}, MB held": held / 2**20 for name, held in bytes_held.items()}
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
