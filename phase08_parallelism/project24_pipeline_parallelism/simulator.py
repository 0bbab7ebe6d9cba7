"""When everything happens: schedules played through with given costs, and the formulas that say the same.

New here: a clock. An action begins when its rank is free and what it needs has come. With that alone, and no
tensor, a schedule for any number of ranks shows its bubble, what it holds and what it sends.

With costs F, I, W for a stage and a micro-batch (B = I + W), the busy time of a rank is m (F + I + W), and

    GPipe, 1F1B      bubble (p - 1)(F + B)               a share of (p - 1)/(m + p - 1)
    interleaved      bubble (p - 1)(F + B)/v             a share of (p - 1)/(v m + p - 1)
    ZB-H1            bubble (p - 1)(F + I - W)           with F = I = W a third of 1F1B's

Narayanan et al. 2021, 2104.04473, section 2.2; Qi et al. 2023, 2401.10241, table 2.
"""

from dataclasses import dataclass
from typing import NamedTuple

from common.errors import demand
from common.exercise import exercise

from .schedules import event, follower, held, needs


class Costs(NamedTuple):
    """What a stage takes for a micro-batch, in any unit of time. B is I and W together."""

    F: float = 1
    I: float = 1
    W: float = 1

    @property
    def B(self):
        return self.I + self.W

    def of(self, action):
        return getattr(self, action.kind)


UNIT = Costs()


class Slot(NamedTuple):
    """An action as it was done: on which rank, from when to when."""

    rank: int
    action: tuple
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What `ranks` ranks did, simulated or measured."""

    slots: list[Slot]
    ranks: int

    @property
    def total(self):
        """From the first beginning to the last end."""
        return max(slot.end for slot in self.slots) - min(slot.begin for slot in self.slots)

    @property
    def bubble(self):
        """The share of all ranks' time in which they did nothing."""
        busy = sum(slot.end - slot.begin for slot in self.slots)
        return 1 - busy / (self.ranks * self.total)


def stages_of(orders):
    return 1 + max(action.stage for order in orders for action in order)


@exercise
def simulate(orders, cost, latency=0):
    """Play the orders of all ranks through -> Timeline, each rank's slots in their order.

    cost(action): how long it takes. An action begins as soon as the one before it on its rank has ended and
    every event that it `needs` has come: the moment the event ended, on another rank plus `latency`. Stage s
    lies on rank s % p. UserError where ranks wait for one another for ever.
    """
    p, stages = len(orders), stages_of(orders)
    ends, free, done, slots = {}, [0] * p, [0] * p, []
    while any(done[rank] < len(order) for rank, order in enumerate(orders)):
        before = len(slots)
        for rank, order in enumerate(orders):
            while done[rank] < len(order) and all(n in ends for n in needs(order[done[rank]], stages)):
                action = order[done[rank]]
                come = [ends[n] + latency * (n.stage % p != rank) for n in needs(action, stages)]
                begin = max([free[rank], *come])
                free[rank] = ends[event(action)] = begin + cost(action)
                slots.append(Slot(rank, action, begin, free[rank]))
                done[rank] += 1
        stuck = [str(order[k]) for k, order in zip(done, orders, strict=True) if k < len(order)]
        demand(len(slots) > before, f"the ranks wait for one another for ever, before {', '.join(stuck)}: "
               "the orders do not fit together")  # fmt: skip
    return Timeline(sorted(slots, key=lambda slot: (slot.rank, slot.begin, slot.end)), p)


def bubble(name, p, m, v=1, costs=UNIT):
    """The share of time in a bubble, by the formula; costs are of all of a rank's stages together."""
    F, I, W = costs
    idle = (p - 1) * {"gpipe": F + I + W, "1f1b": F + I + W, "interleaved": (F + I + W) / v,
                      "zb-h1": F + I - W}[name]  # fmt: skip
    return idle / (m * (F + I + W) + idle)


def peak(orders, v=1):
    """The most that a rank holds, in micro-batches through all of its stages."""
    return max(max(held(order)) for order in orders) / v


def messages(orders):
    """How many tensors go from one rank to another in an update."""
    p, stages = len(orders), stages_of(orders)
    sent = [(rank, follower(action, stages)) for rank, order in enumerate(orders) for action in order]
    return sum(target is not None and target.stage % p != rank for rank, target in sent)
