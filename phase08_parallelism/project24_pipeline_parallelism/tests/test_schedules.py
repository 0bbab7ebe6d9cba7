"""Orders of actions: by hand, and against those of torch.distributed.pipelining."""

from types import SimpleNamespace

import pytest
import torch.distributed.pipelining.schedules as torch_s
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase08_parallelism.project24_pipeline_parallelism import schedules
from phase08_parallelism.project24_pipeline_parallelism.schedules import (
    SCHEDULES,
    Action,
    event,
    follower,
    forwards_only,
    gpipe,
    held,
    needs,
    schedule,
)
from phase08_parallelism.project24_pipeline_parallelism.simulator import simulate


def text(order):
    return " ".join(f"{action.kind}{action.micro}" for action in order)


@pytest.mark.exercise("weave")
def test_weave():
    """Warm-up, one and one in turn, what is left; the lists that were given stay as they are."""
    forwards, backwards = ["F0", "F1", "F2"], ["B0", "B1", "B2"]
    assert schedules.weave(forwards, backwards, 0) == ["F0", "B0", "F1", "B1", "F2", "B2"]
    assert schedules.weave(forwards, backwards, 1) == ["F0", "F1", "B0", "F2", "B1", "B2"]
    assert schedules.weave(forwards, backwards, 3) == ["F0", "F1", "F2", "B0", "B1", "B2"]
    assert forwards == ["F0", "F1", "F2"] and backwards == ["B0", "B1", "B2"]


@pytest.mark.exercise("one_f_one_b")
def test_one_forward_one_backward_by_hand():
    """Three ranks, four micro-batches; and fewer micro-batches than ranks."""
    orders = [text(order) for order in schedule("1f1b", 3, 4)]
    assert orders == ["F0 F1 F2 B0 F3 B1 B2 B3", "F0 F1 B0 F2 B1 F3 B2 B3", "F0 B0 F1 B1 F2 B2 F3 B3"]
    assert [text(order) for order in schedule("1f1b", 3, 1)] == ["F0 B0"] * 3
    assert [action.stage for order in schedule("1f1b", 3, 1) for action in order] == [0, 0, 1, 1, 2, 2]


@pytest.mark.exercise("zero_bubble")
def test_zero_bubble_by_hand():
    """Figure 3 of the paper in small: W right behind I on the first rank, later and later on the others."""
    orders = [text(order) for order in schedule("zb-h1", 3, 4)]
    assert orders[0] == "F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3"
    assert orders[1] == "F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3"
    assert orders[2] == "F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3"


@pytest.mark.exercise("interleaved")
def test_interleaved_by_hand():
    """Two ranks with two stages each: rank 0 has stages 0 and 2; groups of two micro-batches."""
    first, second = ([str(action) for action in order] for order in schedule("interleaved", 2, 2, 2))
    assert first == ["0F0", "0F1", "2F0", "2F1", "2B0", "2B1", "0B0", "0B1"]
    assert second == ["1F0", "1F1", "3F0", "3B0", "3F1", "3B1", "1B0", "1B1"]
    with pytest.raises(UserError, match="groups of 2"):
        schedule("interleaved", 2, 3, 2)


class Recorder:
    """A stage of torch's that only writes down what it is told to do."""

    has_backward, is_last, is_first = True, False, False

    def __init__(self, rank, p):
        self.stage_index, self.num_stages, self.done = rank, p, []

    def forward_one_chunk(self, i, *args, **kwargs):
        self.done.append(Action(self.stage_index, "F", i))

    def backward_one_chunk(self, i, **kwargs):
        self.done.append(Action(self.stage_index, "B", i))

    def perform_reduce_grad(self, n):
        """Nothing to share."""

    def __getattr__(self, name):
        if not name.startswith("get_"):
            raise AttributeError(name)
        return lambda i: []


def torch_does(kind, rank, p, m):
    """What one of torch's schedules for one stage a rank does, in its order."""
    stage = Recorder(rank, p)
    made = kind(stage, m)
    made._initialize_stage = lambda *args: None
    made._step_microbatches([()] * m, [{}] * m)
    return stage.done


