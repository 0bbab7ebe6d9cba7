"""The measuring stick, measured: planted ratios under a clock that only the sides move, and a real run."""
import itertools

import numpy as np
import pytest
import torch

from common import benchmark
from common.benchmark import (
    WrongAnswer,
    compare,
    order,
    same,
)


class Clock:
    """A clock that stands still unless a side moves it, so that no test depends on this machine's mood."""

    def __init__(self, seed=0):
        self.now, self.random = 0.0, np.random.default_rng(seed)

    def __call__(self):
        return self.now

    def side(self, seconds, noise=0.05, spikes=0.1, answer=1.0, drift=0.0):
        """A call of `seconds` times log-normal noise; one in ten is disturbed, as on a shared machine."""
        def call():
            disturbed = self.random.exponential() if self.random.random() < spikes else 0
            slower = 1 + drift * self.now
            self.now += seconds * slower * (self.random.lognormal(0, noise) + disturbed)
            return answer
        return call

    def compare(self, sides, **options):
        return compare(sides, timer=self, **{"check": 0.0, "budget": 1e9, "warm": False, **options})


# --- what it finds ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(5))
def test_a_planted_two_is_found(seed):
    clock = Clock(seed)
    run = clock.compare({"slow": clock.side(2.0), "fast": clock.side(1.0)}, target=0.1)
    value, (low, high) = run.speedup("fast")
    assert low < 2 < high and low <= value <= high
    assert high - low < 0.1 * value, "it ends when the interval is as narrow as asked"
    assert run.speedup("slow", "fast")[0] == pytest.approx(1 / value)


def test_equal_sides_give_an_interval_that_holds_one_as_often_as_it_says():
    held = 0
    for seed in range(150):
        clock = Clock(seed)
        run = clock.compare({"one": clock.side(1.0), "other": clock.side(1.0)}, target=0.1)
        low, high = run.speedup("other")[1]
        held += low <= 1 <= high
    assert 0.92 <= held / 150 <= 0.99, f"a 95 % interval held the truth in {held} of 150 comparisons"


def test_a_machine_that_slows_down_favours_nobody():
    clock = Clock()
    exact = {"noise": 0.0, "spikes": 0.0, "drift": 0.001}
    run = clock.compare({"one": clock.side(1.0, **exact), "other": clock.side(1.0, **exact)}, max_rounds=7,
                        target=0)
    first = run.sides["other"].seconds[0] / run.sides["one"].seconds[0]
    assert first > 1 + 5e-4, "the drift must be large enough to see in one block"
    assert run.speedup("other")[0] == pytest.approx(1, abs=1e-5)


def test_order_is_a_b_b_a_and_every_side_comes_first():
    two = ["".join(order(["A", "B"], block)) for block in range(4)]
    assert two == ["AB", "BA", "BA", "AB"]
    three = [order(["A", "B", "C"], block) for block in range(6)]
    assert three[:2] == [["A", "B", "C"], ["C", "B", "A"]]
    assert {names[0] for names in three[::2]} == {"A", "B", "C"}


def test_sides_run_in_that_order():
    clock, log = Clock(), []

    def side(name):
        def call():
            log.append(name)
            clock.now += 1
            return 0
        return call

    clock.compare({"A": side("A"), "B": side("B")}, max_rounds=2)
    assert "".join(log) == "ABBABAAB"


def test_three_sides_are_each_compared_with_the_first():
    clock = Clock(1)
    run = clock.compare({"base": clock.side(3.0), "ours": clock.side(1.0), "rival": clock.side(2.0)})
    for name, true in (("ours", 3.0), ("rival", 1.5)):
        low, high = run.speedup(name)[1]
        assert low < true < high
    low, high = run.speedup("ours", "rival")[1]
    assert low < 2 < high


def test_a_noisy_side_is_unsteady_and_a_steady_one_is_not():
    clock = Clock()
    run = clock.compare({"steady": clock.side(1.0, 0.03, 0), "noisy": clock.side(1.0, 0.3, 0)}, max_rounds=20)
    assert not run.sides["steady"].unsteady and run.sides["steady"].cv < 0.10
    assert run.sides["noisy"].unsteady and run.sides["noisy"].cv > 0.10


def test_noise_makes_it_run_longer():
    def rounds(noise):
        clock = Clock()
        return clock.compare({"a": clock.side(1, noise), "b": clock.side(1, noise)}, target=0.05).rounds
    assert rounds(0.01) < rounds(0.2)


# --- what it refuses ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("warm", [True, False])
def test_different_answers_are_not_timed(warm):
    calls = {"right": 0, "wrong": 0}

    def side(name, answer):
        def call():
            calls[name] += 1
            return torch.tensor([answer, 2.0])
        return call

    with pytest.raises(WrongAnswer, match="wrong and right give different answers"):
        compare({"right": side("right", 1.0), "wrong": side("wrong", 1.1)}, check=1e-3, warm=warm)
    assert calls == {"right": 1, "wrong": 1}


def test_the_check_may_be_a_function():
    sides = {"a": lambda: [1, 2], "b": lambda: [2, 1]}
    with pytest.raises(WrongAnswer):
        compare(sides, check=lambda a, b: a == b, budget=0.01)
    assert compare(sides, check=lambda a, b: sorted(a) == sorted(b), budget=0.01).rounds > 0


