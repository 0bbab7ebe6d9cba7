"""The heads: what each is asked for, and what the model keeps."""

import copy

import pytest
import torch
import torch.nn.functional as F

from common.generate import Sampling
from common.testing import trained
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for
from phase04_advanced_inference.project11_speculative_decoding.medusa import (
    FADE,
    Medusa,
    MedusaDraft,
    MedusaLoss,
)  # fmt: skip
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text, speculate
from phase04_advanced_inference.project11_speculative_decoding.speculative import one_by_one

MODEL = trained().float()


def counting(rows, T, seed):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(32, (rows, 1), generator=generator)
    stride = torch.randint(1, 5, (rows, 1), generator=generator)
    tokens = (start + stride * torch.arange(T + 1)) % 32
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.exercise("Medusa.forward")
def test_heads_begin_as_the_models_own():
    """New heads change nothing; with weights, each adds the SiLU of its own layer to the hidden state."""
    heads, hidden = Medusa(8, 3), torch.randn(2, 5, 8)
    assert torch.equal(heads(hidden), hidden[:, :, None].expand(2, 5, 3, 8))
    with torch.no_grad():
        for i, layer in enumerate(heads.layers):
            layer.weight.copy_((i + 1.0) * torch.eye(8))
            layer.bias.fill_(0.5)
    for i in range(3):
        x = (i + 1) * hidden + 0.5
        assert torch.allclose(heads(hidden)[:, :, i], hidden + x * torch.sigmoid(x), atol=1e-6)
    assert heads(hidden[0, 0]).shape == (3, 8)


@pytest.mark.exercise("MedusaLoss.forward", "Medusa.forward")
def test_each_head_is_asked_one_token_further():
    """The loss written out place by place; its gradient reaches the heads and not the model."""
    torch.manual_seed(0)
    model, heads = copy.deepcopy(MODEL), Medusa(MODEL.config.d_model, 3)
    for layer in heads.layers:
        torch.nn.init.normal_(layer.weight, std=0.2)
    inputs, targets = torch.randint(32, (2, 6)), torch.randint(32, (2, 6))
    got = MedusaLoss(model, heads)((inputs, targets))
    hidden, losses = MODEL.hidden(inputs).detach(), []
    for i, layer in enumerate(heads.layers):
        x = MODEL.head(hidden + F.silu(layer(hidden)))
        asked = [F.cross_entropy(x[b, t], targets[b, t + 1 + i]) for b in range(2) for t in range(5 - i)]
        losses.append(FADE**i * torch.stack(asked).mean())
    assert torch.allclose(got, torch.stack(losses).mean(), atol=1e-5)
    got.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in heads.layers)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.exercise("MedusaLoss.forward", "Medusa.forward")
def test_trained_heads_guess_and_the_text_stays():
    """After a short training guesses hold (new heads never do here), and the text is the model's own."""
    torch.manual_seed(0)
    heads = Medusa(MODEL.config.d_model, 3)
    objective = MedusaLoss(copy.deepcopy(MODEL), heads)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-2)
    for step in range(100):
        objective(counting(16, 16, step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    text = Text(0, [1, 2, 3, 4, 5, 6], Sampling(max_tokens=40, temperature=0), MODEL)
    caches = caches_for(MODEL, StaticCache, 1, 64)
    taken = list(speculate(MODEL, [text], MedusaDraft(MODEL, heads.eval()), caches))
    assert text.new == one_by_one(MODEL, [1, 2, 3, 4, 5, 6], Sampling(max_tokens=40, temperature=0))
    assert len(taken) <= 36 and taken[0] == {0: 1}  # the first round has no hidden state to guess from
