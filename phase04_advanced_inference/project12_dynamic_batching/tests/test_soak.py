"""Long use: requests come, fork, are cancelled and given up, by chance; nothing is left behind."""

import gc
import os
import random
import time
from collections import deque
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.generate import Sampling
from common.model import GPT
from common.testing import tiny
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore

BUDGET = 110


class Crowd:
    """Whoever uses an engine: `open` are the ids that must still end, `ended` those that did."""

    def __init__(self):
        torch.manual_seed(0)
        model = GPT(tiny(vocab_size=32)).eval()
        self.engine = Engine(model, SlotStore(model, 4, 48, budget=BUDGET), max_batch=4, max_step_tokens=10)
        self.engine.done = deque(maxlen=20)  # full before the first look at the memory
        self.rng, self.open, self.ended, self.asked = random.Random(0), set(), 0, 0

    def came(self, id):
        self.open.add(id)
        self.asked += 1

    def turn(self):
        """Some of everything that users do, wrong things too, then a step."""
        rng, engine = self.rng, self.engine
        sampling = Sampling(max_tokens=rng.randrange(1, 20), temperature=rng.choice([0, 1.0]))
        if len(self.open) < 12 and rng.random() < 0.6:
            ids = [rng.randrange(32) for _ in range(rng.randrange(1, 20))]
            self.came(engine.add(ids, sampling, priority=rng.randrange(3), tenant=f"{self.asked}"))
        if self.open and rng.random() < 0.1:
            self.came(engine.fork(rng.choice(sorted(self.open)), sampling))
        if self.open and rng.random() < 0.2:
            victim = rng.choice(sorted(self.open))
            assert engine.cancel(victim) and not engine.cancel(victim)
            self.open.remove(victim)
            self.ended += 1
        for wrong in ([], [32], [1] * 49):
            with pytest.raises(UserError):
                engine.add(wrong)
        seen = []
        if self.open and rng.random() < 0.1:
            stream = engine.stream(rng.choice(sorted(self.open)))
            seen.append(next(stream))
            stream.close()
        self.read(seen + engine.step())
        assert sum(n for _, n, _ in engine.store.picture()) <= BUDGET

    def read(self, events):
        for event in events:
            if event.finish != "cancelled" and event.finish:
                self.open.remove(event.id)  # KeyError: it ended twice
                self.ended += 1

    def use(self, turns, seconds):
        """So many turns, and so long, whichever is more."""
        end = time.perf_counter() + seconds
        while turns > 0 or time.perf_counter() < end:
            self.turn()
            turns -= 1


def held():
    """Objects that Python knows of, and bytes of this process in memory (0 where the system does not say)."""
    gc.collect()
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return len(gc.get_objects()), pages * os.sysconf("SC_PAGE_SIZE") if pages else 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", [0, pytest.param(600, marks=pytest.mark.slow)])
def test_nothing_is_left_behind(seconds):
    """Random use: everybody ends once, no slot is held at the end, and memory stays what it was."""
    crowd = Crowd()
    crowd.use(300, seconds / 2)
    objects, size = held()
    crowd.use(300, seconds / 2)
    more_objects, more = held()
    engine = crowd.engine
    assert engine.stats()["preemptions"] > 0 and crowd.asked > 150
    assert more_objects - objects < 3000 and more - size < 8e6, (more_objects - objects, more - size)
    while engine.busy:
        crowd.read(engine.step())
    assert not crowd.open and crowd.ended == crowd.asked
    assert all((id, n) == (None, 0) for id, n, _ in engine.store.picture())
    assert not engine.sequences and not engine.mail and not engine.scheduler.running
    assert not engine.scheduler.waiting and len(engine.scheduler.waiting.served) <= 80
    assert all((k == 0).all() and (v == 0).all() for k, v in engine.store.pools)
