"""The core against torch.nn and against itself: layers, attend, caches, positions, surgery."""

import copy
import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UserError
from common.model import (
    GPT,
    Attention,
    Block,
    Cache,
    Embedding,
    ModelConfig,
    RMSNorm,
    Rope,
    SwiGLU,
    attend,
    distance,
    rotate,
    set_attend,
    swap,
    untie,
)
from common.testing import AddressedCache, check_attend, check_cache, close, tiny


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(tiny()).eval()


@pytest.fixture
def tokens():
    return torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(1))


# layers, each against torch's own


def test_rms_norm_equals_torch():
    ours, theirs = RMSNorm(32, 1e-3), nn.RMSNorm(32, 1e-3)
    x, gain = torch.randn(5, 32), torch.randn(32)
    ours.weight.data, theirs.weight.data = gain, gain
    close(ours(x), theirs(x), "RMSNorm")


def test_attention_equals_multi_head_attention():
    config = tiny(n_kv_head=4)
    ours, theirs = Attention(config), nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    theirs.in_proj_weight.data = torch.cat((ours.wq.weight, ours.wk.weight, ours.wv.weight)).detach()
    theirs.out_proj.weight = ours.wo.weight
    x = torch.randn(2, 9, 32)
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)  # there True hides
    want, _ = theirs(x, x, x, attn_mask=future, need_weights=False)
    close(ours(x, rope=None, positions=torch.arange(9)), want, "Attention")


def test_swiglu_equals_torch_glu():
    """F.glu gates with a sigmoid: x silu(g) = x g sigmoid(g)."""
    ours, x = SwiGLU(tiny()), torch.randn(3, 32)
    gate, up = ours.w_gate(x), ours.w_up(x)
    close(ours(x), ours.w_down(F.glu(torch.cat((up * gate, gate), -1))), "SwiGLU")


def test_rope_turns_complex_numbers():
    """A pair is a complex number that is multiplied by e^(i p theta^(-2j/D)); pairs lie half of D apart."""
    x, positions = torch.randn(1, 2, 7, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 50, 51, 300])
    got = rotate(x, Rope(16, 500.0)(positions))
    angles = positions[:, None] * 500.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    turned = torch.complex(x[..., :8], x[..., 8:]) * torch.polar(torch.ones_like(angles), angles)
    want = torch.cat((turned.real, turned.imag), -1)
    close(got, want, "RoPE", rtol=1e-4, atol=1e-4)  # its angles are float32


def test_rope_sees_only_how_far_apart():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    rope = Rope(16, 10_000.0)
    near, far = (
        (rotate(q, rope(torch.tensor([p + 5]))) * rotate(k, rope(torch.tensor([p])))).sum() for p in (0, 900)
    )
    close(near, far, "logits 5 apart, here and there", rtol=1e-4, atol=1e-4)


def test_rope_survives_a_cast_and_the_meta_device():
    """As it holds no buffer, nothing in it can be rounded to bfloat16 or left uninitialised."""
    positions = torch.arange(4000, 4010)
    want = Rope(64, 10_000.0)(positions)
    with torch.device("meta"):
        rope = Rope(64, 10_000.0)
    for got in (rope.to_empty(device="cpu")(positions), Rope(64, 10_000.0).to(torch.bfloat16)(positions)):
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    x = torch.randn(1, 1, 10, 64)
    close(rotate(x.bfloat16(), want), rotate(x.bfloat16().float(), want).bfloat16(), "turned in float32")


def test_block_norms_inside_its_branches():
    block = Block(tiny())
    x, rope, positions = torch.randn(2, 5, 32), Rope(8, 1e4)(torch.arange(5)), torch.arange(5)
    block.norm_attn.weight.data.normal_()
    middle = x + block.attn(block.norm_attn(x), rope=rope, positions=positions)
    close(block(x, rope=rope, positions=positions), middle + block.ffn(block.norm_ffn(middle)), "block")


