"""Peak memory of a few updates in a fresh process: `python -m … '{"method": "qlora", …}'` prints JSON.

On a CPU it is the process's largest size, which is why the process must be fresh; on a GPU the allocator's.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.cli.paths import ROOT
from common.device import peak_memory, reset_peak
from common.model import GPT, ModelConfig, swap
from common.recipe import TrainConfig

from . import _build, lora, nf4


@dataclass(frozen=True)
class Trial:
    """What to train, and at what size. The defaults are GPT-2's 124M shape, 4 rows of 256 tokens."""

    method: str = "lora"
    checkpointing: bool = False
    optimizer: str = "adamw"
    n_layer: int = 12
    d_model: int = 768
    d_ff: int = 2048
    n_head: int = 12
    vocab_size: int = 50_304
    rows: int = 4
    context: int = 256
    rank: int = 16
    updates: int = 2
    device: str = "cpu"
    bf16: bool = False

    @property
    def lora_config(self):
        return lora.LoRAConfig(self.rank, 2.0 * self.rank)


def drawn(shape, trial):
    dtype = torch.bfloat16 if trial.bf16 and trial.method != "full" else torch.float32
    return nn.Parameter(torch.randn(shape, device=trial.device, dtype=dtype).mul_(0.02))


def build(trial):
    """A model of random weights. In 4 bits, no more than one matrix of it is ever there in full."""
    with torch.device("meta"):
        model = GPT(ModelConfig(
            n_layer=trial.n_layer, d_model=trial.d_model, d_ff=trial.d_ff, n_head=trial.n_head,
            n_kv_head=trial.n_head, vocab_size=trial.vocab_size, max_seq_len=trial.context,
            tie_embeddings=True))  # fmt: skip

    def coded(old):
        old.weight = drawn(old.weight.shape, trial)
        return nf4.NF4Linear(old)

    kind = nn.Linear
    if trial.method == "qlora":
        kind = nf4.NF4Linear
        swap(model, nn.Linear, coded, lambda name: name != "head")
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, drawn(parameter.shape, trial))
    model.head.weight = model.embed.weight
    if trial.checkpointing:
        _build.recompute(model)
    return model if trial.method == "full" else lora.apply(model, trial.lora_config, kind=kind)


def batch_of(trial):
    """(inputs, targets), random tokens."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(trial.vocab_size, (trial.rows, trial.context + 1), generator=draw).to(trial.device)
    return tokens[:, :-1], tokens[:, 1:].contiguous()


def stepper(model, trial):
    """A function that makes one update of what is trained, and returns the loss."""
    settings = TrainConfig(weight_decay=0.0, learning_rate=1e-4)
    optimizer = _build.OPTIMIZERS[trial.optimizer](model, settings)
    inputs, targets = batch_of(trial)

    def step():
        with torch.autocast(torch.device(trial.device).type, torch.bfloat16, enabled=trial.bf16):
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def measure(trial):
    """{"floor": bytes before the model, "peak", "tokens_per_s", "trained", "weights"}"""
    device = torch.device(trial.device)
    torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device))
    floor = peak_memory(device)
    reset_peak(device)
    model = build(trial).train()
    step = stepper(model, trial)
    for _ in range(trial.updates):
        begun = time.perf_counter()
        step().item()
    seconds = time.perf_counter() - begun
    trained, every = _build.count(model)
    return {"floor": floor, "peak": peak_memory(device), "trained": trained, "weights": every,
            "tokens_per_s": trial.rows * trial.context / seconds}  # fmt: skip


def fresh(trial):
    """`measure` in a process of its own; RuntimeError with what it said where it fails."""
    command = [sys.executable, "-m", __name__]
    done = subprocess.run([*command, json.dumps(asdict(trial))], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the measurement of {trial} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(Trial(**json.loads(sys.argv[1])))))
