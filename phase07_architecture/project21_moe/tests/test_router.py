"""Two experts, the choice, and what keeps the load even: against transformers and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.testing import close
from phase07_architecture.project21_moe import router, two_experts
from phase07_architecture.project21_moe.router import Router, RouterConfig


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- two experts -------------------------------------------------------------------------------------------


@pytest.mark.exercise("blend")
def test_blend_is_the_weighted_sum():
    gates, outputs = torch.tensor([[0.25, 0.75], [1.0, 0.0]]), torch.tensor([[4.0, 8.0], [3.0, 100.0]])
    assert two_experts.blend(gates, outputs).tolist() == [7.0, 3.0]


@pytest.mark.exercise("pick")
def test_pick_takes_the_winner_times_its_gate():
    gates = torch.tensor([[0.25, 0.75], [0.6, 0.4]], requires_grad=True)
    outputs = torch.tensor([[4.0, 8.0], [3.0, 100.0]], requires_grad=True)
    y = two_experts.pick(gates, outputs)
    close(y.detach(), torch.tensor([6.0, 1.8]), "the winner's output times its gate")
    y.sum().backward()
    close(gates.grad, torch.tensor([[0.0, 8.0], [3.0, 0.0]]), "what the gates are told")
    close(outputs.grad, torch.tensor([[0.0, 0.75], [0.6, 0.0]]), "only the winner is told")


@pytest.mark.exercise("blend", "pick")
@pytest.mark.parametrize("how", ["blend", "pick"])
def test_two_lines_and_a_gate_follow_a_corner(how):
    """|x|: the best single line is 0.5 everywhere, wrong by 1/12 on average; two experts are far below."""
    x = torch.linspace(-1, 1, 101)
    errors = []
    for seed in range(3):  # one start in a few has both lines on one side
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pair = two_experts.Pair(2, getattr(two_experts, how))
        errors.append(two_experts.fit(pair, x, x.abs(), steps=250)[-1])
        if errors[-1] < 1 / 60:
            return
    raise AssertionError(f"from no start: {errors}")


# ---- the choice --------------------------------------------------------------------------------------------


@pytest.mark.exercise("choose")
def test_matches_transformers_mixtral():
    """The renormalised softmax of Mixtral: experts and weights, gradients of the weights too."""
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    from transformers import MixtralConfig

    theirs = modeling.MixtralTopKRouter(MixtralConfig(hidden_size=16, num_local_experts=6))
    ours, x = Router(16, RouterConfig(experts=6, k=2)), drawn(20, 16).float()
    theirs.weight.data.copy_(drawn(6, 16, seed=1))
    ours.gate.weight.data.copy_(theirs.weight.data)
    logits, weights, experts = theirs(x)
    said = ours(x)
    assert torch.equal(said.experts, experts)
    close(said.weights, weights, "weights")
    close(said.logits, logits, "logits")
    (drawn(20, 2, seed=2) * said.weights).sum().backward()
    (drawn(20, 2, seed=2) * weights).sum().backward()
    close(ours.gate.weight.grad, theirs.weight.grad, "what the router learns")


@pytest.mark.exercise("choose")
def test_matches_transformers_qwen_without_renormalising():
    modeling = pytest.importorskip("transformers.models.qwen3_moe.modeling_qwen3_moe")
    from transformers import Qwen3MoeConfig

    config = Qwen3MoeConfig(hidden_size=16, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False)
    theirs, x = modeling.Qwen3MoeTopKRouter(config), drawn(20, 16).float()
    ours = Router(16, RouterConfig(experts=6, k=3, renormalise=False))
    theirs.weight.data.copy_(drawn(6, 16, seed=1))
    ours.gate.weight.data.copy_(theirs.weight.data)
    _, weights, experts = theirs(x)
    said = ours(x)
    assert torch.equal(said.experts, experts) and (said.weights.sum(-1) < 1).all()
    close(said.weights, weights, "weights")


@pytest.mark.exercise("choose")
def test_matches_transformers_deepseek_with_a_bias():
    """Sigmoid scores, and a bias that counts in the choice alone."""
    modeling = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    from transformers import DeepseekV3Config

    config = DeepseekV3Config(hidden_size=16, n_routed_experts=8, num_experts_per_tok=3, n_group=1,
                              topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5)  # fmt: skip
    theirs, x = modeling.DeepseekV3TopkRouter(config), drawn(20, 16).float()
    ours = Router(16, RouterConfig(experts=8, k=3, score="sigmoid", rate=0.1, scale=2.5))
    theirs.weight.data.copy_(drawn(8, 16, seed=1))
    ours.gate.weight.data.copy_(theirs.weight.data)
    plain = ours(x)
    for bias in (ours.bias, theirs.e_score_correction_bias):
        bias.copy_(torch.linspace(-1, 1, 8))
    _, weights, experts = theirs(x)
    said = ours(x)
    full, true = (torch.zeros(20, 8).scatter(1, e, w) for e, w in
                  ((said.experts, said.weights), (experts, weights)))  # fmt: skip
    close(full, true, "weights by expert: theirs are in no order")
    assert not torch.equal(said.experts, plain.experts), "the bias must change some choices"


@pytest.mark.exercise("choose")
def test_weights_are_best_first_and_sum_to_one():
    experts, weights = router.choose(drawn(30, 5).softmax(-1), 3)
    assert (weights.diff(dim=-1) <= 0).all() and experts.shape == (30, 3)
    close(weights.sum(-1), torch.ones(30, dtype=torch.float64), "sums")


@pytest.mark.exercise("noisy")
def test_noise_has_the_spread_it_is_told():
    """20,000 numbers: mean 0, deviation softplus(spread), none shared between experts; and it is learnt."""
    logits, spread = torch.zeros(20_000, 2), torch.tensor([0.0, 2.0], requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = router.noisy(logits, spread.expand(20_000, 2))
    want = torch.tensor([math.log(2), math.log(1 + math.exp(2))])
    assert found.shape == (20_000, 2) and (found.mean(0).abs() < 0.1).all()
    assert ((found.std(0) / want - 1).abs() < 0.05).all()
    assert abs(torch.corrcoef(found.detach().T)[0, 1]) < 0.05, "each expert has a noise of its own"
    found.square().mean().backward()
    assert (spread.grad > 0).all(), "more spread, more of it: the spread can learn"
    assert (router.noisy(logits[:1] + 5, torch.full((1, 2), -50.0)) == 5).all(), "no spread, no noise"


def test_noise_in_training_only():
    made, x = Router(16, RouterConfig(experts=6, noise=True)), drawn(8, 16).float()
    assert not torch.equal(made(x).scores, made(x).scores)
    made.eval()
    assert torch.equal(made(x).scores, made(x).scores)


# ---- balance -----------------------------------------------------------------------------------------------


@pytest.mark.exercise("balance_loss")
def test_matches_transformers_balance_loss():
    """Theirs counts each of the k choices as a share of its own, so that it is k times ours."""
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    logits = drawn(40, 6).float().requires_grad_()
    scores = logits.softmax(-1)
    ours = router.balance_loss(scores, router.choose(scores, 2)[0])
    theirs = modeling.load_balancing_loss_func((logits,), 6, 2) / 2
    close(ours, theirs, "the loss")
    mine, true = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs))
    close(mine, true, "its gradient")


@pytest.mark.exercise("balance_loss")
def test_balance_loss_at_its_ends():
    """1 where all is even, E where one expert has everything; sigmoid scores count by their part."""
    even, one = torch.full((8, 4), 0.25), torch.zeros(8, 4)
    one[:, 2] = 1.0
    turns = torch.arange(8)[:, None] % 4
    assert router.balance_loss(even, turns).item() == pytest.approx(1)
    assert router.balance_loss(one, torch.full((8, 1), 2)).item() == pytest.approx(4)
    assert router.balance_loss(3 * even, turns).item() == pytest.approx(1), "scores that do not sum to 1"
    assert router.balance_loss(even[:0], turns[:0]).item() == 0


@pytest.mark.exercise("z_loss")
def test_z_loss_by_hand():
    """log(e^0 + e^0) = log 2; a constant on all logits of a token is seen, unlike by softmax."""
    logits = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    want = (math.log(2) ** 2 + (3 + math.log(2)) ** 2) / 2
    assert router.z_loss(logits).item() == pytest.approx(want)
    assert router.z_loss(logits[:0]).item() == 0


@pytest.mark.exercise("nudge")
def test_nudge_by_hand():
    """Loads 1, 2, 3 around their mean of 2: up, still, down, by the rate whatever the distance."""
    bias = router.nudge(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1, 2, 3]), 0.25)
    assert bias.tolist() == [0.25, 0.5, 0.75]
    far = router.nudge(torch.zeros(3), torch.tensor([0, 0, 300]), 0.25)
    assert far.tolist() == [0.25, 0.25, -0.25]


@pytest.mark.exercise("nudge")
def test_bias_evens_out_a_lopsided_router():
    """No training, no gradient: from a load with nearly everything on two experts to an even one."""
    scores = (drawn(512, 6) + torch.tensor([3.0, 3.0, 0, 0, 0, 0])).sigmoid()
    bias = torch.zeros(6, dtype=torch.float64)
    first = router.cv(router.load(router.choose(scores, 2)[0], 6))
    for _ in range(120):
        bias = router.nudge(bias, router.load(router.choose(scores, 2, bias)[0], 6), 0.01)
    last = router.cv(router.load(router.choose(scores, 2, bias)[0], 6))
    assert first > 1 and last < 0.2


@given(st.lists(st.integers(0, 50), min_size=2, max_size=9))
@settings(max_examples=25, deadline=None)
def test_measures_of_load(counts):
    """cv lies in [0, √(E - 1)], evenness in [0, 1]; the ends are where they should be."""
    E, counts = len(counts), torch.tensor(counts)
    assert -1e-9 <= router.cv(counts) <= math.sqrt(E - 1) + 1e-9
    assert -1e-9 <= router.evenness(counts) <= 1 + 1e-9
    all_on_one = torch.eye(E)[0]
    assert router.cv(all_on_one) == pytest.approx(math.sqrt(E - 1)) and router.evenness(all_on_one) == 0
    assert router.cv(torch.ones(E)) == 0 and router.evenness(torch.ones(E)) == pytest.approx(1)


def test_load_counts_what_was_not_dropped():
    assert router.load(torch.tensor([[0, 2], [2, 3]]), 3).tolist() == [1, 0, 2]


@pytest.mark.parametrize("wrong, says", [
    ({"experts": 0}, "at least 1"), ({"k": 9}, "k is 9 of 8"), ({"k": 0}, "k is 0"),
    ({"score": "tanh"}, "softmax or sigmoid"), ({"aux": -1.0}, "aux is -1"),
    ({"rate": float("nan")}, "rate is nan"), ({"scale": 0.0}, "scale is 0"),
])  # fmt: skip
def test_bad_settings(wrong, says):
    with pytest.raises(UserError, match=says):
        RouterConfig(**wrong)


def test_router_in_lower_precision_chooses_as_in_float32():
    """bfloat16 inputs, and autocast: logits are float32 either way."""
    made, x = Router(16, RouterConfig(experts=6)), drawn(20, 16).float()
    want = made(x).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(x).logits, want)
    assert made(x.bfloat16()).logits.dtype == torch.float32