def test_embedding_ignores_positions():
    embed = Embedding(tiny())
    nn.init.normal_(embed.weight)
    tokens = torch.tensor([[3, 5]])
    assert torch.equal(embed(tokens, None), F.embedding(tokens, embed.weight))


# attend, distance, Cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attend(dtype):
    check_attend(attend, dtype=dtype)


def test_cache():
    check_cache(lambda B, K, D, size: Cache(), gradients=True)


def test_addressed_cache():
    check_cache(AddressedCache)


def test_distance():
    assert distance(torch.arange(3), 3).tolist() == [[0, -1, -2], [1, 0, -1], [2, 1, 0]]
    assert distance(torch.tensor([3, 4]), 5, Cache()).tolist() == [[3, 2, 1, 0, -1], [4, 3, 2, 1, 0]]
    rows = distance(torch.tensor([[1], [3]]), 4, AddressedCache(2, 1, 2, 4))
    assert rows.shape == (2, 1, 1, 4) and rows.flatten().tolist() == [1, 0, -1, -2, 3, 2, 1, 0]


def test_cache_grows_without_copying_each_token():
    cache, token = Cache(), torch.ones(1, 1, 1, 2)
    places = set()
    for i in range(600):
        cache.update(token, token, torch.tensor([i]))
        places.add(cache.k.data_ptr())
    assert cache.length == 600 and len(places) <= 3


# the contract


def test_nothing_looks_ahead(model, tokens):
    later = tokens.clone()
    later[:, 7] = (later[:, 7] + 1) % 97
    a, b = model(tokens), model(later)
    assert torch.equal(a[:, :7], b[:, :7])
    assert not torch.allclose(a[:, 7:], b[:, 7:])


def test_cached_equals_uncached(model, tokens):
    for chunks in ((12,), (5, 1, 6), (1,) * 12):
        caches = [Cache() for _ in model.blocks]
        with torch.no_grad():
            got = torch.cat([model(chunk, caches=caches) for chunk in tokens.split(chunks, 1)], 1)
        close(got, model(tokens), f"chunks {chunks}")


def test_gradients_flow_through_a_cache(model, tokens):
    caches = [Cache() for _ in model.blocks]
    cached = torch.cat([model(chunk, caches=caches) for chunk in tokens.split((5, 1, 6), 1)], 1)
    weights = list(model.parameters())
    got, want = (torch.autograd.grad(y.square().sum(), weights) for y in (cached, model(tokens)))
    for mine, true in zip(got, want, strict=True):
        close(mine, true, "gradients", rtol=1e-4, atol=1e-5)  # sums of hundreds of terms in another order


def test_ragged_rows_equal_each_row_alone(model, tokens):
    lengths = torch.tensor([[4], [9]])
    caches = [AddressedCache(2, 2, 8, 16) for _ in model.blocks]
    with torch.no_grad():
        model(tokens[:, :9], positions=torch.arange(9).expand(2, -1), caches=caches)
        got = model(tokens.gather(1, lengths), positions=lengths, caches=caches)
        for row, n in enumerate((4, 9)):
            close(got[row, 0], model(tokens[row : row + 1, : n + 1])[0, -1], f"row {row}")


def test_positions_are_counted_on_from_the_cache(model, tokens):
    caches = [Cache() for _ in model.blocks]
    with torch.no_grad():
        model(tokens[:, :5], caches=caches)
    again = copy.deepcopy(caches)
    a = model(tokens[:, 5:], caches=caches)
    assert torch.equal(a, model(tokens[:, 5:], caches=again, positions=torch.arange(5, 12)))
    assert caches[0].length == 12


def test_rewinding_forgets(model, tokens):
    caches = [Cache() for _ in model.blocks]
    with torch.no_grad():
        model(tokens, caches=caches)
        for cache in caches:
            cache.length = 5
        close(model(tokens[:, 7:9], caches=caches), model(tokens[:, [0, 1, 2, 3, 4, 7, 8]])[:, 5:], "rewound")


