"""Layers that share: plans, one module for many layers, its gradient, caches, files, optimisers and ranks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from common import checkpoint, hub
from common.errors import UserError
from common.model import GPT, Block, Cache
from common.recipe import TrainConfig, adamw
from common.testing import close, spawn, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase06_compression.project19_weight_sharing import tying
from phase06_compression.project19_weight_sharing.folders import restore
from phase06_compression.project19_weight_sharing.layer_sharing import (
    BY,
    adjacent,
    average,
    cycle,
    join,
    members,
    repeat,
    repeated,
    sandwich,
    share,
    unshared,
)
from phase06_compression.project19_weight_sharing.tying import count


def model_and_tokens(n_layer=4, dtype=torch.float64, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(n_layer=n_layer, **{"d_model": 16, "d_ff": 24, **sizes})).to(dtype)
        return model, torch.randint(97, (4, 9))


def loss_of(model, tokens):
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


# ---- plans ----


@pytest.mark.exercise("adjacent")
def test_adjacent_groups():
    """By hand, and for every size: in order, all groups used, sizes at most one layer apart."""
    assert adjacent(6, 1) == (0,) * 6 and adjacent(6, 3) == (0, 0, 1, 1, 2, 2)
    assert adjacent(5, 2) == (0, 0, 0, 1, 1) and adjacent(6, 4) == (0, 0, 1, 2, 2, 3)
    for n in range(1, 13):
        for groups in range(1, n + 1):
            plan = adjacent(n, groups)
            sizes = [len(layers) for layers in members(plan).values()]
            assert sorted(plan) == list(plan) and set(plan) == set(range(groups))
            assert len(plan) == n and max(sizes) - min(sizes) <= 1


@pytest.mark.exercise("adjacent")
def test_plans_that_make_no_sense():
    """Groups that cannot be; a sandwich of two layers."""
    for groups in (0, 5, -1):
        with pytest.raises(UserError, match="4 layers cannot be"):
            adjacent(4, groups)
    with pytest.raises(UserError, match="4 layers cannot be"):
        cycle(4, 5)
    with pytest.raises(UserError, match="at least 3"):
        sandwich(2)
    assert cycle(6, 3) == (0, 1, 2, 0, 1, 2) and sandwich(5) == (0, 1, 1, 1, 2)


@pytest.mark.exercise("adjacent", "join")
@pytest.mark.parametrize(("n", "groups"), [(4, 2), (5, 2), (4, 1)])
def test_matches_albert_of_transformers(n, groups):
    """Their ALBERT with `groups` groups, and theirs with a group for every layer, joined by our plan."""
    transformers = pytest.importorskip("transformers.models.albert.modeling_albert")
    sizes = {"vocab_size": 50, "embedding_size": 8, "hidden_size": 16, "num_attention_heads": 2,
             "intermediate_size": 24, "num_hidden_layers": n, "attn_implementation": "eager"}  # fmt: skip
    theirs, apart = (transformers.AlbertTransformer(transformers.AlbertConfig(num_hidden_groups=g, **sizes))
                     .eval() for g in (groups, n))  # fmt: skip
    apart.blocks = apart.albert_layer_groups
    join(apart, adjacent(n, groups), "block")
    for mine, its in zip(dict.fromkeys(apart.blocks), theirs.albert_layer_groups, strict=True):
        mine.load_state_dict(its.state_dict())
    apart.embedding_hidden_mapping_in = theirs.embedding_hidden_mapping_in
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(apart(x).last_hidden_state, theirs(x).last_hidden_state)
    assert count(apart) - sum(p.numel() for p in apart.embedding_hidden_mapping_in.parameters()) == sum(
        p.numel() for p in theirs.albert_layer_groups.parameters())  # fmt: skip


# ---- joining ----


@pytest.mark.exercise("join")
def test_join_puts_in_the_module_itself():
    """The first of each group, by identity; groups in any order; what is no part of it as before."""
    model, _ = model_and_tokens()
    before = list(model.blocks)
    join(model, (7, 3, 7, 3), "block")
    assert [before.index(block) for block in model.blocks] == [0, 1, 0, 1]
    for part, other in (("attn", "ffn"), ("ffn", "attn")):
        model, _ = model_and_tokens()
        before = list(model.blocks)
        parts = [getattr(block, part) for block in before]
        kept = [(getattr(block, other), block.norm_attn, block.norm_ffn) for block in before]
        join(model, (0, 1, 1, 0), part)
        assert list(model.blocks) == before
        assert [getattr(block, part) for block in before] == [parts[i] for i in (0, 1, 1, 0)]
        assert [(getattr(block, other), block.norm_attn, block.norm_ffn) for block in before] == kept


@pytest.mark.exercise("join", "adjacent")
@pytest.mark.parametrize("part", ["block", "attn", "ffn"])
def test_matches_the_unshared_model(part):
    """The naive version: the same logits; the shared gradient is the sum of those of its layers' copies."""
    model, tokens = model_and_tokens()
    share(model, adjacent(4, 2), part)
    plain = unshared(model)
    assert count(plain) == tying.count_names(model) > count(model)
    assert torch.equal(plain(tokens), model(tokens))
    for each in (model, plain):
        loss_of(each, tokens).backward()
    for parameter, names in tying.names(model).items():
        sums = sum(plain.get_parameter(name).grad for name in names)
        close(parameter.grad, sums, f"gradient of {names}")