def test_a_check_that_says_nothing_is_refused():
    with pytest.raises(TypeError, match="has to say True or False"):
        compare({"a": lambda: 1, "b": lambda: 2}, check=lambda a, b: None)
    with pytest.raises(TypeError, match="has to return its answer"):
        compare({"a": lambda: None, "b": lambda: None}, check=0.1)
    with pytest.raises(ValueError, match="at least two"):
        compare({"a": lambda: 1}, check=0.1)


@pytest.mark.parametrize("a, b, equal", [
    (1.0, 1.05, True), (1.0, 1.2, False), ([1, {"x": 2.0}], [1, {"x": 2.05}], True), ([1], [1, 1], False),
    ({"x": 1}, {"y": 1}, False), ("text", "text", True), ("text", "other", False),
    (torch.ones(2), torch.ones(3), False), (torch.ones(2, dtype=torch.bfloat16), np.ones(2), True),
    (float("nan"), float("nan"), False), (torch.tensor([True]), torch.tensor([False]), False)])
def test_same(a, b, equal):
    assert same(a, b, 0.1) is equal


# --- how it runs a side -------------------------------------------------------------------------------------

def test_the_device_is_drained_before_and_after_every_run():
    """A device that works when it is waited for: what a run queues is that run's, as on a GPU."""
    clock, log, queue = Clock(), [], []

    def synchronize():
        log.append("sync")
        clock.now += sum(queue)
        queue.clear()

    def timer():
        log.append("time")
        return clock.now

    def side(name, seconds):
        def call():
            log.append(name)
            queue.append(seconds)
            clock.now += 0.001
            return 0
        return call

    run = compare({"A": side("A", 4.0), "B": side("B", 2.0)}, check=0.0, budget=1e9, warm=False, max_rounds=8,
                  timer=timer, synchronize=synchronize)
    assert run.sides["A"].median == pytest.approx(4.001) and run.sides["B"].median == pytest.approx(2.001)
    at = [i for i, word in enumerate(log) if word in "AB"]
    assert len(at) == 32
    assert all(log[i - 2:i] == ["sync", "time"] and log[i + 1:i + 3] == ["sync", "time"] for i in at)


def test_the_default_synchronises_the_device(monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark.devices, "synchronize", seen.append)
    compare({"a": lambda: 1, "b": lambda: 1}, check=0, warm=False, max_rounds=1)
    assert seen == [torch.device("cpu")] * 8


def test_a_short_side_is_called_in_a_loop():
    clock = Clock()
    run = compare({"short": clock.side(1e-6, 0, 0), "long": clock.side(1.0, 0, 0)}, check=0, timer=clock,
                  budget=1e9)
    short, long = run.sides["short"], run.sides["long"]
    assert short.loops >= 5000 and long.loops == 1
    assert short.median == pytest.approx(1e-6) and long.median == pytest.approx(1.0)


def test_one_hiccup_does_not_decide_the_length_of_a_side():
    clock, hiccups = Clock(), itertools.chain([0.1], itertools.repeat(0.0))

    def call():
        clock.now += 1e-4 + next(hiccups)

    watch = benchmark.Stopwatch(clock, lambda: None)
    assert benchmark.calibrate(watch, call, 0.02) >= 200


@pytest.mark.parametrize("budget, blocks", [(0.0, 1), (650.0, 2), (1000.0, 3)])
def test_sides_of_minutes_run_as_often_as_the_budget_allows(budget, blocks):
    clock = Clock()
    run = clock.compare({"a": clock.side(200.0, 0, 0), "b": clock.side(100.0, 0, 0)}, budget=budget)
    assert len(run.sides["a"].seconds) == blocks and run.rounds == blocks / 2
    value, interval = run.speedup("b")
    assert value == pytest.approx(2) and interval is None, "of so few runs no interval is to be had"


def test_a_real_comparison_is_complete():
    x = torch.randn(128, 128)
    run = compare({"twice": lambda: (x @ x, x @ x)[1], "once": lambda: x @ x}, check=1e-5, budget=0.3,
                  counts={"twice": {"FLOPs": 4 * 128**3}, "once": {"FLOPs": 2 * 128**3}})
    assert run.baseline == "twice" and run.rounds > 0
    assert all(s > 0 for side in run.sides.values() for s in side.seconds)
    assert run.sides["once"].peak_memory == x.nbytes and run.sides["twice"].peak_memory == 2 * x.nbytes
    assert run.sides["once"].counts == {"FLOPs": 2 * 128**3}
    assert run.others is None or run.others >= 0


def test_memory_is_measured_in_one_call_more_or_not_at_all():
    calls = []

    def run(**options):
        calls.clear()
        found = compare({"a": lambda: calls.append(1) or 1, "b": lambda: 1}, check=0, max_rounds=1,
                        shortest=0, **options)
        return found.sides["a"].peak_memory, len(calls)

    (measured, more), (spared, fewer) = run(), run(memory=False)
    assert measured == 0 and spared is None and more == fewer + 1
