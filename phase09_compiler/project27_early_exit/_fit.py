"""What the scripts share: TinyTown as batches and as a judge, and the training of a model with ways out."""

from dataclasses import dataclass
from itertools import islice

import torch

from common.device import dtype_for, seed_all
from common.errors import demand
from common.recipe import parameter_groups
from common.training import TrainConfig, train
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe

FASTER = 4  # how much higher the learning rate of ways out is: they are new, and the base is not
LEARN, HELD, TUNE = 1, 2, 3  # streams of TinyTown's pages; the base model was trained on stream 0


@dataclass(frozen=True)
class Plan:
    """A training, the same for the model with ways out and for its twin. UserError if it makes no sense."""

    steps: int = 400
    """Updates."""
    learning_rate: float = 5e-4
    """Highest size of an update; it warms up over a twentieth of the run, and falls to a twentieth."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    seed: int = 0
    """Of the order of the text."""

    def __post_init__(self):
        demand(min(self.steps, self.batch_size, self.context) >= 1,
               "steps, batch_size and context must be at least 1")  # fmt: skip

    @property
    def tokens(self):
        """Of an update."""
        return self.batch_size * self.context

    def train_config(self, device):
        """The settings of the loop; an evaluation at both ends."""
        precision = "bf16" if dtype_for(device) == torch.bfloat16 else "fp32"
        return TrainConfig(steps=self.steps, learning_rate=self.learning_rate, warmup=self.steps // 20,
                           min_learning_rate=self.learning_rate / 20, weight_decay=0.0, beta2=0.95,
                           precision=precision, log_every=max(1, self.steps // 100), eval_every=self.steps,
                           save_every=self.steps)  # fmt: skip

    def optimizer(self, objective, config):
        """AdamW; what is in `exits` learns faster."""
        new = {p for name, p in objective.named_parameters() if ".exits." in name}
        groups = []
        for group in parameter_groups(objective, config.weight_decay):
            for rate, chosen in ((1, False), (FASTER, True)):
                own = [p for p in group["params"] if (p in new) == chosen]
                groups += [{**group, "params": own, "lr": rate * config.learning_rate}] if own else []
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=fused)


class Town:
    """Pages of TinyTown as ids: a stream to train on, one to judge by, and one to choose thresholds on."""

    def __init__(self, tokenizer, tokens, judged, device):
        self.tokenizer, self.device = tokenizer, device
        sizes = {LEARN: tokens, HELD: judged, TUNE: judged}
        self.learn, self.held, self.tune = (self.ids(*part).to(device) for part in sizes.items())

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
        """Nats a token of unseen pages, at the top."""
        windows = self.held.unfold(0, context + 1, context)
        return probe.surprise(model, ((part[:, :-1], part[:, 1:]) for part in windows.split(16)))["loss"]


def fit(objective, town, plan, folder, *, resume=False, say=lambda line: None):
    """Train an objective's model as the plan says; (the model in eval mode, the history)."""
    seed_all(plan.seed)
    objective.to(town.device).train()
    history = train(objective, town.batches(plan), plan.train_config(town.device), folder=folder,
                    evaluate=lambda: {"val_loss": town.loss(objective.model, plan.context)},
                    optimizer=plan.optimizer, resume=resume, say=say)  # fmt: skip
    return objective.model.eval(), history
