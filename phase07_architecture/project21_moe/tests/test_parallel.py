"""Experts on several processes, by threads and by gloo, and grouped products: equal to one process, plain."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from common.errors import UserError
from common.model import GPT
from common.testing import close, spawn, tiny
from phase07_architecture.project21_moe import expert_parallel, grouped, surgery
from phase07_architecture.project21_moe.moe import MoE, MoEConfig, drop, layers

TOKENS = (5, 3)  # of the two processes


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(E=4, k=2):
    """The same on every process."""
    made = MoE(6, 5, MoEConfig(experts=E, k=k)).double()
    for i, p in enumerate(made.parameters()):
        p.data.copy_(drawn(*p.shape, seed=i))
    return made


def rows_of(rank, n):
    return drawn(n, 6, seed=50 + rank)


def one_process(made, tokens=TOKENS):
    """y of everybody's rows and all gradients, on one process; by rank."""
    made = copy.deepcopy(made)
    xs = [rows_of(rank, n).requires_grad_() for rank, n in enumerate(tokens)]
    y = made(torch.cat(xs))
    (y * drawn(*y.shape, seed=7)).sum().backward()
    return made, y.detach().split(tokens), [x.grad for x in xs]


def my_share(rank, made, tokens=TOKENS, group=None):
    """(y, dx, gradients of my experts, gradient of the router) on one of the processes."""
    expert_parallel.shard(made, group)
    x = rows_of(rank, tokens[rank]).requires_grad_()
    weight = drawn(sum(tokens), 6, seed=7).split(tokens)[rank]
    y = made(x)
    (y * weight).sum().backward()
    grads = [p.grad for expert in made.experts for p in expert.parameters()]
    return y.detach(), x.grad, grads, made.router.gate.weight.grad


def check(found, whole, ys, dxs):
    """What the processes found, against one process."""
    mine = [p.grad for expert in whole.experts for p in expert.parameters()]
    for rank, ((y, dx, _, _), want, back) in enumerate(zip(found, ys, dxs, strict=True)):
        close(y, want, f"y of process {rank}")
        close(dx, back, f"dx of process {rank}")
    for i, (got, want) in enumerate(zip([g for f in found for g in f[2]], mine, strict=True)):
        close(got, want, f"gradient {i} of the experts")
    close(sum(f[3] for f in found), whole.router.gate.weight.grad, "the routers' gradients, added up")


class Threads:
    """What expert_parallel asks of torch.distributed, among threads: a mistake fails without waiting."""

    def __init__(self, W):
        self.W, self.meet, self.box, self.me = W, threading.Barrier(W, timeout=20), {}, threading.local()

    def get_world_size(self, group=None):
        return self.W

    def get_rank(self, group=None):
        return self.me.rank

    def all_to_all_single(self, out, x, take, give, group=None):
        for to, part in enumerate(x.split(list(give))):
            self.box[self.me.rank, to] = part.clone()
        self.meet.wait()
        came = [self.box[sender, self.me.rank] for sender in range(self.W)]
        assert [len(part) for part in came] == list(take), "others send another number of rows"
        out.copy_(torch.cat(came))
        self.meet.wait()

    def run(self, fn):
        """[fn(rank) for each], each in a thread of its own; the first that raises lets nobody wait."""

        def go(rank):
            self.me.rank = rank
            try:
                return fn(rank)
            except BaseException:
                self.meet.abort()
                raise

        with ThreadPoolExecutor(self.W) as pool:
            waiting = [pool.submit(go, rank) for rank in range(self.W)]
        errors = [f.exception() for f in waiting if f.exception() is not None]
        real = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
        if errors:
            raise (real or errors)[0]
        return [f.result() for f in waiting]


@pytest.fixture
def threads(monkeypatch):
    """threads(W): as many processes, which are threads."""

    def make(W):
        made = Threads(W)
        monkeypatch.setattr(expert_parallel, "dist", made)
        return made

    return make


