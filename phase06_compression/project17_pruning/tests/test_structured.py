"""Heads, neurons and layers: the smaller model is the large one with that part silent; and transformers'."""

import copy

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT, Cache, ModelConfig, attend
from common.testing import close, tiny
from common.variants import gpt2
from phase05_quantization.project14_ptq.gptq import damped
from phase06_compression.project17_pruning import structured
from phase06_compression.project17_pruning.structured import (
    cut_heads,
    cut_neurons,
    energy,
    gated,
    head_importance,
    influence,
    keep_layers,
    refit,
    shaped,
    shapes,
    sizes,
)


def model_and_texts(**sizes):
    torch.manual_seed(0)
    model = GPT(tiny(**sizes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
    return model, [torch.randint(97, (1, 24)) for _ in range(4)]


def problem(out=5, width=12, n=300):
    """(w, x, H) with inputs that are correlated."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=draw) @ torch.randn(width, width, generator=draw)
    return torch.randn(out, width, generator=draw), x, x.T @ x / n


# ---- what a part is worth ----


@pytest.mark.exercise("energy")
@pytest.mark.parametrize("width", [1, 3, 4])
def test_energy_is_what_the_output_loses(width):
    """From the inputs themselves: the mean of |w_g x_g|² for each part."""
    w, x, H = problem()
    want = [(x[:, i : i + width] @ w[:, i : i + width].T).square().sum(1).mean() for i in range(0, 12, width)]
    close(energy(w, H, width), torch.stack(want), "energy", rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("gated")
def test_gates_close_heads():
    """A gate of 1 changes nothing, one of 0 silences its head and no other, one of 1/2 halves it."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 8, generator=draw) for heads in (4, 2, 2))
    where = {"positions": torch.arange(5)}
    want = attend(q, k, v, **where)
    got = gated(attend, torch.tensor([1.0, 0.0, 1.0, 0.5]))(q, k, v, **where)
    close(got[:, [0, 2]], want[:, [0, 2]], "open")
    assert (got[:, 1] == 0).all()
    close(got[:, 3], want[:, 3] / 2, "half open")


@pytest.mark.exercise("gated")
def test_head_importance_is_the_slope_of_the_loss():
    """By finite differences, in float64: a gate a little open, a little closed; the attends are put back."""
    model, texts = model_and_texts()
    model.double()
    found, before = head_importance(model, texts[:2]), [block.attn.attend for block in model.blocks]
    assert found.shape == (2, 4)
    for layer, head in ((0, 1), (1, 3)):
        slopes = []
        for tokens in texts[:2]:
            losses = []
            for step in (1e-5, -1e-5):
                gate = torch.ones(4, dtype=torch.float64)
                gate[head] += step
                model.blocks[layer].attn.attend = gated(attend, gate)
                with torch.no_grad():
                    losses.append(F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:]).item())
            model.blocks[layer].attn.attend = attend
            slopes.append(abs(losses[0] - losses[1]) / 2e-5)
        assert found[layer, head].item() == pytest.approx(sum(slopes) / 2, rel=1e-3)
    assert before == [attend] * 2


@pytest.mark.exercise("influence")
def test_influence_is_how_far_a_block_turns_its_input():
    """By hooks on the blocks; a block that adds nothing has none."""
    model, texts = model_and_texts(n_layer=3)
    with torch.no_grad():
        model.blocks[1].attn.wo.weight.zero_()
        model.blocks[1].ffn.w_down.weight.zero_()
    texts[0] = texts[0][:, :5]  # texts of different length: the mean is over tokens
    want, n = [0.0] * 3, 0
    for tokens in texts:
        seen = []
        hooks = [block.register_forward_hook(lambda block, args, y, seen=seen: seen.append((args[0], y)))
                 for block in model.blocks]  # fmt: skip
        with torch.no_grad():
            model(tokens)
        for hook in hooks:
            hook.remove()
        for i, (x, y) in enumerate(seen):
            want[i] += (1 - F.cosine_similarity(x, y, dim=-1)).sum().item()
        n += tokens.numel()
    got = influence(model, texts)
    close(got, torch.tensor(want) / n, "influence", rtol=1e-4, atol=1e-5)
    assert got[1].abs() < 1e-5 < got[0]


