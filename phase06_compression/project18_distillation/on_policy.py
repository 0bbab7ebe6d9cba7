"""On-policy distillation: the student writes, and the teacher says at every token what it would have thought.

Came before: `logit_kd`, on texts that others wrote. There the student never sees what follows on its own
mistakes, and it is punished for whatever it leaves out: KL(p ‖ q) asks a small model to cover all of a large
one. New here: its own texts, and KL(q ‖ p), which only asks that what it does say be what the teacher says.

Seam: the objective. Its batch is prompts; the texts are made on the way.
Gu et al. 2023 (MiniLLM), 2306.08543; Agarwal et al. 2023 (GKD), 2306.13649, whose `jsd_loss` lies between.

Along a text, the distances of single tokens add up to that of whole texts: KL(q(y) ‖ p(y)) is the mean over
texts y of q of the sum over t of KL(q_t ‖ p_t). This file follows the slope of those terms at texts that
stand still, as GKD does. MiniLLM adds a second term, policy gradient: an early token is also blamed for what
came after it. That is project 6's subject, and left out.
"""

import torch
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.generate import Sampling, generate

from .logit_kd import HeadLoss, check_pair, soft_loss, soften

# ---- the two directions, and what lies between ----


@exercise
def reverse_loss(logits: Tensor, log_p: Tensor, T: float = 1.0) -> Tensor:
    """T² KL(q ‖ p) in nats, summed over all places: logits (N, V) of the student, log_p (N, V) at T."""
    log_q = soften(logits, T)
    return T**2 * (log_q.exp() * (log_q - log_p)).sum()


@exercise
def jsd_loss(logits: Tensor, log_p: Tensor, T: float = 1.0, beta: float = 0.5) -> Tensor:
    """T² (beta KL(p ‖ m) + (1 - beta) KL(q ‖ m)), summed, where m = beta p + (1 - beta) q. 0 < beta < 1.

    Generalised Jensen-Shannon (GKD, eq. 1): over beta it goes to KL(p ‖ q) as beta goes to 0, and over
    1 - beta to KL(q ‖ p) as beta goes to 1. At most T² ln 2 a place, however far apart p and q are.
    """
    log_q, share = soften(logits, T), torch.tensor([beta, 1 - beta], device=logits.device).log()
    log_m = torch.logaddexp(log_p + share[0], log_q + share[1])
    apart = [(x.exp() * (x - log_m)).sum() for x in (log_p, log_q)]
    return T**2 * (beta * apart[0] + (1 - beta) * apart[1])


LOSSES = {"forward": soft_loss, "reverse": reverse_loss, "jsd": jsd_loss}


# ---- the student writes ----


def write(model: nn.Module, prompts: Tensor, new: int) -> Tensor:
    """prompts (B, T) and what the model goes on with at temperature 1, (B, T + new), as torch's draws say."""
    seeds = torch.randint(2**31, (len(prompts),)).tolist()
    samplings = [Sampling(max_tokens=new, seed=seed, ignore_eos=True) for seed in seeds]
    said = generate(model, prompts, samplings)
    return torch.cat((prompts, torch.tensor([answer.ids for answer in said], device=prompts.device)), 1)


class OnPolicy(nn.Module):
    """prompts (B, T) -> mean distance to the teacher, in nats a token, on what the student writes after them.

    new: how many tokens it writes. how: one of LOSSES, or such a function. In `.text` what it wrote.
    """

    def __init__(self, student, teacher, new=32, how="reverse", T=1.0, chunk=512):
        super().__init__()
        demand(callable(how) or how in LOSSES, f"there is no loss {how!r}: choose one of {', '.join(LOSSES)}")
        demand(new >= 1, f"{new} new tokens: at least 1")
        for model in teacher.models:
            check_pair(student, model)
        self.model, self.teacher, self.new, self.T, self.chunk = student, teacher, new, T, chunk
        self.loss = how if callable(how) else LOSSES[how]

    @exercise
    def forward(self, prompts: Tensor) -> Tensor:
        """The student writes (no slope goes through that), then both read the text but for its last token.

        What counts are the `new` places whose next token the student chose, from the last of the prompt on.
        `HeadLoss` over their hidden states, with self.loss(logits, log_p, T) for its rows; their mean.
        """
        self.text = write(self.model, prompts, self.new)  # (B, T + new)
        inputs = self.text[:, :-1]
        keep = torch.zeros_like(inputs, dtype=torch.bool)
        keep[:, prompts.size(1) - 1 :] = True
        x, log_p = self.model.hidden(inputs)[keep], self.teacher.read(inputs, self.T, keep)  # (B new, C)

        def loss(logits, rows):
            return self.loss(logits, log_p(rows), self.T)

        return HeadLoss.apply(x, self.model.head.weight, loss, self.chunk) / len(x)
