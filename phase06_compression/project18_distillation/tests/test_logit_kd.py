"""The two distances beside torch's, their slopes, the head in pieces, the objective; what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT, untie
from common.testing import close, tiny
from common.trial import model_folder
from phase01_foundation.project03_pretrain.objectives import IGNORE, token_loss
from phase06_compression.project18_distillation.logit_kd import (
    HeadLoss,
    LogitKD,
    Teacher,
    check_pair,
    check_words,
    chunked,
    gap_closed,
    naive_kd,
    overlap,
    soft_loss,
    soften,
    whole,
)

TEMPERATURES = (0.5, 1.0, 2.0, 7.0)


def logits(seed, N=6, V=11, scale=3.0):
    return scale * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))


def pair(teacher_layers=2, **sizes):
    """(student, teacher, tokens (2, 9), targets with three that do not count)"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = GPT(tiny(**{"n_layer": 1, "d_model": 16, "d_ff": 24, **sizes}))
        teacher = GPT(tiny(n_layer=teacher_layers))
        for p in [*student.parameters(), *teacher.parameters()]:
            p.data.mul_(6.0 if p.dim() > 1 else 1.0)
        tokens = torch.randint(97, (2, 10))
    targets = tokens[:, 1:].clone()
    targets[0, 0] = targets[1, 3] = targets[1, 8] = IGNORE
    return student, teacher, tokens[:, :-1], targets


# ---- the distance ----


@pytest.mark.exercise("soft_loss")
@pytest.mark.parametrize("T", TEMPERATURES)
def test_matches_torch_kl_div(T):
    """T² times torch's own KL divergence of the two softened distributions, and its gradient."""
    mine, theirs = logits(0).requires_grad_(), logits(1)
    ours = soft_loss(mine, soften(theirs, T), T)
    want = T**2 * F.kl_div((mine / T).log_softmax(-1), (theirs / T).softmax(-1), reduction="sum")
    close(ours, want, f"T {T}")
    both = [torch.autograd.grad(loss, mine, retain_graph=True)[0] for loss in (ours, want)]
    close(*both, f"gradient at T {T}")


@pytest.mark.exercise("soft_loss")
def test_soft_loss_by_hand():
    """Two ids at T 2: p = (0.75, 0.25) against q = (0.5, 0.5), which logits (ln 9, 0) and (0, 0) give."""
    log_p = soften(torch.tensor([[math.log(9), 0.0]]), 2.0)
    want = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_loss(torch.zeros(1, 2), log_p, 2.0).item() == pytest.approx(4 * want, rel=1e-5)


@pytest.mark.exercise("soft_loss")
def test_the_slope_keeps_its_size_at_high_temperature():
    """Hinton's limit: at large T the slope is (z - v) / V of centred logits, and does not shrink."""
    mine, theirs = (x - x.mean(-1, keepdim=True) for x in (logits(0).double(), logits(1).double()))
    z = mine.clone().requires_grad_()
    T = 1e3
    (slope,) = torch.autograd.grad(soft_loss(z, (theirs / T).log_softmax(-1), T), z)
    assert torch.allclose(slope, (mine - theirs) / mine.size(-1), rtol=0.05, atol=2e-3)


@pytest.mark.exercise("overlap")
def test_overlap_is_one_minus_half_the_distance():
    """Against the total variation distance; 1 of equals, 0 where nothing is shared."""
    log_p, log_q = soften(logits(0), 1.0), soften(logits(1), 1.0)
    want = 1 - 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
    assert torch.allclose(overlap(log_p, log_q), want, atol=1e-6)
    assert torch.allclose(overlap(log_p, log_p), torch.ones(6))
    far = soften(torch.tensor([[80.0, 0.0], [0.0, 80.0]]), 1.0)
    assert overlap(far[:1], far[1:]).item() < 1e-6


@pytest.mark.exercise("gap_closed")
def test_gap_closed_by_hand():
    """Of a gap of 1.5, a fifth; and a student that got worse."""
    assert gap_closed(alone=2.0, distilled=1.7, teacher=0.5) == pytest.approx(0.2)
    assert gap_closed(2.0, 2.3, 0.5) == pytest.approx(-0.2)


# ---- the head in pieces ----