# ---- taking parts out ----


@pytest.mark.exercise("refit")
def test_refitted_weights_are_those_of_least_squares():
    """torch.linalg.lstsq on the inputs themselves; where inputs depend on each other, nothing is lost."""
    w, x, H = problem()
    keep = torch.tensor([0, 2, 3, 7, 8, 11])
    want = torch.linalg.lstsq(x[:, keep].double(), x.double() @ w.double().T).solution.T
    close(refit(w, H, keep, damp=1e-9), want, "least squares", rtol=1e-3, atol=1e-3)
    x[:, 1] = 2 * x[:, 0] - x[:, 2]  # what input 1 says the others say too
    H = x.T @ x / len(x)
    rest = torch.tensor([i for i in range(12) if i != 1])
    left = refit(w, H, rest, damp=1e-9)
    close(x[:, rest].double() @ left.T, x.double() @ w.double().T, "nothing is lost", rtol=1e-3, atol=1e-3)


@pytest.mark.exercise("refit")
def test_refitting_keeps_what_has_no_reason_to_change():
    """Inputs that were always 0, and inputs that have nothing to do with those that went."""
    w, _, _ = problem(width=6)
    H = torch.diag(torch.tensor([1.0, 2, 0, 3, 4, 5]))
    keep = torch.tensor([0, 2, 3])
    close(refit(w, H, keep), w[:, keep].double(), "as they were", rtol=1e-6, atol=1e-6)
    D = damped(problem()[2], 0.01)  # strongly damped, they hardly move
    w = problem()[0]
    far, near = (refit(w, D, torch.arange(6), damp) - w[:, :6] for damp in (1e-4, 1e3))
    assert near.norm() < 0.05 * far.norm()


@pytest.mark.exercise("cut_neurons")
def test_without_a_neuron_is_with_a_neuron_that_is_silent():
    model, texts = model_and_texts()
    keep = torch.tensor([0, 3, 4, 10, 47])
    want = copy.deepcopy(model)
    with torch.no_grad():
        silent = torch.ones(48, dtype=torch.bool)
        silent[keep] = False
        want.blocks[1].ffn.w_down.weight[:, silent] = 0
    cut_neurons(model.blocks[1], keep)
    ffn = model.blocks[1].ffn
    assert ffn.w_gate.weight.shape == ffn.w_up.weight.shape == (5, 32) and ffn.w_down.weight.shape == (32, 5)
    close(model(texts[0]), want(texts[0]), "logits")
    cut_neurons(model.blocks[0], keep, torch.zeros(32, 5, dtype=torch.float64))
    assert (model.blocks[0].ffn.w_down.weight == 0).all()
    assert model.blocks[0].ffn.w_down.weight.dtype == torch.float32


@pytest.mark.exercise("cut_heads")
def test_without_a_group_of_heads_is_with_gates_that_are_closed():
    """Also through a cache, token by token; keys and values take less room."""
    model, texts = model_and_texts(n_head=6, n_kv_head=3, head_dim=8)
    want, tokens = copy.deepcopy(model), texts[0]
    want.blocks[0].attn.attend = gated(attend, torch.tensor([1.0, 1, 0, 0, 1, 1]))
    cut_heads(model.blocks[0], torch.tensor([0, 2]))
    attn = model.blocks[0].attn
    assert [tuple(m.weight.shape) for m in (attn.wq, attn.wk, attn.wv, attn.wo)] == [
        (32, 32), (16, 32), (16, 32), (32, 32)]  # fmt: skip
    close(model(tokens), want(tokens), "logits")
    caches = [Cache(), Cache()]
    got = torch.cat([model(part, caches=caches) for part in tokens.split(1, 1)], 1)
    close(got, want(tokens), "logits, through a cache")
    assert (caches[0].k.size(1), caches[1].k.size(1)) == (2, 3)
    cut_heads(model.blocks[1], torch.tensor([1]), torch.zeros(32, 16))
    assert (model.blocks[1].attn.wo.weight == 0).all() and model.blocks[1].attn.wq.out_features == 16


