"""A cache whose past takes 8, 4 or 2 bits a number, and an attention that reads it as it is.

Came before: `KVCache` of project 8, in which every number is as wide as in the computation. New here: tokens
are kept as they came until `group` of them lie behind the window; then they become codes (`rows.py`).

    | group 0 | group 1 | ... | group n - 1 |  window, and at most group - 1 tokens more  |
      codes, a scale for each row               as they came

The naive way to use it makes floats of everything first (`update`, which keeps the contract of any cache).
It reads 1 byte and writes 4, so it is slower than no quantisation. The fast way never writes those floats:
scales are put on the few numbers of the query, and codes are multiplied as they come from memory (`read`).

Seams: the contract (a counting cache), and `attend`. Liu et al. 2024, 2402.02750 (KIVI); Hooper et al. 2024,
2401.18079 (KVQuant); Dao et al. 2022, 2205.14135 (a product that never exists in memory).
"""

import functools

import torch

from common.errors import demand
from common.exercise import exercise
from common.model import attend as attend_to_all

from .rows import INT8, dequantize, key_rows, keys_of, quantize, room, span, unpack, value_rows


class QuantizedCache:
    """Keys and values of one block, for B rows of at most `size` tokens, all equally long.

    keys, values: Rows (B, K, groups, D, G) and (B, K, tokens, D / g, g), of which `closed` groups are filled.
    k, v (B, K, window + G, D): the tokens behind those, as they came. `like`: a tensor whose dtype and device
    they take. UserError where the form's groups do not divide D.
    """

    def __init__(self, B, K, D, size, like=None, form=INT8):
        like, self.g = torch.empty(0) if like is None else like, form.channels(D)
        groups = max(0, size - form.window) // form.group
        self.form, self.size, self.closed, self._length = form, size, 0, 0
        self.keys = room((B, K, groups, D, form.group), form.bits, like)
        self.values = room((B, K, groups * form.group, D // self.g, self.g), form.bits, like)
        self.k, self.v = (like.new_empty(B, K, self.capacity, D) for _ in "kv")

    @property
    def capacity(self):
        """Places for tokens as they came."""
        return min(self.size, self.form.window + self.form.group)

    @property
    def nbytes(self):
        """All that it takes in memory."""
        return self.keys.nbytes + self.values.nbytes + self.k.nbytes + self.v.nbytes

    @property
    def rounded(self):
        """How many tokens are codes; those from there on are as they came."""
        return self.closed * self.form.group

    @property
    def past(self):
        """What is filled: keys and values as Rows, and k and v (B, K, w, D) of the tokens behind."""
        held = self._length - self.rounded
        keys, values = self.keys.part(span(0, self.closed)), self.values.part(span(0, self.rounded))
        return keys, values, self.k[:, :, :held], self.v[:, :, :held]

    @property
    def length(self):
        """How many tokens it holds. To rewind, set it. Of a group cut in two, the first part is floats again,
        as its codes say."""
        return self._length

    @length.setter
    def length(self, n):
        demand(0 <= n <= self._length, f"a cache of {self._length} tokens can only go back, not to {n}")
        if n < self.rounded:
            self.closed, left = divmod(n, self.form.group)
            torn = self.keys.part(span(self.closed, self.closed + 1)), self.values.part(span(n - left, n))
            self.k[:, :, :left] = keys_of(dequantize(torn[0], self.k.dtype))[:, :, :left]
            self.v[:, :, :left] = dequantize(torn[1], self.v.dtype).flatten(-2)
        self._length = n

    def check(self, k, positions):
        """UserError unless k (B, K, T, D) fits behind what is held, and positions (T,) say so too."""
        T = k.size(2)
        demand(positions.shape == (T,), f"a counting cache takes positions ({T},), not "
               f"{tuple(positions.shape)}; rows at different places need a QuantizedStore")  # fmt: skip
        demand(k.shape[:2] == self.k.shape[:2] and k.size(3) == self.k.size(3),
               f"keys {tuple(k.shape)} into a cache of {tuple(self.k.shape)}: other rows, heads")  # fmt: skip
        demand(self._length + T <= self.size, f"{T} tokens behind {self._length} do not fit into "
               f"{self.size}: make the cache as long as prompt and answer together")  # fmt: skip
        if T and positions.device.type == "cpu":  # elsewhere the question would make the host wait
            demand(positions[0] == self._length, f"positions from {int(positions[0])} on, but the cache "
                   f"stands at {self._length}")  # fmt: skip

    def put(self, k, v):
        """Take in k and v (B, K, T, D) as they come; `settle` makes codes of what has become old."""
        held, T = self._length - self.rounded, k.size(2)
        if held + T > self.k.size(2):
            self.k, self.v = torch.cat((self.k[:, :, :held], k), 2), torch.cat((self.v[:, :, :held], v), 2)
        else:
            self.k[:, :, held : held + T], self.v[:, :, held : held + T] = k, v
        self._length += T

    @exercise
    def settle(self):
        """Make codes of all whole groups that lie before the last `window` tokens; the others stay as they
        are.

        Afterwards `closed` counts them, and k and v hold, from their beginning on, only what is no code: at
        least `window` and fewer than window + group tokens, if there are so many; in `capacity` places.
        """
        G, held = self.form.group, self._length - self.rounded
        n = max(0, held - self.form.window) // G
        if n:
            k, v = key_rows(self.k[:, :, : n * G], G), value_rows(self.v[:, :, : n * G], self.g)
            self.keys.put(span(self.closed, self.closed + n), quantize(k, self.form.bits))
            self.values.put(span(self.rounded, self.rounded + n * G), quantize(v, self.form.bits))
            self.closed += n
            self.k, self.v = (moved(x[:, :, n * G : held], self.capacity) for x in (self.k, self.v))

    def update(self, k, v, positions):
        """Append (B, K, T, D); return all there is as floats, (B, K, S, D). What this brings is exact for
        now: if it becomes codes, then afterwards."""
        self.check(k, positions)
        self.put(k, v)
        keys, values, k, v = self.past
        keys, values = keys_of(dequantize(keys, k.dtype)), dequantize(values, v.dtype).flatten(-2)
        self.settle()
        return torch.cat((keys, k), 2), torch.cat((values, v), 2)


def moved(x, capacity):
    """x (B, K, T, D) at the beginning of a tensor of its own with `capacity` places."""
    new = x.new_empty(*x.shape[:2], capacity, x.size(3))
    new[:, :, : x.size(2)] = x
    return new


# ---- attention that reads codes ----


def mix(weights, rows):
    """Weighted sums of rows: weights (..., g, N), rows (..., N, W) -> (..., g, W).

    Compiled, it is a loop over rows that a compiler joins with whatever makes a float of a code: the float
    rows never exist in memory. Not compiled, that product would be written out: then a matrix product it is.
    """
    if torch.compiler.is_compiling():
        return (weights.unsqueeze(-1) * rows.unsqueeze(-3)).sum(-2)
    return weights @ rows


@exercise
def scores(q, keys):
    """q (B, K, g, D), keys Rows (B, K, n, D, G) -> (B, K, g, n * G): q · k for every token, with k as
    `dequantize` has it, but without that.

    The scale of a channel is put on the query: D numbers for a group, instead of D * G. The lows of a group
    add one number to all its tokens.
    """
    own = q.unsqueeze(2) * keys.scale.to(q.dtype).transpose(-2, -1)  # (B, K, n, g, D)
    found = mix(own, unpack(keys).to(q.dtype))  # (B, K, n, g, G)
    if keys.low is not None:
        found = found + q.unsqueeze(2) @ keys.low.to(q.dtype)  # (B, K, n, g, 1)
    return found.transpose(2, 3).flatten(-2)


@exercise
def integer_scores(q, keys):
    """As `scores`, for 8 bits, but multiplied in whole numbers: the query becomes int8 as well. UserError:
    other bits.

    With a group's scales on it, q has for each group a unit of its own, largest absolute value / 127, and is
    rounded to whole numbers of it. The sum over D is exact in int32; the unit multiplies what comes out.
    """
    demand(keys.bits == 8, f"whole numbers are multiplied where keys have 8 bits, not {keys.bits}")
    own = q.unsqueeze(2) * keys.scale.to(q.dtype).transpose(-2, -1)  # (B, K, n, g, D)
    unit = own.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny) / 127  # (B, K, n, g, 1)
    whole = (own / unit).round().int()
    found = mix(whole, unpack(keys).int()) * unit  # (B, K, n, g, G)
    return found.transpose(2, 3).flatten(-2)


def sums(p, values):
    """p (B, K, g, S), values Rows (B, K, S, C, W) -> (B, K, g, C * W): the sum of p · v over tokens."""
    p, scale = p.unsqueeze(2), values.scale.squeeze(-1).to(p.dtype).transpose(2, 3).unsqueeze(3)
    found = mix(p * scale, unpack(values).to(p.dtype).transpose(2, 3))  # (B, K, C, g, W)
    if values.low is not None:
        found = found + p @ values.low.to(p.dtype).transpose(2, 3)  # (B, K, C, g, 1)
    return found.transpose(2, 3).flatten(-2)


@exercise
def read(q, keys, values, k, v, product=scores):
    """One query a row, q (B, H, 1, D), over codes and over k and v (B, K, w, D) behind them: (B, H, 1, D).

    One softmax over both. product: `scores` or `integer_scores`. Worked out in float32 at least.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    x = (q.squeeze(2).to(wide) * q.size(3) ** -0.5).unflatten(1, (k.size(1), -1))  # (B, K, g, D)
    old, new = product(x, keys), x @ k.to(wide).transpose(-2, -1)  # (B, K, g, S), (B, K, g, w)
    p = torch.cat((old, new), -1).softmax(-1)
    y = sums(p[..., : old.size(-1)], values) + p[..., old.size(-1) :] @ v.to(wide)
    return y.flatten(1, 2).unsqueeze(2).to(q.dtype)


def reading(step=read):
    """An attend for the seam: single queries read a QuantizedCache by `step`, all else through `update`."""

    def attend(q, k, v, *, positions, cache=None, mask=None):
        if not isinstance(cache, QuantizedCache) or mask is not None or q.size(2) > 1 or not cache.closed:
            return attend_to_all(q, k, v, positions=positions, cache=cache, mask=mask)
        cache.check(k, positions)
        cache.put(k, v)
        y = step(q, *cache.past)
        cache.settle()
        return y

    return attend


attend = reading()


def compiled(product=scores, backend="inductor"):
    """The same, compiled: codes become floats between memory and multiplication. The first steps take half a
    minute, and a C++ compiler on a CPU."""
    return reading(torch.compile(functools.partial(read, product=product), dynamic=True, fullgraph=True,
                                 backend=backend))  # fmt: skip