@pytest.mark.exercise("join")
def test_is_on():
    """An update moves all layers of a group together, and not one of another group; unshared ones part."""
    model, tokens = model_and_tokens()
    plain = unshared(share(model, (0, 1, 0, 2)))
    for each in (model, plain):
        optimizer = torch.optim.AdamW(each.parameters(), lr=1e-2)
        loss_of(each, tokens).backward()
        optimizer.step()
    q = [block.attn.wq.weight for block in model.blocks]
    assert torch.equal(q[0], q[2]) and not torch.equal(q[0], q[1]) and not torch.equal(q[1], q[3])
    assert not torch.equal(plain.blocks[0].attn.wq.weight, plain.blocks[2].attn.wq.weight)


@pytest.mark.exercise("join", "adjacent")
def test_flops_stay():
    """torch counts as many for six layers of one block as for six blocks; parameters are a sixth."""
    model, tokens = model_and_tokens(6)
    share(model, adjacent(6, 1))
    found = []
    for each in (model, unshared(model)):
        with FlopCounterMode(display=False) as counter:
            each(tokens)
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0
    assert 6 * count(model.blocks) == count(unshared(model).blocks)


@pytest.mark.exercise("join", "adjacent")
def test_each_use_has_a_cache_of_its_own():
    """Token by token with as many caches as layers: the logits of the whole text."""
    model, tokens = model_and_tokens()
    share(model, adjacent(4, 2))
    caches = [Cache() for _ in model.blocks]
    with torch.no_grad():
        steps = torch.cat([model(part, caches=caches) for part in tokens.split([4, 1, 1, 3], 1)], 1)
        close(steps, model(tokens), "cached")
    assert len(caches) == 4 and not torch.equal(caches[0].k, caches[1].k)


@pytest.mark.exercise("average")
def test_average_of_layers():
    """Name by name into the first; the others, and whatever is in no group, are not touched."""
    blocks = [Block(tiny(d_model=16)) for _ in range(3)]
    for i, block in enumerate(blocks):
        for parameter in block.parameters():
            nn.init.normal_(parameter, mean=i)
    before = [copy.deepcopy(block.state_dict()) for block in blocks]
    parameters = list(blocks[0].parameters())
    average(blocks)
    assert all(a is b for a, b in zip(blocks[0].parameters(), parameters, strict=True))
    for name, value in blocks[0].state_dict().items():
        close(value, sum(state[name] for state in before) / 3, name)
    assert all(torch.equal(v, before[2][name]) for name, v in blocks[2].state_dict().items())


