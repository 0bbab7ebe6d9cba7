"""gpt.py: equal to torch's parts and to common's model dressed as GPT-2, and blind to the future."""

import math

import pytest
import torch
from torch import nn

from common import model as common_model
from common import variants
from common.errors import UserError
from phase01_foundation.project01_minimal_gpt.gpt import (
    GPT,
    Block,
    FeedForward,
    GPTConfig,
    generate,
    loss,
    pick,
    top_k,
    top_p,
)

TINY = GPTConfig(vocab_size=11, n_layer=2, n_head=2, d_model=16, max_seq_len=8)


def tiny(**changes):
    """A small GPT whose weights are large enough that a mistake anywhere shows in the logits."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**vars(TINY), **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def tokens(*shape, vocab_size=11):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.exercise("FeedForward.forward")
def test_feed_forward_matches_torch():
    """Linear, GELU (the tanh form), Linear; each token for itself."""
    torch.manual_seed(0)
    layer, x = FeedForward(6), torch.randn(2, 3, 6)
    reference = nn.Sequential(layer.w_up, nn.GELU(approximate="tanh"), layer.w_down)
    torch.testing.assert_close(layer(x), reference(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(layer(x)[:, 1], layer(x[:, 1]), atol=1e-6, rtol=1e-6)


@pytest.mark.exercise("Block.forward")
def test_block_matches_torch():
    """Equal to nn.TransformerEncoderLayer with the norm first, outputs and the gradient of the input."""
    block = tiny().blocks[0]
    tanh_gelu = nn.GELU(approximate="tanh")
    theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, tanh_gelu, batch_first=True, norm_first=True)
    a, heads = block.attn, (block.attn.wq, block.attn.wk, block.attn.wv)
    theirs.load_state_dict({
        "self_attn.in_proj_weight": torch.cat([w.weight for w in heads]),
        "self_attn.in_proj_bias": torch.cat([w.bias for w in heads]),
        "self_attn.out_proj.weight": a.wo.weight, "self_attn.out_proj.bias": a.wo.bias,
        "linear1.weight": block.ffn.w_up.weight, "linear1.bias": block.ffn.w_up.bias,
        "linear2.weight": block.ffn.w_down.weight, "linear2.bias": block.ffn.w_down.bias,
        "norm1.weight": block.norm_attn.weight, "norm1.bias": block.norm_attn.bias,
        "norm2.weight": block.norm_ffn.weight, "norm2.bias": block.norm_ffn.bias,
    })  # fmt: skip
    x = torch.randn(3, 5, 16, requires_grad=True)
    mask = torch.full((5, 5), float("-inf")).triu(1)
    y, reference = block(x), theirs(x, src_mask=mask)
    torch.testing.assert_close(y, reference, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(y)
    ours, other = (torch.autograd.grad((out * weight).sum(), x)[0] for out in (y, reference))
    torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)


@pytest.mark.exercise("Block.forward")
def test_block_starts_as_almost_nothing():
    """With small weights a block hands on what it got: that is what adding, not replacing, means."""
    block, x = Block(TINY), torch.randn(1, 4, 16)
    with torch.no_grad():
        for weight in (*block.attn.wo.parameters(), *block.ffn.w_down.parameters()):
            weight.zero_()
    assert torch.equal(block(x), x)


@pytest.mark.exercise("GPT.forward")
def test_shape():
    """Tokens [2, 32] in, logits [2, 32, V] out."""
    model = GPT(GPTConfig(vocab_size=65, n_layer=2, n_head=2, d_model=32, max_seq_len=32))
    assert model(tokens(2, 32, vocab_size=65)).shape == (2, 32, 65)


def in_common(model):
    """common's model, dressed as GPT-2, with the weights of ours: the names are the same, but for one."""
    sizes = {name: getattr(model.config, name) for name in ("vocab_size", "n_layer", "n_head", "d_model",
                                                            "max_seq_len", "norm_eps")}  # fmt: skip
    config = common_model.ModelConfig(**sizes, n_kv_head=sizes["n_head"], d_ff=4 * sizes["d_model"],
                                      tie_embeddings=True)  # fmt: skip
    weights = model.state_dict()
    weights["embed.positions"] = weights.pop("positions.weight")
    theirs = variants.gpt2(common_model.GPT(config))
    theirs.load_state_dict(weights)
    return theirs.eval()