def torch_lists(kind, rank, p, m, v=1):
    """What one of torch's schedules for several stages a rank writes down."""
    self = SimpleNamespace(n_local_stages=v, microbatches_per_round=p, pp_group_size=p, _n_microbatches=m)
    actions = kind._calculate_single_rank_operations(self, rank)
    return [Action(a.stage_index, a.computation_type.value, a.microbatch_index) for a in actions if a]


@pytest.mark.exercise("one_f_one_b", "weave")
@pytest.mark.parametrize("p", [1, 2, 4])
def test_matches_torch_one_stage_a_rank(p):
    """1F1B and GPipe, as torch does them."""
    for m in (p, p + 1, 3 * p):
        for rank in range(p):
            assert schedules.one_f_one_b(rank, p, m) == torch_does(torch_s.Schedule1F1B, rank, p, m)
            assert gpipe(rank, p, m) == torch_does(torch_s.ScheduleGPipe, rank, p, m)


@pytest.mark.exercise("interleaved")
@pytest.mark.parametrize("v", [1, 2, 3])
def test_matches_torch_interleaved(v):
    for p, m in ((1, 3), (2, 2), (2, 6), (4, 8)):
        for rank in range(p):
            want = torch_lists(torch_s.ScheduleInterleaved1F1B, rank, p, m, v)
            assert schedules.interleaved(rank, p, m, v) == want, f"rank {rank} of {p}, {m} micro-batches"


@pytest.mark.exercise("zero_bubble")
def test_matches_torch_zero_bubble():
    for p, m in ((1, 3), (2, 2), (2, 6), (4, 8)):
        for rank in range(p):
            want = torch_lists(torch_s.ScheduleInterleavedZeroBubble, rank, p, m)
            assert schedules.zero_bubble(rank, p, m) == want, f"rank {rank} of {p}, {m} micro-batches"


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(SCHEDULES), p=st.integers(1, 6), groups=st.integers(1, 3), v=st.integers(1, 3),
       odd=st.integers(0, 5))  # fmt: skip
def test_every_order_is_whole_and_can_be_done(name, p, groups, v, odd):
    """Each micro-batch goes forwards and backwards through each stage once; nobody waits for ever."""
    v, m = (v, p * groups) if name == "interleaved" else (1, p * groups + odd)
    orders = schedule(name, p, m, v)
    for rank, order in enumerate(orders):
        kinds = "FIW" if name == "zb-h1" else "FB"
        want = {Action(c * p + rank, kind, i) for c in range(v) for kind in kinds for i in range(m)}
        assert len(order) == len(want) and set(order) == want
        assert held(order)[-1] == 0 and min(held(order)) >= 0
    assert len(simulate(orders, lambda action: 1).slots) == sum(map(len, orders))


def test_who_waits_for_whom():
    assert needs(Action(0, "F", 3), 2) == [] and needs(Action(1, "F", 3), 2) == [Action(0, "F", 3)]
    assert needs(Action(1, "B", 3), 2) == [Action(1, "F", 3)]
    assert needs(Action(0, "I", 3), 2) == [Action(0, "F", 3), Action(1, "B", 3)]
    assert needs(Action(0, "W", 3), 2) == [Action(0, "B", 3)]
    assert follower(Action(0, "F", 3), 2) == Action(1, "F", 3) and follower(Action(1, "F", 3), 2) is None
    assert follower(Action(1, "I", 3), 2) == Action(0, "B", 3) and follower(Action(0, "I", 3), 2) is None
    assert follower(Action(1, "W", 3), 2) is None and event(Action(1, "W", 3)).kind == "W"
    assert [text(order) for order in forwards_only(2, 2)] == ["F0 F1", "F0 F1"]


def test_what_makes_no_sense_is_refused():
    for words, says in ((("2f2b", 2, 4), "no schedule"), (("gpipe", 0, 4), "at least 1"),
                        (("1f1b", 2, 4, 2), "one stage on each rank")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            schedule(*words)
