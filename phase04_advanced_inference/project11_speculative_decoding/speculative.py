"""Speculative decoding: a cheap draft guesses K tokens, the model checks all of them in one forward, exactly.

Came before: `decode` of project 8, a forward of the large model for every token, each of which reads all of
its weights for a single row. New here: a forward reads them for K + 1 rows, and keeps as many tokens as are
right. What is written follows the large model's distribution exactly, whatever the draft guesses: a bad draft
costs time and nothing else.

No seam yet: here is the rule, which sees shares and no model. `rounds` asks the model.
Leviathan, Kalman, Matias 2022, 2211.17192; Chen et al. 2023, 2302.01318.
"""

import torch
import torch.nn.functional as F

from common.exercise import exercise
from common.sampling import draw, penalize, sample, truncate
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, check_room

KEEP, GUESS = 0x5EED0F1EAF, 0x5EED0FDAF7  # a request's other two streams of draws: seed ^ KEEP, seed ^ GUESS

# ---- the naive version: a forward of the large model for every token ----


@torch.no_grad()
def one_by_one(model, ids, sampling):
    """max_tokens new ids after ids, of one text. The text and the oracle."""
    check_room(model, len(ids), sampling.max_tokens)
    caches = caches_for(model, KVCache, 1, len(ids) + sampling.max_tokens)
    new, fed, device = [], ids, model.embed.weight.device
    for i in range(sampling.max_tokens):
        logits = model.head(model.hidden(torch.tensor([fed], device=device), caches=caches)[:, -1])  # (1, V)
        fed = sample(logits, sampling, torch.tensor([draw(sampling.seed or 0, i)])).tolist()
        new += fed
    return new


# ---- what is kept ----


def probabilities(logits, sampling, seen=None):
    """The shares (G, V), float64, that `common.sampling.sample` draws from; at temperature 0 the best has it.

    logits (G, V); seen (G, V): the ids that each row holds, where there is a repetition_penalty.
    """
    rows = [sampling] * len(logits)
    logits = penalize(logits.float(), rows, seen)
    if sampling.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.size(-1)).double()
    gap = logits - logits.amax(-1, keepdim=True)
    return truncate(gap / sampling.temperature, rows).softmax(-1).double()


def pick(p, u):
    """The id at which the summed weights p (V,) pass the share u in [0, 1) of their sum."""
    summed = p.double().cumsum(-1)
    return int(torch.searchsorted(summed, u * summed[-1:], right=True))


@exercise
def residual(p, q):
    """What p has more than q, (V,): max(0, p - q), not scaled to sum to 1, as `pick` does not ask for that.

    Where that is nothing, as the two are equal up to rounding: p itself.
    """
    more = (p - q).clamp(min=0)
    return more if more.sum() > 0 else p


@exercise
def accept(guesses, p, q, draws):
    """The guesses that are kept, and one more id: a list of 1 to G + 1 ids that follows p exactly.

    guesses: G ids, of which guess i was drawn from q[i]. q (G, V): the draft's shares; p (G + 1, V): the
    large model's, before each guess and after the last. draws (G + 1, 2), uniform in [0, 1): guess x of place
    i is kept where draws[i, 0] < p[i, x] / q[i, x], so with probability min(1, p / q). At the first that is
    not, an id drawn with draws[i, 1] from the `residual` ends the list. Where all are kept, a bonus does: one
    more id, drawn with draws[G, 1] from p[G]. See `pick`.
    """
    for i, x in enumerate(guesses):
        if draws[i, 0] * q[i, x] >= p[i, x]:
            return [*guesses[:i], pick(residual(p[i], q[i]), draws[i, 1])]
    return [*guesses, pick(p[len(guesses)], draws[len(guesses), 1])]


@exercise
def agree(guesses, drawn):
    """The same for guesses that no chance made: those before the first that is not what was drawn, and that.

    drawn: G + 1 ids that the large model drew, as it would without any guesses, before each guess and after
    the last. So the text is the very one that it writes alone, with the same draws.
    """
    kept = 0
    while kept < len(guesses) and guesses[kept] == drawn[kept]:
        kept += 1
    return drawn[: kept + 1]


# ---- what it gains ----


@exercise
def expected_tokens(a, K):
    """How many tokens a round brings, on average, where each of K guesses is right with probability a.

    1 + a + a² + … + a^K: guess i counts if it and all before it are right, and one more always comes.
    """
    return sum(a**i for i in range(K + 1))


def speedup(a, K, c, v=1.0):
    """Tokens per time against one by one: c, v: what a guess, and a check of K, cost in decode steps."""
    return expected_tokens(a, K) / (K * c + v)


def best_k(a, c, most=16):
    """The number of guesses, from 0 (do not guess) to most, with which `speedup` is highest."""
    return max(range(most + 1), key=lambda K: speedup(a, K, c))


# ---- who guesses, and who decides ----


class Draft:
    """Who guesses. This one never does; others set each text's `guesses`, and q where chance made them."""

    def __init__(self):
        self.q = {}  # id -> (G, V), what its guesses were drawn from

    def propose(self, texts):
        """Set the guesses of each text: ids that may follow, K at most."""

    def verify(self, text, logits):
        """Which guesses hold, and one more id. logits (G + 1, V): after the last id, and after each guess."""
        G, first, seed, sampling = len(text.guesses), text.n_new, text.row.seed, text.sampling
        q, seen = self.q.pop(text.id, None), held_before(text, logits)
        if q is None:
            u = torch.tensor([draw(seed, first + i) for i in range(G + 1)], dtype=torch.float64)
            return agree(text.guesses, sample(logits, sampling, u, seen=seen).tolist())
        u = [(draw(seed ^ KEEP, first + i), draw(seed, first + i)) for i in range(G + 1)]
        p = probabilities(logits, sampling, seen)
        return accept(text.guesses, p, q[:G], torch.tensor(u, dtype=torch.float64, device=p.device))

    def note(self, text, hidden):
        """What the model made of the last token it was fed, hidden (C,), for those who guess from that."""

    def close(self, id):
        """A text has ended."""
        self.q.pop(id, None)


def held_before(text, logits):
    """bool (G + 1, V): the ids that stand before each of the logits; None where nobody asks for it."""
    if text.sampling.repetition_penalty == 1:
        return None
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[:, text.ids] = True
    for i, guess in enumerate(text.guesses):
        seen[i + 1 :, guess] = True
    return seen
