"""What the tests of all projects share: tiny sizes, tolerances, and checks for every attend and cache.

    check_attend(my_attend)                  GQA, masks, T = 1, 1 < T < S, T = S, ragged rows, gradients
    check_cache(lambda B, K, D, size: C())   chunk splits, rewinding, ragged rows, rollback, refusals
    spawn(fn, 4)                             fn(rank, world) in four gloo processes

A check raises an AssertionError that names the situation; the truth is attention written out in float64.
"""

import math

import torch
import torch.nn.functional as F

from common.errors import UserError, demand
from common.model import GPT, Cache, ModelConfig
from common.ranks import spawn

__all__ = [
    "AddressedCache", "check_attend", "check_cache", "close", "copy_weights", "reference", "spawn", "tiny",
    "tolerance", "trained",
]  # fmt: skip


def tiny(**overrides):
    """A ModelConfig that runs in milliseconds: two layers, GQA, and 97 tokens, a prime, so that no wrong
    reshape fits by luck."""
    sizes = {"vocab_size": 97, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    return ModelConfig(**{**sizes, "max_seq_len": 64, **overrides})


def tolerance(dtype):
    """rtol and atol for two routes to one result: float64 1e-10, float32 1e-5, 16-bit types 1e-2."""
    size = {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 1e-2)
    return {"rtol": size, "atol": size}


def close(got, want, situation, **tolerances):
    """AssertionError, naming the situation, unless both agree, by default to the tolerance of got's dtype."""

    def say(text):
        return f"{situation}: {text}"

    torch.testing.assert_close(got.double(), want.double(), **(tolerances or tolerance(got.dtype)), msg=say)


def trained(*, steps=120, seed=0, **overrides):
    """A tiny float64 GPT that has learned to count on in strides of 1 to 4, so that its argmax is clear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(tiny(vocab_size=32, **overrides))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        for _ in range(steps):
            start, stride = torch.randint(32, (16, 1)), torch.randint(1, 5, (16, 1))
            tokens = (start + stride * torch.arange(17)) % 32  # (16, 17)
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.double().eval()


def copy_weights(source, target, names):
    """Fill the target's parameters from the source's: names maps each of the target's to one of the source's.

    AssertionError where a name is missing, a shape differs, or a parameter of the source is left over.
    """
    given = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        assert name in names, f"no source is named for {name}"
        value = given[names[name]]
        assert value.shape == parameter.shape, f"{name}: {tuple(value.shape)} into {tuple(parameter.shape)}"
        parameter.data.copy_(value.data)
    left = set(given) - set(names.values())
    assert not left, f"not copied: {sorted(left)}"


def reference(q, k, v, look, bias=0.0):
    """Attention written out in float64: q (B, H, T, D), k and v (B, K, S, D), look and bias (..., T, S)."""
    q, k, v = q.double(), *(x.double().repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)) + bias
    return logits.masked_fill(~look, -math.inf).softmax(-1) @ v


class AddressedCache:
    """The smallest addressed cache: slot s of a row holds position s. It begins full of junk."""

    def __init__(self, B, K, D, size, dtype=torch.float32):
        self.k, self.v = (torch.full((B, K, size, D), 1e3, dtype=dtype) for _ in range(2))

    def update(self, k, v, positions):
        demand(positions.dim() == 2, "an addressed cache needs positions (B, T)")
        slots = positions[:, None, :, None].expand_as(k)  # (B, K, T, D)
        self.k, self.v = self.k.scatter(2, slots, k), self.v.scatter(2, slots, v)
        return self.k, self.v


def at(x, positions):
    """What x (B, H, S, D) holds at positions (T,) or (B, T): (B, H, T, D)."""
    if positions.dim() == 1:
        return x[:, :, positions]
    return x.gather(2, positions[:, None, :, None].expand(-1, x.size(1), -1, x.size(3)))


class Rows:
    """Two rows of twelve tokens with four query heads, and the truth about attention at their places."""

    def __init__(self, K, bias, dtype):
        generator = torch.Generator().manual_seed(K)
        draw = [torch.randn(2, n, 12, 16, generator=generator, dtype=torch.float64) for n in (4, K, K)]
        self.q, self.k, self.v = (x.to(dtype) for x in draw)
        self.bias = bias or (lambda behind: 0.0)

    def truth(self, inputs, positions, keys, look):
        behind = positions[..., :, None] - keys[..., None, :]  # (T, S) or (B, T, S)
        behind = behind[:, None] if behind.dim() == 3 else behind
        return reference(*inputs, behind >= 0 if look is None else look, self.bias(behind))

    def check(self, fn, situation, positions, mask=None, gradients=True):
        """fn without a cache: what it returns, and what flows back to q, k and v."""
        inputs = [at(x, positions).requires_grad_(gradients) for x in (self.q, self.k, self.v)]
        got = fn(*inputs, positions=positions, mask=mask)
        want = self.truth(inputs, positions, positions, mask)
        close(got, want, situation)
        if gradients:
            weight = torch.linspace(-1, 1, want.numel()).view_as(want)  # a plain sum would hide what cancels
            back = [torch.autograd.grad((y.double() * weight).sum(), inputs) for y in (got, want)]
            for name, mine, true in zip("qkv", *back, strict=True):
                close(mine, true, f"{situation}, gradient of {name}")

    def check_cached(self, fn, situation, cache, positions, filled, mask=None, padding=None):
        """fn with a cache of which `filled` slots are known. padding (B, T): True where a row is padded."""
        q, k, v = (at(x, positions) for x in (self.q, self.k, self.v))
        padding = torch.zeros_like(positions, dtype=torch.bool) if padding is None else padding
        padding = padding[..., None, :, None]  # broadcasts over (B, H, T, D)
        k, v = k.masked_fill(padding, 50.0), v.masked_fill(padding, 50.0)
        got = fn(q, k, v, positions=positions, cache=cache, mask=mask)
        known = q, self.k[:, :, :filled], self.v[:, :, :filled]
        want = self.truth(known, positions, torch.arange(filled), mask)
        close(got.masked_fill(padding, 0), want.masked_fill(padding, 0), situation)


def check_attend(fn, *, bias=None, masks=True, caches=True, gradients=True, dtype=torch.float32):
    """AssertionError unless fn does what the contract asks of an attend, with MHA, GQA and MQA.

    bias: what fn adds to the logits, from how far keys lie behind, (T, S) or (B, 1, T, S); a window: -inf.
    masks, caches, gradients: False where fn has none (then test that it refuses).
    """
    for K in (4, 2, 1):
        rows, name = Rows(K, bias, dtype), f"4 query heads over {K}"
        rows.check(fn, f"{name}, T = S", torch.arange(12), gradients=gradients)
        rows.check(fn, f"{name}, one token", torch.arange(1), gradients=gradients)
        places = torch.arange(6) + torch.tensor([[0], [5]])  # (2, 6)
        rows.check(fn, f"{name}, rows at different places", places, gradients=gradients)
        if caches:
            _check_counting(fn, rows, name)
            _check_addressed(fn, rows, name)
        if masks:
            _check_masks(fn, rows, name, gradients)
        if masks and caches:
            cache, inside = Cache(), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
            rows.check_cached(fn, f"{name}, T = S in a cache", cache, torch.arange(5), 5)
            tree = torch.cat((torch.ones(3, 5, dtype=torch.bool), inside), 1)  # (3, 8)
            rows.check_cached(fn, f"{name}, mask with a cache", cache, torch.arange(5, 8), 8, mask=tree)


def _check_counting(fn, rows, name):
    cache = Cache()
    for start, end in ((0, 5), (5, 6), (6, 10), (10, 12)):
        chunk = torch.arange(start, end)
        rows.check_cached(fn, f"{name}, tokens {start}:{end} into a cache", cache, chunk, end)


def _check_addressed(fn, rows, name):
    """Row 0 has 3 tokens, row 1 has 6; then one each, then three each, then two that were there already."""
    cache = AddressedCache(2, rows.k.size(1), 16, 16, rows.k.dtype)
    padding = torch.tensor([[0, 0, 0, 1, 1, 1], [0] * 6]).bool()
    prefill = torch.arange(6).expand(2, -1)
    rows.check_cached(fn, f"{name}, ragged prefill", cache, prefill, 12, padding=padding)
    for positions in ([[3], [6]], [[4, 5, 6], [7, 8, 9]], [[5, 6], [8, 9]]):
        rows.check_cached(fn, f"{name}, ragged rows at {positions}", cache, torch.tensor(positions), 12)


def _check_masks(fn, rows, name, gradients):
    generator = torch.Generator().manual_seed(0)
    document = torch.tensor([0] * 5 + [1] * 7)
    packed = (document[:, None] == document) & torch.ones(12, 12, dtype=torch.bool).tril()
    restart = torch.cat((torch.arange(5), torch.arange(7)))
    rows.check(fn, f"{name}, packed documents", restart, packed, gradients)
    for shape in ((12, 12), (2, 1, 12, 12), (1, 4, 12, 12)):
        mask = (torch.rand(shape, generator=generator) < 0.5) | torch.eye(12, dtype=torch.bool)
        rows.check(fn, f"{name}, mask {shape}", torch.arange(12), mask, gradients)


def check_cache(make, *, lossy=0.0, gradients=False):
    """AssertionError unless make(B, K, D, size), a cache of one block, keeps the promises of its family.

    One with .length is a counting cache, one without is addressed. lossy: how far off what it keeps may be; 0
    means bit-equal. gradients: True where it is to be trained through.
    """
    draw = torch.Generator().manual_seed(0)
    k, v, other = (torch.randn(2, 2, 300, 16, generator=draw) for _ in range(3))
    counting = hasattr(make(2, 2, 16, 300), "length")
    (_check_appends if counting else _check_writes)(make, k, v, other, lossy)
    wrong = torch.zeros(2, 1, dtype=torch.long) if counting else torch.zeros(1, dtype=torch.long)
    try:
        make(2, 2, 16, 300).update(k[:, :, :1], v[:, :, :1], wrong)
    except (UserError, ValueError):
        pass  # as it should
    else:
        raise AssertionError(f"positions {tuple(wrong.shape)} of the other family were not refused")
    if gradients:
        _check_gradients(make, k, v)
    if not lossy:
        (_check_uniform_model if counting else _check_ragged_model)(make)


def _check_appends(make, k, v, other, lossy):
    for split in ([11], [5, 6], [1] * 11, [255, 1, 1, 43]):
        cache, end = make(2, 2, 16, 300), 0
        for n in split:
            start, end = end, end + n
            got = cache.update(k[:, :, start:end], v[:, :, start:end], torch.arange(start, end))
            assert cache.length == end, f"split {split}: length {cache.length} after {end} tokens"
            for name, mine, true in zip("kv", got, (k, v), strict=True):
                assert mine.size(2) == end, f"split {split}: {mine.size(2)} slots of {name}, {end} are filled"
                close(mine, true[:, :, :end], f"split {split}: {name}", rtol=0.0, atol=lossy)
    cache.length = 3
    got, _ = cache.update(other[:, :, :2], other[:, :, :2], torch.arange(3, 5))
    want = torch.cat((k[:, :, :3], other[:, :, :2]), 2)
    assert got.size(2) == 5, f"rewound to 3 and 2 appended: {got.size(2)} slots"
    close(got, want, "rewound to 3 and 2 appended", rtol=0.0, atol=lossy)


def _check_writes(make, k, v, other, lossy):
    """Prefill, decode, then a rollback that writes other tokens over some that were there."""
    cache, held, filled = make(2, 2, 16, 32), torch.zeros(2, 2, 32, 16), torch.zeros(2, 32, dtype=torch.bool)
    steps = ([range(6), range(6)], k), ([[3], [6]], other), ([[4, 5], [7, 8]], k), ([[2, 3], [8, 9]], other)
    for places, source in steps:
        positions = torch.tensor([list(row) for row in places])
        new = at(source, positions)
        got, _ = cache.update(new, new, positions)
        held = held.scatter(2, positions[:, None, :, None].expand_as(new), new)
        filled = filled.scatter(1, positions, True)
        assert got.size(2) > positions.max(), f"positions up to {positions.max()} in {got.size(2)} slots"
        known = filled[:, None, : got.size(2), None]
        mine, true = got[:, :, :32].masked_fill(~known, 0), held[:, :, : got.size(2)].masked_fill(~known, 0)
        close(mine, true, f"after writing at {positions.tolist()}", rtol=0.0, atol=lossy)


def _check_gradients(make, k, v):
    """Two chunks, each used after it was appended, as attention does: what flows back equals torch.cat's."""
    k, v = (x[:, :, :4].clone().requires_grad_() for x in (k, v))
    cache, used = make(2, 2, 16, 300), 0.0
    for start, end in ((0, 3), (3, 4)):
        keys, values = cache.update(k[:, :, start:end], v[:, :, start:end], torch.arange(start, end))
        used = used + (keys.square() * values).sum()
    true = sum((k[:, :, :end].square() * v[:, :, :end]).sum() for end in (3, 4))
    for mine, want in zip(torch.autograd.grad(used, (k, v)), torch.autograd.grad(true, (k, v)), strict=True):
        close(mine, want, "gradients through two chunks")


def _model_and_tokens():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT(tiny(head_dim=16)).eval(), torch.randint(97, (2, 12))


@torch.no_grad()
def _check_uniform_model(make):
    model, tokens = _model_and_tokens()
    for split in ((12,), (7, 1, 4), (1,) * 12):
        caches = [make(2, 2, 16, 64) for _ in model.blocks]
        got = torch.cat([model(chunk, caches=caches) for chunk in tokens.split(split, 1)], 1)
        close(got, model(tokens), f"logits, cached in chunks {split}")


@torch.no_grad()
def _check_ragged_model(make):
    """Rows of 4 and 9 tokens, the short one padded on the right, then three more each: as each row alone."""
    model, tokens = _model_and_tokens()
    caches, n = [make(2, 2, 16, 64) for _ in model.blocks], torch.tensor([[4], [9]])
    got = [model(tokens[:, :9], positions=torch.arange(9).expand(2, -1), caches=caches)]
    for i in range(3):
        got.append(model(tokens.gather(1, n + i), positions=n + i, caches=caches))
    for row, length in enumerate((4, 9)):
        mine = torch.cat((got[0][row, :length], *(y[row] for y in got[1:])))
        close(mine, model(tokens[row : row + 1, : length + 3])[0], f"logits of row {row}, beside another")
