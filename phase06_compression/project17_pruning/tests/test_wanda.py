"""Wanda and SparseGPT: the papers' equations, a worked example, naive versions, and every refusal."""

import copy

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase05_quantization.project14_ptq.calibration import Moments, layer_error
from phase05_quantization.project14_ptq.gptq import damped, inverse_factor
from phase06_compression.project17_pruning import magnitude, sparsegpt, wanda
from phase06_compression.project17_pruning.magnitude import kept, largest, matrices, sparsity_of
from phase06_compression.project17_pruning.sparsegpt import column_by_column, saliency, solve
from phase06_compression.project17_pruning.wanda import mask_of, worth


def problem(seed=0, out=6, width=32, n=200):
    """(w, moments, x) with inputs that are correlated, and of different size."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=draw) * torch.rand(width, generator=draw)
    x, w = torch.randn(n, width, generator=draw) @ mix, torch.randn(out, width, generator=draw)
    moments = Moments(width)
    moments.add(x)
    return w, moments, x


def model_and_texts(**sizes):
    torch.manual_seed(0)
    model = GPT(tiny(**sizes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
    return model, [torch.randint(97, (1, 24)) for _ in range(4)]


def inputs_of(model, name, texts):
    """What a matrix was multiplied with, over all texts: (tokens, in)."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    with torch.no_grad():
        for tokens in texts:
            model(tokens)
    hook.remove()
    return torch.cat(seen)


# ---- Wanda ----


@pytest.mark.exercise("worth")
def test_worked_example():
    """By hand: a small weight on the loud input stays, a large one on a quiet input goes."""
    w = torch.tensor([[4.0, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]])
    moments = Moments(4)
    moments.add(torch.diag(torch.tensor([1.0, 2, 8, 3])))  # four tokens, each with one input
    scores = worth(w, moments)
    want = torch.tensor([[4.0, 0, 8, 3], [3, 4, 8, 9], [3, 2, 0, 6]])
    close(scores / scores[0, 0] * 4, want, "scores")
    mask = mask_of(scores, 0.5)
    assert torch.equal(w * mask, torch.tensor([[4.0, 0, 1, 0], [0, 0, -1, -3], [-3, 0, 0, 2]]))


