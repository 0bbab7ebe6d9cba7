"""GPTQ and its calibration: the paper's equation in float64, never above round to nearest, every refusal."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.model import GPT, Attention, swap
from common.testing import close, tiny
from common.variants import gpt2
from phase05_quantization.project14_ptq import gptq, rtn
from phase05_quantization.project14_ptq.calibration import STAGES, Moments, gather, layer_error, walk, windows
from phase05_quantization.project14_ptq.rtn import Grid, QuantLinear, dequantize, grid_of, quantize


def problem(seed=0, out=6, width=32, n=200):
    """(w, H, x) with inputs that are correlated, and of different size."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=draw) * torch.rand(width, generator=draw)
    x, w = torch.randn(n, width, generator=draw) @ mix, torch.randn(out, width, generator=draw)
    return w, x.T @ x / n, x


def by_the_paper(w, H, grid, bits, damp=0.01):
    """Equation 2 and 3 of the paper in float64: for each column the inverse over the columns still free."""
    w, width = w.double().clone(), w.size(1)
    H = H.double() + damp * H.double().diagonal().mean() * torch.eye(width)
    for j in range(width):
        first = torch.zeros(width - j, dtype=torch.float64)
        first[0] = 1
        column = torch.linalg.solve(H[j:, j:], first)  # [H_F⁻¹]_:,j
        part = gptq.columns(grid, [j * grid.scale.size(1) // width])
        q = dequantize(quantize(w[:, j : j + 1], part, bits), part, torch.float64)[:, 0]
        w[:, j:] -= ((w[:, j] - q) / column[0])[:, None] * column
        w[:, j] = q
    return w


def error_of(w, found, H):
    return layer_error(w.double(), dequantize(*found), H).sum().item()


# ---- calibration ----


@pytest.mark.exercise("Moments.add")
def test_moments_are_means_over_all_inputs():
    """In parts of any shape, the same as at once: H of x xᵀ, and the mean of |x|."""
    _, H, x = problem(width=8)
    moments = Moments(8)
    for part in (x[:50].view(5, 10, 8), x[50:51], x[51:].view(1, -1, 8).double()):
        moments.add(part)
    assert moments.n == 200
    close(moments.hessian, H, "H", rtol=1e-4, atol=1e-4)
    close(moments.size, x.abs().mean(0), "sizes", rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="NaN or infinite"):
        moments.add(torch.full((1, 8), torch.nan))


def test_layer_error_is_the_mean_of_squares():
    w, H, x = problem()
    q = w + 0.1 * torch.randn(w.shape)
    close(layer_error(w, q, H), (x @ (w - q).T).square().mean(0), "errors", rtol=1e-3, atol=1e-4)


@pytest.mark.exercise("gather")
def test_gathered_moments_are_those_of_the_matrix_s_input():
    """Of a stage deep in the block, over all states; and the hook is gone."""
    torch.manual_seed(0)
    model = GPT(tiny()).eval()
    block, states = model.blocks[0], [torch.randn(1, n, 32) for n in (5, 9)]
    where = [{"rope": model.rope(torch.arange(n)), "positions": torch.arange(n)} for n in (5, 9)]
    seen = []
    hook = block.ffn.w_down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        moments = gather(block, ("ffn.w_down",), states, where)
    hook.remove()
    x = torch.cat([part[0] for part in seen])
    assert moments.n == len(x) == 14
    close(moments.hessian, x.T @ x / 14, "H", rtol=1e-4, atol=1e-6)
    assert not block.ffn.w_down._forward_pre_hooks


def test_walk_shows_each_stage_what_the_stages_before_it_left():
    """A block whose matrices are zeroed when they are visited: everything behind sees that."""
    model, tokens, seen = GPT(tiny(n_layer=1)).eval(), [torch.arange(9)[None]], []

    def visit(block, names, moments):
        seen.append((names, moments.hessian.abs().sum().item()))
        for name in names:
            block.get_submodule(name).weight.zero_()

    left = []
    assert walk(model, tokens, visit, left.append) is model and left == list(model.blocks)
    assert [tuple(names) for names, _ in seen] == list(STAGES)
    sizes = {names[0]: size for names, size in seen}
    assert sizes["attn.wq"] > 0 and sizes["ffn.w_gate"] > 0
    assert sizes["attn.wo"] == 0 and sizes["ffn.w_down"] == 0  # of values, and of gates, that are 0


def test_windows_and_empty_sets():
    ids = list(range(100))
    found = windows(ids, 10, 4)
    assert [w[0, 0].item() for w in found] == [0, 30, 60, 90] and all(w.shape == (1, 10) for w in found)
    assert len(windows(ids, 30, 99)) == 3
    for attempt in (lambda: windows(ids, 101, 1), lambda: windows([], 4, 1), lambda: windows(ids, 10, 0),
                    lambda: walk(GPT(tiny()), [], print), lambda: Moments(4).hessian,
                    lambda: Moments(4).size):  # fmt: skip
        with pytest.raises(UserError, match="calibration set"):
            attempt()


# ---- the method ----


@pytest.mark.exercise("inverse_factor")
def test_rows_of_the_factor_are_those_of_every_inverse():
    """Upper triangular, UᵀU the inverse; row j, scaled, is the inverse's over the columns from j on."""
    _, H, _ = problem(width=12)
    U, damped = gptq.inverse_factor(H, 0.02), H.double() + 0.02 * H.double().diagonal().mean() * torch.eye(12)
    assert U.dtype == torch.float64 and torch.equal(U, U.triu())
    close(U.T @ U, damped.inverse(), "inverse", rtol=1e-8, atol=1e-8)
    for j in (0, 5, 11):
        row = damped[j:, j:].inverse()[0]
        close(U[j, j:] / U[j, j], row / row[0], f"row {j}", rtol=1e-8, atol=1e-8)
    dead = H.clone()
    dead[3], dead[:, 3] = 0, 0
    assert gptq.inverse_factor(dead).isfinite().all()  # an input that is always 0
    with pytest.raises(UserError, match="raise it, or add more text"):
        gptq.inverse_factor(-H, 0.0)


@pytest.mark.exercise("solve")
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("group", [None, 8, "tensor"])
def test_matches_the_paper_column_by_column(bits, group, monkeypatch):
    """A fixed grid, blocks that do not divide the columns: the codes of the equation in float64."""
    monkeypatch.setattr(gptq, "BLOCK", 12)
    w, H, _ = problem(seed=bits)
    grid = grid_of(w, bits, group, symmetric=False)
    group_at = torch.arange(32) // (32 // grid.scale.size(1))
    found = gptq.solve(w, gptq.inverse_factor(H), grid, bits, group_at)
    want = by_the_paper(w, H, grid, bits)
    ours, theirs = error_of(w, found, H), layer_error(w.double(), want, H).sum().item()
    assert ours <= 1.01 * theirs
    same = (dequantize(*found).double() - want).abs() < 1e-6
    assert same.float().mean() > 0.97  # where two codes are as near, float32 may take the other
    naive = gptq.column_by_column(w, H, grid, bits)
    assert (dequantize(naive, grid).double() - want).abs().max() < 1e-6


@pytest.mark.exercise("solve")
def test_a_group_gets_its_grid_when_it_is_reached():
    """fresh is given the columns as the errors before left them; the grid holds what it made."""
    w, H, _ = problem()
    seen, grid = [], grid_of(w, 3, 8)

    def fresh(part):
        seen.append(part.clone())
        return grid_of(part, 3)

    codes, found = gptq.solve(w, gptq.inverse_factor(H), copy.deepcopy(grid), 3, torch.arange(32) // 8, fresh)
    assert torch.equal(seen[0], w[:, :8]) and len(seen) == 4
    assert not torch.allclose(seen[1], w[:, 8:16])
    for i, part in enumerate(seen):
        assert torch.equal(found.scale[:, i : i + 1], grid_of(part, 3).scale)
    assert torch.equal(codes[:, :1], quantize(w[:, :1], gptq.columns(grid, [0]), 3))


@pytest.mark.exercise("better_rows")
def test_the_better_rows_of_two():
    """Codes and steps together; a tie goes to nearest; one grid for all is kept."""
    w, H = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.diag(torch.tensor([1.0, 9.0]))
    ones = torch.ones(3, 1)
    mine = torch.tensor([[1, 2], [2, 4], [5, 3]], dtype=torch.int8), Grid(ones, None)
    near = torch.tensor([[1, 1], [1, 2], [3, 3]], dtype=torch.int8), Grid(2 * ones, None)
    codes, grid = gptq.better_rows(w, H, mine, near)
    assert codes.tolist() == [[1, 2], [1, 2], [3, 3]] and grid.scale.tolist() == [[1.0], [2.0], [2.0]]
    codes, grid = gptq.better_rows(w, H, near, near)
    assert codes is not None and torch.equal(codes, near[0])
    single = Grid(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int8))
    codes, grid = gptq.better_rows(w, H, (mine[0], single), (near[0], single))
    assert codes.tolist() == [[1, 2], [2, 4], [5, 3]] and grid.scale.shape == (1, 1)


@given(seed=st.integers(0, 10**6), bits=st.sampled_from(rtn.BITS), group=st.sampled_from((None, 4, "tensor")),
       symmetric=st.booleans(), act_order=st.booleans(), n=st.sampled_from((3, 40)))  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_no_row_is_worse_than_rounded_to_nearest(seed, bits, group, symmetric, act_order, n):
    """Also with few bits, and with fewer texts than inputs: the error of each output, on its own grid."""
    w, H, _ = problem(seed, out=4, width=16, n=n)
    found = gptq.gptq(w, H, bits, group, symmetric, act_order=act_order)
    near = grid_of(w, bits, group, symmetric)
    ours, theirs = (layer_error(w.double(), dequantize(*one), H) for one in
                    (found, (quantize(w, near, bits), near)))  # fmt: skip
    assert (ours <= theirs * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("group", [None, 8])
def test_it_is_much_better_where_inputs_are_correlated(act_order, group):
    w, H, _ = problem(out=20)
    grid = grid_of(w, 4, group)
    ours = error_of(w, gptq.gptq(w, H, 4, group, act_order=act_order), H)
    assert ours < 0.75 * error_of(w, (quantize(w, grid, 4), grid), H)


def test_is_on_in_a_model():
    """Every matrix of the blocks holds codes; they are not those of round to nearest, and lose less."""
    torch.manual_seed(0)
    model, texts = GPT(tiny()).eval(), [torch.randint(97, (1, 40)) for _ in range(4)]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
    want, near = model(texts[0]), rtn.apply(copy.deepcopy(model), 3, 16)
    made = gptq.apply(copy.deepcopy(model), texts, 3, 16)
    coded = [m for m in made.modules() if isinstance(m, QuantLinear)]
    assert len(coded) == 14 and all(m.bits == 3 and m.steps.size(1) >= 2 for m in coded)
    first = made.blocks[0].attn.wq
    assert not torch.equal(first.codes, near.blocks[0].attn.wq.codes)
    assert (made(texts[0]) - want).norm() < 0.8 * (near(texts[0]) - want).norm()


def test_other_shapes_of_a_model():
    """GPT-2's clothes: no gate, biases, LayerNorm."""
    torch.manual_seed(0)
    model, tokens = gpt2(GPT(tiny(n_kv_head=4))).eval(), torch.randint(97, (1, 20))
    made = gptq.apply(copy.deepcopy(model), [tokens], 8)
    assert made.blocks[1].ffn.w_up.bias is not None
    close(made(tokens), model(tokens), "8 bits", rtol=0.05, atol=0.05)


def test_damaged_weights_are_named():
    """The matrix stands in the message."""
    model = GPT(tiny())
    model.blocks[0].ffn.w_up.weight.data[0, 0] = torch.inf
    with pytest.raises(UserError, match=r"ffn.w_up: 1 of 1536 weights are NaN or infinite"):
        gptq.apply(model, [torch.arange(8)[None]], 4)
    with pytest.raises(UserError, match="groups of 7 do not divide"):
        gptq.apply(GPT(tiny()), [torch.arange(8)[None]], 4, 7)
    with pytest.raises(UserError, match="not 6"):
        gptq.apply(GPT(tiny()), [torch.arange(8)[None]], 6)
    assert swap(GPT(tiny()), Attention, lambda old: old)  # and nothing else was hurt


@pytest.mark.gpu
def test_matches_torchao_s_gptq():  # pragma: no cover - gpu
    """On a CUDA device, in 8 bits, no worse than 1 % above its error."""
    api, quantization = (pytest.importorskip(f"torchao.{name}") for name in
                         ("prototype.gptq.api", "quantization"))  # fmt: skip
    w, H, _ = problem(width=64)
    config = api.GPTQConfig(step="convert", base_config=quantization.Int8WeightOnlyConfig(version=2))
    theirs = api.gptq_quantize(H.cuda(), w.cuda(), config).dequantize().cpu()
    ours = error_of(w, gptq.gptq(w.cuda(), H.cuda(), 8), H.cuda())
    assert ours <= 1.01 * layer_error(w.double(), theirs, H).sum().item()
