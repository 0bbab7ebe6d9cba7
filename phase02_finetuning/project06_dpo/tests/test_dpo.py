"""Preference losses by hand, log-probabilities against the naive ones, and the two layouts of a batch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from common.model import GPT
from common.profiling import peak_of
from common.proofs import prove
from common.testing import close, tiny
from phase02_finetuning.project06_dpo import dpo
from phase02_finetuning.project06_dpo.dpo import Pair
from phase02_finetuning.project06_dpo.reward_model import RewardLoss, RewardModel, bradley_terry

PAIRS = [Pair([5, 7, 11], [2, 3], [4, 9, 8, 1]), Pair([6], [3, 3, 3, 3, 3], [12]),
         Pair([8, 8, 8, 8], [1], [2, 5])]  # fmt: skip


def model(seed=0):
    torch.manual_seed(seed)
    return GPT(tiny()).double()


# ---- layouts and log-probabilities ----


@pytest.mark.exercise("shared", "sequence_logprobs")
@pytest.mark.parametrize("layout", ["side_by_side", "shared"])
def test_matches_naive(layout):
    """Both layouts give what each answer has by itself, with all its logits; so do their gradients."""
    policy, naive = model(), model()
    expected = torch.stack([dpo.naive_logprobs(naive, pair) for pair in PAIRS], 1)
    found = dpo.sequence_logprobs(policy, getattr(dpo, layout)(PAIRS), chunk=4)
    close(found, expected, "log-probabilities", rtol=1e-6, atol=1e-6)
    weight = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, -1.0]])
    for result in (found, expected):
        (result * weight).sum().backward()
    for (name, p), q in zip(policy.named_parameters(), naive.parameters(), strict=True):
        close(p.grad, q.grad, name, rtol=1e-5, atol=1e-6)


@pytest.mark.exercise("shared")
def test_shared_reads_the_prompt_once():
    """One row a pair, as long as prompt and both answers; the longest decides."""
    batch = dpo.shared(PAIRS, pad=96)
    assert batch.tokens.shape == (3, 9)
    assert batch.tokens[0].tolist() == [5, 7, 11, 2, 3, 4, 9, 8, 1]
    assert batch.tokens[2].tolist() == [8, 8, 8, 8, 1, 2, 5, 96, 96]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 6]
    assert batch.lengths.tolist() == [[2, 5, 1], [4, 1, 2]]


@pytest.mark.exercise("shared")
def test_answers_do_not_see_each_other():
    """What the chosen answer says leaves the rejected one's probability where it was."""
    policy, other = model(), [PAIRS[0]._replace(chosen=[40, 41])]
    before, after = (dpo.sequence_logprobs(policy, dpo.shared(rows)) for rows in (PAIRS[:1], other))
    assert before[0] != after[0]
    close(after[1], before[1], "rejected", rtol=1e-7, atol=1e-7)


@pytest.mark.exercise("shared")
def test_ends_are_the_last_tokens():
    """Where a reward is read: the last token of each answer."""
    for batch in (dpo.side_by_side(PAIRS), dpo.shared(PAIRS)):
        assert batch.tokens.flatten()[batch.ends].tolist() == [3, 3, 1, 1, 12, 5]


def test_an_empty_answer_is_refused():
    for layout in (dpo.shared, dpo.side_by_side):
        with pytest.raises(UserError, match="no tokens"):
            layout([PAIRS[0]._replace(rejected=[])])


@pytest.mark.exercise("token_logprobs")
def test_token_logprobs():
    """ln softmax at the target, float32, for any size of chunk, with its gradients."""
    torch.manual_seed(0)
    hidden, head = torch.randn(13, 8, requires_grad=True), nn.Linear(8, 50)
    targets = torch.randint(50, (13,))
    expected = head(hidden).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    want = torch.autograd.grad(expected.square().sum(), (hidden, *head.parameters()))
    for chunk in (1, 5, 13, 100):
        found = dpo.token_logprobs(head, hidden, targets, chunk)
        close(found, expected, f"chunk {chunk}")
        grads = torch.autograd.grad(found.square().sum(), (hidden, *head.parameters()))
        for a, b in zip(grads, want, strict=True):
            close(a, b, f"gradients, chunk {chunk}", rtol=1e-4, atol=1e-5)
    assert dpo.token_logprobs(head.bfloat16(), hidden.bfloat16(), targets).dtype == torch.float32


@pytest.mark.exercise("token_logprobs")
def test_is_on_never_all_logits():
    """Forward and backward hold much less than one tensor of all logits."""
    N, V, C = 512, 2000, 8
    hidden, weight, ids = torch.randn(N, C, requires_grad=True), torch.randn(V, C), torch.zeros(N).long()

    def both_ways():
        dpo.token_logprobs(lambda h: F.linear(h, weight), hidden, ids, 32).sum().backward()
        return hidden.grad

    assert peak_of(both_ways, torch.device("cpu")) < N * V * 4 / 2


# ---- losses ----

