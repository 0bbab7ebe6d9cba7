"""What the scripts share: TinyTown as batches, a new student, a training, and what a model is judged by."""

import math
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F

from common.device import dtype_for, seed_all
from common.errors import demand
from common.model import GPT, ModelConfig
from common.training import TrainConfig, train
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.objectives import CausalLM

from .logit_kd import overlap, soften

LEARN, HELD = 1, 2  # streams of TinyTown's pages; the base model was trained on stream 0


@dataclass(frozen=True)
class Sizes:
    """Of a student. UserError where they make no model."""

    n_layer: int = 2
    """Blocks."""
    d_model: int = 128
    """Numbers a token."""
    n_head: int = 4
    """Query heads in a block."""
    n_kv_head: int = 2
    """Key and value heads in a block."""
    d_ff: int = 320
    """Numbers inside a feed-forward."""

    def student(self, teacher, seed):
        """A new model with the teacher's ids and context."""
        torch.manual_seed(seed)
        config = teacher.config
        return GPT(ModelConfig(vocab_size=config.vocab_size, max_seq_len=config.max_seq_len,
                               rope_theta=config.rope_theta, tie_embeddings=True, n_layer=self.n_layer,
                               d_model=self.d_model, n_head=self.n_head, n_kv_head=self.n_kv_head,
                               d_ff=self.d_ff)).to(teacher.embed.weight.device)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A training, the same for the student with a teacher and for the one without."""

    steps: int = 400
    """Updates."""
    learning_rate: float = 6e-3
    """Highest size of an update; it warms up over a twentieth of the run, and falls to a twentieth."""
    batch_size: int = 8
    """Rows in an update."""
    context: int = 128
    """Tokens of a row."""
    seed: int = 0
    """Of the first weights and of the order of the text."""

    def __post_init__(self):
        demand(min(self.steps, self.batch_size, self.context) >= 1,
               "steps, batch_size and context must be at least 1")  # fmt: skip

    @property
    def tokens(self):
        """Of an update."""
        return self.batch_size * self.context

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

    def prompts(self, plan, length):
        """batch_at(i) -> (rows, length), the beginnings of the rows of `batches`."""
        batch_at = self.batches(plan)
        return lambda i: batch_at(i)[0][:, :length]

    def rows(self, context):
        """Batches of unseen pages, (inputs, targets)."""
        windows = self.held.unfold(0, context + 1, context)
        return [(part[:, :-1], part[:, 1:]) for part in windows.split(8)]

    def alone(self, model):
        """What a student learns by without a teacher."""
        return CausalLM(model)

    def loss(self, model, context, most=None):
        """Nats a token of unseen pages; of so many batches of them."""
        return probe.surprise(model, self.rows(context)[:most])["loss"]

    def judge(self, model, teacher, context):
        """How a model does on unseen pages, alone and beside its teacher."""
        return beside(model, teacher, self.rows(context))


@torch.no_grad()
def beside(model, teacher, batches, T=1.0):
    """What a student says on batches of unseen text, and how near to its teacher.

    {"loss": nats a token, "accuracy": of its likeliest token, "agreement": how often that is the teacher's,
    "overlap": of both distributions at T, "kl": from the teacher to it, in nats}.
    """
    model.eval()
    sums, N = dict.fromkeys(("loss", "accuracy", "agreement", "overlap", "kl"), 0.0), 0
    for inputs, targets in batches:
        logits, theirs, ids = model(inputs).flatten(0, 1), teacher(inputs).flatten(0, 1), targets.flatten()
        log_q, log_p, best = soften(logits, T), soften(theirs, T), logits.argmax(-1)
        for name, value in (
            ("loss", F.cross_entropy(logits.float(), ids, reduction="sum")),
            ("accuracy", (best == ids).sum()),
            ("agreement", (best == theirs.argmax(-1)).sum()), ("overlap", overlap(log_p, log_q).sum()),
            ("kl", (log_p.exp() * (log_p - log_q)).sum()),
        ):  # fmt: skip
            sums[name] += value.item()
        N += len(ids)
    return {name: value / N for name, value in sums.items()}


def fit(objective, batch_at, plan, folder, *, device, every=0, evaluate=None, resume=False, **how):
    """Train an objective's model as the plan says; (the model in eval mode, the history). how: of `train`."""
    seed_all(plan.seed)
    objective.train()
    how = {"say": lambda line: None, **how}
    history = train(objective.to(device), batch_at, plan.train_config(device, every), folder=folder,
                    evaluate=evaluate, resume=resume, **how)  # fmt: skip
    return objective.model.eval(), history


def weights(model):
    """How many numbers a model has learned."""
    return sum(p.numel() for p in model.parameters())


def interval(shares):
    """The 95 % interval of the mean of two to six values, by Student's t; None for others."""
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}.get(len(shares))
    if t is None:
        return None
    mean = sum(shares) / len(shares)
    spread = math.sqrt(sum((share - mean) ** 2 for share in shares) / (len(shares) - 1) / len(shares))
    return mean - t * spread, mean + t * spread
