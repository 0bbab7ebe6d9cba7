"""What the scripts share: TinyTown in small, a dense model and its mixture, a training, the load."""

from dataclasses import dataclass
from itertools import islice

import torch

from common import tokenizer as tokenizers
from common.device import dtype_for, seed_all
from common.errors import demand
from common.model import GPT, ModelConfig
from common.recipe import TrainConfig, adamw
from common.training import train
from data.tinytown import TinyTown
from phase01_foundation.project02_tokenizer import fast_bpe
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import moe, router, surgery

LEARN, HELD = 1, 2  # streams of TinyTown's pages; the base model was trained on stream 0
SAMPLE = 200  # pages to learn a tokenizer from


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A small model, and a training that its mixture gets as well. UserError if it makes no sense."""

    n_layer: int = 3
    n_head: int = 4
    n_kv_head: int = 2
    d_model: int = 128
    d_ff: int = 256
    context: int = 128
    rows: int = 16
    steps: int = 500
    learning_rate: float = 3e-3
    vocab_size: int = 512
    judged: int = 40_000

    def __post_init__(self):
        least = min(self.steps, self.rows, self.context)
        demand(least >= 1, "steps, rows and context must be at least 1")
        demand(self.judged > 8 * self.context, "judged must be more tokens than eight contexts hold")

    def dense(self, vocab_size, seed=0):
        """A new GPT."""
        seed_all(seed)
        sizes = {name: getattr(self, name) for name in ("n_layer", "n_head", "n_kv_head", "d_model", "d_ff")}
        return GPT(ModelConfig(vocab_size=vocab_size, max_seq_len=self.context, tie_embeddings=True, **sizes))

    def train_config(self, device, steps):
        return TrainConfig(
            steps=steps, learning_rate=self.learning_rate, min_learning_rate=self.learning_rate / 20,
            warmup=steps // 20, weight_decay=0.1, beta2=0.95, log_every=max(1, steps // 100),
            precision="bf16" if dtype_for(device) == torch.bfloat16 and device.type == "cuda" else "fp32",
            eval_every=steps, save_every=steps)  # fmt: skip


class Town:
    """Pages of TinyTown as ids: one stream to train on, another to judge by."""

    def __init__(self, tokenizer, tokens, judged, device):
        self.tokenizer, self.device = tokenizer, device
        self.learn, self.held = (self.ids(*part).to(device) for part in ((LEARN, tokens), (HELD, judged)))

    def ids(self, stream, n):
        """The first n ids of a stream, an end behind each page, (n,)."""
        end, pages = probe.end_id(self.tokenizer), TinyTown().pages(stream)
        every = (i for page in pages for i in [*self.tokenizer.encode(page), end])
        return torch.tensor(list(islice(every, n)))

    def batches(self, rows, context, seed=0):
        """batch_at(i) -> (inputs, targets), each (rows, context): a pure function of i."""
        last = len(self.learn) - context

        def batch_at(i):
            draw = torch.Generator().manual_seed(1_000_003 * seed + i)
            starts = torch.randint(last, (rows, 1), generator=draw).to(self.device)
            windows = self.learn[starts + torch.arange(context + 1, device=self.device)]
            return windows[:, :-1], windows[:, 1:]

        return batch_at

    def windows(self, context, most=None):
        """The held-out ids as (inputs, targets), in parts of 32 rows."""
        for part in self.held.unfold(0, context + 1, context)[:most].split(32):
            yield part[:, :-1], part[:, 1:]

    def loss(self, model, context):
        """Nats a token of pages that were never trained on."""
        return probe.surprise(model, self.windows(context))["loss"]


def small_town(plan, folder, device):
    """A town with a tokenizer of its own, learnt here, and text for a run of `plan`, at most 1M tokens."""
    pages = list(islice(TinyTown().pages(LEARN), SAMPLE))
    fast_bpe.train(pages, plan.vocab_size, tokenizers.SPECIAL).save(folder)
    tokenizer = tokenizers.load(folder)
    tokens = min(1_000_000, plan.steps * plan.rows * plan.context) + plan.context + 1
    return Town(tokenizer, tokens, plan.judged, device)


def mixture(plan, vocab_size, config, seed=0):
    """The plan's model with experts in the place of its feed-forwards."""
    return surgery.apply(plan.dense(vocab_size, seed), config)


def fit(model, town, plan, folder, *, steps=None, seed=0, watch=None, resume=False, say=lambda text: None):
    """Train a model in place; returns the history. watch(model, step): called five times on the way."""
    objective = CausalLM(model)
    if any(isinstance(module, moe.MoE) for module in model.modules()):
        objective = surgery.Balanced(objective)
    seed_all(seed)
    steps = steps or plan.steps
    model.train()
    batch_at, each = town.batches(plan.rows, plan.context, seed), max(1, steps // 5)

    def watched(i):
        if watch and i % each == 0:
            watch(model, i)
        return batch_at(i)

    history = train(objective, watched, plan.train_config(town.device, steps), folder=folder, resume=resume,
                    evaluate=lambda: {"val_loss": town.loss(model, plan.context)}, optimizer=adamw,
                    say=say)  # fmt: skip
    model.eval()
    return history


@torch.no_grad()
def loads(model, town, context, most=128):
    """The load of every mixture on unseen pages, (layers, E), in use: nobody is dropped."""
    mode, total = model.training, 0
    model.eval()
    for inputs, _ in town.windows(context, most):
        model(inputs)
        total = total + torch.stack([router.load(layer.router.routing.experts, layer.config.experts)
                                     for layer in moe.layers(model)])  # fmt: skip
    model.train(mode)
    return total.cpu()


def mean_cv(counts):
    """The mean over layers of each one's CV: counts (layers, E)."""
    return sum(map(router.cv, counts)) / len(counts)