POLICY = torch.tensor([[-10.0, -4.0], [-12.0, -3.0]])
REFERENCE = torch.tensor([[-11.0, -4.0], [-11.0, -5.0]])
LENGTHS = torch.tensor([[2, 4], [4, 1]])


def sigmoid_loss(x):
    return math.log(1 + math.exp(-x))


@pytest.mark.exercise("dpo_loss")
def test_dpo_by_hand():
    """Pair 1 gained 1 on its chosen and lost 1 on its rejected: Δ = 2; pair 2: Δ = 0 - 2."""
    found = dpo.dpo_loss(POLICY, REFERENCE, LENGTHS, 0.5)
    assert found.tolist() == pytest.approx([sigmoid_loss(1.0), sigmoid_loss(-1.0)])


@pytest.mark.exercise("ipo_loss")
def test_ipo_by_hand():
    """Per token: Δ = 1/2 + 1/4 and 0 - 2; the margin is 1 / (2 x 0.5) = 1."""
    found = dpo.ipo_loss(POLICY, REFERENCE, LENGTHS, 0.5)
    assert found.tolist() == pytest.approx([(0.75 - 1) ** 2, (-2 - 1) ** 2])


@pytest.mark.exercise("simpo_loss")
def test_simpo_by_hand():
    """Per token: Δ = -5 + 3 and -1 + 3, times 2, less the margin of 1; no reference."""
    found = dpo.simpo_loss(POLICY, REFERENCE, LENGTHS, 2.0, 1.0)
    assert found.tolist() == pytest.approx([sigmoid_loss(-5.0), sigmoid_loss(3.0)])


@pytest.mark.exercise("dpo_loss", "ipo_loss", "simpo_loss")
@pytest.mark.parametrize("method", ["dpo", "ipo", "simpo"])
def test_is_on_learning_turns_the_ranking(method):
    """Thirty updates rank pairs that the model did not rank; the frozen reference would not."""
    policy = model().float()
    batch = dpo.with_reference(copy.deepcopy(policy), dpo.shared([PAIRS[0], PAIRS[2]]))
    objective = dpo.PreferenceLoss(policy, method, beta=0.5, gamma=0.5)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    first = objective(batch).item()
    for _ in range(30):
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()
    last = objective(batch).item()
    gained = objective.logprobs - batch.reference
    assert last < 0.7 * first and (gained[0] > gained[1] + 1).all(), (method, first, last, gained)


def test_reference_costs_no_gradient():
    """Made once, from a model that keeps no gradient of it."""
    policy = model()
    batch = dpo.with_reference(policy, dpo.shared(PAIRS))
    assert not batch.reference.requires_grad and batch.reference.shape == (2, 3)
    close(dpo.PreferenceLoss(policy, beta=0.7)(batch), torch.tensor(math.log(2)), "nothing learned yet")


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="no method"):
        dpo.PreferenceLoss(model(), "ppo")
    with pytest.raises(UserError, match="beta"):
        dpo.PreferenceLoss(model(), "ipo", beta=0.0)


# ---- the reward model ----


@pytest.mark.exercise("RewardModel.forward")
def test_reward_is_read_at_the_last_token():
    """Whatever the layout and the padding, an answer has the score that it has alone."""
    reward = RewardModel(model()).double()
    nn.init.normal_(reward.score.weight)
    rows = [p.prompt + answer for answers in zip(*((p.chosen, p.rejected) for p in PAIRS), strict=True)
            for p, answer in zip(PAIRS, answers, strict=True)]  # fmt: skip
    last = torch.cat([reward.model.hidden(torch.tensor([row]))[0, -1:] for row in rows])
    alone = last @ reward.score.weight.T
    for batch in (dpo.side_by_side(PAIRS), dpo.shared(PAIRS)):
        found = reward(batch.tokens, batch.ends, batch.positions, batch.mask)
        close(found, alone.squeeze(1), "scores", rtol=1e-8, atol=1e-8)


@pytest.mark.exercise("bradley_terry")
def test_bradley_terry_by_hand():
    """Scores 2 and 0: the chosen one wins with σ(2); equal scores: ln 2; only the difference counts."""
    chosen, rejected = torch.tensor([2.0, 1.0, 7.0]), torch.tensor([0.0, 1.0, 9.0])
    found = bradley_terry(chosen, rejected)
    assert found.tolist() == pytest.approx([sigmoid_loss(2.0), math.log(2), sigmoid_loss(-2.0)])
    assert torch.isfinite(bradley_terry(torch.tensor([-200.0]), torch.tensor([200.0]))).all()


@pytest.mark.exercise("RewardModel.forward", "bradley_terry")
def test_reward_model_learns():
    """A few updates rank the pairs, from scores that were all zero."""
    reward = RewardModel(model().float())
    objective, batch = RewardLoss(reward), dpo.shared(PAIRS)
    optimizer = torch.optim.AdamW(reward.parameters(), lr=3e-3)
    assert objective(batch).item() == pytest.approx(math.log(2))
    for _ in range(30):
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()
    assert (objective.scores[0] > objective.scores[1] + 1).all()


def test_wrong_solutions_are_caught():
    prove(__file__)
