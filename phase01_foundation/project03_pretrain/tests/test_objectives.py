"""What is asked for, and who may look at whom."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.model import GPT
from common.testing import tiny
from phase01_foundation.project03_pretrain.objectives import (
    IGNORE,
    CausalLM,
    MaskedLM,
    PrefixLM,
    prefix_mask,
    token_loss,
)
from phase01_foundation.project03_pretrain.scaling import PowerLaw, fit, fit_line


class Recorder(nn.Module):
    """A model that answers with given logits, and remembers what it was shown."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.config = logits, tiny(vocab_size=logits.size(-1))

    def forward(self, tokens, mask=None):
        self.tokens, self.mask = tokens, mask
        return self.logits


def batch(B=3, T=8, vocab=97):
    tokens = torch.randint(vocab, (B, T + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.exercise("token_loss")
def test_matches_cross_entropy():
    """The mean over the targets that are asked for, as torch's cross_entropy has it; 0 where none is."""
    logits, (_, targets) = torch.randn(3, 8, 97), batch()
    targets = targets.masked_fill(torch.rand(3, 8) < 0.5, IGNORE)
    expected = F.cross_entropy(logits.reshape(-1, 97), targets.reshape(-1), ignore_index=IGNORE)
    assert torch.allclose(token_loss(logits, targets), expected, atol=1e-6)
    assert token_loss(logits, torch.full((3, 8), IGNORE)) == 0
    assert token_loss(logits.bfloat16(), targets).dtype == torch.float32


@pytest.mark.exercise("CausalLM.forward")
def test_causal_asks_for_the_next_token():
    """Every target counts, each guessed from what came before: the plain loss of the model."""
    torch.manual_seed(0)
    model, (inputs, targets) = GPT(tiny()), batch()
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    assert torch.allclose(CausalLM(model)((inputs, targets)), expected, atol=1e-6)


@pytest.mark.exercise("prefix_mask")
def test_prefix_mask_looks_like_the_picture():
    """All of a prefix is seen by everybody, the rest only from behind; each row has its own length."""
    look = prefix_mask(torch.tensor([2, 1]), 4)
    assert look.shape == (2, 1, 4, 4) and look.dtype == torch.bool
    assert look[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert look[1, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.exercise("PrefixLM.forward")
def test_prefix_asks_only_for_what_follows():
    """The model is shown the prefix mask, and the loss is the mean over the targets behind each prefix."""
    inputs, targets = batch()
    model = Recorder(torch.randn(3, 8, 97))
    torch.manual_seed(3)
    loss = PrefixLM(model)((inputs, targets))
    torch.manual_seed(3)
    lengths = torch.randint(1, 8, (3,))
    assert torch.equal(model.mask, prefix_mask(lengths, 8)) and torch.equal(model.tokens, inputs)
    asked = [(row, t) for row in range(3) for t in range(lengths[row] - 1, 8)]
    each = F.cross_entropy(model.logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 8)
    assert torch.allclose(loss, torch.stack([each[at] for at in asked]).mean(), atol=1e-6)


@pytest.mark.exercise("prefix_mask")
def test_prefix_does_not_leak():
    """What is asked for cannot be seen: changing a token behind the prefix changes no guess before it."""
    torch.manual_seed(0)
    model, (inputs, _) = GPT(tiny()).eval(), batch()
    look = prefix_mask(torch.tensor([3, 3, 3]), 8)
    changed = inputs.clone()
    changed[:, 5] += 1
    before, after = model(inputs, mask=look), model(changed % 97, mask=look)
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.exercise("MaskedLM.forward")
def test_masked_sees_both_sides_and_asks_for_itself():
    """Everybody is seen, hidden tokens are asked for at their own place, and the targets of the batch do
    not matter."""
    inputs, targets = batch(B=8, T=64)
    model = Recorder(F.one_hot(inputs, 97).float() * 50)  # certain of every input token
    objective = MaskedLM(model, mask_id=96)
    assert objective((inputs, targets)) < 1e-3, "the right answer in row t is token t itself"
    assert objective((inputs, torch.zeros_like(targets))) < 1e-3
    assert model.mask.all() and model.mask.shape[-2:] == (64, 64)
    assert (model.tokens != inputs).any(), "nothing was hidden"


def test_masked_hides_as_bert_does():
    """About 15 % are asked for; of these 80 % are hidden, 10 % are noise, 10 % stay; the others are not
    touched."""
    torch.manual_seed(0)
    tokens = torch.randint(90, (64, 500))
    objective = MaskedLM(Recorder(torch.zeros(1, 1, 97)), mask_id=96)
    seen, targets = objective.hide(tokens)
    asked = targets != IGNORE
    assert abs(asked.float().mean() - 0.15) < 0.01
    assert torch.equal(targets[asked], tokens[asked]) and torch.equal(seen[~asked], tokens[~asked])
    hidden = (seen[asked] == 96).float().mean()
    kept = (seen[asked] == tokens[asked]).float().mean()
    assert abs(hidden - 0.8) < 0.02 and abs(kept - 0.1) < 0.02


@pytest.mark.parametrize("make", [CausalLM, PrefixLM, lambda m: MaskedLM(m, mask_id=96)])
def test_an_untrained_model_is_surprised_by_ln_v(make):
    """Whatever is asked, a model that knows nothing scores about ln V."""
    torch.manual_seed(0)
    loss = make(GPT(tiny()))(batch(B=16, T=32))
    assert abs(loss.item() - math.log(97)) < 0.1


@pytest.mark.exercise("fit_line")
def test_matches_numpy_polyfit():
    """Least squares, as numpy has it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20), rng.normal(size=20)
    slope, intercept, rest = fit_line(x, y)
    (want, start), residual, *_ = np.polyfit(x, y, 1, full=True)
    assert np.allclose([slope, intercept, rest], [want, start, residual[0]])


@pytest.mark.exercise("fit", "fit_line")
def test_matches_chinchilla():
    """The law of Hoffmann et al. (E 1.69, A 406.4, α 0.34) is found again from five of its points."""
    law = PowerLaw(1.69, 406.4, 0.34)
    sizes = np.array([1e6, 4e6, 16e6, 64e6, 256e6])
    found = fit(sizes, law(sizes))
    assert abs(found.E - 1.69) < 0.02 and abs(found.alpha - 0.34) < 0.01
    assert abs(found(1e9) - law(1e9)) < 0.01


@pytest.mark.exercise("fit")
def test_fit_survives_noise_and_refuses_too_few():
    """A little noise moves the prediction a little; three points are not enough."""
    law, rng = PowerLaw(2.0, 60.0, 0.3), np.random.default_rng(0)
    sizes = np.geomspace(1e5, 1e7, 6)
    found = fit(sizes, law(sizes) * (1 + 0.002 * rng.normal(size=6)))
    assert abs(found(3e7) - law(3e7)) < 0.05
    with pytest.raises(ValueError, match="at least four"):
        fit(sizes[:3], law(sizes[:3]))
