"""Both directions beside torch's and trl's, texts of the student's own, and what they add up to."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase06_compression.project18_distillation.logit_kd import Teacher, soft_loss, soften
from phase06_compression.project18_distillation.on_policy import OnPolicy, jsd_loss, reverse_loss, write


def logits(seed, N=6, V=11):
    return 3 * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))


def pair(**sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = GPT(tiny(**{"n_layer": 1, "d_model": 16, "d_ff": 24, **sizes}))
        teacher = GPT(tiny(**{"n_layer": 2, **sizes}))
        for p in [*student.parameters(), *teacher.parameters()]:
            p.data.mul_(6.0 if p.dim() > 1 else 1.0)
    return student, teacher


PROMPTS = torch.randint(97, (3, 4), generator=torch.Generator().manual_seed(0))


# ---- the directions ----


@pytest.mark.exercise("reverse_loss")
@pytest.mark.parametrize("T", [1.0, 2.0])
def test_matches_torch_kl_of_distributions(T):
    """torch.distributions' KL of the student's distribution from the teacher's, and its gradient."""
    mine, theirs = logits(0).requires_grad_(), logits(1)
    both = [torch.distributions.Categorical(logits=x / T) for x in (mine, theirs)]
    want = T**2 * torch.distributions.kl_divergence(*both).sum()
    got = reverse_loss(mine, soften(theirs, T), T)
    close(got, want, f"T {T}")
    slopes = [torch.autograd.grad(loss, mine, retain_graph=True)[0] for loss in (got, want)]
    close(*slopes, "gradient", rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # trl takes its time to import
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_matches_the_generalized_jsd_of_trl(beta):
    """TRL's GKD, which has no factor T²."""
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    mine, theirs, T = logits(0), logits(1), 2.0
    settings = {"beta": beta, "temperature": T, "reduction": "sum"}
    want = gkd.GKDTrainer.generalized_jsd_loss(mine[None], theirs[None], **settings)
    close(jsd_loss(mine, soften(theirs, T), T, beta), T**2 * want, f"beta {beta}", rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("jsd_loss")
def test_jsd_by_its_equation_and_at_its_ends():
    """m written out in shares; towards either end it is one of the two divergences; bounded by ln 2."""
    mine, theirs = logits(0).double(), logits(1).double()
    p, q = theirs.softmax(-1), mine.softmax(-1)
    for beta in (0.2, 0.5):
        m = beta * p + (1 - beta) * q
        want = beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum()
        got = jsd_loss(mine, p.log(), 1.0, beta)
        close(got.double(), want, f"beta {beta}", rtol=1e-5, atol=1e-5)
    log_p, small = soften(theirs, 1.0), 1e-4
    forward, reverse = soft_loss(mine, log_p, 1.0), reverse_loss(mine, log_p, 1.0)
    assert jsd_loss(mine, log_p, 1.0, small).item() / small == pytest.approx(forward.item(), rel=0.02)
    assert jsd_loss(mine, log_p, 1.0, 1 - small).item() / small == pytest.approx(reverse.item(), rel=0.02)
    apart = torch.tensor([[90.0, 0.0]])
    assert jsd_loss(apart, soften(apart.flip(1), 1.0)).item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.exercise("reverse_loss")
def test_reverse_picks_and_forward_covers():
    """Two humps and a student of one: forward puts it between them and wide, reverse onto one."""
    places = torch.arange(41.0) - 20
    humps = [-0.5 * ((places - place) / 2) ** 2 for place in (10, -10)]
    log_p = torch.logaddexp(*humps).log_softmax(-1)
    found = {}
    for name, loss in (("forward", soft_loss), ("reverse", reverse_loss)):
        centre, width = (torch.tensor(x, requires_grad=True) for x in (6.0, 1.5))
        optimizer = torch.optim.Adam([centre, width], lr=0.2)
        for _ in range(250):
            optimizer.zero_grad()
            loss((-0.5 * ((places - centre) / width.exp()) ** 2)[None], log_p[None], 1.0).backward()
            optimizer.step()
        found[name] = centre.item(), width.exp().item()
    assert abs(found["forward"][0]) < 2 and found["forward"][1] > 6
    assert abs(found["reverse"][0] - 10) < 2 and found["reverse"][1] < 4


# ---- texts of its own ----


def test_what_it_writes_is_drawn_from_it():
    """Prompts stay; the same seed writes the same; the first new token follows the student's shares."""
    student, _ = pair(vocab_size=5)
    prompts = torch.ones(400, 2, dtype=torch.long)
    torch.manual_seed(0)
    text = write(student, prompts, 3)
    torch.manual_seed(0)
    assert torch.equal(text, write(student, prompts, 3))
    assert text.shape == (400, 5) and torch.equal(text[:, :2], prompts)
    shares = torch.bincount(text[:, 2], minlength=5) / 400
    due = student(prompts[:1])[0, -1].softmax(-1)
    assert (shares - due).abs().max() < 0.12  # five standard deviations of 400 draws


@pytest.mark.exercise("OnPolicy.forward")
@pytest.mark.parametrize("how", ["reverse", "forward", "jsd"])
def test_the_loss_is_that_of_its_own_tokens(how):
    """It is the student that writes; all logits at once, over the places whose next token it chose."""
    student, teacher = pair()
    objective = OnPolicy(student, Teacher(teacher), new=5, how=how, chunk=4)
    torch.manual_seed(1)
    got = objective(PROMPTS)
    text = objective.text
    torch.manual_seed(1)
    assert text.shape == (3, 9) and torch.equal(text, write(student, PROMPTS, 5))
    mine, theirs = (net(text)[:, 3:-1].flatten(0, 1) for net in (student, teacher))
    want = objective.loss(mine, soften(theirs, 1.0), 1.0) / 15
    close(got, want, "loss", rtol=1e-5, atol=1e-5)
    slopes = [torch.autograd.grad(loss, student.blocks[0].ffn.w_up.weight)[0] for loss in (got, want)]
    close(*slopes, "gradient", rtol=1e-4, atol=1e-5)


@pytest.mark.exercise("OnPolicy.forward")
def test_token_by_token_it_adds_up_to_the_texts():
    """Three ids, two new tokens, all nine texts by their chance: the mean of sums is KL of whole texts."""
    student, teacher = (net.double() for net in pair(vocab_size=3))
    prompt, chances, sums, logs = torch.tensor([[1, 2]]), [], [], []
    for ids in itertools.product(range(3), repeat=2):
        text = torch.tensor([[1, 2, *ids]])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("phase06_compression.project18_distillation.on_policy.write", lambda *a, t=text: t)
            sums.append(2 * OnPolicy(student, Teacher(teacher), new=2)(prompt).item())
        log_q, log_p = (F.log_softmax(net(text)[0, 1:3].detach(), -1)[range(2), ids].sum()
                        for net in (student, teacher))  # fmt: skip
        chances.append(log_q.exp().item())
        logs.append((log_q - log_p).item())
    whole, along = (sum(c * x for c, x in zip(chances, xs, strict=True)) for xs in (logs, sums))
    assert sum(chances) == pytest.approx(1) and along == pytest.approx(whole, rel=1e-4)


def test_is_on():
    """Twenty updates bring the student's own texts nearer to what the teacher would say."""
    student, teacher = pair()
    objective = OnPolicy(student, Teacher(teacher), new=6)
    optimizer, losses = torch.optim.AdamW(student.parameters(), lr=5e-3), []
    torch.manual_seed(0)
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective(PROMPTS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_refusals():
    student, teacher = pair()
    for settings, words in (({"how": "sideways"}, "no loss 'sideways'"), ({"new": 0}, "at least 1")):
        with pytest.raises(UserError, match=words):
            OnPolicy(student, Teacher(teacher), **settings)
    with pytest.raises(UserError, match="take the larger"):
        OnPolicy(teacher, Teacher(student))
