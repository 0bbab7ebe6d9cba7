"""Small trainings on TinyTown, of one start and the same batches in every precision; where memory goes."""

import time
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from common.device import synchronize
from common.model import GPT, ModelConfig
from common.recipe import TrainConfig, learning_rate
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain.objectives import CausalLM

from .fp8 import with_fp8
from .mixed_precision import LossScaler, Masters, Policy, mixed, update

PRECISIONS = {
    "fp32": "everything in float32",
    "bf16": "products in bfloat16, weights in float32",
    "bf16-masters": "the whole model in bfloat16, master weights in float32",
    "fp16": "products in float16, the loss scaled",
    "fp8": "the blocks' products in float8, the rest as bf16",
}


class Unscaled(LossScaler):
    """No scaler, for types with float32's range: nothing is multiplied, divided, or looked at."""

    def __init__(self):
        super().__init__(1.0)

    def unscale(self, parameters):
        """Nothing."""

    def update(self):
        """Nothing."""


@dataclass
class Side:
    """A model in one precision, and all that its updates need."""

    objective: nn.Module
    parameters: list
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    masters: Masters | None = None
    losses: list = field(default_factory=list)
    scales: list = field(default_factory=list)
    skipped: int = 0

    def update(self, batch):
        """One update; its loss and scale are noted."""
        loss, made = update(self.objective, batch, self.optimizer, self.scaler, self.parameters, self.masters)
        self.losses.append(loss.item())
        self.scales.append(self.scaler.scale)
        self.skipped += not made
        return self.losses[-1]


def side(name, model, scaler=None, convert=None):
    """A model put into a precision of PRECISIONS, in place, with its optimiser; after `convert`, if given."""
    masters = Masters(model, torch.bfloat16) if name == "bf16-masters" else None
    if convert is not None:
        convert(model)
    if name == "fp8":
        with_fp8(model)
    if name in ("bf16", "fp16", "fp8"):
        mixed(model, Policy(torch.float16 if name == "fp16" else torch.bfloat16))
    parameters = masters.parameters() if masters else list(model.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
    scaler = scaler or (LossScaler(interval=100) if name == "fp16" else Unscaled())
    return Side(CausalLM(model), parameters, optimizer, scaler, masters)


def kept(objective, batch):
    """(bytes that autograd keeps for the backward pass, parameters not counted; the loss)."""
    held, own = {}, {p.untyped_storage().data_ptr() for p in objective.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(batch)
    return sum(held.values()), loss


def memory(one, batch):
    """Bytes of a side that has made an update, by what they are for; `batch` has an even number of rows.

    Activations grow with the batch. Copies do not: they are the weights, cast, that the backward pass needs.
    """
    half, _ = kept(one.objective, [x[::2] for x in batch])
    whole, loss = kept(one.objective, batch)
    one.optimizer.zero_grad()
    one.scaler.scaled(loss).backward()
    if one.masters is not None:
        one.masters.collect()  # as the optimiser finds them
    weights = {id(p): p for p in [*one.objective.parameters(), *one.parameters]}.values()
    found = {"weights": sum(p.nbytes for p in weights),
             "gradients": sum(p.grad.nbytes for p in weights if p.grad is not None),
             "states": sum(t.nbytes for state in one.optimizer.state.values() for t in state.values()),
             "copies": 2 * half - whole, "activations": 2 * (whole - half)}  # fmt: skip
    for p in weights:
        p.grad = None
    return found


class Town:
    """TinyTown as bytes, the last of it held out."""

    def __init__(self, characters, context, rows, device):
        self.context, self.rows = context, rows
        text, pages = "", TinyTown().pages()
        while len(text) < characters:
            text += next(pages) + "\n"
        ids = torch.tensor(list(text.encode()))
        held = 40 * context
        self.ids, self.held_out = ids[:-held].to(device), ids[-held:].to(device)

    def batch(self, step):
        """(inputs, targets), each (rows, context): a pure function of the step."""
        draw = torch.Generator().manual_seed(step)
        at = torch.randint(len(self.ids) - self.context, (self.rows, 1), generator=draw).to(self.ids.device)
        windows = self.ids[at + torch.arange(self.context + 1, device=at.device)]
        return windows[:, :-1], windows[:, 1:]

    @torch.no_grad()
    def judge(self, objective):
        """Nats a byte on unseen text."""
        windows = self.held_out.unfold(0, self.context + 1, self.context)
        return objective((windows[:, :-1], windows[:, 1:])).item()


def model_of(config, device):
    """A new model of bytes, from the seed of the configuration."""
    torch.manual_seed(config.seed)
    return GPT(ModelConfig(vocab_size=256, n_layer=config.n_layer, n_head=4, n_kv_head=2,
                           d_model=config.d_model, d_ff=5 * config.d_model // 2,
                           max_seq_len=config.context)).to(device)  # fmt: skip


def fit(one, town, steps, rate):
    """Train a side; returns its seconds for an update, without the first."""
    config = TrainConfig(steps=steps, warmup=steps // 10, learning_rate=rate, min_learning_rate=rate / 10)
    device, start = town.ids.device, time.perf_counter()
    for step in range(steps):
        for group in one.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        one.update(town.batch(step))
        if step == 0:
            synchronize(device)
            start = time.perf_counter()
    synchronize(device)
    return (time.perf_counter() - start) / max(1, steps - 1)