def both_losses(ids, log_p, T=2.0):
    def loss(some, rows):
        return F.cross_entropy(some, ids[rows], reduction="sum") + soft_loss(some, log_p[rows], T)

    return loss


@pytest.mark.exercise("chunked")
@pytest.mark.parametrize("chunk", [1, 4, 7, 13, 100])
def test_chunked_is_the_whole(chunk):
    """Sum and both gradients as of all logits at once, whatever the chunk; autograd says so."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(13, 8, generator=draw, requires_grad=True)
    weight = torch.randn(29, 8, generator=draw, requires_grad=True)
    loss = both_losses(torch.randint(29, (13,), generator=draw), soften(logits(3, 13, 29), 2.0))
    want = whole(x, weight, loss)
    due = torch.autograd.grad(want, (x, weight))
    with torch.no_grad():
        total, dx, dw = chunked(x.detach(), weight.detach(), loss, chunk)
    for got, true, name in ((total, want, "sum"), (dx, due[0], "by x"), (dw, due[1], "by weight")):
        close(got, true, f"chunk {chunk}, {name}", rtol=1e-5, atol=1e-4)
    y = 3 * HeadLoss.apply(x, weight, loss, chunk)
    for got, true in zip(torch.autograd.grad(y, (x, weight)), due, strict=True):
        close(got, 3 * true, f"chunk {chunk}, through autograd", rtol=1e-5, atol=3e-4)


@pytest.mark.exercise("chunked")
def test_never_more_than_a_chunk_of_logits():
    """The loss is asked for the pieces in order, none longer than the chunk, each place once."""
    seen = []

    def loss(some, rows):
        seen.append((rows.start, len(some)))
        return some.square().sum()

    chunked(torch.randn(10, 4), torch.randn(6, 4), loss, 4)
    assert seen == [(0, 4), (4, 4), (8, 2)]


# ---- the objective ----


@pytest.mark.exercise("LogitKD.of")
@pytest.mark.parametrize(("T", "alpha"), [(1.0, 0.5), (3.0, 0.9), (2.0, 1.0), (2.0, 0.0)])
def test_objective_is_the_naive_loss(T, alpha):
    """Loss and every gradient beside `naive_kd` of all logits, over the places that count; any chunk."""
    student, teacher, tokens, targets = pair()
    keep = targets != IGNORE
    want = naive_kd(student(tokens)[keep], teacher(tokens)[keep], targets[keep], T, alpha)
    due = torch.autograd.grad(want, list(student.parameters()))
    objective = LogitKD(student, Teacher(teacher), T, alpha, chunk=4)
    got = objective((tokens, targets))
    close(got, want, "loss", rtol=1e-5, atol=1e-5)
    for p, mine, true in zip(student.parameters(), torch.autograd.grad(got, list(student.parameters())), due,
                             strict=True):  # fmt: skip
        close(mine, true, f"gradient of {tuple(p.shape)}", rtol=1e-4, atol=1e-5)
    hard = F.cross_entropy(student(tokens)[keep], targets[keep])
    assert objective.parts["hard"].item() == pytest.approx(hard.item(), rel=1e-5)
    mixed = (1 - alpha) * objective.parts["hard"] + alpha * objective.parts["soft"]
    assert mixed.item() == pytest.approx(got.item(), rel=1e-5)


@pytest.mark.exercise("LogitKD.of")
def test_without_a_teacher_it_is_the_causal_loss():
    """alpha 0: CausalLM's loss; and a batch in which nothing counts costs nothing."""
    student, teacher, tokens, targets = pair()
    objective = LogitKD(student, Teacher(teacher), 2.0, 0.0)
    close(objective((tokens, targets)), token_loss(student(tokens), targets), "alpha 0")
    nothing = objective((tokens, torch.full_like(targets, IGNORE)))
    nothing.backward()
    assert nothing.item() == 0 and student.embed.weight.grad.abs().sum() == 0


