"""The mixture: against transformers' blocks and the sum written out; in a model, and out of a trained one."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common import hub
from common.cli import restores
from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, SwiGLU
from common.recipe import TrainConfig
from common.testing import close, tiny
from common.training import train
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.optimizers import Muon
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore
from phase07_architecture.project21_moe import moe, surgery
from phase07_architecture.project21_moe.moe import MoE, MoEConfig
from phase07_architecture.project21_moe.router import Routing

WAYS = {"masked": moe.masked, "loop": moe.loop, "sorted": moe.sorted_segments}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(config, d_model=12, d_ff=10, seed=0, **more):
    """A MoE in float64 with weights that matter."""
    made = MoE(d_model, d_ff, config, **more).double()
    for i, p in enumerate(made.parameters()):
        p.data.copy_(drawn(*p.shape, seed=seed + i) / 3)
    return made


def routing_of(experts, E, seed=3):
    """A Routing with these experts and weights drawn; nobody's weight is 0.7, which must not count."""
    experts = torch.tensor(experts)
    weights = drawn(*experts.shape, seed=seed).abs().masked_fill(experts == E, 0.7)
    scores = torch.zeros(len(experts), E, dtype=torch.float64)
    return Routing(experts, weights.requires_grad_(), scores, scores)


def by_hand(x, routing, experts):
    """Token by token, choice by choice: the sum in the paper."""
    rows = []
    for t, chosen in enumerate(routing.experts.tolist()):
        row = 0 * x[t]
        for c, e in enumerate(chosen):
            if e < len(experts):
                row = row + routing.weights[t, c] * experts[e](x[t])
        rows.append(row)
    return torch.stack(rows)


def gradients(run, x, routing, experts):
    """y, and what flows back to x, the weights of the routing, and the experts."""
    x = x.clone().requires_grad_()
    y = run(x, routing, experts)
    given = [x, routing.weights, *experts.parameters()]
    back = torch.autograd.grad((y * drawn(*y.shape, seed=9)).sum(), given, allow_unused=True)
    return y.detach(), [g if g is not None else torch.zeros_like(t) for g, t in zip(back, given, strict=True)]


CASES = {
    "all sorts": ([[0, 2], [2, 1], [3, 0], [2, 3], [0, 1], [1, 2]], 4),
    "an expert without tokens": ([[0, 2], [2, 0], [0, 3], [2, 3]], 4),
    "everything on one": ([[2], [2], [2]], 4),
    "some dropped": ([[0, 4], [4, 4], [4, 1], [3, 0]], 4),
    "all dropped": ([[4, 4], [4, 4]], 4),
    "one expert": ([[0], [0], [0]], 1),
    "k = E": ([[0, 1, 2], [2, 0, 1], [1, 2, 0]], 3),
}


@pytest.mark.exercise("loop", "sort_by_expert", "Rows.backward", "sorted_segments")
@pytest.mark.parametrize("name", CASES)
def test_matches_the_sum_of_the_paper(name):
    """Outputs and gradients of the three ways, token by token."""
    experts, E = CASES[name]
    made = layer(MoEConfig(experts=E, k=1))
    x, routing = drawn(len(experts), 12), routing_of(experts, E)
    want, back = gradients(by_hand, x, routing, made.experts)
    for way, run in WAYS.items():
        y, mine = gradients(run, x, routing, made.experts)
        close(y, want, f"{way}: y")
        for i, (ours, true) in enumerate(zip(mine, back, strict=True)):
            close(ours, true, f"{way}: gradient {i}")


@pytest.mark.exercise("sort_by_expert")
def test_sorting_by_hand():
    """Choices 1 1 | 0 3 | 1 0 of three experts: 0 has the choices 2 and 5, 1 has 0 1 4, nobody has 3."""
    order, inverse, counts = moe.sort_by_expert(torch.tensor([[1, 1], [0, 3], [1, 0]]), 3)
    assert order.tolist() == [2, 5, 0, 1, 4, 3]
    assert inverse.tolist() == [2, 3, 0, 5, 4, 1]
    assert counts.tolist() == [2, 3, 0]


