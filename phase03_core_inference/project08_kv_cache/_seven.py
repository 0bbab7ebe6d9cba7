"""How to measure 7x with a cache that saves nothing: a published measurement reproduced, then mended.

The published figures: 45.7 tokens/s against 330.2, 7.2 times, and by the means of the times 13.2. The flag
was not passed on, so both sides recomputed everything; what was measured is who paid for starting up.
"""

import random
import statistics
import time

from common import hub, plots
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

    def rate(self, number, n, start_up, mode) -> float:
        """Tokens/s of one run: with start_up, a new process's loading is on its clock; 0 for no tokens."""
        began = time.perf_counter()
        model = hub.load(self.lab.folder, device=self.lab.device).eval() if start_up else self.lab.model
        if n:
            measure(model, self.lab.text(self.T, number), n, mode)
        synchronize(self.lab.device)  # without it a GPU's clock stops before its work does
        return n / (time.perf_counter() - began)

    def stage(self, start_up, empty, vary, in_turn, real) -> tuple[float, float]:
        """Mean tokens/s of ("non-optimised", "optimised"), whatever those really are."""
        modes = MODES if real else (MODES[0],) * 2
        plans = [self.lengths(vary, empty and side == 0, seed=side) for side in (0, 1)]
        calls = [(side, i) for side in (0, 1) for i in range(self.runs)]
        if in_turn:
            calls.sort(key=lambda call: (call[1], call[0] ^ call[1] % 2))
            for mode in modes:
                measure(self.lab.model, self.lab.text(self.T), 2, mode)
        rates = ([], [])
        for side, i in calls:
            rates[side].append(self.rate(i, plans[side][i], start_up and side == 0, modes[side]))
        return statistics.fmean(rates[0]), statistics.fmean(rates[1])


def seven(lab) -> dict:
    """How to measure 7x with a cache that saves nothing, in five steps from there to the truth."""
    exhibit, found = Exhibit(lab, lab.config.each * 2), {}
    for name, choices in STAGES.items():
        a, b = exhibit.stage(*choices)
        found[name] = b / a
        lab.say(f"  {name:28} {a:8.1f} against {b:8.1f} tokens/s: {b / a:5.2f} times")
    fig, ((ax,),) = plots.figure(width=8.5)
    colours = [plots.COLOURS[1]] * 4 + [plots.COLOURS[0]]
    names = list(found)[::-1]
    bars = ax.barh(names, [found[name] for name in names], color=colours[::-1], height=0.6)
    ax.bar_label(bars, [f" {found[name]:.1f}x" for name in names], fontsize=11, color=plots.INK)
    ax.axvline(1, color=plots.QUIET, linewidth=1, linestyle=(0, (4, 3)))
    ax.set(title="One model, five benchmarks", xlabel='"optimised" over "non-optimised", tokens/s')
    ax.margins(x=0.12)
    ax.grid(False, axis="y")
    lab.save(fig, "seven.png")
    return found
