"""nanoGPT beside us: its model.py as it ships, our model with the same weights, and a training step of
each."""

import contextlib
import importlib.util
import io

import torch
from torch import nn

from common.model import GPT, ModelConfig
from common.recipe import TrainConfig
from common.variants import gpt2

from ._build import OPTIMIZERS
from .objectives import CausalLM


def module_of(checkout):
    """nanoGPT's model.py, imported from where it lies."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs(checkout, **sizes):
    """(its model, a function that makes its own AdamW); sizes by its own names."""
    module = module_of(checkout)
    with contextlib.redirect_stdout(io.StringIO()):  # it counts aloud
        model = module.GPT(module.GPTConfig(dropout=0.0, **sizes))

    def optimizer(learning_rate, device):
        with contextlib.redirect_stdout(io.StringIO()):
            return model.configure_optimizers(0.1, learning_rate, (0.9, 0.95), device.type)

    return model, optimizer


def ours(vocab_size, block_size, n_layer, n_head, n_embd):
    """Our model in GPT-2's dress at the same sizes, not initialised alike yet."""
    heads = {"n_head": n_head, "n_kv_head": n_head}
    return gpt2(GPT(ModelConfig(vocab_size=vocab_size, max_seq_len=block_size, n_layer=n_layer, **heads,
                                d_model=n_embd, d_ff=4 * n_embd, tie_embeddings=True)))  # fmt: skip


@torch.no_grad()
def copy_weights(source, target):
    """nanoGPT's weights into our model in GPT-2's dress; its q, k and v are one matrix, ours are three."""

    def put(module, other, part=slice(None)):
        for name, parameter in module.named_parameters(recurse=False):
            parameter.copy_(getattr(other, name)[part])

    inside = source.transformer
    target.embed.weight.copy_(inside.wte.weight)
    target.embed.positions.copy_(inside.wpe.weight)
    for block, other in zip(target.blocks, inside.h, strict=True):
        C = other.attn.c_proj.weight.size(0)
        for i, linear in enumerate((block.attn.wq, block.attn.wk, block.attn.wv)):
            put(linear, other.attn.c_attn, slice(i * C, (i + 1) * C))
        put(block.attn.wo, other.attn.c_proj)
        put(block.norm_attn, other.ln_1)
        put(block.norm_ffn, other.ln_2)
        put(block.ffn.w_up, other.mlp.c_fc)
        put(block.ffn.w_down, other.mlp.c_proj)
    put(target.norm, inside.ln_f)


def stepper(model, loss_now, optimizer, device, bf16):
    """A function that makes one update and returns the loss before the first one, as a tensor."""
    first = []

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_now()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        first.append(loss.detach().float()) if not first else None
        return first[0]

    return step


def their_step(checkout, sizes, batch, device, bf16, weights=None):
    """(its model, one update of it). weights: a state to start from."""
    model, optimizer = theirs(checkout, **sizes)
    if weights is not None:
        model.load_state_dict(weights)
    model.to(device)
    return model, stepper(model, lambda: model(*batch)[1], optimizer(1e-4, device), device, bf16)


def our_step(sizes, batch, device, bf16, source=None, compiled=False):
    """(our model, one update of it, with the optimiser that `--optimizer fused` takes).

    compiled: torch.compile each block.
    """
    model = ours(**sizes)
    if source is not None:
        copy_weights(source, model)
    if compiled:
        for block in model.blocks:
            block.compile()
    objective = CausalLM(model).to(device)
    config = TrainConfig(learning_rate=1e-4, min_learning_rate=0.0, beta2=0.95)
    optimizer = OPTIMIZERS["fused"](objective, config)
    return model, stepper(model, lambda: objective(batch), optimizer, device, bf16)