@pytest.mark.exercise("Rows.backward")
def test_rows_back_is_what_autograd_would_do():
    """Each row taken three times, in any order: the gradient is their sum."""
    index = torch.arange(4).repeat(3)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    back = index.argsort(stable=True)
    x, dy = drawn(4, 5).requires_grad_(), drawn(12, 5, seed=1)
    (want,) = torch.autograd.grad(x[index], x, dy)
    (got,) = torch.autograd.grad(moe.Rows.apply(x, index, back), x, dy)
    close(got, want, "dx")
    empty = drawn(0, 5).requires_grad_()
    none = torch.zeros(0, dtype=torch.long)
    assert torch.autograd.grad(moe.Rows.apply(empty, none, none).sum(), empty)[0].shape == (0, 5)


@pytest.mark.parametrize("way", WAYS)
def test_no_tokens(way):
    made = layer(MoEConfig(experts=3), run=WAYS[way])
    assert made(drawn(2, 0, 12)).shape == (2, 0, 12)


@pytest.mark.exercise("sorted_segments")
def test_is_on_no_more_rows_are_computed_than_were_chosen():
    """The mask computes E rows a token; the sorted way k, and in use no expert without rows is called."""
    made, rows = layer(MoEConfig(experts=4, k=2)), []
    for expert in made.experts:
        expert.register_forward_hook(lambda m, given, y: rows.append(len(given[0])))
    routing = routing_of([[0, 2], [2, 0], [0, 4]], 4)
    with torch.no_grad():
        moe.masked(drawn(3, 12), routing, made.experts)
        assert sum(rows) == 12
        rows.clear()
        moe.sorted_segments(drawn(3, 12), routing, made.experts)
    assert sorted(rows) == [2, 3]


# ---- blocks of transformers --------------------------------------------------------------------------------


def filled(theirs, ours):
    """Give a block of transformers, with its stacked weights, those of ours."""
    experts = list(ours.experts)
    both = [torch.cat((e.w_gate.weight, e.w_up.weight)) for e in experts]
    theirs.experts.gate_up_proj.data.copy_(torch.stack(both))
    theirs.experts.down_proj.data.copy_(torch.stack([e.w_down.weight for e in experts]))
    theirs.gate.weight.data.copy_(ours.router.gate.weight)
    return theirs.float().eval()


def same_block(ours, theirs):
    x, again = (drawn(2, 7, 12).float().requires_grad_() for _ in range(2))
    y, want = ours(x), theirs(again)
    close(y, want, "y")
    close(*(torch.autograd.grad(v.square().sum(), g)[0] for v, g in ((y, x), (want, again))), "dx")
    assert want.std() > 0.05, "a block that says nothing would prove nothing"


@pytest.mark.parametrize("way", WAYS)
def test_matches_transformers_mixtral_block(way):
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    from transformers import MixtralConfig

    ours = layer(MoEConfig(experts=5, k=2), run=WAYS[way]).float()
    config = MixtralConfig(hidden_size=12, intermediate_size=10, num_local_experts=5, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    same_block(ours, filled(modeling.MixtralSparseMoeBlock(config), ours))


def test_matches_transformers_deepseek_block():
    """Sigmoid scores, a bias, a shared expert."""
    modeling = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    from transformers import DeepseekV3Config

    ours = layer(MoEConfig(experts=6, k=2, score="sigmoid", rate=0.1, shared=10)).float()
    config = DeepseekV3Config(
        hidden_size=12, moe_intermediate_size=10, n_routed_experts=6, n_shared_experts=1,
        num_experts_per_tok=2, n_group=1, topk_group=1, routed_scaling_factor=1.0)  # fmt: skip
    config._experts_implementation = "eager"
    theirs = filled(modeling.DeepseekV3MoE(config), ours)
    for bias in (ours.router.bias, theirs.gate.e_score_correction_bias):
        bias.copy_(torch.linspace(-0.4, 0.4, 6))
    for name, there in (("w_gate", "gate_proj"), ("w_up", "up_proj"), ("w_down", "down_proj")):
        getattr(theirs.shared_experts, there).weight.data.copy_(getattr(ours.shared, name).weight)
    same_block(ours.eval(), theirs)


# ---- capacity ----------------------------------------------------------------------------------------------


@pytest.mark.exercise("drop")
def test_drop_by_hand():
    """Room for two: expert 0 takes the first choices of tokens 0 and 1; token 2's second and token 3's go."""
    experts = torch.tensor([[0, 1], [0, 2], [1, 0], [0, 1], [1, 2]])
    want = [[0, 3], [0, 2], [1, 3], [3, 3], [1, 2]]
    assert moe.drop(experts, 2, 3).tolist() == want
    assert torch.equal(moe.drop(experts, 5, 3), experts), "room enough: nobody is dropped"


@pytest.mark.exercise("drop")
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 12), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_nobody_takes_more_than_there_is_room_for(E, k, N, room, seed):
    k = min(k, E)
    experts = drawn(N, E, seed=seed).topk(k, dim=-1).indices
    kept = moe.drop(experts, room, E)
    asked, got = (torch.bincount(e.flatten(), minlength=E + 1)[:E] for e in (experts, kept))
    assert torch.equal(got, asked.clamp(max=room)), "as many as asked, up to the room"
    assert ((kept == experts) | (kept == E)).all()