@pytest.mark.exercise("average", "join")
def test_mean_of_a_group_is_shared():
    """share(mean=True): each group's own mean, in the module that all of them use."""
    model, _ = model_and_tokens()
    want = [torch.stack([model.blocks[i].ffn.w_up.weight for i in pair]).mean(0) for pair in ((0, 1), (2, 3))]
    share(model, (0, 0, 1, 1), "ffn", mean=True)
    for i, group in enumerate((0, 0, 1, 1)):
        close(model.blocks[i].ffn.w_up.weight, want[group], f"layer {i}")
    assert model.blocks[3].ffn is model.blocks[2].ffn and model.blocks[3].attn is not model.blocks[2].attn


@pytest.mark.exercise("repeat")
def test_repeat_runs_each_block_at_once_again():
    """Two blocks, twice each: four layers in the order 0 0 1 1, as a plain model of four computes it."""
    model, tokens = model_and_tokens(2)
    first, second = model.blocks
    assert repeat(model, 2) is model and list(model.blocks) == [first, first, second, second]
    assert model.config.n_layer == 4 and isinstance(model.blocks, nn.ModuleList)
    plain, _ = model_and_tokens(4)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(tokens), model(tokens)) and count(plain) > count(model)


@pytest.mark.exercise("repeat")
def test_repeated_is_noted_and_refuses():
    """Equal parameters, three times the FLOPs; not of what shares already, nor 0 times."""
    model, _ = model_and_tokens(2)
    before, work = count(model), tying.flops(model.blocks)
    assert count(repeated(model, 3)) == before and tying.flops(model.blocks) == 3 * work
    assert model.surgery[-1]["args"] == {"technique": "layers", "plan": [0, 0, 0, 1, 1, 1], "part": "block"}
    with pytest.raises(UserError, match="repeat comes first"):
        repeated(model, 2)
    with pytest.raises(UserError, match="0 times"):
        repeated(model_and_tokens(2)[0], 0)


# ---- what is refused ----


def test_what_cannot_be_shared():
    """Another length, another part, layers of unlike shape; the model stays as it was."""
    model, _ = model_and_tokens()
    before = count(model)
    with pytest.raises(UserError, match="plan of 3 layers for a model of 4"):
        share(model, (0, 0, 1))
    with pytest.raises(UserError, match="part is 'norms'"):
        share(model, (0,) * 4, "norms")
    model.blocks[2].ffn.w_up = nn.Linear(16, 20, bias=False)  # as pruning leaves it
    before = count(model)
    for plan, part in (((0, 1, 0, 1), "block"), ((0, 1, 0, 1), "ffn")):
        with pytest.raises(UserError, match=r"layers 0 and 2 are unlike in \['(ffn.)?w_up.weight'\]"):
            share(model, plan, part)
    assert count(model) == before and not hasattr(model, "surgery")
    share(model, (0, 1, 0, 1), "attn")
    assert count(model) < before


# ---- files, optimisers, ranks ----


@pytest.mark.exercise("join")
@pytest.mark.parametrize("change", [
    lambda model: share(model, (0, 1, 0, 1)), lambda model: share(model, (0, 0, 1, 1), "attn", mean=True),
    lambda model: repeated(model, 2), lambda model: share(tying.tie(model), (0, 0, 0, 0), "ffn"),
], ids=["cycle", "attention", "repeated", "tied"])  # fmt: skip
def test_a_folder_holds_it_once_and_shares_again(tmp_path, change):
    """As many numbers as Parameters; the same logits, names and sharing; an update later still shared."""
    model, tokens = model_and_tokens(dtype=torch.float32)
    change(model)
    hub.save(model.eval(), tmp_path / "m")
    size = (tmp_path / "m" / "model.safetensors").stat().st_size
    assert 4 * count(model) < size < 4 * count(model) + 8000
    with pytest.raises(UserError, match=BY):
        hub.load(tmp_path / "m")
    again = hub.load(tmp_path / "m", restore={BY: restore})
    assert list(tying.names(again).values()) == list(tying.names(model).values())
    assert torch.equal(again(tokens), model(tokens))
    optimizer = torch.optim.AdamW(again.parameters(), lr=1e-2)
    loss_of(again, tokens).backward()
    optimizer.step()
    assert all(torch.equal(again.get_parameter(name), p) for p, names in tying.names(again).items()
               for name in names)  # fmt: skip
    hub.save(again, tmp_path / "n")
    assert torch.equal(hub.load(tmp_path / "n", restore={BY: restore})(tokens), again.eval()(tokens))


