"""One update of a model of 124 million weights, in each precision: what the bench times."""

import functools

import torch

from common.device import matmul_parameters, model_flops
from common.model import GPT, ModelConfig

from ._lab import side


def shape_124m(b, **sizes):
    """GPT-2's depth, width and vocabulary in the course's architecture: 123.5 million weights, tied."""
    full = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
    small = {"vocab_size": 300, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "d_model": 32, "d_ff": 64}
    own = {**b.pick(smoke=small, quick=full, full=full), **sizes}
    return ModelConfig(**own, max_seq_len=1024, tie_embeddings=True)


def new_model(b, config):
    torch.manual_seed(0)
    return GPT(config).to(b.device)


def random_batch(b, config, rows, T):
    """(inputs, targets), each (rows, T)."""
    ids = torch.randint(config.vocab_size, (rows, T + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1].to(b.device), ids[:, 1:].to(b.device)


def autocast(one, device):
    """A side in float32 whose forward runs under torch.autocast: what ours is held against."""
    whole = one.objective.forward

    def forward(batch):
        with torch.autocast(device.type, torch.bfloat16):
            return whole(batch)

    one.objective.forward = forward
    return one


def trainers(b, config, batch, names):
    """{name: a call that makes one update and returns its loss}; one start, the same batch, one step made."""
    made = {}
    for name in names:
        one = side("fp32" if name == "torch.autocast" else name, new_model(b, config))
        made[name] = autocast(one, b.device) if name == "torch.autocast" else one
        made[name].update(batch)  # so that the loss that is compared has seen gradients
    return {name: functools.partial(one.update, batch) for name, one in made.items()}


def flops_of(model, config, rows, T):
    """FLOPs of the matrix products of one update."""
    width = config.n_head * config.head_dim
    return rows * T * model_flops(matmul_parameters(model), config.n_layer, width, T, causal=True)
