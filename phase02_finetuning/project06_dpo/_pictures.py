"""Curves of a run: margin, accuracy and KL of preference learning; reward and KL of reinforcement."""

from collections.abc import Sequence

import numpy as np

from common import plots


def of_run(history, log, method: str):
    """What there is to see of one run."""
    return phases(log, method) if log else preference(history, method)


def preference(history, method: str):
    """Rewards of both answers, accuracy, and KL, over the updates; on held-out pairs."""
    fig, ((gap, right, kl),) = plots.figure(1, 3, width=12.0, height=3.6)
    for name, colour in (("chosen", plots.COLOURS[2]), ("rejected", plots.COLOURS[1])):
        gap.plot(*history.series(name), marker="o", color=colour, label=name)
    plots.level(gap, 0.0, "the reference")
    plots.legend(gap)
    gap.set(title=f"{method}: held-out answers", xlabel="update", ylabel="nats more than the reference")
    right.plot(*history.series("accuracy"), marker="o")
    right.set(title="pairs ranked rightly", xlabel="update", ylim=(0, 1.02))
    plots.level(right, 0.5, "chance")
    kl.plot(*history.series("kl"), marker="o", color=plots.COLOURS[3])
    kl.set(title="KL from the reference", xlabel="update", ylabel="nats an answer", ylim=(0, None))
    return fig


def smooth(values: Sequence[float], width: int) -> np.ndarray:
    """The mean of each value and its neighbours, fewer at the ends."""
    values = np.asarray(values, float)
    return np.array([values[max(0, i - width) : i + width + 1].mean() for i in range(len(values))])


def phases(log: Sequence[dict], method: str):
    """Reward heard, reward deserved, and KL, over the phases."""
    fig, ((gain, kl),) = plots.figure(1, 2, width=10.0, height=3.8)
    x, width = [row["phase"] for row in log], max(1, len(log) // 20)
    for name, what, colour in (("score", "heard", 0), ("reward", "deserved", 1)):
        if name not in log[0]:
            continue  # nobody can say what was deserved
        values, look = [row[name] for row in log], {"color": plots.COLOURS[colour]}
        gain.plot(x, values, alpha=0.25, linewidth=0.8, **look)
        gain.plot(x, smooth(values, width), label=what, linestyle="--" if colour else "-", **look)
    plots.legend(gain)
    gain.set(title=f"{method}: mean reward", xlabel="phase")
    kl.plot(x, smooth([row["kl"] for row in log], width), color=plots.COLOURS[3])
    kl.set(title="KL from the reference", xlabel="phase", ylabel="nats an answer", ylim=(0, None))
    return fig
