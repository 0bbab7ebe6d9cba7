"""TinyTown's instructions as batches, and the share of them that a model answers rightly."""

import copy
from itertools import islice

import torch

from common.errors import demand
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain.objectives import IGNORE
from phase02_finetuning.project04_sft.sft import AnswerLoss, encode, pack, pad, truncate

from . import task_kd
from .logit_kd import overlap, soften

FAMILIES = ("where", "what", "who", "unknown", "refusal", "complete", "persona")  # what models/sft can do


class Answers:
    """Rows to learn from, `batch_size` conversations in an update; and `judged` others to be asked."""

    def __init__(self, tokenizer, rows, judged, device):
        self.tokenizer, self.device = tokenizer, device
        self.learn, self.held = self.rows("train", rows), self.rows("held-out", judged)

    def rows(self, split, n):
        """n rows of the families that are taught."""
        return list(islice(TinyTown().instructions(split, families=FAMILIES, seed=3), n))

    def batches(self, plan):
        """batch_at(i) -> packed rows of at most `context` tokens: a pure function of i."""
        encoded = [truncate(encode(row["messages"], self.tokenizer), plan.context) for row in self.learn]
        def batch_at(i):
            draw = torch.Generator().manual_seed(1_000_003 * plan.seed + i)
            chosen = torch.randint(len(encoded), (plan.batch_size,), generator=draw).tolist()
            packed = pack([encoded[k] for k in chosen], plan.context, self.tokenizer.pad_id)
            return packed.to(self.device)

        return batch_at

    def alone(self, model):
        """What a student learns by without a teacher."""
        return AnswerLoss(model)

    def taught(self, teacher):
        """The same rows with the teacher's own answers, where they are right. UserError where none is."""
        made = copy.copy(self)
        made.learn = task_kd.answered(teacher, self.tokenizer, self.learn)
        demand(made.learn, f"the teacher answered none of {len(self.learn)} rows rightly, so there is "
               "nothing to learn from it: take a tuned model, ./thirty run 4 makes one")  # fmt: skip
        return made

    def loss(self, model, context, most=None):
        """Nats a token of the held-out answers, all of them."""
        batch = self.padded(context)
        with torch.no_grad():
            return AnswerLoss(model.eval())(batch).item()

    def padded(self, context):
        """The held-out rows, one conversation a row."""
        whole = [truncate(encode(row["messages"], self.tokenizer), context) for row in self.held]
        return pad(whole, self.tokenizer.pad_id).to(self.device)

    @torch.no_grad()
    def judge(self, model, teacher, context):
        """As `_fit.beside`, on the tokens of held-out answers; and "right", the share answered rightly."""
        batch = self.padded(context)
        keep = batch.targets != IGNORE
        ids, logits, theirs = batch.targets[keep], *(
            m.head(m.hidden(batch.tokens)[keep]) for m in (model.eval(), teacher)
        )  # fmt: skip
        log_q, log_p, best = soften(logits, 1.0), soften(theirs, 1.0), logits.argmax(-1)
        return {"loss": -log_q.gather(1, ids[:, None]).mean().item(),
                "accuracy": (best == ids).float().mean().item(),
                "agreement": (best == theirs.argmax(-1)).float().mean().item(),
                "overlap": overlap(log_p, log_q).mean().item(),
                "kl": (log_p.exp() * (log_p - log_q)).sum(-1).mean().item(),
                "right": task_kd.exact_match(model, self.tokenizer, self.held)}  # fmt: skip
