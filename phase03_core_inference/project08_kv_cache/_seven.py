"""How to measure 7x with a cache that saves nothing: a published measurement reproduced, then mended.

The published figures: 45.7 tokens/s against 330.2, 7.2 times, and by the means of the times 13.2. The flag
was not passed on, so both sides recomputed everything; what was measured is who paid for starting up.
"""

import random
import statistics
import time

import numpy as np

from common import hub, plots, tokenizer
from common.device import synchronize

from ._modes import MODES, measure

STAGES = {  # name: (start-up is charged to the first mode, empty answers count, lengths vary, in turn, real)
    "as published": (True, True, True, False, False),
    "empty answers left out": (True, False, True, False, False),
    "start-up not on the clock": (False, False, True, False, False),
    "equal lengths, in turn": (False, False, False, True, False),
    "the flag really set": (False, False, False, True, True),
}


class Exhibit:
    """One benchmark after another on the chain's model, each with one mistake fewer."""

    def __init__(self, lab, runs):
        self.lab, self.runs = lab, runs
        self.T, self.most = lab.room(64, 43)  # published: prompts of 43 to 99 tokens, answers of 0 to 45

    def lengths(self, vary, empty, seed):
        """The numbers of new tokens of a mode's runs: an answer may end at once."""
        draw = random.Random(seed)
        found = [draw.randint(1, self.most) if vary else self.most for _ in range(self.runs)]
        return [0 if empty and i % 4 == 3 else n for i, n in enumerate(found)]

    def run(self, number, n, start_up, mode) -> float:
        """Seconds of one run of n tokens; with start_up, what a new process has to load is on its clock."""
        began = time.perf_counter()
        model = self.lab.model
        if start_up:
            model = hub.load(self.lab.folder, device=self.lab.device).eval()
            tokenizer.load(self.lab.folder)
        if n:
            measure(model, self.lab.text(self.T, number), n, mode)
        synchronize(self.lab.device)  # without it a GPU's clock stops before its work does
        return time.perf_counter() - began

    def stage(self, start_up, empty, vary, in_turn, real) -> tuple[float, float]:
        """How much better the "optimised" side looks: (by mean tokens/s, by mean seconds a token)."""
        modes = MODES if real else (MODES[0],) * 2
        plans = [self.lengths(vary, empty and side == 0, seed=side) for side in (0, 1)]
        calls = [(side, i) for side in (0, 1) for i in range(self.runs)]
        if in_turn:
            calls.sort(key=lambda call: (call[1], call[0] ^ call[1] % 2))
            for mode in modes:
                self.run(0, 2, False, mode)
        rates, delays = ([], []), ([], [])
        for side, i in calls:
            n = plans[side][i]
            spent = self.run(i, n, start_up and side == 0, modes[side])
            rates[side].append(n / spent)
            delays[side].append(spent / max(1, n))
        mean = statistics.fmean
        return mean(rates[1]) / mean(rates[0]), mean(delays[0]) / mean(delays[1])


def seven(lab) -> dict:
    """How to measure 7x with a cache that saves nothing, in five steps from there to the truth."""
    exhibit = Exhibit(lab, lab.config.each * 2)
    found = {name: exhibit.stage(*choices) for name, choices in STAGES.items()}
    for name, (speed, delay) in found.items():
        lab.say(f"  {name:28} {speed:5.2f} times by tokens/s, {delay:5.2f} times by ms/token")
    fig, ((ax,),) = plots.figure(width=8.5)
    places = np.arange(len(found))[::-1]
    for column, words in enumerate(("by mean tokens/s", "by mean ms/token")):
        values = [pair[column] for pair in found.values()]
        bars = ax.barh(places + 0.18 - 0.36 * column, values, height=0.34, label=words)
        ax.bar_label(bars, [f" {value:.1f}x" for value in values], fontsize=10, color=plots.INK)
    ax.set_yticks(places, list(found))
    ax.axvline(1, color=plots.QUIET, linewidth=1, linestyle=(0, (4, 3)))
    ax.set(title="One model, five benchmarks", xlabel='how much better "optimised" looks')
    ax.margins(x=0.12)
    ax.grid(False, axis="y")
    plots.legend(ax, loc="lower right")
    lab.save(fig, "seven.png")
    return {f"{name}, {unit}": value for name, pair in found.items()
            for unit, value in zip(("tokens/s", "ms/token"), pair, strict=True)}  # fmt: skip