def test_a_folder_of_another_version_is_refused():
    with pytest.raises(UserError, match="shared by 'hashing'"):
        restore(model_and_tokens()[0], "hashing", buckets=3)


def learn(objective, optimizer, batches):
    for batch in batches:
        objective(batch).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.exercise("join", "adjacent")
def test_the_optimiser_holds_it_once(tmp_path):
    """State for each Parameter once; a checkpoint holds it once too, and goes on exactly where it was."""
    config, batches = TrainConfig(learning_rate=1e-2), []
    for i in range(4):
        rows = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(i))
        batches.append((rows[:, :-1], rows[:, 1:]))

    def start():
        model = share(tying.tie(model_and_tokens(dtype=torch.float32)[0]), adjacent(4, 2))
        return model, CausalLM(model), adamw(CausalLM(model), config)

    model, objective, optimizer = start()
    tying.check(model, optimizer)
    learn(objective, optimizer, batches[:2])
    assert sum(state["exp_avg"].numel() for state in optimizer.state.values()) == count(model)
    state = {"weights": checkpoint.weights(objective),
             "optimizers": [checkpoint.optimizer_state(optimizer, objective)]}  # fmt: skip
    checkpoint.write(tmp_path / "last.safetensors", state)
    assert (tmp_path / "last.safetensors").stat().st_size < 3 * 4 * count(model) + 30_000
    learn(objective, optimizer, batches[2:])

    again, other, its = start()
    saved = checkpoint.read(tmp_path / "last.safetensors")
    checkpoint.load_weights(other, saved["weights"])
    checkpoint.load_optimizers([its], other, saved["optimizers"])
    learn(other, its, batches[2:])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def tied_and_shared():
    model, tokens = model_and_tokens(dtype=torch.float32)
    return share(tying.tie(model), adjacent(4, 2)), (tokens[:, :-1], tokens[:, 1:])


def on_a_rank(rank, world):
    """Two updates under DDP, each rank with its rows; the weights, and whether all is still shared."""
    model, batch = tied_and_shared()
    objective = DistributedDataParallel(CausalLM(model))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    tying.check(model, optimizer)
    n = len(batch[0]) // world
    rows = slice(n * rank, n * rank + n)
    learn(objective, optimizer, [tuple(part[rows] for part in batch)] * 2)
    one = model.blocks[0] is model.blocks[1] and model.head.weight is model.embed.weight
    return one, torch.cat([p.detach().flatten() for p in model.parameters()])


def learnt_alone():
    """(weights before, weights after the two updates of one process that has all rows)."""
    model, batch = tied_and_shared()
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    learn(CausalLM(model), torch.optim.AdamW(model.parameters(), lr=1e-2), [batch] * 2)
    return start, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.exercise("join", "adjacent")
def test_ddp_holds_it_once():
    """Under DDP, one rank in this process: each Parameter once, still shared, the weights as without it."""
    start, want = learnt_alone()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        one, found = on_a_rank(0, 1)
    finally:
        distributed.destroy_process_group()
    assert one and (want - start).abs().max() > 1e-2
    close(found, want, "weights under DDP")


@pytest.mark.slow
def test_ranks_share_as_one_process_does():
    """Under DDP on two gloo ranks: the weights of one process with all rows, on both; and still shared."""
    _, want = learnt_alone()
    (one, first), (other, second) = spawn(on_a_rank, 2)
    assert one and other and torch.equal(first, second)
    assert (first - want).abs().max() < 1e-4
