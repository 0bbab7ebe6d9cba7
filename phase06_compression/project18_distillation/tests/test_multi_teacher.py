"""Means of several opinions beside torch's, what each of them minimises, weights, and the objective."""

import math

import pytest
import torch

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase06_compression.project18_distillation.logit_kd import LogitKD, Teacher
from phase06_compression.project18_distillation.multi_teacher import (
    Teachers,
    alike,
    arithmetic,
    by_confidence,
    disagreement,
    geometric,
    naive_to_each,
)


def opinions(M=3, N=5, V=7):
    draw = torch.Generator().manual_seed(0)
    log_ps = (3 * torch.randn(M, N, V, generator=draw)).double().log_softmax(-1)
    weights = torch.rand(M, N, generator=draw).double().softmax(0)
    return log_ps, weights, torch.randn(N, V, generator=draw).double()


@pytest.mark.exercise("arithmetic")
def test_matches_torchs_mixture():
    """ln of the shares of torch.distributions' mixture of categoricals."""
    log_ps, weights, _ = opinions()
    parts = torch.distributions.Categorical(logits=log_ps.transpose(0, 1))  # (N, M)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights.T), parts)
    want = torch.stack([mixture.log_prob(torch.full((5,), i)) for i in range(7)], 1)
    close(arithmetic(log_ps, weights), want, "mixture")


@pytest.mark.exercise("arithmetic")
def test_the_mean_teaches_what_all_of_them_teach():
    """The slope of the distance to the mean is that of the distances to each; between them, no student."""
    log_ps, weights, z = opinions()
    z.requires_grad_()
    log_q = z.log_softmax(-1)
    each = naive_to_each(log_ps, weights, log_q)
    mean = arithmetic(log_ps, weights)
    one = (mean.exp() * (mean - log_q)).sum(-1)
    close(each - one, disagreement(log_ps, weights), "what lies between")
    slopes = [torch.autograd.grad(loss.sum(), z, retain_graph=True)[0] for loss in (each, one)]
    close(*slopes, "slope")


@pytest.mark.exercise("geometric")
def test_geometric_is_the_softmax_of_mean_logits():
    """Shares sum to 1; of logits it is the mean of logits; and one teacher's veto holds."""
    log_ps, weights, _ = opinions()
    got = geometric(log_ps, weights)
    assert torch.allclose(got.exp().sum(-1), torch.ones(5).double())
    shifted = log_ps + torch.tensor([1.0, -2.0, 5.0]).double()[:, None, None]  # as logits, unscaled
    close(got, (weights[..., None] * shifted).sum(0).log_softmax(-1), "mean logits")
    sure = torch.tensor([[[0.0, -60.0]], [[math.log(0.5)] * 2]]).log_softmax(-1)
    both = torch.full((2, 1), 0.5)
    assert geometric(sure, both)[0, 1] < -25 < -2 < arithmetic(sure, both)[0, 1]


@pytest.mark.exercise("geometric")
def test_geometric_is_nearest_the_other_way():
    """It minimises the weighted sum of KL(q ‖ p_m): its slope there is 0, elsewhere not."""
    log_ps, weights, z = opinions()
    for q, flat in ((geometric(log_ps, weights), True), (z.log_softmax(-1), False)):
        logits = q.clone().requires_grad_()
        log_q = logits.log_softmax(-1)
        far = (weights * (log_q.exp() * (log_q - log_ps)).sum(-1)).sum()
        (slope,) = torch.autograd.grad(far, logits)
        assert (slope.abs().max() < 1e-9) == flat


@pytest.mark.exercise("by_confidence")
def test_by_confidence_believes_the_sure_one():
    """Entropies ln 4 and 0: weights 1 : 4, since softmax of minus entropy; alike where they are alike."""
    unsure, sure = torch.full((1, 4), 0.25).log(), torch.tensor([[0.0, -200.0, -200.0, -200.0]])
    got = by_confidence(torch.stack([unsure, sure]))
    assert got[:, 0].tolist() == pytest.approx([0.2, 0.8])
    log_ps, *_ = opinions()
    assert torch.allclose(by_confidence(log_ps).sum(0), torch.ones(5).double())
    same = log_ps[:1].repeat(3, 1, 1)
    assert torch.allclose(by_confidence(same), alike(same).double())


def test_disagreement():
    """0 of those who agree, ln 2 of two who share nothing, never below 0."""
    log_ps, weights, _ = opinions()
    assert (disagreement(log_ps, weights) >= 0).all()
    assert disagreement(log_ps[:1].repeat(3, 1, 1), weights).abs().max() < 1e-12
    apart = torch.tensor([[[0.0, -90.0]], [[-90.0, 0.0]]]).log_softmax(-1)
    assert disagreement(apart, alike(apart)).item() == pytest.approx(math.log(2), rel=1e-5)


def models():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [GPT(tiny(n_layer=2)), GPT(tiny(n_layer=3)), GPT(tiny(n_layer=1, d_model=16, d_ff=24))]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("weights", ["alike", "confidence"])
def test_is_on_in_the_objective(mean, weights):
    """Teachers read as one Teacher does; of one model they are that one; of two, another loss than either."""
    one, two, student = models()
    tokens = torch.randint(97, (2, 6), generator=torch.Generator().manual_seed(0))

    def loss(teacher):
        return LogitKD(student, teacher, alpha=1.0)((tokens, tokens)).item()

    assert loss(Teachers([one], mean, weights)) == pytest.approx(loss(Teacher(one)), rel=1e-5)
    both = loss(Teachers([one, two], mean, weights))
    assert abs(both - loss(Teacher(one))) > 1e-6 and abs(both - loss(Teacher(two))) > 1e-6


def test_refusals():
    one, _, student = models()
    for arguments, words in (
        (([],), "no teacher"), (([one], "median"), "no mean"), (([one], "arithmetic", "x"), "no weights"),
        (([one, GPT(tiny(vocab_size=5))],), "must have one tokenizer"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            Teachers(*arguments)
    with pytest.raises(UserError, match="take the larger"):
        LogitKD(one, Teachers([one, student]))