def test_layers_go():
    """A layer that adds nothing can go and nothing changes; the config says how many are left."""
    model, texts = model_and_texts(n_layer=3)
    with torch.no_grad():
        model.blocks[1].attn.wo.weight.zero_()
        model.blocks[1].ffn.w_down.weight.zero_()
    want = model(texts[0])
    structured.apply(model, texts, 2, 48, layers=2)
    assert model.config.n_layer == len(model.blocks) == 2
    close(model(texts[0]), want, "logits", rtol=1e-3, atol=1e-3)  # all neurons stay, and are fitted anew
    for keep in ([], [2], [-1]):
        with pytest.raises(UserError, match="of 2 layers"):
            keep_layers(model, keep)


# ---- all of it ----


def test_matches_transformers():
    """What is left is a Llama of smaller sizes: transformers, built with those, gives the same logits."""
    transformers = pytest.importorskip("transformers")
    from common.hub_names import FAMILIES

    model, texts = model_and_texts(n_layer=3, n_head=6, n_kv_head=3, head_dim=8)
    structured.apply(model, texts, groups=2, neurons=20, layers=2)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=20, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10_000.0,
        tie_word_embeddings=False, attn_implementation="eager")  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(FAMILIES["llama"].to_theirs(dict(model.state_dict())))
    with torch.no_grad():
        close(model(texts[0]), theirs(texts[0]).logits, "logits", rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("energy", "refit")
def test_is_on():
    """The parts that are worth least go, and fitting what is left anew loses less."""
    model, texts = model_and_texts(n_layer=1)
    want, lost = torch.cat([model(tokens)[0] for tokens in texts]), {}
    for name, fitted in (("fitted", True), ("as they were", False)):
        made = structured.apply(copy.deepcopy(model), texts, groups=1, neurons=24, fitted=fitted)
        assert shapes(made) == [{"groups": 1, "neurons": 24}]
        lost[name] = F.mse_loss(torch.cat([made(tokens)[0] for tokens in texts]), want).item()
    assert 0 < lost["fitted"] < lost["as they were"]
    with torch.no_grad():  # a model in which half of the neurons matter
        model.blocks[0].ffn.w_down.weight[:, ::2] *= 100
    kept = model.blocks[0].ffn.w_gate.weight[::2].clone()
    structured.apply(model, texts, groups=2, neurons=24)
    assert torch.equal(model.blocks[0].ffn.w_gate.weight, kept)


def test_sizes_reach_the_share():
    """Of the blocks' weights, to the nearest step; heads and neurons alike."""
    config = ModelConfig(d_model=256, n_head=8, n_kv_head=4, d_ff=640, head_dim=32)
    for share in (0.1, 0.3, 0.5, 0.8):
        groups, neurons = sizes(config, share)
        left = (groups * 49_152 + 3 * 256 * neurons) / (4 * 49_152 + 3 * 256 * 640)
        assert 1 - share - 0.03 < left <= 1 - share, share
        assert neurons % 16 == 0 and abs(groups / 4 - (1 - share)) <= 0.126
    for share in (0, 1, 0.999):
        with pytest.raises(UserError, match=r"no sense|cannot lose"):
            sizes(config, share)


def test_refusals():
    model, texts = model_and_texts()
    for how, why in (({"groups": 0, "neurons": 8}, "of 2 groups 1 to 2"),
                     ({"groups": 3, "neurons": 8}, "of 2 groups 1 to 2"),
                     ({"groups": 1, "neurons": 49}, "of 48 neurons 1 to 48"),
                     ({"groups": 1, "neurons": 8, "layers": 3}, "of 2 layers 1 to 2")):
        with pytest.raises(UserError, match=why):
            structured.apply(model, texts, **how)
    with pytest.raises(UserError, match="calibration set is empty"):
        structured.apply(model, [], 1, 8)
    with pytest.raises(UserError, match="only SwiGLU"):
        structured.apply(gpt2(GPT(tiny(n_kv_head=4))), texts, 2, 8)
    for blocks in ([], [{"groups": 1, "neurons": 8}], [{"groups": 1, "neurons": 99}] * 2):
        with pytest.raises(UserError, match="shapes are not those"):
            shaped(model, blocks)
