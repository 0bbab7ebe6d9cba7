"""Taps beside the model itself, relations beside attention as transformers computes it, the distances."""

import math

import pytest
import torch

from common import hub
from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase06_compression.project18_distillation.feature_kd import (
    FAR,
    MINILM,
    MINILM_V2,
    FeatureKD,
    followed,
    relation,
    relation_loss,
    sides,
    state_loss,
    taps,
)
from phase06_compression.project18_distillation.logit_kd import LogitKD, Teacher


def model(seed=0, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = GPT(tiny(**sizes))
        for p in made.parameters():
            p.data.mul_(6.0 if p.dim() > 1 else 1.0)
        return made


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TOKENS = torch.randint(97, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.exercise("taps")
def test_taps_are_what_the_model_computes():
    """Hidden states, each block's output, and q, k, v of the block asked for, as hooks overhear them."""
    net, heard = model(n_layer=3), {}
    for i, block in enumerate(net.blocks):
        block.register_forward_hook(lambda m, a, y, i=i: heard.__setitem__(("state", i), y))
        block.attn.attend = lambda q, k, v, i=i, own=block.attn.attend, **where: (
            heard.__setitem__(("qkv", i), (q, k, v)), own(q, k, v, **where))[1]  # fmt: skip
    want = net.hidden(TOKENS)
    due = dict(heard)
    for layer in (0, 1, -1):
        got = taps(net, TOKENS, layer)
        close(got.hidden, want, "hidden")
        assert len(got.states) == 3
        for i, state in enumerate(got.states):
            close(state, due["state", i], f"block {i}")
        for name, mine, true in zip("qkv", (got.q, got.k, got.v), due["qkv", layer % 3], strict=True):
            close(mine, true, f"{name} of block {layer}")


def test_matches_attention_of_transformers(tmp_path):
    """Queries and keys of the last block, with its own heads: the attention that transformers returns."""
    transformers = pytest.importorskip("transformers")
    net = model()
    hub.save(net, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    want = theirs(TOKENS, output_attentions=True).attentions[-1]  # (B, H, T, T)
    got = relation(*sides(taps(net, TOKENS), "qk"), net.config.n_head).exp()
    close(got, want, "attention", rtol=1e-4, atol=1e-5)


@pytest.mark.exercise("relation")
def test_relation_by_hand():
    """One head of width 4: rows over the past sum to 1, the future has none; scores are halved."""
    a, b = draw(1, 3, 4), draw(1, 3, 4, seed=1)
    got = relation(a, b, 1)[0, 0]
    scores = a[0] @ b[0].T / 2
    assert torch.allclose(got.exp().sum(-1), torch.ones(3)) and got.exp().triu(1).sum() == 0
    assert got[1, :2].exp().tolist() == pytest.approx(scores[1, :2].softmax(-1).tolist(), rel=1e-5)
    assert got[0, 0].item() == 0 and got[0, 1] < FAR / 2
    two = relation(a, b, 2)
    assert two.shape == (1, 2, 3, 3)
    close(two[0, 1], relation(a[..., 2:], b[..., 2:], 1)[0, 0], "the second part")


@pytest.mark.exercise("relation_loss")
def test_relation_loss_is_a_mean_of_divergences():
    """Beside torch's KL of the shares, row by row; 0 of equals; not the same the other way round."""
    mine, theirs = (relation(draw(2, 5, 8, seed=s), draw(2, 5, 8, seed=s + 1), 2) for s in (0, 5))
    p, q = theirs.exp().double(), mine.exp().double()
    want = (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1).mean()
    got = relation_loss(mine, theirs)
    close(got, want, "relation_loss", rtol=1e-4, atol=1e-6)
    assert relation_loss(mine, mine).item() == 0
    assert abs(relation_loss(theirs, mine).item() - want.item()) > 1e-3


@pytest.mark.exercise("state_loss")
def test_state_loss_by_hand():
    """The teacher's states count by direction, not by length; zeros are 1 away; the mean over blocks."""
    theirs = [torch.tensor([[[3.0, -3.0]]]), torch.tensor([[[0.1, 0.1]]])]
    zeros = [torch.zeros(1, 1, 2)] * 2
    plain = [torch.nn.Identity()] * 2
    assert state_loss(zeros, theirs, plain).item() == pytest.approx(1.0, abs=1e-3)
    mine = [torch.tensor([[[1.0, -1.0]]]), torch.zeros(1, 1, 2)]
    assert state_loss(mine, theirs, plain).item() == pytest.approx(0.5, abs=1e-3)
    double = [lambda x: 2 * x, lambda x: x]
    assert state_loss(mine, theirs, double).item() == pytest.approx(1.0, abs=1e-3)


def test_which_block_follows_which():
    assert followed(2, 6) == [2, 5] and followed(3, 3) == [0, 1, 2] and followed(1, 4) == [3]
    with pytest.raises(UserError, match="has no teacher in 2"):
        followed(3, 2)


@pytest.mark.parametrize("pairs", [MINILM, MINILM_V2])
def test_a_student_that_is_its_teacher_is_at_no_distance(pairs):
    """The same weights: every relation agrees to the last digits, whatever the pairs."""
    net = model()
    objective = FeatureKD(net, net, pairs, states=False)
    inputs, targets = TOKENS[:, :-1], TOKENS[:, 1:]
    loss = objective((inputs, targets))
    assert all(objective.parts[pair].item() == pytest.approx(0.0, abs=1e-6) for pair in pairs)
    assert loss.item() == pytest.approx(objective.parts["hard"].item(), abs=1e-5)


def test_is_on_and_widths_may_differ():
    """A narrower student of other heads learns: relations and states fall; the bridges are trained too."""
    student, teacher = model(1, n_layer=1, d_model=16, n_head=2, n_kv_head=1, d_ff=24), model()
    objective = FeatureKD(student, teacher, heads=2)
    batch = TOKENS[:, :-1], TOKENS[:, 1:]
    optimizer, seen = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2), []
    for _ in range(40):
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()
        seen.append(objective.parts)
    for name in ("qk", "vv", "states"):
        assert seen[-1][name] < 0.8 * seen[0][name], name
    names = {name for name, _ in objective.named_parameters()}
    assert {"bridges.0.weight"} == {name for name in names if not name.startswith("model.")}


def test_it_needs_no_logits_of_the_teacher():
    """With a broken head the features are the same, and the logits are not: what each one looks at."""
    student, teacher, batch = model(1, n_layer=1), model(), (TOKENS[:, :-1], TOKENS[:, 1:])
    torch.manual_seed(0)
    features, logits = FeatureKD(student, teacher), LogitKD(student, Teacher(teacher))
    before = features(batch).item(), logits(batch).item()
    teacher.head.weight.data.mul_(30)
    after = features(batch).item(), logits(batch).item()
    assert before[0] == pytest.approx(after[0], rel=1e-5) and abs(before[1] - after[1]) > 1e-3


def test_refusals():
    with pytest.raises(UserError, match="cannot be cut into 3 parts"):
        FeatureKD(model(1, n_layer=1), model(), heads=3)
    with pytest.raises(UserError, match="take the larger one"):
        FeatureKD(model(n_layer=2), model(n_layer=1))
    assert math.exp(FAR) == 0