def test_mask_and_positions_pack_documents(model, tokens):
    document = torch.tensor([0] * 5 + [1] * 7)
    mask = (document[:, None] == document) & torch.ones(12, 12, dtype=torch.bool).tril()
    got = model(tokens, positions=torch.cat((torch.arange(5), torch.arange(7))), mask=mask)
    close(got[:, :5], model(tokens[:, :5]), "first document")
    close(got[:, 5:], model(tokens[:, 5:]), "second document")


def test_hidden_is_what_the_head_reads(model, tokens):
    assert torch.equal(model.head(model.hidden(tokens)), model(tokens))
    x, positions = model.embed(tokens, torch.arange(12)), torch.arange(12)
    for block in model.blocks:  # an open list, which a driver may walk by itself
        x = block(x, rope=model.rope(positions), positions=positions)
    assert torch.equal(model.norm(x), model.hidden(tokens))


def test_ragged_positions_are_refused_by_a_counting_cache(model, tokens):
    with pytest.raises(UserError, match="addressed cache"):
        model(tokens, positions=torch.arange(12).expand(2, -1), caches=[Cache() for _ in model.blocks])


# weights


def test_initial_weights():
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=500, n_layer=8, d_model=128, d_ff=256))
    for name, p in model.named_parameters():
        want = 0.02 / math.sqrt(16) if name.endswith(("wo.weight", "w_down.weight")) else 0.02
        assert (p == 1).all() if p.dim() == 1 else abs(p.std().item() / want - 1) < 0.05, name


def test_meta_device_then_init_weights():
    with torch.device("meta"):
        model = GPT(tiny(tie_embeddings=True))
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu").init_weights()
    assert model.head.weight is model.embed.weight
    for name, p in model.named_parameters():
        assert (p == 1).all() if p.dim() == 1 else 0.005 < p.std() < 0.03, name


def test_every_weight_gets_a_gradient(tokens):
    model = GPT(tiny())
    model(tokens).logsumexp(-1).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_tie_and_untie(tokens):
    model = GPT(tiny(tie_embeddings=True))
    assert model.head.weight is model.embed.weight
    before, count = model(tokens), sum(p.numel() for p in model.parameters())
    assert untie(model) is model and not model.config.tie_embeddings
    assert torch.equal(model(tokens), before)
    assert sum(p.numel() for p in model.parameters()) == count + 97 * 32
    model.head.weight.data.zero_()
    assert model.embed.weight.abs().sum() > 0


def test_dropout(tokens):
    torch.manual_seed(0)
    model = GPT(tiny(dropout=0.5))
    assert not torch.equal(model(tokens), model(tokens)), "training: two passes drop different things"
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    dropped = model.train().embed(tokens, None) == 0
    assert 0.4 < dropped.float().mean() < 0.6, "the embedding is dropped"
    for block in model.blocks:
        block.ffn.register_forward_hook(lambda module, inputs, y: torch.zeros_like(y))
        block.attn.register_forward_hook(lambda module, inputs, y: torch.ones_like(y))
    x = torch.zeros(2, 50, 32)
    y = model.blocks[0](x, rope=None, positions=torch.arange(50))
    assert set(y.unique().tolist()) == {0.0, 2.0}, "each branch is dropped where it joins"


# configuration


@pytest.mark.parametrize("sizes, message", [
    ({"vocab_size": 0}, "vocab_size must be at least 1"),
    ({"n_layer": -1}, "n_layer must be at least 1"),
    ({"d_model": 30}, "multiple of n_head"),
    ({"head_dim": 7}, "even"),
    ({"n_kv_head": 3}, "multiple of n_kv_head"),
    ({"dropout": 1.0}, "dropout"),
    ({"dropout": math.nan}, "dropout"),
    ({"rope_theta": 0.0}, "rope_theta"),
    ({"norm_eps": 0.0}, "norm_eps"),
])  # fmt: skip
def test_config_refuses(sizes, message):
    with pytest.raises(UserError, match=message):
        tiny(**sizes)