@pytest.mark.exercise("GPT.forward")
def test_matches_common_dressed_as_gpt2():
    """The same weights in common's model with GPT-2's dress: the same logits, and the same gradients."""
    ours, text = tiny(), tokens(3, 8)
    theirs = in_common(ours)
    torch.testing.assert_close(ours(text), theirs(text), atol=1e-5, rtol=1e-5)
    loss(ours(text[:, :-1]), text[:, 1:]).backward()
    loss(theirs(text[:, :-1]), text[:, 1:]).backward()
    torch.testing.assert_close(ours.embed.weight.grad, theirs.embed.weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.positions.weight.grad, theirs.embed.positions.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.exercise("GPT.forward")
def test_future_changes_nothing():
    """Causality: change the tokens from place t on; all logits before t stay bit for bit the same."""
    model, text = tiny(), tokens(2, 8)
    before = model(text)
    for t in range(1, 8):
        other = text.clone()
        other[:, t:] = (other[:, t:] + 1) % 11
        after = model(other)
        assert torch.equal(after[:, :t], before[:, :t]), f"what stands at {t} was seen before {t}"
        assert not torch.equal(after[:, t], before[:, t])


@pytest.mark.exercise("GPT.forward")
def test_order_matters():
    """The same tokens in another order give other logits for the last place: positions are in."""
    model = tiny(causal=False)
    logits = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))
    assert not torch.allclose(logits[0, -1], logits[1, -1])


@pytest.mark.exercise("GPT.forward")
def test_rows_of_a_batch_do_not_meet():
    """A sequence gets the same logits alone and in company."""
    model, text = tiny(), tokens(3, 8)
    torch.testing.assert_close(model(text)[1:2], model(text[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.exercise("GPT.forward")
def test_too_long_is_refused():
    """More tokens than the context: a message that says so, not an index error deep inside."""
    with pytest.raises(ValueError, match="9 tokens"):
        tiny()(tokens(1, 9))


def test_first_guess_is_nearly_uniform():
    """A fresh model's loss is ln V: it knows nothing and does not pretend to."""
    torch.manual_seed(0)
    text = tokens(4, 65, vocab_size=65)
    first = loss(GPT(GPTConfig(vocab_size=65))(text[:, :-1]), text[:, 1:])
    assert first.item() == pytest.approx(math.log(65), abs=0.05)


@pytest.mark.exercise("loss")
def test_loss_is_mean_surprise():
    """-ln of the share that the right token got, averaged over all places."""
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 4, 2], [1, 1, 3]])
    shares = logits.softmax(-1)
    surprise = [-math.log(shares[b, t, targets[b, t]]) for b in range(2) for t in range(3)]
    assert loss(logits, targets).item() == pytest.approx(sum(surprise) / 6, abs=1e-6)


@pytest.mark.exercise("loss")
def test_loss_survives_certainty():
    """A model that is sure and right pays nothing; sure and wrong pays its margin, not infinity."""
    logits = torch.tensor([[[1000.0, 0.0]]])
    assert loss(logits, torch.tensor([[0]])).item() == 0
    assert loss(logits, torch.tensor([[1]])).item() == 1000


@pytest.mark.exercise("top_k")
def test_top_k_keeps_the_k_highest():
    """Row by row; 0 and numbers beyond the vocabulary keep everything."""
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0], [9.0, 8.0, 7.0, 6.0]])
    inf = float("inf")
    assert top_k(logits, 2).tolist() == [[-inf, 4, -inf, 3], [9, 8, -inf, -inf]]
    assert torch.equal(top_k(logits, 0), logits)
    assert torch.equal(top_k(logits, 99), logits)


