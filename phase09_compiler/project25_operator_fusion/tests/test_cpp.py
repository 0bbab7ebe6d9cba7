"""The C++ kernels: against torch's functions, autograd, gradcheck, AdamW; what torch.compile sees."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.utils import cpp_extension

from common.errors import UserError
from common.testing import close
from phase09_compiler.project25_operator_fusion import chains, cpp_ops

compiler = pytest.mark.skipif(
    not (shutil.which(cpp_extension.get_cxx_compiler()) and cpp_extension.is_ninja_available()),
    reason="no C++ compiler, or no ninja",
)


@pytest.fixture(scope="module")
def ops():
    return cpp_ops.kernels()


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def both(fn, inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    found = fn(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    total = sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in found)
    return [*found, *torch.autograd.grad(total, inputs)]


def alike(mine, want, inputs):
    """Values and gradients, and the values again without gradients: another way through cpp_ops."""
    exact = both(want, [x.double() for x in inputs])
    near = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}[inputs[0].dtype]

    def agree(a, b, what):  # sums over rows are as exact as the largest of them
        close(a, b, what, rtol=near, atol=near * max(1.0, b.abs().max().item()))

    for i, (a, b) in enumerate(zip(both(mine, inputs), exact, strict=True)):
        agree(a, b, f"result {i}")
    with torch.no_grad():
        found = mine(*inputs)
    for i, a in enumerate(found if isinstance(found, tuple) else (found,)):
        agree(a, exact[i], f"result {i}, without gradients")


def norm(x, residual, weight):
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, 1e-3), total


@compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_matches_torch(ops, dtype):
    """Rows that no vector divides, enough of them for several threads: there and back, in three types."""
    new = lambda *shape, seed=0: draw(*shape, seed=seed, dtype=dtype)  # noqa: E731
    angles = draw(1, 3, 5)
    rope = angles.cos(), angles.sin()
    alike(lambda *a: ops.add_rms_norm(*a, 1e-3), norm, (new(700, 37), new(700, 37, seed=1), new(37, seed=2)))
    alike(
        lambda *a: ops.rms_norm(*a, 1e-3),
        lambda x, w: F.rms_norm(x, w.shape, w, 1e-3),
        (new(2, 3, 37), new(37)),
    )
    alike(lambda x: ops.rotate(x, rope, 3), lambda x: chains.rotate(x, rope, 3), (new(2, 3, 40),))
    alike(ops.swiglu, lambda x: F.silu(x[..., :37]) * x[..., 37:], (new(300, 74),))
    alike(ops.softmax, lambda x: x.softmax(-1), (3 * new(300, 71),))
    targets = torch.randint(71, (300,), generator=torch.Generator().manual_seed(0))
    targets[5] = -100
    alike(lambda x: ops.cross_entropy(x, targets), lambda x: F.cross_entropy(x, targets), (3 * new(300, 71),))


@compiler
def test_gradcheck(ops):
    """Numerical differences in float64, for each gradient that was written by hand."""
    x, w, angles = draw(3, 8, dtype=torch.float64), draw(8, dtype=torch.float64), draw(2, 1, 3, 2)
    rope, targets = (angles.cos(), angles.sin()), torch.tensor([1, -1, 7])

    def check(fn, *inputs):
        return torch.autograd.gradcheck(fn, [y.requires_grad_() for y in inputs])

    assert check(lambda a, b, c: ops.add_rms_norm(a, b, c, 1e-5), x, x.detach() + 1, w)
    assert check(lambda a: ops.rotate(a, rope, 1), draw(2, 3, 8, dtype=torch.float64))
    assert check(ops.swiglu, x) and check(ops.softmax, x)
    assert check(lambda a: ops.cross_entropy(a, targets), x)


@compiler
def test_exponential_at_its_ends(ops):
    """-inf is 0 and not almost 0; large logits overflow nothing; NaN stays NaN; within 2 ulp in between."""
    x = torch.linspace(-60, 0, 20_001)
    x[0], x[1] = 0.0, -torch.inf
    got, want = ops.softmax(x[None])[0], x.double().softmax(-1)
    assert got[1] == 0
    torch.testing.assert_close(got.double(), want, rtol=6e-7, atol=0)
    assert ops.softmax(torch.tensor([[1e30, 0.0]])).tolist() == [[1.0, 0.0]]
    assert ops.softmax(torch.tensor([[float("nan"), 0.0]])).isnan().any()


@compiler
def test_matches_adamw(ops):
    """Three updates of two groups beside torch's, where one parameter joins late."""
    shapes, found = ((40, 33), (7,), (5,)), []
    for kind in (cpp_ops.AdamW, torch.optim.AdamW):
        params = [torch.nn.Parameter(draw(*shape)) for shape in shapes]
        groups = [{"params": params[:1], "weight_decay": 0.3}, {"params": params[1:], "weight_decay": 0.0}]
        optimizer = kind(groups, lr=0.1, betas=(0.8, 0.9), eps=1e-3)
        for step in range(3):
            for i, p in enumerate(params[: 3 if step else 2]):
                p.grad = draw(*p.shape, seed=10 * step + i)
            optimizer.step()
        found.append(params)
    for mine, want in zip(*found, strict=True):
        close(mine, want, f"{tuple(want.shape)}")


