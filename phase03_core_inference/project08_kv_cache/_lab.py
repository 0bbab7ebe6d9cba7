"""What the experiments share: a model of any size to time, one of the chain to read, pictures, a training."""

from functools import cached_property

import torch
from torch import nn

from common.cli import explore
from common.errors import UserError
from common.model import GPT, ModelConfig
from common.recipe import TrainConfig, learning_rate, parameter_groups
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain.objectives import CausalLM


class Lab(explore.Reader):
    """`timed`: untrained, of the settings' sizes, as weights do not change speed. `model`: of the chain."""

    @cached_property
    def timed(self) -> GPT:
        return self.build(self.config.n_head)

    def build(self, n_kv_head: int, **sizes) -> GPT:
        """An untrained model of the settings' sizes."""
        torch.manual_seed(0)
        c = self.config
        sizes = {"vocab_size": c.vocab_size, "max_seq_len": c.context, **sizes}
        return GPT(ModelConfig(n_layer=c.n_layer, n_head=c.n_head, n_kv_head=n_kv_head, d_model=c.d_model,
                               d_ff=8 * c.d_model // 3, tie_embeddings=True, **sizes)).eval().to(self.device)

    @cached_property
    def pages(self) -> torch.Tensor:
        """TinyTown as one row of ids of the chain's tokenizer."""
        text = TinyTown().text(self.config.characters)
        return torch.tensor(self.words.encode(text), device=self.device)

    def prompt(self, T: int, number: int = 0) -> torch.Tensor:
        """Random ids (1, T) for the timed model."""
        draw = torch.Generator().manual_seed(number)
        return torch.randint(self.config.vocab_size, (1, T), generator=draw).to(self.device)

    def text(self, T: int, number: int = 0) -> torch.Tensor:
        """T ids (1, T) of TinyTown, from another place for each number."""
        start = number * 997 % (len(self.pages) - T)
        return self.pages[start : start + T][None]

    def room(self, T: int, n: int) -> tuple[int, int]:
        """(T, n), cut where the chain's model has less context than they ask for; UserError under 4 + 4."""
        context = self.model.config.max_seq_len
        if context < 8:
            raise UserError(f"a context of {context} tokens is too short to see anything: at least 8")
        T = min(T, context // 2)
        return T, min(n, context - T)


# ---- a small training ----


def batches(ids, context, rows=16, seed=0):
    """batch_at(step) -> (inputs, targets), each (rows, context), from random places of ids."""

    def batch_at(step):
        draw = torch.Generator().manual_seed(1_000_003 * seed + step)
        starts = torch.randint(len(ids) - context, (rows, 1), generator=draw).to(ids.device)
        windows = ids[starts + torch.arange(context + 1, device=ids.device)]  # (rows, context + 1)
        return windows[:, :-1], windows[:, 1:]

    return batch_at


def fit(model, batch_at, steps, rate):
    """Train with AdamW; warm-up of a tenth, then a cosine. Returns the model in eval mode."""
    objective = CausalLM(model.train())
    config = TrainConfig(steps=steps, learning_rate=rate, min_learning_rate=rate / 10, warmup=steps // 10)
    optimizer = torch.optim.AdamW(parameter_groups(objective, 0.1), lr=rate, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        objective(batch_at(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


@torch.no_grad()
def loss(model, ids, context) -> float:
    """Nats a token over windows of ids that do not overlap."""
    windows = ids.unfold(0, context + 1, context)
    parts = [(CausalLM(model)((w[:, :-1], w[:, 1:])).item(), len(w)) for w in windows.split(64)]
    return sum(value * n for value, n in parts) / sum(n for _, n in parts)
