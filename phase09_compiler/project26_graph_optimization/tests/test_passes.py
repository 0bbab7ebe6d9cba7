"""Each pass on a graph small enough to draw: it keeps what the graph gives, and changes the graph."""

import operator

import pytest
import torch

from phase09_compiler.project26_graph_optimization import kernels
from phase09_compiler.project26_graph_optimization._sketch import Sketch, numbers
from phase09_compiler.project26_graph_optimization.capture import FREE, computing, counted
from phase09_compiler.project26_graph_optimization.fusion import (
    fuse_activation,
    fuse_norm,
    fuse_residual,
    merge_products,
    use_vectors,
)
from phase09_compiler.project26_graph_optimization.heads import look_at_filled
from phase09_compiler.project26_graph_optimization.passes import (
    collapse_views,
    drop_identities,
    fold_constants,
    remove_common,
    remove_dead,
    tabulate,
)
from phase09_compiler.project26_graph_optimization.plan import by_columns, choose_layout, plan

aten = torch.ops.aten


def gives(gm, *inputs):
    """What the graph gives now."""
    gm.graph.lint()
    gm.recompile()
    return gm(*inputs)


def same(gm, before, *inputs):
    """The outputs are what they were, to the last digits of float64."""
    for got, want in zip(gives(gm, *inputs), before, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


# ---- passes that every compiler has ----


@pytest.mark.exercise("remove_dead")
def test_what_nobody_reads_goes():
    """A chain that leads nowhere goes, from its end; what is read, written or checked stays."""
    draw, slots = Sketch(), torch.zeros(3, dtype=torch.float64)
    x, held = draw.input("x", numbers(3)), draw.weight("slots", slots)
    draw(aten.cos.default, draw(aten.sin.default, x))  # dead, both
    draw(aten.copy_.default, held, x)  # nobody reads it, but it writes
    draw(aten._assert_async.msg, draw(aten.all.default, draw(aten.eq.Tensor, x, x)), "x is a number")
    gm = draw.done(draw(aten.neg.default, x))
    before = gives(gm, numbers(3))
    slots.zero_()
    assert remove_dead(gm) == 2
    assert counted(gm) == {"copy_": 1, "neg": 1, "_assert_async": 1, "all": 1, "eq": 1}
    assert {n.target for n in gm.graph.nodes if n.op == "placeholder"} == {"x"}
    same(gm, before, numbers(3))
    assert torch.equal(slots, numbers(3)), "the write was lost"


@pytest.mark.exercise("drop_identities")
def test_what_changes_nothing_goes():
    """Dropout outside training and a cast to the same type go; a real cast and a real dropout stay."""
    draw = Sketch()
    x = draw.input("x", numbers(3))
    y = draw(aten.dropout.default, x, 0.5, False)
    draw(aten._assert_tensor_metadata.default, y, dtype=torch.float64)
    y = draw(aten.to.dtype, draw(aten.neg.default, y), torch.float64)
    y = draw(aten.type_as.default, y, x)
    y = draw(aten.to.dtype, draw(aten.to.dtype, y, torch.float32), torch.float64)
    z = draw(aten.dropout.default, x, 0.5, True)
    gm = draw.done(y, z)
    before = gives(gm, numbers(3))[:1]
    assert drop_identities(gm) == 4
    assert counted(gm) == {"neg": 1, "to": 2, "dropout": 1}
    torch.testing.assert_close(gives(gm, numbers(3))[0], before[0])


@pytest.mark.exercise("remove_common")
def test_the_same_is_computed_once():
    """Two equal nodes become one, and then what reads them; other settings and other inputs are not equal."""
    draw = Sketch()
    x, y = draw.input("x", numbers(4)), draw.input("y", numbers(4, seed=1))
    a, b = (draw(aten.cos.default, draw(aten.mul.Tensor, x, 2.0)) for _ in range(2))
    c = draw(aten.cos.default, draw(aten.mul.Tensor, x, 3.0))
    d = draw(aten.cos.default, draw(aten.mul.Tensor, y, 2.0))
    e, f = (draw(aten.sum.dim_IntList, x, [0], keepdim=keep) for keep in (True, False))
    gm = draw.done(a, b, c, d, e, f)
    before = gives(gm, numbers(4), numbers(4, seed=1))
    assert remove_common(gm) == 2
    assert counted(gm) == {"mul": 3, "cos": 3, "sum": 2}
    same(gm, before, numbers(4), numbers(4, seed=1))


@pytest.mark.exercise("remove_common", "fold_constants")
def test_memory_that_is_written_is_not_common_and_not_constant():
    """Two reads with a write between them look alike, and differ; two draws of dice differ too."""

    def drawn():
        draw = Sketch()
        x, held = draw.input("x", numbers(3)), draw.weight("slots", torch.zeros(3, dtype=torch.float64))
        first = draw(aten.add.Tensor, held, 1.0)
        draw(aten.copy_.default, held, x)
        second = draw(aten.add.Tensor, held, 1.0)
        dice = [draw(aten.rand.default, [2]) for _ in range(2)]
        return draw.done(first, second, *dice)

    for one in (remove_common, fold_constants):
        gm = drawn()
        assert one(gm) == 0, "nothing here may be shared or folded"
        first, second, *dice = gives(gm, numbers(3))
        assert torch.equal(first, torch.ones(3).double()) and torch.equal(second, numbers(3) + 1)
        assert not torch.equal(*dice)


@pytest.mark.exercise("fold_constants")
def test_what_depends_on_no_input_is_computed_now():
    """arange, and all that is made of weights alone, becomes one constant; what reads an input stays."""
    draw = Sketch()
    x, w = draw.input("x", numbers(4)), draw.weight("w", numbers(4, seed=1))
    steps = draw(aten.to.dtype, draw(aten.arange.default, 4), torch.float64)
    powers = draw(aten.exp.default, draw(aten.mul.Tensor, steps, w))
    low, high = (draw(operator.getitem, draw(aten.chunk.default, powers, 2), i) for i in range(2))
    gm = draw.done(draw(aten.mul.Tensor, draw(aten.mul.Tensor, x, powers), 2.0), low, high)
    before = gives(gm, numbers(4))
    assert fold_constants(gm) == 8
    assert counted(gm) == {"mul": 2}
    same(gm, before, numbers(4))


@pytest.mark.exercise("tabulate")
def test_what_depends_on_a_position_becomes_a_table():
    """Cosines of a position: computed for each of five, then looked up; what reads x too is no table."""
    draw = Sketch()
    x, at = draw.input("x", numbers(2)), draw.input("positions", torch.tensor([[3]]))
    speed = draw.weight("speed", numbers(2, seed=1))
    angles = draw(aten.mul.Tensor, draw(aten.to.dtype, at, torch.float64), speed)
    gm = draw.done(draw(aten.mul.Tensor, draw(aten.cos.default, angles), x), draw(aten.sin.default, angles),
                   slots=5)  # fmt: skip
    before = [gives(gm, numbers(2), torch.tensor([[p]])) for p in range(5)]
    assert tabulate(gm) > 0
    assert counted(gm) == {"place": 1, "row": 2, "mul": 1}
    for p in range(5):
        same(gm, before[p], numbers(2), torch.tensor([[p]]))
    tables = [n.args[0].target for n in gm.graph.nodes if n.target is kernels.row]
    assert all(len(getattr(gm, name)) == 5 for name in tables)
    assert tabulate(gm) == 0, "a second time there is nothing left to do"


def test_chains_of_views_collapse():
    """A transpose past a dimension of one keeps the order; one that does not stays, and so do numbers."""
    draw = Sketch()
    x = draw.input("x", numbers(1, 6))
    y = draw(aten.transpose.int, draw(aten.unflatten.int, x, -1, [3, 2]), 0, 1)  # (3, 1, 2)
    back = draw(aten.flatten.using_ints, draw(aten.transpose.int, y, 0, 1))  # (6,)
    turned = draw(aten.flatten.using_ints, draw(aten.transpose.int, y, 0, 2))
    again = draw(aten.unsqueeze.default, back, 0)  # x, as it was
    gm = draw.done(back, turned, draw(aten.neg.default, again))
    before = gives(gm, numbers(1, 6))
    assert collapse_views(gm) > 0
    same(gm, before, numbers(1, 6))
    neg = next(n for n in gm.graph.nodes if n.target is aten.neg.default)
    assert neg.args[0].target == "x" and counted(gm)["transpose"] == 1 and counted(gm)["unflatten"] == 0


# ---- passes that know a decode step ----


@pytest.mark.exercise("merge_products")
def test_products_of_one_input_become_one():
    """q, k and v in one product, in their own order and sizes; another input and a bias stay alone."""
    draw = Sketch()
    x, z = draw.input("x", numbers(1, 1, 4)), draw.input("z", numbers(1, 1, 4, seed=1))
    sizes = {"q": 6, "k": 2, "v": 3, "other": 5, "biased": 7}
    weights = [draw.weight(name, numbers(rows, 4, seed=rows)) for name, rows in sizes.items()]
    bias = draw.weight("bias", numbers(7, seed=9))
    three = [draw(aten.linear.default, x, w) for w in weights[:3]]
    gm = draw.done(*three, draw(aten.linear.default, z, weights[3]),
                   draw(aten.linear.default, x, weights[4], bias))  # fmt: skip
    before = gives(gm, numbers(1, 1, 4), numbers(1, 1, 4, seed=1))
    assert merge_products(gm) == 2
    assert counted(gm)["linear"] == 3 and set(counted(gm)) <= {"linear", *FREE}
    same(gm, before, numbers(1, 1, 4), numbers(1, 1, 4, seed=1))


def half_a_block():
    """x + W2 · (silu(W1 · norm(x)) gated), as `torch.export` writes it; the norm's gain is no 1."""
    draw = Sketch()
    x, gain = draw.input("x", numbers(1, 1, 4)), draw.weight("gain", numbers(4, seed=1))
    w1, w2 = draw.weight("w1", numbers(6, 4, seed=2)), draw.weight("w2", numbers(4, 3, seed=3))
    y = draw(aten.linear.default, draw(aten.rms_norm.default, x, [4], gain, 1e-5), w1)
    gate, up = draw(aten.slice.Tensor, y, 2, 0, 3), draw(aten.slice.Tensor, y, 2, 3, 6)
    y = draw(aten.mul.Tensor, draw(aten.silu.default, gate), up)
    return draw.done(draw(aten.add.Tensor, x, draw(aten.linear.default, y, w2)))


@pytest.mark.exercise("fuse_norm")
def test_a_norm_goes_into_the_product():
    """The gain goes into the columns of the weight, the root mean square is a number; eps is kept."""
    gm, x = half_a_block(), 1e-2 * numbers(1, 1, 4)  # small, so that eps is felt
    before = gives(gm, x)
    use_vectors(gm)
    assert fuse_norm(gm) == 1
    remove_dead(gm)
    assert counted(gm)["norm_product"] == 1 and counted(gm)["rms_norm"] == 0
    same(gm, before, x)


@pytest.mark.exercise("fuse_norm")
def test_a_norm_that_others_read_stays():
    """Where the normalised row itself is wanted, nothing is fused."""
    draw = Sketch()
    x, gain = draw.input("x", numbers(1, 4)), draw.weight("gain", numbers(4, seed=1))
    y = draw(aten.rms_norm.default, x, [4], gain, 1e-5)
    gm = draw.done(y, draw(aten.linear.default, y, draw.weight("w", numbers(3, 4, seed=2))))
    before = gives(gm, numbers(1, 4))
    use_vectors(gm)
    assert fuse_norm(gm) == 0
    same(gm, before, numbers(1, 4))


@pytest.mark.exercise("fuse_residual")
def test_a_sum_goes_into_the_product():
    """x + W·y and W·y + x become one product each; a sum of two others stays."""
    gm = half_a_block()
    before = gives(gm, numbers(1, 1, 4))
    use_vectors(gm)
    assert fuse_residual(gm) == 1
    remove_dead(gm)
    assert counted(gm)["product_add"] == 1 and counted(gm)["add"] == 0
    same(gm, before, numbers(1, 1, 4))
    draw = Sketch()
    x, w = draw.input("x", numbers(1, 4)), draw.weight("w", numbers(4, 4, seed=1))
    y = draw(aten.linear.default, x, w)
    twice = draw(aten.add.Tensor, draw(aten.linear.default, draw(aten.sin.default, x), w), x)
    gm = draw.done(twice, draw(aten.add.Tensor, x, y), y, draw(aten.add.Tensor, x, x))
    before = gives(gm, numbers(1, 4))
    use_vectors(gm)
    assert fuse_residual(gm) == 1, "y itself is wanted too: only the other product may take its sum along"
    same(gm, before, numbers(1, 4))


def test_an_activation_goes_into_the_product():
    """silu of the first half times the second: with the norm, one node; both halves in their order."""
    gm = half_a_block()
    before = gives(gm, numbers(1, 1, 4))
    use_vectors(gm)
    fuse_norm(gm)
    assert fuse_activation(gm) == 1
    remove_dead(gm)
    assert computing(gm) == 3 and counted(gm)["norm_gated"] == 1
    same(gm, before, numbers(1, 1, 4))


def attention(mask, **settings):
    """One query of four heads over two, in six slots, under a mask that is a table of positions."""
    draw = Sketch()
    q, at = draw.input("q", numbers(1, 4, 1, 8)), draw.input("positions", torch.tensor([[2]]))
    k, v = (draw.weight(name, numbers(1, 2, 6, 8, seed=i)) for i, name in enumerate("kv", 1))
    place = draw(kernels.place, at, 6)
    look = draw(kernels.row, draw.weight("mask", mask), place)
    return draw.done(draw(aten.scaled_dot_product_attention.default, q, k, v, look, enable_gqa=True,
                          **settings), slots=6)  # fmt: skip


@pytest.mark.exercise("look_at_filled")
def test_a_causal_mask_is_not_needed():
    """Over the filled slots alone: the same as under the mask, at every position, in each head."""
    gm = attention(torch.ones(6, 6).bool().tril().view(6, 1, 1, 1, 6))
    before = [gives(gm, numbers(1, 4, 1, 8), torch.tensor([[p]])) for p in range(6)]
    assert look_at_filled(gm) == 1
    remove_dead(gm)
    assert "scaled_dot_product_attention" not in counted(gm) and "row" not in counted(gm)
    for p in range(6):
        same(gm, before[p], numbers(1, 4, 1, 8), torch.tensor([[p]]))


@pytest.mark.exercise("look_at_filled")
def test_another_mask_stays():
    """A window, or a mask that hides one slot more, is no causal mask; a scale of one's own is kept too."""
    causal = torch.ones(6, 6).bool().tril()
    window, hole = causal.triu(-2), causal.clone()
    hole[4, 1] = False
    for mask in (window, hole):
        assert look_at_filled(attention(mask.view(6, 1, 1, 1, 6))) == 0
    assert look_at_filled(attention(causal.view(6, 1, 1, 1, 6), scale=0.5)) == 0


# ---- layout and plan ----


@pytest.mark.exercise("choose_layout")
def test_the_machine_is_asked_for_each_shape():
    """Shapes that are faster by columns are turned, all of one shape together; the others are left."""
    draw = Sketch()
    x = draw.input("x", numbers(4))
    wide = [draw.weight(f"wide{i}", numbers(8, 4, seed=i)) for i in range(2)]
    square = draw.weight("square", numbers(4, 4, seed=5))
    gm = draw.done(*(draw(kernels.product, x, w) for w in (*wide, square)))
    before = gives(gm, numbers(4))
    asked = []

    def clock(weights):
        asked.append([w.is_contiguous() for w in weights])
        rows = {False: {8: [1.0, 4.0], 4: [3.0]}, True: {8: [3.0, 3.0], 4: [2.0]}}
        queue = {n: list(times) for n, times in rows[weights[0].is_contiguous()].items()}
        return [queue[len(w)].pop(0) for w in weights]

    assert choose_layout(gm, clock) == 2
    assert asked == [[True] * 3, [False] * 3]
    laid = [getattr(gm, n.args[1].target) for n in gm.graph.nodes if n.target is kernels.product]
    assert [w.is_contiguous() for w in laid] == [False, False, True]
    assert torch.equal(laid[0], numbers(8, 4)) and laid[0].stride() == (1, 8)
    same(gm, before, numbers(4))


def test_by_columns_is_the_same_matrix():
    assert torch.equal(by_columns(numbers(3, 5)), numbers(3, 5))
    assert by_columns(numbers(3, 5)).stride() == (1, 3)


@pytest.mark.exercise("place_node")
def test_a_plan_gives_what_the_graph_gives():
    """For other numbers in every step: views of what has a place are made once, others in every step."""
    draw = Sketch()
    x, w = draw.input("x", numbers(4)), draw.weight("w", numbers(6, 4, seed=1))
    y = draw(kernels.product, x, w)  # has a place
    square = draw(aten.transpose.int, draw(aten.reshape.default, y, [2, 3]), 0, 1)
    copied = draw(aten.reshape.default, square, [6])  # has to copy: no view, though it is called one
    z = draw(aten.reshape.default, draw(aten.neg.default, copied), [3, 2])  # of something without a place
    gm = draw.done(draw(aten.add.Tensor, z, square))
    step = plan(gm)
    assert step.bytes == 6 * 8 and step.calls == 5, step.source
    for seed in range(3):
        torch.testing.assert_close(step.call(numbers(4, seed=seed)), gm(numbers(4, seed=seed))[0])


@pytest.mark.exercise("place_node")
def test_a_plan_writes_and_reads_what_was_written():
    """A view of a cache, made before the first step, shows what each step writes."""
    draw = Sketch()
    x, at = draw.input("x", numbers(2, 3)), draw.input("positions", torch.tensor([[1]]))
    slots = draw.weight("slots", numbers(1, 2, 4, 3, seed=1))
    written = draw(kernels.write, slots, x, draw(kernels.place, at, 4))
    gm = draw.done(draw(aten.sum.default, draw(aten.slice.Tensor, written, 2, 0, 2)))
    step, held = plan(gm), gm.slots
    assert step.calls == 3, "place, write and sum: the slice is a view of what is held"
    for p in (0, 1, 3):
        want = held.clone()
        want[0, :, p] = numbers(2, 3, seed=p)
        got = step.call(numbers(2, 3, seed=p), torch.tensor([[p]]))
        assert torch.equal(held, want) and torch.allclose(got, want[:, :, :2].sum())