@compiler
def test_matches_linear_for_one_token(ops):
    """A product with what is left of four rows, and one with SwiGLU behind it."""
    x, w, gate, up = draw(1, 1, 37), draw(11, 37, seed=1), draw(133, 37, seed=2), draw(133, 37, seed=3)
    close(ops.product(x, w), F.linear(x, w), "product")
    close(ops.gated(x, gate, up), F.silu(F.linear(x, gate)) * F.linear(x, up), "gated", rtol=1e-4, atol=1e-4)
    close(chains.gated(x, gate, up), ops.gated(x, gate, up), "and the chain", rtol=1e-4, atol=1e-4)


@compiler
def test_torch_compile_sees_one_node(ops):
    """No graph break: each operation says its shapes; the fakes agree with what really comes out."""
    x, w = draw(3, 8), draw(8, seed=1)

    def fn(x, w):
        y, total = ops.add_rms_norm(x, x, w, 1e-5)
        return ops.swiglu(y) * ops.softmax(total).sum()

    with torch.no_grad():
        close(torch.compile(fn, fullgraph=True, backend="aot_eager")(x, w), fn(x, w), "compiled")
    t, kinds = torch.ops.thirty, ("test_schema", "test_faketensor")
    logits, targets, lse = draw(3, 5), torch.tensor([1, 2, 3]), torch.zeros(3)
    cases = (
        (t.rms_norm, (x, w, 1e-5)),
        (t.add_rms_norm, (x, x + 1, w, 1e-5)),
        (t.swiglu, (x,)),
        (t.rms_norm_backward, (x, x + 1, x + 2, w, torch.ones(3))),
        (t.softmax, (x,)),
        (t.rotate, (draw(1, 3, 8), draw(1, 3, 2), draw(1, 3, 2), 1, False)),
        (t.product, (x[:1], x)),
        (t.cross_entropy, (logits, targets)),
        (t.gated, (x[:1], x, x + 1)),
        (t.cross_entropy_backward, (logits, targets, lse, torch.ones(3), torch.zeros(3, 5))),
    )
    for op, args in cases:
        torch.library.opcheck(op.default, args, test_utils=kinds)


@compiler
def test_wrong_use_is_refused(ops):
    """A target that is no class, a type that the kernels do not know: no crash, and no silent nonsense."""
    with pytest.raises(IndexError, match="target 5 is not among 5 classes"):
        ops.cross_entropy(draw(2, 5), torch.tensor([0, 5]))
    with pytest.raises(NotImplementedError, match="Half"):
        ops.softmax(draw(2, 5).half())
    with pytest.raises(RuntimeError, match="fit together"):
        ops.rms_norm(draw(2, 5), torch.ones(4), 1e-5)
    with pytest.raises(UserError, match="int64"):
        ops.cross_entropy(draw(2, 5), torch.tensor([0.0, 1.0]))


def test_without_a_compiler(monkeypatch, tmp_path):
    """One line says what is missing and what to do."""
    monkeypatch.setattr(cpp_ops.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"no C\+\+ compiler .*: install g\+\+"):
        cpp_ops.build(tmp_path / "x")
    monkeypatch.setattr(cpp_ops.shutil, "which", lambda name: name)
    monkeypatch.setattr(cpp_extension, "is_ninja_available", lambda: False)
    with pytest.raises(UserError, match="ninja"):
        cpp_ops.build(tmp_path / "x")
