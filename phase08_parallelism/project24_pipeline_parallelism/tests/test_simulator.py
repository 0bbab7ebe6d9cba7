"""The clock: the formulas hold exactly, from 2 to 16 ranks; timelines that can be checked on paper."""

from fractions import Fraction

import pytest

from common.errors import UserError
from phase08_parallelism.project24_pipeline_parallelism import simulator
from phase08_parallelism.project24_pipeline_parallelism.schedules import SCHEDULES, Action, schedule
from phase08_parallelism.project24_pipeline_parallelism.simulator import (
    Costs,
    Slot,
    Timeline,
    bubble,
    messages,
    peak,
)

ONE, SIX = Costs(1, 1, 1), Costs(6, 6, 6)  # six can be cut into two and three stages


def played(name, p, m, v=1, costs=ONE, latency=0):
    return simulator.simulate(schedule(name, p, m, v), lambda action: costs.of(action) // v, latency)


def idle(timeline):
    """The share of time in which nothing was done, exactly; all costs are whole numbers."""
    busy = sum(slot.end - slot.begin for slot in timeline.slots)
    return 1 - Fraction(busy, timeline.ranks * timeline.total)


def said(name, p, m, v, costs):
    """The formula's, exactly."""
    return bubble(name, p, m, v, Costs(*map(Fraction, costs)))


@pytest.mark.exercise("simulate")
@pytest.mark.parametrize("p", [2, 3, 4, 7, 8, 16])
def test_matches_the_formulas_exactly(p):
    """Bubble and total time, to the last digit, for every schedule and p, 2p or 3p micro-batches."""
    for m in (p,) if p > 8 else (p, 2 * p, 3 * p):
        for name in SCHEDULES:
            for v in (2, 3) if name == "interleaved" else (1,):
                found = played(name, p, m, v, SIX)
                assert idle(found) == said(name, p, m, v, SIX), f"{name}, {p} ranks, {m} micro-batches"
                assert found.total == 18 * m / (1 - said(name, p, m, v, SIX))
                assert found.bubble == pytest.approx(float(idle(found)), abs=1e-12)
        assert bubble("1f1b", p, m) == pytest.approx((p - 1) / (m + p - 1))
        assert bubble("interleaved", p, m, 2) == pytest.approx((p - 1) / (2 * m + p - 1))


@pytest.mark.exercise("simulate")
def test_the_formulas_hold_for_other_costs():
    """A backward pass three times as long as a forward one; input parts dearer than weight parts."""
    costs = Costs(2, 4, 2)
    for name, v in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 1)):
        assert idle(played(name, 4, 8, v, costs)) == said(name, 4, 8, v, costs)


@pytest.mark.exercise("simulate")
def test_a_timeline_by_hand():
    """Two ranks, one micro-batch, a message that takes 10: who begins when."""
    found = played("gpipe", 2, 1, latency=10)
    assert found.slots == [
        Slot(0, Action(0, "F", 0), 0, 1), Slot(0, Action(0, "B", 0), 24, 26),
        Slot(1, Action(1, "F", 0), 11, 12), Slot(1, Action(1, "B", 0), 12, 14),
    ]  # fmt: skip
    assert found.total == 26 and idle(found) == 1 - Fraction(6, 52)
    within = simulator.simulate(schedule("interleaved", 1, 1, 3), ONE.of, latency=10)
    assert within.total == 9, "a message to oneself takes no time"


@pytest.mark.exercise("simulate")
def test_costs_of_one_stage():
    """The second of two stages takes twice as long: the first waits for it at every micro-batch."""
    orders = schedule("1f1b", 2, 8)
    found = simulator.simulate(orders, lambda action: ONE.of(action) * (1 + action.stage))
    assert found.total == 1 + 8 * 6 + 2


@pytest.mark.exercise("simulate")
def test_orders_that_do_not_fit_together():
    """Two ranks that each wait for the other end in a line that names what they wait for."""
    orders = [[Action(0, "F", 0), Action(0, "B", 0), Action(0, "F", 1), Action(0, "B", 1)],
              [Action(1, "F", 0), Action(1, "F", 1), Action(1, "B", 0), Action(1, "B", 1)]]  # fmt: skip
    with pytest.raises(UserError, match="for ever, before 0B0, 1F1"):
        simulator.simulate(orders, ONE.of)


def test_what_is_held_and_what_is_sent():
    """Peaks are m for GPipe and p for 1F1B and ZB-H1; interleaved more; messages by the formula."""
    for p in (2, 4, 16):
        m = 2 * p
        peaks = {name: peak(schedule(name, p, m, v), v)
                 for name, v in (("gpipe", 1), ("1f1b", 1), ("zb-h1", 1), ("interleaved", 2))}  # fmt: skip
        assert peaks == {"gpipe": m, "1f1b": p, "zb-h1": p, "interleaved": min(m, p + (p - 1) / 2)}
        assert messages(schedule("1f1b", p, m)) == 2 * m * (p - 1)
        assert messages(schedule("interleaved", p, m, 3)) == 2 * m * (3 * p - 1)
    assert messages(schedule("interleaved", 1, 2, 3)) == 0


def test_a_timeline_that_does_not_begin_at_zero():
    slots = [Slot(0, Action(0, "F", 0), 100, 101), Slot(1, Action(1, "F", 0), 101, 102)]
    assert Timeline(slots, 2).bubble == 0.5 and Timeline(slots, 2).total == 2