@pytest.mark.exercise("AllToAll.backward", "travel", "regroup")
@pytest.mark.parametrize("tokens", [TOKENS, (4, 0), (2, 3, 1, 4)])
def test_matches_one_process(threads, tokens):
    """Outputs and every gradient; also where a process has no token, and with four processes."""
    made = layer()
    found = threads(len(tokens)).run(lambda rank: my_share(rank, copy.deepcopy(made), tokens))
    check(found, *one_process(made, tokens))


@pytest.mark.exercise("AllToAll.backward")
def test_rows_and_their_gradients_travel(threads):
    """0 sends one row to itself and two to 1; 1 sends three to 0: the gradient of each row comes home."""
    sizes = [([1, 2], [1, 3]), ([3, 0], [2, 0])]  # (give, take)

    def one(rank):
        x = (10 * rank + torch.arange(3.0))[:, None].requires_grad_()
        y = expert_parallel.AllToAll.apply(x, *sizes[rank], None)
        (y.square() / 2).sum().backward()  # so that the gradient of a row is the row
        return y.flatten().tolist(), x.grad.flatten().tolist()

    first, second = threads(2).run(one)
    assert first == ([0, 10, 11, 12], [0, 1, 2]) and second == ([1, 2], [10, 11, 12])


@pytest.mark.exercise("regroup")
def test_regrouping_by_hand():
    """Of 0 came 2 rows for expert 0 and 1 for 1, of 1 came 1 and 2: rows 0 1 | 2 || 3 | 4 5."""
    order, inverse = expert_parallel.regroup(torch.tensor([[2, 1], [1, 2]]))
    assert order.tolist() == [0, 1, 3, 2, 4, 5] and inverse.tolist() == [0, 1, 3, 2, 4, 5]
    order, inverse = expert_parallel.regroup(torch.tensor([[1, 2, 0], [1, 0, 2]]))  # 0 | 1 2 || 3 | 4 5
    assert order.tolist() == [0, 3, 1, 2, 4, 5] and order[inverse].tolist() == list(range(6))
    assert inverse.tolist() == [0, 2, 3, 1, 4, 5]


@pytest.mark.exercise("travel")
def test_dropped_rows_stay_at_home(threads):
    """Rows of nobody are not sent, and come out as zeros."""
    made, found = layer(), {}
    experts = drop(torch.tensor([[0, 1], [0, 2], [0, 3]]), 1, 4)

    def one(rank):
        mine = copy.deepcopy(made)
        expert_parallel.shard(mine)
        counts = torch.bincount(experts.flatten(), minlength=5)[:4]
        h = rows_of(rank, 6).requires_grad_()
        found[rank] = h, expert_parallel.travel(h, counts, mine.experts)
        found[rank][1].sum().backward()
        return counts

    (counts, _) = threads(2).run(one)
    for h, y in found.values():
        assert (y[counts.sum() :] == 0).all() and (h.grad[counts.sum() :] == 0).all()
        assert (y[: counts.sum()] != 0).any(1).all()


def test_is_on_each_process_holds_its_share(threads):
    def one(rank):
        made = expert_parallel.shard(layer())
        return [expert.w_up.weight for expert in made.experts]

    shares, whole = threads(2).run(one), layer().experts
    for rank, share in enumerate(shares):
        assert len(share) == 2
        assert all(torch.equal(w, whole[2 * rank + i].w_up.weight) for i, w in enumerate(share))


def test_experts_that_do_not_divide(threads):
    with pytest.raises(UserError, match="4 experts do not divide among 3"):
        threads(3).run(lambda rank: expert_parallel.shard(layer()))


def by_gloo(rank, world):
    return my_share(rank, layer())


def test_matches_one_process_over_gloo():
    """The same with real processes and torch.distributed."""
    check(spawn(by_gloo, 2), *one_process(layer()))


# ---- grouped products --------------------------------------------------------------------------------------


def products():
    """{name: product}, of those that are here."""
    found = {"slices": grouped.by_slices, "torch": grouped.by_torch}
    try:
        from phase07_architecture.project21_moe import triton_grouped
    except ImportError:
        return found
    return {**found, "triton": triton_grouped.product}


