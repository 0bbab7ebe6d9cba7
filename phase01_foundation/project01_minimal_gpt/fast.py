"""The same loss in a fraction of the time: what the years since GPT-2 are worth to this recipe.

The model is common's, made of other parts: RoPE where gpt.py has a learned table, RMSNorm where it has
LayerNorm, SwiGLU where it has GELU, and no biases. Muon (Jordan et al. 2024) moves the matrices, AdamW the
rest, and the learning rate falls to zero. The lesson gives each a paragraph; bench.py races it with nanoGPT.
"""

from dataclasses import dataclass, replace

import torch

from common.cli.script import script
from common.device import seed_all
from common.model import GPT, ModelConfig

from . import train
from .layers import hidden_width

MUON = 0.02  # its learning rate: each step changes a matrix by about this much, whatever the gradient's size


@dataclass(frozen=True)
class Config(train.Config):
    steps: int = 350
    """Updates of the weights."""
    learning_rate: float = 4e-3
    """AdamW's highest rate, for embedding and norms; it and Muon's warm up together and fall to zero."""

    def train_config(self):
        return replace(super().train_config(), min_learning_rate=0.0, warmup=min(50, self.steps // 10))


PRESETS = {"smoke": Config(n_layer=2, n_head=2, d_model=64, context=32, steps=100, eval_every=100),
           "cpu": Config(),
           "gpu": Config(n_layer=6, n_head=6, d_model=384, context=256, dropout=0.2, batch_size=64,
                         steps=2000, precision="bf16")}  # fmt: skip


def build(config, n_symbols, device):
    """A new model of these sizes, its weights drawn from the seed."""
    seed_all(config.seed)
    sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "d_model", "dropout")}
    return GPT(ModelConfig(vocab_size=n_symbols, max_seq_len=config.context, n_kv_head=config.n_head,
                           d_ff=hidden_width(config.d_model), tie_embeddings=True, **sizes)).to(device)


def optimizers(objective, config):
    """Muon for the matrices inside the blocks, AdamW for what is left: the embedding and the norms' gains."""
    matrices = [weight for weight in objective.model.blocks.parameters() if weight.dim() == 2]
    theirs = {id(weight) for weight in matrices}
    rest = [weight for weight in objective.parameters() if id(weight) not in theirs]
    return [torch.optim.Muon(matrices, lr=MUON, weight_decay=0.0),
            torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)]


def main(config, run):
    _, _, metrics, corpus = train.course(config, run, build, optimizers)
    run.finish(metrics, corpus=corpus)


if __name__ == "__main__":
    script(main, PRESETS)
