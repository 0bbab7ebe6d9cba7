"""PPO's and GRPO's parts on examples worked by hand, and both learning a reward that can be counted."""

import copy
import math

import pytest
import torch

from common.model import GPT
from common.testing import close, tiny
from phase02_finetuning.project06_dpo.grpo import GRPOLoss, group_advantages, grpo_loss, kl_estimate
from phase02_finetuning.project06_dpo.ppo import (
    ActorCritic,
    KLControl,
    PPOLoss,
    Rollout,
    gae,
    policy_loss,
    shaped,
    value_loss,
    whiten,
)

MASK = torch.tensor([[False, True, True, True, False], [False, False, True, True, True]])


@pytest.mark.exercise("shaped")
def test_shaped_by_hand():
    """Above the reference is charged, below it paid, token by token; the score comes at the last one."""
    logprobs = torch.tensor([[9.0, -1.0, -2.0, -3.0, 9.0], [9.0, 9.0, -1.0, -1.0, -1.0]])
    reference = torch.tensor([[0.0, -1.5, -2.0, -2.0, 0.0], [0.0, 0.0, -1.0, -1.0, -2.0]])
    found = shaped(torch.tensor([1.0, -0.5]), logprobs, reference, MASK, 0.2)
    assert found[0].tolist() == pytest.approx([0, -0.1, 0, 0.2 + 1.0, 0])
    assert found[1].tolist() == pytest.approx([0, 0, 0, 0, -0.2 - 0.5])


@pytest.mark.exercise("gae")
def test_gae_by_hand():
    """γ 0.5, λ 0.5; rewards 1, 0, 2 and values 0.5, 1, 1: δ = 1, -0.5, 1; A = 0.9375, -0.25, 1."""
    rewards = torch.tensor([[7.0, 1.0, 0.0, 2.0, 7.0]])
    values = torch.tensor([[7.0, 0.5, 1.0, 1.0, 7.0]])
    found = gae(rewards, values, MASK[:1], gamma=0.5, lam=0.5)
    assert found[0].tolist() == pytest.approx([0, 0.9375, -0.25, 1.0, 0])


@pytest.mark.exercise("gae")
def test_gae_in_its_limits():
    """λ 1: what is still to come less the value; λ 0: one step's surprise."""
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 5) * MASK, torch.randn(2, 5) * MASK
    to_come = rewards.flip(1).cumsum(1).flip(1)
    close(gae(rewards, values, MASK, 1.0, 1.0), (to_come - values) * MASK, "λ 1")
    after = torch.cat((values[:, 1:], torch.zeros(2, 1)), 1)
    close(gae(rewards, values, MASK, 0.9, 0.0), (rewards + 0.9 * after - values) * MASK, "λ 0")


@pytest.mark.exercise("policy_loss")
def test_clipped_objective_by_hand():
    """Ratios 1.5, 1.5, 0.5, 0.5 with A 1, -1, 1, -1 at clip 0.2: gains 1.2, -1.5, 0.5, -0.8."""
    new = torch.tensor([[1.5, 1.5, 0.5, 0.5, 3.0]]).log().requires_grad_()
    mask = torch.tensor([[True, True, True, True, False]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 9.0]])
    loss = policy_loss(new, torch.zeros(1, 5), advantages, mask, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)
    loss.backward()
    assert new.grad[0].tolist() == pytest.approx([0, 1.5 / 4, -0.5 / 4, 0, 0])  # no way back is clipped


@pytest.mark.exercise("value_loss")
def test_value_loss_by_hand():
    """From 0.5 to 1.5 with R 1.5: (0.7 - 1.5)², as the clipped guess is worse; to -0.5: (-0.5 - 1.5)²."""
    new, old = torch.tensor([[1.5, -0.5, 0.6, 8.0]]), torch.full((1, 4), 0.5)
    returns, mask = torch.tensor([[1.5, 1.5, 0.6, 0.0]]), torch.tensor([[True, True, True, False]])
    assert value_loss(new, old, returns, mask, 0.2).item() == pytest.approx(0.5 * (0.64 + 4.0 + 0.0) / 3)


@pytest.mark.exercise("KLControl.update")
def test_price_of_kl():
    """Above the target it rises, by a fifth a horizon at most; below it falls; on it it stays."""
    for kl, expected in ((6.0, 0.1), (6.6, 0.1 * (1 + 0.1 * 0.5)), (60.0, 0.1 * 1.1), (0.0, 0.1 * 0.9)):
        control = KLControl(0.1, target=6.0, horizon=200)
        control.update(kl, 100)
        assert float(control.beta) == pytest.approx(expected)
    assert "beta" in KLControl(0.1, 6.0, 200).state_dict(), "a resumed run needs its price"