def test_capacity_in_training_and_not_in_use():
    """Dropped tokens get less; in use nobody is dropped, and a token's result is its own."""
    made, x = layer(MoEConfig(experts=4, k=2, capacity=0.5)), drawn(16, 12)
    free = layer(MoEConfig(experts=4, k=2))
    assert moe.room(16, made.config) == 4
    assert not torch.allclose(made(x), free(x))
    made.eval()
    close(made(x), free(x), "in use")
    close(made(x[:3]), made(x)[:3], "three tokens alone, and beside others")


def test_one_expert_is_the_feed_forward():
    made, x = layer(MoEConfig(experts=1, k=1)), drawn(5, 12)
    close(made(x), made.experts[0](x), "E = 1")


@pytest.mark.parametrize("wrong, says", [
    ({"capacity": 0}, "nobody would take a token"), ({"capacity": -1.0}, "capacity is -1"),
    ({"d_ff": 0}, "d_ff is 0"), ({"shared": -1}, "shared is -1"), ({"experts": 2, "k": 3}, "k is 3 of 2"),
])  # fmt: skip
def test_bad_settings(wrong, says):
    with pytest.raises(UserError, match=says):
        MoEConfig(**wrong)


# ---- in a model --------------------------------------------------------------------------------------------


def model_of(config=None, seed=0, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return surgery.apply(GPT(tiny(**sizes)), config or MoEConfig(experts=4, k=2))


def test_is_on_in_every_block():
    """No feed-forward is left outside; each is drawn as the core draws it; k of E are as large as it was."""
    model = model_of(MoEConfig(experts=4, k=2, shared=8))
    assert [type(block.ffn) for block in model.blocks] == [MoE, MoE]
    inside = [name for name, m in model.named_modules() if type(m) is SwiGLU]
    assert all(".experts." in name or ".shared" in name for name in inside) and len(inside) == 10
    assert model.blocks[0].ffn.experts[0].w_up.out_features == 24
    first, second = (model.blocks[0].ffn.experts[i].w_down.weight for i in (0, 1))
    assert 0.005 < first.std() < 0.015 and not torch.equal(first, second)


def test_active_weights():
    """Two of four experts of half the size: a token meets the dense model's weights, and routers."""
    dense, model = GPT(tiny()), model_of()
    every, used = surgery.active(model)
    routers = sum(p.numel() for block in model.blocks for p in block.ffn.router.parameters())
    assert used == sum(p.numel() for p in dense.parameters()) + routers
    assert every == used + sum(p.numel() for block in dense.blocks for p in block.ffn.parameters())


@pytest.mark.exercise("experts_of")
def test_upcycled_model_is_the_old_one_at_first():
    """The same logits; then, after a step, experts that have parted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense = GPT(tiny()).double()
        tokens = torch.randint(97, (2, 9))
        want = dense(tokens)
        model = surgery.upcycle(copy.deepcopy(dense), MoEConfig(experts=4, k=2))
    close(model(tokens), want, "logits")
    weights = [expert.w_up.weight for expert in model.blocks[0].ffn.experts]
    assert len({id(w) for w in weights}) == 4 and len({w.data_ptr() for w in weights}) == 4
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(tokens).square().sum().backward()
    optimizer.step()
    assert not torch.equal(*weights[:2])
    for wrong in (MoEConfig(renormalise=False), MoEConfig(shared=8), MoEConfig(d_ff=8), MoEConfig(scale=2)):
        with pytest.raises(UserError, match="begins with the old function"):
            surgery.upcycle(copy.deepcopy(dense), wrong)


@pytest.mark.parametrize("make", [surgery.apply, surgery.upcycle])
def test_folder_and_back(tmp_path, make):
    """A folder says how it was made, and gives the same logits, biases included."""
    model = make(GPT(tiny()), MoEConfig(experts=3, k=2, score="sigmoid", rate=0.1))
    model.blocks[1].ffn.router.bias.copy_(torch.tensor([0.0, 0.3, -0.3]))
    tokens = torch.arange(9)[None]
    hub.save(model, tmp_path / "m")
    again = hub.load(tmp_path / "m", restore=restores.table())
    assert torch.equal(again(tokens), model.eval()(tokens))
    assert torch.equal(again.blocks[1].ffn.router.bias, model.blocks[1].ffn.router.bias)


def test_strange_sizes_are_refused():
    with pytest.raises(UserError, match="do not divide among k = 5"):
        surgery.apply(GPT(tiny()), MoEConfig(experts=8, k=5))
    with pytest.raises(UserError, match="no experts"):
        moe.layers(GPT(tiny()))


def test_trains_in_the_trainer_with_muon(tmp_path):
    """Project 3's loop, loss and Muon: the loss falls, biases move, and a run that is cut goes on exactly."""
    tokens = (torch.arange(16) * 3 % 11)[None].repeat(4, 1)
    plan = TrainConfig(steps=6, learning_rate=0.02, warmup=0, log_every=1, eval_every=6, save_every=3)

    def both(objective, config):
        matrices = [p for n, p in objective.named_parameters() if ".blocks." in n and p.dim() == 2]
        rest = [p for n, p in objective.named_parameters() if ".blocks." not in n or p.dim() != 2]
        return [Muon(matrices, lr=config.learning_rate), torch.optim.AdamW(rest, lr=config.learning_rate)]

    def run(folder, stop_at=None, resume=False):
        model = model_of(MoEConfig(experts=4, k=2, rate=0.01), n_layer=1)

        def batch_at(i):
            if i == stop_at:
                raise RuntimeError("cut")
            return tokens[:, :-1], tokens[:, 1:]

        history = train(surgery.Balanced(CausalLM(model)), batch_at, plan, folder=folder, optimizer=both,
                        resume=resume, say=lambda text: None)  # fmt: skip
        return model, history

    model, history = run(tmp_path / "whole")
    losses = history.series("loss")[1]
    assert losses[-1] < losses[0] and model.blocks[0].ffn.router.bias.abs().max() > 0
    with pytest.raises(RuntimeError, match="cut"):
        run(tmp_path / "cut", stop_at=4)
    again, _ = run(tmp_path / "cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(),
                                                 strict=True))  # fmt: skip


