"""What the scripts share: a new student, the text, a training, and what a model is judged by."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from common.device import seed_all
from common.model import GPT, ModelConfig
from common.training import train
from phase01_foundation.project03_pretrain import town
from phase01_foundation.project03_pretrain.objectives import CausalLM

from .logit_kd import overlap, soften


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


class Town(town.Town):
    """TinyTown for students."""

    part = 8  # a teacher reads them as well

    def prompts(self, plan, length):
        """batch_at(i) -> (rows, length), the beginnings of the rows of `batches`."""
        batch_at = self.batches(plan)
        return lambda i: batch_at(i)[0][:, :length]

    def alone(self, model):
        """What a student learns by without a teacher."""
        return CausalLM(model)

    def judge(self, model, teacher, context):
        """How a model does on unseen pages, alone and beside its teacher."""
        return beside(model, teacher, self.windows(context))


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