def test_whiten():
    x = torch.randn(2, 5) * 3 + 7
    made = whiten(x, MASK)
    assert made[MASK].mean().item() == pytest.approx(0, abs=1e-5)
    assert made[MASK].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (made[~MASK] == 0).all()


@pytest.mark.exercise("group_advantages")
def test_group_advantages_by_hand():
    """1, 2, 3: mean 2, deviation 1; a group of equals teaches nothing; scale False only centres."""
    rewards = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    found = group_advantages(rewards)
    assert found.flatten().tolist() == pytest.approx([-1, 0, 1, 0, 0, 0], abs=2e-4)
    assert group_advantages(10 * rewards, scale=False)[0].tolist() == pytest.approx([-10, 0, 10])


@pytest.mark.exercise("kl_estimate")
def test_kl_estimate_is_unbiased_and_never_negative():
    """Its mean under our policy is the KL between two distributions of four tokens."""
    ours, theirs = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.25, 0.25, 0.25, 0.25])
    each = kl_estimate(ours.log(), theirs.log())
    assert (each >= 0).all() and kl_estimate(ours.log(), ours.log()).abs().max() == 0
    assert float((ours * each).sum()) == pytest.approx(float((ours * (ours / theirs).log()).sum()), abs=1e-6)


@pytest.mark.exercise("grpo_loss")
def test_grpo_loss_by_hand():
    """Answers of 1 and 2 tokens count alike; the clip and the KL as in the docstring."""
    new, old = torch.tensor([[1.5, 1.0], [0.5, 1.0]]).log(), torch.zeros(2, 2)
    mask = torch.tensor([[True, False], [True, True]])
    advantages, kl = torch.tensor([[2.0], [-1.0]]), 0.5 * (2 - 1 - math.log(2))
    reference = torch.tensor([[1.5, 1.0], [1.0, 1.0]]).log()  # the second answer's first token moved
    found = grpo_loss(new, old, reference, advantages, mask, clip=0.2, beta=0.1)
    first, second = -1.2 * 2.0, ((0.8 + 0.1 * kl) + 1.0) / 2
    assert found.item() == pytest.approx((first + second) / 2)


def written(policy, reference, n=32):
    """n answers of four tokens that the policy draws to one prompt; the reward is the share of token 3."""
    tokens = torch.full((n, 2), 5)
    for _ in range(4):
        logits = policy(tokens)[:, -1]
        tokens = torch.cat((tokens, torch.multinomial(logits.softmax(-1), 1)), 1)
    mask = torch.tensor([False, True, True, True, True]).expand(n, 5)
    return tokens, mask, (tokens[:, 2:] == 3).float().mean(1)


@torch.no_grad()
def experience(objective, reference):
    """A rollout with advantages as the method has them, and its mean reward."""
    ppo = isinstance(objective, PPOLoss)
    policy = objective.actor.model if ppo else objective.model
    tokens, mask, rewards = written(policy, reference)
    there = GRPOLoss(reference).logprobs(tokens, mask)
    if ppo:
        logprobs, values = objective.actor(tokens, mask)
        gains = shaped(rewards, logprobs, there, mask, 0.01)
        advantages = gae(gains, values, mask)
        made = Rollout(tokens, mask, logprobs, there, whiten(advantages, mask), values, advantages + values)
    else:
        old, none = objective.logprobs(tokens, mask), torch.zeros(mask.shape)
        made = Rollout(tokens, mask, old, there, group_advantages(rewards[None]).T, none, none)
    return made, rewards.mean().item()


def rewards(method):
    """From chance, 1 in 97, to most of what can be had, in 40 phases of 32 answers."""
    torch.manual_seed(0)
    policy = GPT(tiny(n_layer=1))
    reference = copy.deepcopy(policy)
    actor, control = ActorCritic(policy), KLControl(0.01, 50.0, 1000)
    objective = PPOLoss(actor, control) if method == "ppo" else GRPOLoss(policy, beta=0.001)
    optimizer, found = torch.optim.AdamW(objective.parameters(), lr=1e-2), []
    for _ in range(40):
        rollout, reward = experience(objective, reference)
        found.append(reward)
        for _ in range(2):
            optimizer.zero_grad()
            objective(rollout).backward()
            optimizer.step()
    return found


@pytest.mark.exercise("shaped", "gae", "policy_loss", "value_loss")
def test_is_on_reward_rises_with_ppo():
    found = rewards("ppo")
    assert sum(found[:3]) / 3 < 0.1 and sum(found[-3:]) / 3 > 0.5, found


@pytest.mark.exercise("group_advantages", "grpo_loss")
def test_is_on_reward_rises_with_grpo():
    found = rewards("grpo")
    assert sum(found[:3]) / 3 < 0.1 and sum(found[-3:]) / 3 > 0.5, found