def test_config_is_frozen_and_knows_its_head_dim():
    config = tiny()
    assert config.head_dim == 8 and tiny(head_dim=6).head_dim == 6
    assert replace(config, d_model=64, head_dim=None).head_dim == 16
    with pytest.raises(FrozenInstanceError):
        config.n_layer = 3
    assert GPT(tiny(head_dim=6)).blocks[0].attn.wq.weight.shape == (24, 32)


# surgery


class Scaled(nn.Module):
    def __init__(self, old):
        super().__init__()
        self.old = old

    def forward(self, x):
        return 2 * self.old(x)


def test_swap_replaces_and_changes_the_answer(model, tokens):
    before = model(tokens)
    assert swap(model, nn.Linear, Scaled, where=lambda name: name.endswith("wq")) is model
    assert [type(block.attn.wq) for block in model.blocks] == [Scaled, Scaled]
    assert type(model.blocks[0].attn.wk) is nn.Linear and type(model.head) is nn.Linear
    assert not torch.allclose(model(tokens), before)
    swap(model, Scaled, lambda module: module.old)
    assert torch.equal(model(tokens), before)


def test_swap_keeps_what_is_shared_shared(model):
    model.blocks[1].ffn = model.blocks[0].ffn
    model.blocks[1].attn.wq = model.blocks[0].attn.wq
    swap(model, nn.Linear, Scaled, where=lambda name: name != "head")
    assert model.blocks[1].ffn is model.blocks[0].ffn
    assert model.blocks[1].attn.wq is model.blocks[0].attn.wq and type(model.blocks[1].attn.wq) is Scaled
    assert type(model.blocks[0].ffn.w_up.old) is nn.Linear, "made once, not once for each owner"


@pytest.mark.parametrize("training", [True, False])
def test_swap_keeps_the_training_flag(model, training):
    model.train(training)
    swap(model, SwiGLU, lambda old: nn.Dropout(0.5))
    assert model.blocks[0].ffn.training is training


def test_swap_of_nothing_is_an_error(model):
    for kind, where in ((nn.Conv1d, lambda name: True), (nn.Linear, lambda name: False)):
        with pytest.raises(UserError, match=f"swap found no {kind.__name__}"):
            swap(model, kind, Scaled, where=where)
    swap(model, nn.Linear, Scaled, where=lambda name: name == "head")
    with pytest.raises(UserError, match="already replaced"):
        swap(model, nn.Linear, Scaled, where=lambda name: name == "head")


def test_swap_takes_the_exact_class():
    class Special(nn.Linear):
        pass

    parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": Special(2, 2)})
    swap(parts, nn.Linear, Scaled)
    assert type(parts["a"]) is Scaled and type(parts["b"]) is Special


def test_a_changed_class_keeps_the_names(model, tokens):
    """A wrapper without weights of its own changes the class and not the tree."""

    class Loud(Block):
        def forward(self, x, **where):
            return 2 * super().forward(x, **where)

    def make(old):
        old.__class__ = Loud
        return old

    names, before = list(model.state_dict()), model(tokens)
    swap(model, Block, make)
    assert list(model.state_dict()) == names and not torch.allclose(model(tokens), before)


def test_set_attend_reaches_every_attend(model, tokens):
    calls = []

    def recording(q, k, v, **where):
        calls.append(q.shape)
        return attend(q, k, v, **where)

    swap(model, Attention, Scaled, where=lambda name: name == "blocks.1.attn")  # one inside another module
    model.blocks[1].attn.forward = lambda x, **where: model.blocks[1].attn.old(x, **where)
    before = model(tokens)
    assert set_attend(model, recording) is model
    assert torch.equal(model(tokens), before) and calls == [(2, 4, 12, 8)] * 2
    set_attend(model, attend, where=lambda name: name.startswith("blocks.0"))
    model(tokens)
    assert len(calls) == 3
    with pytest.raises(UserError, match="no module with"):
        set_attend(model, attend, where=lambda name: False)


def test_attend_is_given_to_the_constructor(tokens):
    def nothing(q, k, v, **where):
        return torch.zeros_like(q)

    torch.manual_seed(0)
    assert not torch.allclose(GPT(tiny(), attend=nothing)(tokens), GPT(tiny())(tokens))
