"""Who does what in which order: schedules of a pipeline as lists of actions, without a tensor.

Before: tensor parallelism cut every matrix, and each block had to talk four times. New here: the *blocks* are
shared out. Each rank has a stage of the model, some blocks in a row, and talks only to the ranks before and
behind it. But a stage has nothing to do until the one before it is done. Naively all but one rank wait:

    rank 0   F F · · · · B B            one batch, two stages: half of the time is a bubble
    rank 1   · · F F B B · ·

Cut the batch into m micro-batches, and while rank 1 works on the first, rank 0 works on the second. What is
left to choose is the order, and that is what a schedule is: a list of actions for each rank.

    F   forwards                          I   backwards, the gradient of the input, which the stage before
    B   backwards, all of it              W   backwards, the gradients of the weights, for which nobody waits

A rank may have several stages (interleaved): stage s lies on rank s % p. `needs` says what must come before
what; that alone decides when things happen (`simulator.py`) and what is sent (`pipeline.py`).

Huang et al. 2018, 1811.06965 (GPipe); Narayanan et al. 2019 (PipeDream: 1F1B); Narayanan et al. 2021,
2104.04473 (interleaved); Qi et al. 2023, 2401.10241 (zero bubble: ZB-H1).
"""

from typing import NamedTuple

from common.errors import demand
from common.exercise import exercise

# ---- actions, and what they wait for -----------------------------------------------------------------------


class Action(NamedTuple):
    """What a rank does with one micro-batch at one of its stages; kind: F, B, I or W."""

    stage: int
    kind: str
    micro: int

    def __str__(self):
        return f"{self.stage}{self.kind}{self.micro}"


def event(action):
    """What others wait for: the gradient of the input is there after B as well as after I."""
    return action._replace(kind="B") if action.kind == "I" else action


def needs(action, stages):
    """The events that must have come before an action can begin, of a model of so many stages."""
    stage, kind, micro = action
    if kind == "W":
        return [Action(stage, "B", micro)]
    if kind == "F":
        return [Action(stage - 1, "F", micro)] if stage > 0 else []
    behind = [Action(stage + 1, "B", micro)] if stage < stages - 1 else []
    return [Action(stage, "F", micro), *behind]


def follower(action, stages):
    """The event of another stage that waits for what an action makes, which has to be sent; None: nobody."""
    stage, kind, micro = event(action)
    if kind == "F" and stage < stages - 1:
        return Action(stage + 1, "F", micro)
    return Action(stage - 1, "B", micro) if kind == "B" and stage > 0 else None


# ---- synchronous schedules: all micro-batches, then one update ---------------------------------------------


def gpipe(rank, p, m):
    """All forwards, then all backwards: the naive way with m = 1. It holds m micro-batches at once."""
    return [Action(rank, "F", i) for i in range(m)] + [Action(rank, "B", i) for i in range(m)]


@exercise
def weave(forwards, backwards, warm):
    """The first `warm` forwards; then one forward and one backward in turn, until there are no more forwards;
    then what is left of the backwards. Both lists are of the same length; warm is not above that."""
    order = forwards[:warm]
    for forward, backward in zip(forwards[warm:], backwards, strict=False):
        order += [forward, backward]
    return order + backwards[len(forwards) - warm :]


@exercise
def one_f_one_b(rank, p, m):
    """1F1B: the same bubble as GPipe, but rank r never holds more than p - r micro-batches.

    As many forwards as there are ranks behind this one, at most m; from then on each backward makes room for
    the next forward.
    """
    forwards, backwards = ([Action(rank, kind, i) for i in range(m)] for kind in "FB")
    return weave(forwards, backwards, min(m, p - 1 - rank))


@exercise
def interleaved(rank, p, m, v):
    """1F1B with v stages on each rank, rank, rank + p, …: a bubble 1/v as long, and v times the messages.

    Forwards go in groups of p micro-batches: p of them through the first stage, the same p through the
    second, … then the next p; backwards alike, from the last stage to the first. It warms up with
    (v - 1) p + 2 (p - 1 - rank) forwards, at most all. UserError where p does not divide m.
    """
    demand(m % p == 0, f"interleaved stages need micro-batches in groups of {p}, the number of ranks: "
           f"{m} is no multiple")  # fmt: skip

    def nth(k, kind):
        group, k = divmod(k, p * v)
        chunk, place = divmod(k, p)
        chunk = chunk if kind == "F" else v - 1 - chunk
        return Action(chunk * p + rank, kind, group * p + place)

    forwards, backwards = ([nth(k, kind) for k in range(m * v)] for kind in "FB")
    return weave(forwards, backwards, min(m * v, (v - 1) * p + 2 * (p - 1 - rank)))


@exercise
def zero_bubble(rank, p, m):
    """ZB-H1: 1F1B whose backwards are cut in two. The halves for which nobody waits fill the bubble.

    As 1F1B, with I in place of B; behind an I comes the next W that is left to do, but for the first `rank`
    of them: so W lags behind I by `rank` micro-batches, and no rank holds more than p. What is left of W
    comes at the end.
    """
    weights = iter([Action(rank, "W", i) for i in range(m)])
    order = []
    for action in one_f_one_b(rank, p, m):
        if action.kind == "F":
            order.append(action)
            continue
        order.append(action._replace(kind="I"))
        if action.micro >= rank:
            order.append(next(weights))
    return order + list(weights)


SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1")


def schedule(name, p, m, v=1):
    """The orders of all p ranks: a list of actions for each. v: stages of a rank, where interleaved."""
    demand(name in SCHEDULES, f"no schedule is called {name}: there are {', '.join(SCHEDULES)}")
    demand(min(p, m, v) >= 1, f"{p} ranks, {m} micro-batches and {v} stages on each: give at least 1")
    demand(v == 1 or name == "interleaved", f"{name} has one stage on each rank, not {v}")
    if name == "interleaved":
        return [interleaved(rank, p, m, v) for rank in range(p)]
    one = {"gpipe": gpipe, "1f1b": one_f_one_b, "zb-h1": zero_bubble}[name]
    return [one(rank, p, m) for rank in range(p)]


def forwards_only(p, m, v=1):
    """Every micro-batch through all stages, and nothing back: for a loss that is only looked at."""
    return [[Action(chunk * p + rank, "F", i) for i in range(m) for chunk in range(v)] for rank in range(p)]


def held(order):
    """Micro-batches (of one stage each) whose activations are kept after each action: from F until B or W."""
    count, counts = 0, []
    for action in order:
        count += {"F": 1, "I": 0}.get(action.kind, -1)
        counts.append(count)
    return counts