def test_balanced_adds_in_training_only():
    """In training the loss is the objective's and what the routers add; judged, it is the objective's."""
    model = model_of(MoEConfig(experts=4, k=2, aux=0.5, z=0.1))
    batch = torch.arange(16).view(2, 8), torch.arange(16).view(2, 8)
    objective = surgery.Balanced(CausalLM(model))
    loss = objective(batch)
    added = sum(block.ffn.router.loss() for block in model.blocks)
    plain = CausalLM(model)(batch)
    close(loss, plain + added, "in training")
    assert added > 0.5, "two layers, each at least about 0.5 of balance"
    again = copy.deepcopy(model)  # though a graph hangs on what the routers said last
    assert again.blocks[0].ffn.router.routing is None and model.blocks[0].ffn.router.routing is not None
    close(objective.eval()(batch), plain, "judged")


def test_decodes_in_the_engine_and_beside_others():
    """Project 12's engine: each answer is what the model says alone, though tokens share the experts."""
    model = model_of(n_layer=1).double().eval()
    for p in model.parameters():
        p.data.mul_(6 if p.dim() > 1 else 1)
    prompts = [[3, 5, 8], [40, 2], [7, 7, 7, 9, 1]]
    samplings = [Sampling(max_tokens=5, temperature=t, seed=i) for i, t in enumerate((0, 1.2, 0))]
    engine = Engine(model, SlotStore(model, 3, 16), max_batch=3, max_step_tokens=6)
    got = [list(answer.ids) for answer in engine.generate(prompts, samplings)]
    want = [list(generate(model, [ids], one, eos_ids=())[0].ids)
            for ids, one in zip(prompts, samplings, strict=True)]  # fmt: skip
    assert got == want


def test_no_weight_is_left_out_of_training():
    """Every expert has a gradient, be it zero, so that optimisers and DDP treat all alike."""
    made = layer(MoEConfig(experts=8, k=1))
    made(drawn(2, 12)).sum().backward()
    assert all(p.grad is not None for p in made.experts.parameters())
    assert isinstance(made.experts, nn.ModuleList)
