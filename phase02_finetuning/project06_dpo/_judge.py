"""What a tuned model is worth: wins over another by the programmatic judge, and the skill that is left."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from data.tinytown import TinyTown, judge, reward
from phase02_finetuning.project04_sft import skill

FAMILIES = ("where", "what", "who", "refusal")  # those that preferences are about


def outcome(row: dict, ours: str, theirs: str) -> float:
    """1 if the judge gives ours more, 0 if less, 1/2 if as much."""
    gain = reward(row, ours) - reward(row, theirs)
    return 0.5 if gain == 0 else float(gain > 0)


def win_rate(outcomes: Sequence[float], resamples: int = 4000) -> tuple[float, tuple[float, float]]:
    """(mean, its 95 % bootstrap interval) of outcomes in 0 to 1, each of a question of its own."""
    found = np.asarray(outcomes, float)
    draws = np.random.default_rng(0).integers(0, len(found), (resamples, len(found)))
    low, high = np.quantile(found[draws].mean(1), [0.025, 0.975])
    return float(found.mean()), (float(low), float(high))


def manners(rows: Sequence[dict], texts: Sequence[str]) -> dict[str, float]:
    """The share of replies that are right, polite, rude and wordy, and the mean reward."""
    verdicts = [judge(row, text) for row, text in zip(rows, texts, strict=True)]
    shares = {name: float(np.mean([getattr(v, name) for v in verdicts])) for name in verdicts[0]._fields}
    return {**shares, "reward": float(np.mean([reward(r, t) for r, t in zip(rows, texts, strict=True)]))}


def skill_of(model, tokenizer, n: int, *, max_tokens: int = 48) -> float:
    """The macro-averaged share of n held-out instructions answered rightly, courtesies left out."""
    rows = list(islice(TinyTown().instructions("held-out", families=FAMILIES), n))
    scores = skill.score(model, tokenizer, rows, max_tokens=max_tokens)
    return skill.macro(scores, set(scores))


def duel(ours, theirs, tokenizer, rows, *, max_tokens: int = 48) -> dict:
    """Greedy replies of two models to the same questions, judged: texts, win rate, manners of both."""
    asked = [row["messages"] for row in rows]
    texts = [skill.replies(m, tokenizer, asked, max_tokens=max_tokens) for m in (ours, theirs)]
    rate, interval = win_rate([outcome(row, *pair) for row, *pair in zip(rows, *texts, strict=True)])
    return {"texts": texts, "win_rate": rate, "interval": interval,
            "ours": manners(rows, texts[0]), "theirs": manners(rows, texts[1])}  # fmt: skip