def test_is_on():
    """The teacher's logits reach the loss: another teacher, another gradient; and it is itself left alone."""
    student, teacher, tokens, targets = pair()
    other = pair(teacher_layers=1)[1]
    slopes = []
    for model in (teacher, other):
        objective = LogitKD(student, Teacher(model), alpha=0.9)
        slopes.append(torch.autograd.grad(objective((tokens, targets)), student.blocks[0].ffn.w_up.weight)[0])
    assert not torch.allclose(*slopes, rtol=0.01)
    names = {name for name, _ in objective.named_parameters()}
    assert names == {f"model.{name}" for name, _ in student.named_parameters()}
    assert not any(p.requires_grad for p in other.parameters())
    assert not objective.train().teacher.model.training


def test_parts_are_those_of_hintons_identity():
    """Cross entropy with the teacher's shares = their entropy + the soft part, at T 1."""
    student, teacher, tokens, targets = pair()
    keep = targets != IGNORE
    objective = LogitKD(student, Teacher(teacher), 1.0, 1.0)
    objective((tokens, targets))
    log_p, log_q = soften(teacher(tokens)[keep], 1.0), soften(student(tokens)[keep], 1.0)
    cross, entropy = (-(log_p.exp() * x).sum(-1).mean() for x in (log_q, log_p))
    assert (cross - entropy).item() == pytest.approx(objective.parts["soft"].item(), rel=1e-4)


def test_a_tied_head_and_one_of_its_own():
    """A tie gets both gradients in one parameter; an untied head its own."""
    for tied in (True, False):
        student, teacher, tokens, _ = pair(tie_embeddings=True)
        student = student if tied else untie(student)
        both = [model(tokens).flatten(0, 1) for model in (student, teacher)]
        (due,) = torch.autograd.grad(naive_kd(*both, tokens.flatten(), 2.0, 0.9), student.head.weight)
        loss = LogitKD(student, Teacher(teacher), 2.0, 0.9, chunk=5)((tokens, tokens))
        close(torch.autograd.grad(loss, student.head.weight)[0], due, f"tied {tied}", rtol=1e-4, atol=1e-5)


def test_learning_closes_the_distance():
    """Thirty updates on one batch: the soft part falls to less than half."""
    student, teacher, tokens, targets = pair()
    objective = LogitKD(student, Teacher(teacher), 2.0, 1.0)
    optimizer, soft = torch.optim.AdamW(student.parameters(), lr=1e-2), []
    for _ in range(30):
        optimizer.zero_grad()
        objective((tokens, targets)).backward()
        soft.append(objective.parts["soft"].item())
        optimizer.step()
    assert soft[-1] < soft[0] / 2


# ---- what is refused ----


def test_refusals():
    student, teacher, *_ = pair()
    with pytest.raises(UserError, match="the student has 5 ids and the teacher 97"):
        check_pair(GPT(tiny(vocab_size=5)), teacher)
    with pytest.raises(UserError, match="take the larger one for the teacher"):
        LogitKD(teacher, Teacher(student))
    wrong = ({"T": 0.0}, "above 0"), ({"alpha": 1.5}, "a share"), ({"chunk": 0}, "at least 1")
    for settings, words in wrong:
        with pytest.raises(UserError, match=words):
            LogitKD(student, Teacher(teacher), **settings)


def test_other_words_are_refused(tmp_path):
    """The same number of ids is not enough: a tokenizer is told by the hash of its file."""
    from common import tokenizer

    ours = tokenizer.load(model_folder(tmp_path / "a", n_layer=1))
    file = tmp_path / "a" / "tokenizer.json"
    text = file.read_text("utf-8").replace('"A": 65', '"A": 66').replace('"B": 66', '"B": 65')
    file.write_text(text, "utf-8")
    theirs = tokenizer.load(tmp_path / "a")
    assert ours.vocab_size == theirs.vocab_size
    check_words(ours, ours)
    with pytest.raises(UserError, match="different tokenizers"):
        check_words(ours, theirs)


def test_the_objective_runs_under_autocast():
    """bfloat16 products, float32 loss: within a hundredth of the plain one, gradients in float32."""
    student, teacher, tokens, targets = pair()
    objective = LogitKD(student, Teacher(teacher), chunk=4)
    plain = objective((tokens, targets))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = objective((tokens, targets))
    coarse.backward()
    assert coarse.dtype == torch.float32 and coarse.item() == pytest.approx(plain.item(), rel=0.05)
    assert student.embed.weight.grad.dtype == torch.float32


