"""What the scripts share: TinyTown as batches and as a judge, and a training."""

from dataclasses import dataclass
from itertools import islice

import torch

from common.device import dtype_for, seed_all
from common.errors import demand
from common.recipe import TrainConfig
from common.training import train
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.objectives import CausalLM

LEARN, HELD = 1, 2  # streams of TinyTown's pages; the base model was trained on stream 0


@dataclass(frozen=True)
class Plan:
    """A training, the same for all models that are compared. UserError if it makes no sense."""

    steps: int = 400
    """Updates."""
    learning_rate: float = 3e-3
    """Highest size of an update; it warms up over a twentieth of the run, and falls to a twentieth."""
    batch_size: int = 6
    """Rows in an update."""
    context: int = 128
    """Tokens of a row."""
    seed: int = 0
    """Of the order of the text."""

    def __post_init__(self):
        demand(min(self.steps, self.batch_size, self.context) >= 1,
               "steps, batch_size and context must be at least 1")  # fmt: skip

    @property
    def tokens(self):
        """How long a text the training reads, at most two million."""
        return min(2_000_000, self.steps * self.batch_size * self.context + self.context + 1)

    def train_config(self, device, every=0):
        """The settings of the loop; an evaluation every so many updates, 0: at both ends."""
        precision = "bf16" if dtype_for(device) == torch.bfloat16 else "fp32"
        return TrainConfig(steps=self.steps, learning_rate=self.learning_rate, warmup=self.steps // 20,
                           min_learning_rate=self.learning_rate / 20, beta2=0.95, precision=precision,
                           log_every=max(1, self.steps // 100), eval_every=every or self.steps,
                           save_every=self.steps)  # fmt: skip


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

    def batches(self, plan):
        """batch_at(i) -> (inputs, targets), each (rows, context): a pure function of i."""
        last = len(self.learn) - plan.context
        demand(last > 0, f"a context of {plan.context} is longer than the text: shorten it")

        def batch_at(i):
            draw = torch.Generator().manual_seed(1_000_003 * plan.seed + i)
            starts = torch.randint(last, (plan.batch_size, 1), generator=draw).to(self.device)
            windows = self.learn[starts + torch.arange(plan.context + 1, device=self.device)]
            return windows[:, :-1], windows[:, 1:]

        return batch_at

    def loss(self, model, context):
        """Nats a token of pages that were never trained on."""
        windows = self.held.unfold(0, context + 1, context)
        return probe.surprise(model, ((part[:, :-1], part[:, 1:]) for part in windows.split(32)))["loss"]


def fit(model, town, plan, folder, *, every=0, on_eval=None, resume=False, say=lambda line: None):
    """Train a model in place, as the plan says; returns the history."""
    seed_all(plan.seed)
    model.train()
    return train(CausalLM(model), town.batches(plan), plan.train_config(town.device, every), folder=folder,
                 evaluate=lambda: {"val_loss": town.loss(model, plan.context)}, on_eval=on_eval,
                 resume=resume, say=say)  # fmt: skip
