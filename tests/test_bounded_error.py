"""Where numbers are rounded, left out or shared, logits are not the same, and no further off than a bound.

The truth is the model as it was, in float32. A row is a change to it, and the largest share of its logits
that may be lost; each must lose something, or it did not do what it is named for.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from common.model import GPT, attend, set_attend
from common.testing import tiny
from phase03_core_inference.project08_kv_cache.kv_cache import caches_for
from phase05_quantization.project14_ptq import awq, gptq, integer, llm_int8, rtn
from phase05_quantization.project15_kv_quantization import kv_quant, paged_quant
from phase05_quantization.project15_kv_quantization.bags import integer_scores
from phase05_quantization.project15_kv_quantization.rows import Format
from phase05_quantization.project16_qat import qat
from phase06_compression.project17_pruning import magnitude, sparsegpt, storage, structured, wanda
from phase06_compression.project19_weight_sharing import factorised, relaxed


def read(tokens):
    """A calibration set: texts beside the one that is judged."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(97, tokens.shape, generator=draw) for _ in range(4)]


def through(form, fn=attend):
    """The model token by token through quantised caches, by an attend."""

    def change(model, tokens):
        caches = caches_for(model, partial(kv_quant.QuantizedCache, form=form), 1, tokens.size(1))
        set_attend(model, fn)
        return lambda tokens: torch.cat([model(part, caches=caches) for part in tokens.split(1, 1)], 1)

    return change


def through_pages(form, size):
    """The model token by token through quantised pages."""

    def change(model, tokens):
        store = paged_quant.QuantizedStore(model, 8, size, form=form)
        store.open(0, [0])

        def logits(i):
            assert store.reserve(0, i + 1)
            step = SimpleNamespace(ids=(0,), positions=torch.tensor([[i]]))
            return model(tokens[:, i : i + 1], positions=step.positions, caches=store.caches(step))

        return lambda tokens: torch.cat([logits(i) for i in range(tokens.size(1))], 1)

    return change


def coarse(**settings):
    """The model as it trains with its rounding in place; exported, it is the same to the last bit."""

    def change(model, tokens):
        qat.apply(model, qat.QATConfig(**settings))
        trains = qat.freeze(model)(tokens)
        exported = qat.export(model)
        assert torch.equal(exported(tokens), trains)
        return exported

    return change


def with_zeros(sparsity):
    """SparseGPT; kept by bitmask, it is the same to the last bit."""

    def change(model, tokens):
        want = sparsegpt.apply(model, read(tokens), sparsity)(tokens)
        assert torch.equal(storage.store(model)(tokens), want)
        return model

    return change


CACHE_8, CACHE_4 = Format(8, 4, 2), Format(4, 8, 2)
WHOLE = partial(kv_quant.read, product=integer_scores)
BYTES = integer.Chooser(("int_mm",))
# name -> (how the model is changed, the largest share of the logits that may be lost)
ROUNDED = {
    "8 bits": (lambda model, tokens: rtn.apply(model, 8), 0.015),
    "8 bits, tables too": (lambda model, tokens: rtn.apply_to_tables(rtn.apply(model, 8), 8), 0.02),
    "8 bits, integers": (lambda model, tokens: integer.plug(rtn.apply(model, 8), BYTES), 0.02),
    "8 bits, outliers apart": (lambda model, tokens: llm_int8.plug(rtn.apply(model, 8)), 0.02),
    "4 bits": (lambda model, tokens: rtn.apply(model, 4, 16), 0.2),
    "4 bits, zero points": (lambda model, tokens: rtn.apply(model, 4, 16, False), 0.15),
    "4 bits, GPTQ": (lambda model, tokens: gptq.apply(model, read(tokens), 4, 16), 0.2),
    "4 bits, AWQ": (lambda model, tokens: awq.apply(model, read(tokens), 4, 16), 0.2),
    "4 bits, trained so": (coarse(bits=4, group=16), 0.2),
    "4 bits, trained so, inputs in 8": (coarse(bits=4, group=16, inputs="dynamic"), 0.2),
    "cache, 8 bits": (through(CACHE_8), 0.02),
    "cache, 8 bits, codes": (through(CACHE_8, kv_quant.attend), 0.02),
    "cache, 8 bits, integers": (through(CACHE_8, kv_quant.reading(WHOLE)), 0.03),
    "cache, 4 bits, codes": (through(CACHE_4, kv_quant.attend), 0.2),
    "pages, 8 bits": (through_pages(CACHE_8, 8), 0.02),
    "a tenth is 0": (lambda model, tokens: magnitude.apply(model, 0.1), 0.06),
    "a tenth is 0, Wanda": (lambda model, tokens: wanda.apply(model, read(tokens), 0.1), 0.09),
    "a tenth is 0, SparseGPT": (with_zeros(0.1), 0.06),
    "a sixth of the neurons gone": (lambda model, tokens: structured.apply(model, read(tokens), 2, 40), 0.3),
    "a table in two parts": (lambda model, tokens: factorised.factorise(model, 23), 0.55),
    "one layer, and corrections": (lambda model, tokens: relaxed.relax(model, (0, 0), 16), 0.4),
}


@pytest.mark.parametrize("name", ROUNDED)
@torch.no_grad()
def test_bounded_error(name):
    """The logits differ, by a share of their size that is known beforehand."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny()).eval(), torch.randint(97, (1, 23))
    for p in model.parameters():
        p.mul_(4 if p.dim() > 1 else 1)
    want, (change, bound) = model(tokens), ROUNDED[name]
    error = (change(model, tokens)(tokens) - want).norm() / want.norm()
    assert 1e-4 < error <= bound, f"{name}: {error:.4f} of the logits are lost"
