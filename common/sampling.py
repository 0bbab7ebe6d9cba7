"""How one token is drawn: what a request may ask for, and the draw, which depends on the request alone.

Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p); Keskar et al. 2019 (repetition penalty); Steele et
al. 2014 (SplitMix64, the hash behind the draws).
"""

import math
from dataclasses import dataclass, replace

import torch

from common.errors import demand


@dataclass(frozen=True)
class Sampling:
    """How to draw and when to stop. Equal seeds draw alike: `rows` gives each row of a batch its own."""

    max_tokens: int = 128
    temperature: float = 1.0  # 0 takes the most likely token
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0  # as a share of the most likely token's probability
    repetition_penalty: float = 1.0  # above 1: what was seen is less likely
    stop: tuple[str, ...] = ()  # texts that end the answer and are not part of it
    seed: int | None = None  # None: another one each time
    logprobs: int = 0  # so many alternatives are reported with each token
    ignore_eos: bool = False

    def __post_init__(self):
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        demand(self.max_tokens >= 1, f"max_tokens must be at least 1, not {self.max_tokens}")
        demand(0 <= self.temperature < math.inf, f"temperature must be 0 or more, not {self.temperature}")
        demand(self.top_k >= 0, f"top_k must be 0 (all) or more, not {self.top_k}")
        demand(0 < self.top_p <= 1, f"top_p must lie in (0, 1], not {self.top_p}")
        demand(0 <= self.min_p <= 1, f"min_p must lie in [0, 1], not {self.min_p}")
        penalty = self.repetition_penalty
        demand(0 < penalty < math.inf, f"repetition_penalty must be above 0 (1 is none), not {penalty}")
        demand(all(stop), "stop holds an empty text, which would end every answer at once: leave it out")
        demand(self.logprobs >= 0, f"logprobs must be 0 (none) or more, not {self.logprobs}")
        demand(self.seed is None or 0 <= self.seed < 2**64, f"seed must lie in [0, 2**64), not {self.seed}")

    def rows(self, n):
        """A Sampling for each of n rows, alike but for the seed: seed, seed + 1, ...; None stays None."""
        return [self if self.seed is None else replace(self, seed=(self.seed + i) % 2**64) for i in range(n)]


def mix(x):
    """SplitMix64's finaliser: one int below 2**64 to another, whose every bit depends on every bit of x."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def draw(seed, i):
    """The uniform draw in [0, 1) for token i of a request: it depends on (seed, i) and on nothing else."""
    golden = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: SplitMix64's step
    state = mix((seed + golden) % 2**64) + (i + 1) * golden
    return (mix(state % 2**64) >> 12) / 2**52


def column(rows, name, like):
    """One setting of every row, (B, 1), on the device of `like`."""
    return torch.tensor([[float(getattr(row, name))] for row in rows], device=like.device)


def truncate(logits, rows):
    """-inf for all but the likely, by each row's top_k, then top_p, then min_p. Equal logits share a fate."""
    V = logits.size(1)
    if any(row.top_k for row in rows):
        k = torch.tensor([[min(row.top_k or V, V)] for row in rows], device=logits.device)  # (B, 1)
        last = logits.topk(int(k.max())).values.gather(1, k - 1)
        logits = logits.masked_fill(logits < last, -math.inf)
    if any(row.top_p < 1 for row in rows):
        left = int((logits > -math.inf).sum(-1).max())  # after top_k, few are left to sort
        top = logits.topk(left).values
        share, top_p = top.softmax(-1), column(rows, "top_p", logits)
        enough = (share.cumsum(-1) - share >= top_p) & (top_p < 1)  # those before it have p already
        last = top.masked_fill(enough, math.inf).amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < last, -math.inf)
    if any(row.min_p for row in rows):
        floor = logits.amax(-1, keepdim=True) + column(rows, "min_p", logits).log()
        logits = logits.masked_fill(logits < floor, -math.inf)
    return logits


def penalize(logits, rows, seen):
    """Divide a seen id's logit by the row's repetition_penalty where it is positive, else multiply."""
    if all(row.repetition_penalty == 1 for row in rows):
        return logits
    demand(seen is not None, "repetition_penalty must know which ids each row has seen: pass seen")
    penalty = column(rows, "repetition_penalty", logits)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def sample(logits, sampling, draws, *, seen=None):
    """logits (B, V), one Sampling or one per row, draws (B,) in [0, 1) -> ids (B,).

    seen: bool (B, V), the ids that each row holds, which repetition_penalty asks for. A row's id depends on
    its own logits, sampling and draw alone: it is the one at which the summed probability passes the draw.
    """
    rows = [sampling] * len(logits) if isinstance(sampling, Sampling) else list(sampling)
    demand(len(rows) == len(logits), f"{len(rows)} samplings for {len(logits)} rows: give one, or one each")
    finite = bool(torch.isfinite(logits.amax(-1)).all())
    demand(finite, "the logits are NaN or infinite: training diverged, or float16 overflowed")
    logits = penalize(logits.float(), rows, seen)
    best = logits.argmax(-1)  # (B,)
    if all(row.temperature == 0 for row in rows):
        return best
    temperature = column(rows, "temperature", logits)
    gap = logits - logits.amax(-1, keepdim=True)  # 0 at most: no temperature, however low, overflows
    share = truncate(gap / temperature.where(temperature > 0, 1.0), rows).softmax(-1)
    # in float64, so that 50,000 small shares add up to what they should; MPS has none
    summed = share.to("cpu" if share.is_mps else share.device).double().cumsum(-1)
    passed = torch.searchsorted(summed, draws.to(summed)[:, None] * summed[:, -1:], right=True)  # (B, 1)
    return torch.where(temperature == 0, best[:, None], passed.to(best.device)).squeeze(1)
