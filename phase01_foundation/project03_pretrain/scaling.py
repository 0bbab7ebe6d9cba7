"""How small is too small? Fit the loss of small models to a power law, and predict the loss of a larger one.

L(N) = E + A / N^α: what no model can guess (E), and what grows with the number of weights N. Three numbers,
so at least four sizes are needed to see whether the law holds; and it is trusted when it predicts a size
that was not in the fit.

Kaplan et al. 2020, 2001.08361; Hoffmann et al. 2022, 2203.15556.
"""

from dataclasses import dataclass

import numpy as np

from common.exercise import exercise


@dataclass(frozen=True)
class PowerLaw:
    """L(N) = E + A N^-α, in nats or bits, as the losses were."""

    E: float
    A: float
    alpha: float

    def __call__(self, n):
        """The loss that the law predicts for n weights; n may be an array."""
        return self.E + self.A * np.asarray(n, float) ** -self.alpha


@exercise
def fit_line(x, y):
    """Least squares: (n,) and (n,) -> (slope, intercept, sum of the squared distances from the line)."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    intercept = y.mean() - slope * x.mean()
    return slope, intercept, ((y - slope * x - intercept) ** 2).sum()


@exercise
def fit(sizes, losses):
    """The PowerLaw through (sizes, losses), at least four of each.

    For a given E the law is a line: log(L - E) = log A - α log N. So E runs over a fine grid below the
    smallest loss, and the E whose line lies closest to its points wins, measured in the losses themselves.
    ValueError for fewer than four points.
    """
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    if len(sizes) < 4:
        raise ValueError(f"three numbers cannot be judged by {len(sizes)} sizes: train at least four")

    def law(E):
        slope, intercept, _ = fit_line(np.log(sizes), np.log(losses - E))
        return PowerLaw(float(E), float(np.exp(intercept)), float(-slope))

    laws = [law(E) for E in losses.min() * np.linspace(0, 0.999, 2000)]
    return min(laws, key=lambda law: ((law(sizes) - losses) ** 2).sum())
