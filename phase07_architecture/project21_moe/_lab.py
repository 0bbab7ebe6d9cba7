"""What the scripts share: TinyTown in small, a dense model and its mixture, a training, the load."""

from dataclasses import dataclass, replace
from itertools import islice

import torch

from common import tokenizer as tokenizers
from common.device import seed_all
from common.errors import demand
from common.model import GPT, ModelConfig
from common.training import train
from data.tinytown import TinyTown
from phase01_foundation.project02_tokenizer import fast_bpe
from phase01_foundation.project03_pretrain import town
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import moe, router, surgery

SAMPLE = 200  # pages to learn a tokenizer from


@dataclass(frozen=True, kw_only=True)
class Plan(town.Plan):
    """A small model, and a training that its mixture gets as well. UserError if it makes no sense."""

    steps: int = 500
    batch_size: int = 16
    n_layer: int = 3
    n_head: int = 4
    n_kv_head: int = 2
    d_model: int = 128
    d_ff: int = 256
    vocab_size: int = 512
    judged: int = 40_000

    def __post_init__(self):
        super().__post_init__()
        demand(self.judged > 8 * self.context, "judged must be more tokens than eight contexts hold")

    def dense(self, vocab_size, seed=0):
        """A new GPT."""
        seed_all(seed)
        sizes = {name: getattr(self, name) for name in ("n_layer", "n_head", "n_kv_head", "d_model", "d_ff")}
        return GPT(ModelConfig(vocab_size=vocab_size, max_seq_len=self.context, tie_embeddings=True, **sizes))

    @property
    def text(self):
        """How many ids to have at hand: as many as the training reads, at most a million and a row."""
        return min(1_000_000, self.steps * self.tokens) + self.context + 1

    def train_config(self, device, every=0):
        """The settings of the loop; in float32 on a CPU, whatever its units."""
        config = super().train_config(device, every)
        return config if device.type == "cuda" else replace(config, precision="fp32")


def small_town(plan, folder, device):
    """A town with a tokenizer of its own, learnt here, and text for a run of `plan`."""
    pages = list(islice(TinyTown().pages(town.LEARN), SAMPLE))
    fast_bpe.train(pages, plan.vocab_size, tokenizers.SPECIAL).save(folder)
    tokenizer = tokenizers.load(folder)
    return town.Town(tokenizer, plan.text, plan.judged, device)


def mixture(plan, vocab_size, config, seed=0):
    """The plan's model with experts in the place of its feed-forwards."""
    return surgery.apply(plan.dense(vocab_size, seed), config)


def fit(model, text, plan, folder, *, watch=None, resume=False, say=lambda line: None):
    """Train a model in place; returns the history. watch(model, step): called five times on the way."""
    objective = CausalLM(model)
    if any(isinstance(module, moe.MoE) for module in model.modules()):
        objective = surgery.Balanced(objective)
    seed_all(plan.seed)
    model.train()
    batch_at, each = text.batches(plan), max(1, plan.steps // 5)

    def watched(i):
        if watch and i % each == 0:
            watch(model, i)
        return batch_at(i)

    history = train(objective, watched, plan.train_config(text.device), folder=folder, resume=resume,
                    evaluate=lambda: {"val_loss": text.loss(model, plan.context)}, say=say)  # fmt: skip
    model.eval()
    return history


@torch.no_grad()
def loads(model, text, context, most=128):
    """The load of every mixture on unseen pages, (layers, E), in use: nobody is dropped."""
    mode, total = model.training, 0
    model.eval()
    for inputs, _ in text.windows(context, most):
        model(inputs)
        total = total + torch.stack([router.load(layer.router.routing.experts, layer.config.experts)
                                     for layer in moe.layers(model)])  # fmt: skip
    model.train(mode)
    return total.cpu()


def mean_cv(counts):
    """The mean over layers of each one's CV: counts (layers, E)."""
    return sum(map(router.cv, counts)) / len(counts)
