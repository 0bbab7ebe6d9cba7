"""The test behind a threshold beside torch's distributions, and the promise, kept over hundreds of trials."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Binomial, kl_divergence

from common.errors import UserError
from common.testing import trained
from phase09_compiler.project27_early_exit import thresholds
from phase09_compiler.project27_early_exit.exits import Rule, Sure, restore
from phase09_compiler.project27_early_exit.thresholds import calibrate, p_value, tokens_lost

CASES = [
    (0.0, 50, 0.1),
    (0.02, 100, 0.1),
    (0.05, 400, 0.06),
    (0.1, 40, 0.1),
    (0.3, 40, 0.1),
    (0.013, 700, 0.03),
]


@pytest.mark.parametrize(("risk", "n", "tolerance"), CASES)
def test_matches_the_distributions_of_torch(risk, n, tolerance):
    """KL of two Bernoullis, and the binomial's sum of chances."""
    coins = (Bernoulli(torch.tensor(p, dtype=torch.float64)) for p in (risk, tolerance))
    assert thresholds.divergence(risk, tolerance) == pytest.approx(kl_divergence(*coins).item(), abs=1e-12)
    k = math.ceil(round(n * risk, 9))
    chances = (
        Binomial(n, torch.tensor(tolerance, dtype=torch.float64)).log_prob(torch.arange(k + 1).double()).exp()
    )
    assert thresholds.at_most(k, n, tolerance) == pytest.approx(chances.sum().item(), rel=1e-9)


@pytest.mark.exercise("p_value")
@pytest.mark.parametrize(("risk", "n", "tolerance"), CASES)
def test_p_value_is_the_smaller_bound(risk, n, tolerance):
    """Hoeffding's and Bentkus's, each computed from torch's distributions; never above 1."""
    low = torch.tensor(min(risk, tolerance), dtype=torch.float64)
    truth = torch.tensor(tolerance, dtype=torch.float64)
    hoeffding = math.exp(-n * kl_divergence(Bernoulli(low), Bernoulli(truth)).item())
    k = torch.arange(math.ceil(round(n * risk, 9)) + 1).double()
    bentkus = math.e * Binomial(n, truth).log_prob(k).exp().sum().item()
    assert p_value(risk, n, tolerance) == pytest.approx(min(1.0, hoeffding, bentkus), rel=1e-9)


@pytest.mark.exercise("calibrate")
def test_the_promise_is_kept():
    """Losses whose true means are 0.01, 0.06 and 0.11: of 300 calibrations for 0.1 at most a tenth, and a
    little for chance, choose the last; most of them choose the one before it."""
    draw, found = torch.Generator().manual_seed(0), []
    for _ in range(300):
        found.append(
            calibrate(
                [0.95, 0.7, 0.45],
                lambda t: (torch.rand(400, generator=draw) < 0.2 * (1 - t)).float(),
                tolerance=0.1,
                chance=0.1,
            )
        )
    assert found.count(0.45) <= 45 and found.count(0.7) > 200


@pytest.mark.exercise("calibrate")
def test_the_walk_ends_at_the_first_that_fails():
    """Strictest first, whatever the order given; a lower one that would pass is not even asked."""
    losses, asked = {0.9: 0.0, 0.8: 0.0, 0.7: 0.5, 0.6: 0.0}, []

    def loss(threshold):
        asked.append(threshold)
        return torch.full((200,), losses[threshold])

    assert calibrate([0.6, 0.9, 0.7, 0.8], loss, 0.1, 0.05) == 0.8 and asked == [0.9, 0.8, 0.7]
    assert calibrate([0.7], loss, 0.1, 0.05) is None
    with pytest.raises(UserError, match="between 0 and 1"):
        calibrate([0.5], loss, 0.0, 0.05)


def test_tokens_lost_counts_tokens_that_come_out_differently():
    """None where nobody leaves; where all leave at once, the share whose likeliest differs, row by row."""
    model = restore(trained(n_layer=2, steps=30), (1,))
    rows = torch.randint(32, (5, 10), generator=torch.Generator().manual_seed(0))
    assert tokens_lost(model, rows, Rule(), batch=2).tolist() == [0.0] * 5
    lost = tokens_lost(model, rows, Sure("confidence", 0.0), batch=2)
    with torch.no_grad():
        x = model.blocks[0](
            model.embed(rows, None), rope=model.rope(torch.arange(10)), positions=torch.arange(10)
        )
        early, full = model.head(model.norm(x)).argmax(-1), model(rows).argmax(-1)
    assert torch.allclose(lost, (early != full).float().mean(1)) and lost.max() > 0