def truth(h, w, ends):
    """Row by row."""
    rows = [w[int((ends <= r).sum())] @ h[r] for r in range(int(ends[-1]))]
    rest = [0 * h[r, :1].expand(w.size(1)) for r in range(int(ends[-1]), len(h))]
    return torch.stack(rows + rest)


@pytest.mark.exercise("by_slices", "Grouped.backward", "tiles")
@pytest.mark.parametrize("name", ["slices", "torch", "triton"])
@pytest.mark.parametrize("ends", [[5, 5, 22, 23], [0, 0, 17, 17], [1, 2, 3, 4]])
def test_matches_each_row_times_its_matrix(name, ends):
    """Forward and both gradients; experts without rows, at either end; rows of nobody, but for torch's."""
    if name not in products():
        pytest.skip("triton is not installed")
    ends = torch.tensor(ends)
    rows = int(ends[-1]) + (0 if name == "torch" else 2)
    h, w = drawn(rows, 20, seed=1).float(), drawn(4, 24, 20, seed=2).float()
    given, exact = ([t.clone().requires_grad_() for t in (h.to(d), w.to(d))]
                    for d in (torch.float32, torch.float64))  # fmt: skip
    y, want = products()[name](*given, ends), truth(*exact, ends)
    close(y, want, "y", rtol=1e-5, atol=1e-4)
    dy = drawn(*want.shape, seed=3)
    back, true = (torch.autograd.grad(v, t, dy.to(v.dtype)) for v, t in ((y, given), (want, exact)))
    for got, right, what in zip(back, true, ("dh", "dw"), strict=True):
        close(got, right, what, rtol=1e-5, atol=1e-4)


@pytest.mark.exercise("tiles")
def test_tiles_by_hand():
    """Counts 5, 0, 9 in tiles of 4: two tiles, none, three, and one that is left over."""
    kernel = pytest.importorskip("phase07_architecture.project21_moe.triton_grouped")
    owner, first = kernel.tiles(torch.tensor([5, 5, 14]), 14, 4)
    assert owner.tolist() == [0, 0, 2, 2, 2, 3, 3][: len(owner)]
    assert first.tolist() == [0, 4, 5, 9, 13, 14, 14][: len(first)] and len(owner) == 4 + 3


@pytest.mark.parametrize("name", ["slices", "torch", "triton"])
def test_stacked_model_is_the_same(name):
    """Logits and gradients of the embedding, every expert in one tensor."""
    if name not in products():
        pytest.skip("triton is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = surgery.apply(GPT(tiny(n_layer=1)), MoEConfig(experts=4, k=2))
        tokens = torch.randint(97, (1, 7))
    for p in model.parameters():
        p.data.mul_(4 if p.dim() > 1 else 1)
    stacked = grouped.stack(copy.deepcopy(model), products()[name])
    assert [n for n, _ in stacked.named_parameters() if "experts" in n] == [
        f"blocks.0.ffn.experts.{w}" for w in ("w_gate", "w_up", "w_down")]  # fmt: skip
    close(stacked(tokens), model(tokens), "logits", rtol=1e-4, atol=1e-4)
    for each in (model, stacked):
        each(tokens).square().sum().backward()
    close(stacked.embed.weight.grad, model.embed.weight.grad, "gradient", rtol=1e-3, atol=1e-3)
    mine = torch.stack([e.w_up.weight.grad for e in layers(model)[0].experts])
    close(layers(stacked)[0].experts.w_up.grad, mine, "gradient of the experts", rtol=1e-3, atol=1e-3)


def test_kernel_refuses():
    kernel = pytest.importorskip("phase07_architecture.project21_moe.triton_grouped")
    with pytest.raises(UserError, match=r"not torch\.float64 by torch\.float64"):
        kernel.product(drawn(4, 8), drawn(2, 8, 8), torch.tensor([2, 4]))