@pytest.mark.exercise("worth")
def test_worth_is_the_paper_s_equation():
    """|w_ij| times the length of input j over all tokens, from the tokens themselves, in proportion."""
    w, moments, x = problem()
    want = w.double().abs() * x.double().pow(2).sum(0).sqrt()
    close(worth(w, moments).double() * 200**0.5, want, "worth", rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("mask_of")
def test_each_row_loses_its_share():
    """Also where one row is worth a thousand times another; and two of four where that is the pattern."""
    w, moments, _ = problem(out=5, width=24)
    scores = worth(w, moments) * torch.tensor([1000.0, 1, 1, 1, 0.001])[:, None]
    mask = mask_of(scores, 0.25)
    assert mask.sum(1).tolist() == [18] * 5
    for row, kept_ in zip(scores, mask, strict=True):
        assert row[kept_].min() >= row[~kept_].max()
    pattern = mask_of(scores, 0.25, (2, 4))  # the pattern decides
    assert (pattern.unflatten(1, (-1, 4)).sum(-1) == 2).all()


def by_the_paper(model, texts, sparsity):
    """The algorithm of section 3 as it reads, whole forwards of the pruned model before each stage."""
    model = copy.deepcopy(model)
    stages = (("attn.wq", "attn.wk", "attn.wv"), ("attn.wo",), ("ffn.w_gate", "ffn.w_up"), ("ffn.w_down",))
    for i in range(len(model.blocks)):
        for stage in stages:
            x = inputs_of(model, f"blocks.{i}.{stage[0]}", texts).double()
            for name in stage:
                weight = model.blocks[i].get_submodule(name).weight.data
                scores = weight.double().abs() * x.norm(dim=0)
                order = scores.sort(dim=1).indices[:, : round(sparsity * weight.size(1))]
                weight.scatter_(1, order, 0)
    return model


@pytest.mark.exercise("worth", "mask_of")
def test_matches_the_algorithm_on_a_model():
    """Masks of the whole model: at least 99.9 % the same as those of the paper's steps, in float64."""
    model, texts = model_and_texts()
    theirs = matrices(by_the_paper(model, texts, 0.5))
    ours = matrices(wanda.apply(copy.deepcopy(model), texts, 0.5))
    same = [((ours[name].weight == 0) == (theirs[name].weight == 0)).float() for name in theirs]
    assert torch.cat([part.flatten() for part in same]).mean() >= 0.999


def test_is_on():
    """On what it was calibrated on, Wanda loses less of each output than magnitude does, and is not it."""
    model, texts = model_and_texts(n_layer=1)
    with torch.no_grad():
        model.blocks[0].norm_attn.weight[::4] = 8.0  # a few inputs are loud
    before = matrices(model)["blocks.0.attn.wq"].weight.detach().clone()
    x = inputs_of(model, "blocks.0.attn.wq", texts)
    lost = {}
    for name, pruned in (("wanda", wanda.apply(copy.deepcopy(model), texts)),
                         ("magnitude", magnitude.apply(copy.deepcopy(model), 0.5))):
        after = matrices(pruned)["blocks.0.attn.wq"].weight.detach()
        lost[name] = (x @ (after - before).T).square().sum()
        assert sparsity_of(pruned) == pytest.approx(0.5)
    assert lost["wanda"] < 0.7 * lost["magnitude"]


@pytest.mark.parametrize("method", [wanda, sparsegpt])
def test_refusals(method):
    model, texts = model_and_texts(n_layer=1, d_ff=50)
    for attempt, why in ((lambda: method.apply(model, [], 0.5), "calibration set is empty"),
                         (lambda: method.apply(model, texts, 0.0), "no sense"),
                         (lambda: method.apply(model, texts, 1.0), "no sense"),
                         (lambda: method.apply(model, texts, 0.5, (2, 4)), r"w_down: groups of 4 do not")):
        with pytest.raises(UserError, match=why):
            attempt()
    with torch.no_grad():
        model.blocks[0].attn.wk.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        method.apply(model, texts, 0.5)


# ---- SparseGPT ----


def error_of(w, left, H):
    return layer_error(w.double(), left.double(), H).sum().item()


@pytest.mark.exercise("saliency")
def test_saliency_is_what_the_best_repair_cannot_save():
    """Of the optimal brain surgeon: w² / [H⁻¹]_jj is the least error with w_j = 0, all others free."""
    w, moments, _ = problem(out=2, width=6)
    H = damped(moments.hessian, 0.01)
    scores = saliency(w.double(), inverse_factor(moments.hessian))
    inverse = H.inverse()
    close(scores[:, 0], w[:, 0].double() ** 2 / inverse[0, 0], "of column 0", rtol=1e-6, atol=1e-9)
    for row in range(2):  # column 0 is removed, and least squares finds the best of the rest
        rest = torch.linalg.solve(H[1:, 1:], H[1:] @ w[row].double())
        left = torch.cat((torch.zeros(1, dtype=torch.float64), rest))
        lost = (w[row].double() - left) @ H @ (w[row].double() - left)
        assert scores[row, 0].item() == pytest.approx(lost.item())
    last = w[:, -1].double() ** 2 * H[-1, -1]
    close(scores[:, -1], last, "of the last column, nobody left to pay", rtol=1e-6, atol=1e-9)


def by_the_equations(w, H, sparsity, pattern, block):
    """Algorithm 1 of the paper in float64, with the inverse of the columns that are left, made anew."""
    w, H, (out, width) = w.double().clone(), damped(H, 0.01), w.shape
    mask, m = torch.ones(out, width, dtype=torch.bool), pattern[1] if pattern else block
    for j in range(width):
        if j % m == 0:
            stop = min(j + m, width)
            own = torch.stack([H[k:, k:].inverse()[0, 0] for k in range(j, stop)])
            scores = w[:, j:stop] ** 2 / own
            if pattern:
                gone = scores.argsort(dim=1)[:, : m - pattern[0]]
                mask[:, j:stop] = mask[:, j:stop].scatter(1, gone, False)
            else:
                gone = scores.flatten().argsort()[: round(sparsity * scores.numel())]
                mask[:, j:stop] = torch.ones(scores.numel()).bool().scatter(0, gone, False).view_as(scores)
        inverse = H[j:, j:].inverse()
        w[:, j:] -= (w[:, j] * ~mask[:, j] / inverse[0, 0])[:, None] * inverse[0]
        w[:, j] *= mask[:, j]
    return w, mask


@pytest.mark.exercise("solve", "saliency")
@pytest.mark.parametrize(("sparsity", "pattern", "block"),
                         [(0.5, None, 8), (0.75, None, 32), (0.5, (2, 4), 16), (0.4, None, 5)])
def test_matches_the_equations(sparsity, pattern, block):
    """Weights and mask of Algorithm 1, inverses made anew: the mask but for ties, the weights to 1e-3."""
    w, moments, _ = problem(out=7)
    want, mask = by_the_equations(w, moments.hessian, sparsity, pattern, block)
    got = solve(w, inverse_factor(moments.hessian), sparsity, pattern, block)
    assert got.dtype == torch.float32 and ((got != 0) == mask).float().mean() >= 0.999
    close(got.double(), want, "weights", rtol=1e-3, atol=1e-3)


@pytest.mark.exercise("solve", "saliency")
def test_one_block_or_many_columns_behind_it():
    """The product at the end of a block does what the columns one by one would have done."""
    w, moments, _ = problem(out=5)
    U = inverse_factor(moments.hessian)
    fine = solve(w, U, 0.5, (2, 4), 4)
    coarse = solve(w, U, 0.5, (2, 4), 32)
    close(fine, coarse, "blocks of 4 and of 32", rtol=1e-3, atol=1e-3)
    naive = column_by_column(w, moments.hessian, coarse != 0)
    close(coarse.double(), naive, "beside the naive version", rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="do not hold whole groups"):
        solve(w, U, 0.5, (2, 4), 6)


@pytest.mark.exercise("solve", "saliency")
def test_repair_pays():
    """Less is lost than by Wanda; least squares with the same zeros loses less still: what is possible."""
    w, moments, _ = problem(out=12)
    H = moments.hessian
    left = solve(w, inverse_factor(H), 0.5)
    cut = w * mask_of(worth(w, moments), 0.5)
    best, D = torch.zeros_like(w, dtype=torch.float64), damped(H, 0.01)
    for row in range(12):
        on = left[row] != 0
        best[row, on] = torch.linalg.solve(D[on][:, on], (D @ w[row].double())[on])
    lost = [error_of(w, part, D) for part in (best, left, cut)]
    assert lost[0] <= lost[1] * (1 + 1e-9) and lost[1] < 0.85 * lost[2]
    assert (left == 0).sum() == w.numel() // 2


@pytest.mark.exercise("solve", "saliency")
def test_uncorrelated_inputs_leave_nothing_to_repair():
    """With H diagonal what stays stays as it was, and the mask is w² H_jj's, over the block."""
    torch.manual_seed(0)
    w, size = torch.randn(4, 16), torch.rand(16) + 0.5
    left = solve(w, inverse_factor(torch.diag(size), 1e-9), 0.5, block=16)
    mask = largest((w.square() * size).flatten(), kept(64, 0.5)).view_as(w)
    close(left, w * mask, "diagonal", rtol=1e-5, atol=1e-6)


def test_sparsegpt_on_a_model():
    """Every matrix has its zeros, other weights moved, and what the texts say is lost less than by Wanda."""
    model, texts = model_and_texts()
    pruned = {name: method.apply(copy.deepcopy(model), texts, 0.5)
              for name, method in (("wanda", wanda), ("sparsegpt", sparsegpt))}  # fmt: skip
    with torch.no_grad():
        want = torch.cat([model(tokens)[0] for tokens in texts])
        lost = {name: F.mse_loss(torch.cat([m(tokens)[0] for tokens in texts]), want).item()
                for name, m in pruned.items()}  # fmt: skip
    assert sparsity_of(pruned["sparsegpt"]) == pytest.approx(0.5, abs=1e-2)
    assert lost["sparsegpt"] < lost["wanda"]
    old, new = (matrices(m)["blocks.1.ffn.w_up"].weight for m in (model, pruned["sparsegpt"]))
    assert (old[new != 0] != new[new != 0]).float().mean() > 0.9
    patterned = sparsegpt.apply(copy.deepcopy(model), texts, 0.5, (2, 4))
    for matrix in matrices(patterned).values():
        assert ((matrix.weight.unflatten(1, (-1, 4)) != 0).sum(-1) <= 2).all()
