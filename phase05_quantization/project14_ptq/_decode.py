"""Decoding at GPT-2's 124M shape, and single products of its matrices: floats, codes, and other engines."""

import copy
import logging
import warnings
from functools import partial

import torch
from torch import nn

from common.model import GPT, Cache, ModelConfig

from . import integer, rtn
from .rtn import QuantLinear

FULL = {"vocab_size": 50304, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
SMALL = {"vocab_size": 320, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "d_model": 64, "d_ff": 128}
PROMPT = 64
# (rows, outputs, inputs): what one token asks of the model, and a short prompt.
PRODUCTS = ((1, 768, 768), (1, 2048, 768), (1, 768, 2048), (1, 50304, 768), (128, 2048, 768))


def model_of(b):
    """Random weights at the 124M shape; something that fits into a test where that is asked for."""
    torch.manual_seed(0)
    sizes = b.pick(smoke=SMALL, quick=FULL, full=FULL)
    return GPT(ModelConfig(max_seq_len=1024, tie_embeddings=True, **sizes)).eval()


def coded(model, bits, group, tables=True):
    """A copy in codes, by the kernels of this machine."""
    made = rtn.apply(copy.deepcopy(model), bits, group)
    return integer.plug(rtn.apply_to_tables(made, bits, group) if tables else made)


@torch.inference_mode()
def filled(model):
    """A cache for each block, after a prompt."""
    caches = [Cache() for _ in model.blocks]
    draw = torch.Generator().manual_seed(0)
    model(torch.randint(model.config.vocab_size, (1, PROMPT), generator=draw), caches=caches)
    return caches


def decoding(model, new):
    """A call that feeds `new` given tokens, one after the other; the logits behind them, (new, V)."""
    caches, draw = filled(model), torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (new, 1, 1), generator=draw)

    @torch.inference_mode()
    def call():
        for cache in caches:
            cache.length = PROMPT
        return torch.cat([model(token, caches=caches)[0] for token in tokens])

    return call


def near(share):
    """A check: no logit further off than a share of the largest."""
    return lambda want, got: bool((want - got).abs().max() <= share * want.abs().max())


def bytes_read(model) -> int:
    """Bytes of all float weights that one token reads: those of the blocks and of the head."""
    return sum(p.nbytes for part in (model.blocks, model.head) for p in part.parameters())


def engines(b, rows, out, into):
    """{name: call} for one product in 8 bits: PyTorch's engines as they ship, bitsandbytes', and ours."""
    torch.manual_seed(0)
    linear, x = nn.Linear(into, out, bias=False), torch.randn(rows, into)
    layer = integer.FastLinear(QuantLinear.from_linear(linear, 8), integer.Chooser())
    sides = {engine: shipped(linear, engine) for engine in ("x86", "onednn") if engine in integer.engines()}
    if b.library("bitsandbytes"):
        sides["bitsandbytes"] = theirs(linear)
    sides["ours"] = layer
    calls = {name: partial(without_gradients, side, x) for name, side in sides.items()}
    calls["ours"]()
    return calls, layer


@torch.inference_mode()
def without_gradients(call, x):
    return call(x)


def shipped(linear, engine):
    """torch.ao's dynamically quantised layer."""
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import per_channel_dynamic_qconfig

    before, linear = torch.backends.quantized.engine, copy.deepcopy(linear)
    linear.qconfig = per_channel_dynamic_qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what there is
        torch.backends.quantized.engine = engine
        try:
            return Linear.from_float(linear)
        finally:
            torch.backends.quantized.engine = before


def theirs(linear):
    """bitsandbytes' LLM.int8() on the CPU."""
    import bitsandbytes as bnb

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at each call that it casts

    made = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias=False, has_fp16_weights=False)
    made.load_state_dict(linear.state_dict())
    return made.to("cpu").eval()
