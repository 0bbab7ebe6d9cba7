"""A short training on TinyTown, and how it is judged: what later projects compare their ways of training by.

Before: train.py makes the base model, once, from a file of ids on the disk. New here: a `Plan`, one for all
trainings that are compared, and a `Town`, as many ids in memory as the plan asks for and others to judge by,
all of pages that the base model, trained on stream 0, never saw.

    plan = Plan(steps=300, context=256)
    town = Town(tokenizer, plan.text, 20_000, device)
    history = town.fit(CausalLM(model), plan, folder)
"""

from dataclasses import dataclass
from itertools import islice

import torch

from common.device import dtype_for, seed_all
from common.errors import demand
from common.recipe import TrainConfig, adamw
from common.training import train
from data.tinytown import TinyTown

from . import probe

LEARN, HELD = 1, 2  # streams of pages: one to train on, one to judge by
MOST = 2_000_000  # ids of a text; a longer training meets them again


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
    """Of the order of the text, and of what is drawn on the way."""
    weight_decay: float = 0.1
    """Decay of matrices, as in AdamW."""

    def __post_init__(self):
        demand(min(self.steps, self.batch_size, self.context) >= 1,
               "steps, batch_size and context must be at least 1")  # fmt: skip

    @property
    def tokens(self) -> int:
        """Of an update."""
        return self.batch_size * self.context

    @property
    def text(self) -> int:
        """How many ids to have at hand: as many as the training reads, and at most MOST."""
        return min(MOST, self.steps * self.tokens + self.context + 1)

    def train_config(self, device, every=0) -> TrainConfig:
        """The settings of the loop; an evaluation every so many updates, 0: at both ends."""
        precision = "bf16" if dtype_for(device) == torch.bfloat16 else "fp32"
        return TrainConfig(steps=self.steps, learning_rate=self.learning_rate, warmup=self.steps // 20,
                           min_learning_rate=self.learning_rate / 20, weight_decay=self.weight_decay,
                           beta2=0.95, precision=precision, log_every=max(1, self.steps // 100),
                           eval_every=every or self.steps, save_every=self.steps)  # fmt: skip

    def optimizer(self, objective, config):
        """AdamW. A plan whose parameters do not all learn alike has another."""
        return adamw(objective, config)

    def batches(self, ids):
        """batch_at(i) -> (inputs, targets), each (rows, context), of ids (n,): a pure function of i.

        UserError where the context is longer than the text.
        """
        last = len(ids) - self.context
        demand(last > 0, f"a context of {self.context} is longer than the text: shorten it")

        def batch_at(i):
            draw = torch.Generator().manual_seed(1_000_003 * self.seed + i)
            starts = torch.randint(last, (self.batch_size, 1), generator=draw).to(ids.device)
            rows = ids[starts + torch.arange(self.context + 1, device=ids.device)]  # (rows, context + 1)
            return rows[:, :-1], rows[:, 1:]

        return batch_at


def ids_of(tokenizer, stream, n):
    """The first n ids of a stream of TinyTown's pages, an end behind each page, (n,)."""
    end, pages = probe.end_id(tokenizer), TinyTown().pages(stream)
    return torch.tensor(list(islice((i for page in pages for i in [*tokenizer.encode(page), end]), n)))


def demand_context(model, context):
    """UserError where a model reads fewer tokens than that."""
    most = model.config.max_seq_len
    demand(context <= most, f"a context of {context} is longer than the {most} tokens that this model reads")


class Town:
    """Ids to train on and to judge by: `learn` (tokens,) and `held` (judged,), on a device."""

    part = 32  # windows that a model is judged by at a time

    def __init__(self, tokenizer, tokens, judged, device):
        self.tokenizer, self.device = tokenizer, device
        self.learn, self.held = self.ids(LEARN, tokens), self.ids(HELD, judged)

    def ids(self, stream, n):
        """The first n ids of a stream, (n,), on the device."""
        return ids_of(self.tokenizer, stream, n).to(self.device)

    def batches(self, plan):
        """`plan.batches` of the text to train on."""
        return plan.batches(self.learn)

    def windows(self, context, most=None):
        """[(inputs, targets), ...] of held-out text, each (up to `part`, context): `most` windows, or all.

        What follows the last whole window is left out.
        """
        rows = self.held.unfold(0, context + 1, context)[:most]
        return [(some[:, :-1], some[:, 1:]) for some in rows.split(self.part)]

    def loss(self, model, context, most=None) -> float:
        """Nats a token of held-out text."""
        return probe.surprise(model, self.windows(context, most))["loss"]

    def fit(self, objective, plan, folder, *, every=0, on_eval=None, resume=False, say=lambda line: None):
        """Train an objective in place and judge its `model`; the history. It is left in eval mode.

        every: updates from one judgement to the next, 0: at both ends. The rest: `common.training.train`.
        """
        seed_all(plan.seed)
        objective.to(self.device).train()
        history = train(objective, self.batches(plan), plan.train_config(self.device, every), folder=folder,
                        evaluate=lambda: {"val_loss": self.loss(objective.model, plan.context)},
                        on_eval=on_eval, optimizer=plan.optimizer, resume=resume, say=say)  # fmt: skip
        objective.eval()
        return history