@pytest.mark.exercise("top_p")
def test_top_p_keeps_the_smallest_enough():
    """Shares 0.5, 0.3, 0.15, 0.05 in any order: p = 0.8 needs two of them, p = 0.81 three."""
    shares = torch.tensor([[0.15, 0.5, 0.05, 0.3], [0.05, 0.15, 0.3, 0.5]], dtype=torch.float64)

    def kept(p):
        return (top_p(shares.log(), p) > -float("inf")).int().tolist()

    assert kept(0.79) == [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert kept(0.81) == [[1, 1, 0, 1], [0, 1, 1, 1]]
    assert kept(1e-9) == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert kept(1.0) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_top_p_matches_transformers():
    """The same tokens stay as in transformers' nucleus filter, on random logits."""
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = 3 * torch.randn(50, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for p in (0.1, 0.5, 0.9, 0.99):
        assert torch.equal(top_p(logits, p), warpers.TopPLogitsWarper(p)(None, logits)), p


@pytest.mark.exercise("pick")
def test_temperature_zero_is_the_likeliest():
    """No division by zero, no chance: the highest logit, also among very large ones."""
    logits = torch.tensor([[1.0, 3.0, 2.0], [900.0, -5.0, 899.0]])
    assert pick(logits, temperature=0).tolist() == [1, 0]


@pytest.mark.exercise("pick")
def test_pick_draws_as_it_should():
    """Twenty thousand draws match softmax(logits / temperature), and top-k and top-p cut it off."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    for temperature, k, p in ((1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 3, 1.0), (1.0, 0, 0.6)):
        draw = torch.Generator().manual_seed(0)
        drawn = pick(logits.expand(20_000, 4), temperature, k, p, generator=draw)
        expected = top_p(top_k(logits / temperature, k), p).softmax(-1)[0]
        found = torch.bincount(drawn, minlength=4) / 20_000
        assert (found - expected).abs().max() < 0.015, (temperature, k, p)
        assert (found[expected == 0] == 0).all()


@pytest.mark.exercise("pick")
def test_pick_draws_from_its_generator():
    """The same generator state gives the same draws, whatever else draws random numbers."""
    logits = torch.zeros(50, 11)
    first = pick(logits, generator=torch.Generator().manual_seed(3))
    torch.rand(7)
    assert torch.equal(pick(logits, generator=torch.Generator().manual_seed(3)), first)
    assert not torch.equal(pick(logits, generator=torch.Generator().manual_seed(4)), first)


class Sum(nn.Module):
    """A model whose next token is sure and depends on every token it sees, and on where each one stands."""

    config = GPTConfig(vocab_size=11, max_seq_len=4)

    def forward(self, tokens):
        assert tokens.size(1) <= 4, f"{tokens.size(1)} tokens for a context of 4"
        places = torch.arange(1, tokens.size(1) + 1)
        return 50.0 * nn.functional.one_hot((places * tokens).cumsum(dim=1) % 11, 11)


@pytest.mark.exercise("generate")
def test_generate_is_a_loop_around_the_model():
    """Each new token follows from the last four, and the prompt stays in front."""
    prompt = torch.tensor([[3, 1], [5, 10]])
    for temperature in (0, 1.0):
        text = generate(Sum(), prompt, 9, temperature=temperature)
        assert text.shape == (2, 11)
        assert torch.equal(text[:, :2], prompt)
        for t in range(2, 11):
            seen = text[:, max(0, t - 4) : t]
            wanted = (seen * torch.arange(1, seen.size(1) + 1)).sum(1) % 11
            assert torch.equal(text[:, t], wanted), f"token {t}"


@pytest.mark.exercise("generate")
def test_generate_passes_its_settings_on():
    """One seed, one text; temperature, k and p reach `pick`; no gradient is kept."""
    model = tiny()

    def text(seed, **how):
        draw = torch.Generator().manual_seed(seed)
        return generate(model, tokens(1, 3), 20, generator=draw, **how).tolist()

    assert text(1) == text(1) != text(2)
    assert text(1, k=1) == text(1, temperature=0) == text(1, p=1e-6)
    assert not generate(model, tokens(1, 3), 1).requires_grad


@pytest.mark.parametrize("sizes, word", [
    ({"d_model": 15}, "n_head"), ({"n_layer": 0}, "at least 1"), ({"dropout": 1.0}, "dropout"),
])  # fmt: skip
def test_impossible_sizes_are_refused(sizes, word):
    """One line that names the field."""
    with pytest.raises(UserError, match=word):
        GPTConfig(**{**vars(TINY), **sizes})


def test_dropout_is_off_when_judging():
    """Two looks in training differ, two in evaluation do not."""
    model, text = tiny(dropout=0.5), tokens(1, 8)
    assert torch.equal(model(text), model(text))
    assert not torch.equal(model.train()(text), model(text))
