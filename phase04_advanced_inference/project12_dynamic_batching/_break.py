"""Break: the ways in which an engine goes wrong. Each counts steps, or tokens that are right."""

import statistics

import torch

from common import plots
from common.generate import Sampling
from common.plots import QUIET
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode

from . import engine as engine_file
from ._lab import Steps, replaced
from .engine import Engine, SlotStore
from .scheduler import Scheduler, Waiting, due_at
from .step import Step, ragged


def overtaking(self):
    """Admit whoever fits, wherever he stands in the queue."""
    if len(self.running) >= self.max_batch:
        return None
    for one in sorted(self.waiting.sequences.values(), key=lambda one: one.urgency):
        if self.store.can_admit(len(one.ids) + 1):
            self.waiting.remove(one)
            self.running[one.id] = one
            one.computed = self.store.open(one.id, one.ids)
            return one
    return None


def blocking(lab) -> dict:
    """One prompt needs half of all the room, and a stream of small ones keeps the room just too full."""
    c = lab.config
    small, n, big = 4, c.median, c.context // 2
    budget, every = big + small + n, max(1, n // 4)  # room for the large one and one more; four small run
    fig, ((ax,),) = plots.figure(height=3.4)
    found = {}
    for name, admit in {"in order": Scheduler.admit, "whoever fits": overtaking}.items():
        with replaced(Scheduler, "admit", admit):
            steps, ids = Steps(lab.small, c.slots, c.context, budget=budget, max_step_tokens=c.context), []
            for now in range(8 * n):
                if now % every == 0:
                    ids.append(steps.add([1 + now % 9] * small, n))
                if now == n:
                    large = steps.add([5] * big, 2)
                steps.step()
            waited = steps.wait(large)
            steps.drain()
        waits = [steps.wait(id) for id in ids]
        look = {"ms": 9, "mfc": "none"} if name == "in order" else {"ms": 4}
        ax.plot([steps.came[id] for id in ids], waits, "o", **look, label=f"small ones, {name}")
        lab.say(f"  {name:13} the large one waits {'for ever' if waited is None else f'{waited} steps'} "
                f"(of {8 * n}), the small ones {statistics.mean(waits):.1f} on average")  # fmt: skip
        found |= {f"large, {name}": float(8 * n if waited is None else waited),
                  f"small, {name}": statistics.mean(waits)}  # fmt: skip
    ax.axvline(n, color=QUIET, linestyle="--")
    ax.annotate("the large one comes", (n, 0.6), xycoords=("data", "axes fraction"), xytext=(5, 0),
                textcoords="offset points", color=QUIET, size=10.5)  # fmt: skip
    ax.set(title="Who waits in line behind a large request", xlabel="step of arrival",
           ylabel="steps until the first token", xlim=(-1, 5 * n))  # fmt: skip
    plots.legend(ax)
    lab.save(fig, "blocking.png")
    return found


def starvation(lab) -> dict:
    """Important requests never cease. Is the turn of the unimportant one ever due?"""
    n, found = lab.config.median, {}
    dues = {"priority alone": lambda now, priority, deadline: -priority, "a time when due": due_at}
    for name, due in dues.items():
        with replaced(engine_file, "due_at", due):
            steps = Steps(lab.small, 2, lab.config.context)
            for _ in range(3):
                steps.add([3], n, priority=4)
            low = steps.add([1, 2], 2, priority=0)
            for now in range(200):
                if now % max(1, n // 3) == 0:  # three come where two can be served
                    steps.add([3], n, priority=4)
                steps.step()
            waited = steps.wait(low)
        lab.say(f"  {name:16} the unimportant one waits "
                + ("for ever: 200 steps, and not begun" if waited is None else f"{waited} steps"))
        found[name] = float(200 if waited is None else waited)
    return found


def zero(lab) -> dict:
    """`if id:` is false for request 0."""

    def peek(self):
        tenants = self.tenants()
        if not tenants:
            return None
        id = self.queues[min(tenants, key=lambda tenant: self.served[tenant])].peek()
        return self.sequences[id] if id else None

    with replaced(Waiting, "peek", peek):
        steps = Steps(lab.small, 2, lab.config.context)
        steps.add([1, 2], 3), steps.add([3], 3)
        try:
            steps.drain()
            said = "all were served"
        except RuntimeError as error:
            said = str(error)
    lab.say(f"  two requests, 0 and 1: {said}")
    return {"served": float(len(steps.ended))}


def overcommit(lab) -> dict:
    """A scheduler that never asks whether there is room."""
    slots, requests, found = lab.config.slots, lab.requests(3 * lab.config.slots), {}
    size = max(len(one.prompt) + one.n for one in requests)
    budget = max(size, slots * size // 4)
    ways = {"asked": Scheduler.make_room, "never asked": lambda self, sequence, n, planned: True}
    for name, make_room in ways.items():
        with replaced(Scheduler, "make_room", make_room):
            steps = Steps(lab.small, slots, size, budget=budget)
            for one in requests:
                steps.add(one.prompt, one.n)
            most = steps.drain().store.most
        found[name] = most / budget
        lab.say(f"  the store is {name:12} at most {most:5} tokens were written, and there is room for "
                f"{budget}: {found[name]:.0%}")  # fmt: skip
    return found


def padding(lab) -> dict:
    """Short rows padded by zeros at position 0, as in a batch that all began together."""
    T = min(24, lab.model.config.max_seq_len // 4)
    n, found = T, {}
    prompts = [lab.text(max(1, T - 5 * i), i) for i in range(4)]
    sampling = [Sampling(max_tokens=n, temperature=0, ignore_eos=True)] * len(prompts)
    right = []
    for ids in prompts:
        caches = caches_for(lab.model, KVCache, 1, len(ids) + n)
        right += decode(lab.model, torch.tensor([ids], device=lab.device), n, caches).tolist()

    def by_zeros(part, device=None):
        step = ragged(part, device)
        tokens, positions = step.tokens.clone(), step.positions.clone()
        for row, n in enumerate(step.ns):
            tokens[row, n:], positions[row, n:] = 0, 0
        tokens[:, -1], positions[:, -1] = step.tokens[:, -1], step.positions[:, -1]  # it is read off there
        return Step(step.ids, step.ns, tokens, positions, step.longest)

    for name, layout in {"its own last token": ragged, "zeros at position 0": by_zeros}.items():
        with replaced(engine_file, "ragged", layout), replaced(engine_file, "forwards", lambda work: [work]):
            made = Engine(lab.model, SlotStore(lab.model, 4, 2 * T + 1), max_batch=4, max_step_tokens=4 * T)
            answers = [list(answer.ids) for answer in made.generate(prompts, sampling)]
        found[name] = statistics.mean(agreement(*pair) for pair in zip(answers, right, strict=True))
        lab.say(f"  padded by {name:20} {found[name]:4.0%} of the tokens are right   "
                f"{lab.words.decode(answers[-1])[:50]!r}")  # fmt: skip
    return found


def agreement(mine, right):
    """The share of tokens before the first that differs."""
    same = next((i for i, pair in enumerate(zip(mine, right, strict=True)) if pair[0] != pair[1]), len(right))
    return same / len(right)
