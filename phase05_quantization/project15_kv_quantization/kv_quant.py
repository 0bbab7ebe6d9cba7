"""A cache whose past takes 8, 4 or 2 bits a number, and an attention that reads it as it is.

Came before: `KVCache` of project 8, in which every number is as wide as in the computation. New here: tokens
are kept as they came until `group` of them lie behind the window; then they become codes (`rows.py`).

    | group 0 | group 1 | ... | group n - 1 |  window, and at most group - 1 tokens more  |
      codes, a scale for each row               as they came

The naive way to use it makes floats of everything first (`update`, `with_floats`). It reads 1 byte and writes
4, so it is slower than no quantisation. The fast way reads the codes and never writes a float (`bags.py`).

Seams: the contract (a counting cache), and `attend`. Liu et al. 2024, 2402.02750 (KIVI); Hooper et al. 2024,
2401.18079 (KVQuant).
"""

import torch

from common.errors import demand
from common.exercise import exercise
from common.model import attend as attend_to_all

from .bags import scores, sums
from .rows import INT8, Rows, dequantize, key_rows, keys_of, quantize, room, value_rows


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
        return sum(x.nbytes for x in (self.keys.table, self.values.table, self.k, self.v))

    @property
    def rounded(self):
        """How many tokens are codes; those from there on are as they came."""
        return self.closed * self.form.group

    @property
    def past(self):
        """What is filled: keys and values as Rows, and k and v (B, K, w, D) of the tokens behind."""
        held = self._length - self.rounded
        keys = Rows(self.keys.table[:, :, : self.closed], self.form.bits)
        values = Rows(self.values.table[:, :, : self.rounded], self.form.bits)
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
            keys, values, _, _ = self.past
            self.closed, left = divmod(n, self.form.group)
            k = keys_of(dequantize(Rows(keys.table[:, :, self.closed :][:, :, :1], keys.bits)))
            v = dequantize(Rows(values.table[:, :, n - left : n], values.bits)).flatten(-2)
            self.k[:, :, :left], self.v[:, :, :left] = k[:, :, :left], v
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
        """Make codes of all whole groups that lie before the last `window` tokens; others stay as they are.

        Afterwards `closed` counts them, and k and v hold, from their beginning on, only what is no code: at
        least `window` and fewer than window + group tokens, if there are so many; in `capacity` places.
        """
        G, held = self.form.group, self._length - self.rounded
        n = max(0, held - self.form.window) // G
        if n:
            k, v = key_rows(self.k[:, :, : n * G], G), value_rows(self.v[:, :, : n * G], self.g)
            self.keys.table[:, :, self.closed : self.closed + n] = quantize(k, self.form.bits).table
            self.values.table[:, :, self.rounded : self.rounded + n * G] = quantize(v, self.form.bits).table
            self.closed += n
            self.k, self.v = (moved(x[:, :, n * G : held], self.capacity) for x in (self.k, self.v))

    def update(self, k, v, positions):
        """Append (B, K, T, D); return all there is as floats, (B, K, S, D). What this brings is exact for
        now: if it becomes codes, then afterwards."""
        self.check(k, positions)
        self.put(k, v)
        everything = floats(*self.past)
        self.settle()
        return everything


def moved(x, capacity):
    """x (B, K, T, D) at the beginning of a tensor of its own with `capacity` places."""
    new = x.new_empty(*x.shape[:2], capacity, x.size(3))
    new[:, :, : x.size(2)] = x
    return new


# ---- the naive way: floats first ----


def floats(keys, values, k, v):
    """All keys and values (B, K, S, D), those behind the codes included."""
    keys, values = keys_of(dequantize(keys, k.dtype)), dequantize(values, v.dtype).flatten(-2)
    return torch.cat((keys, k), 2), torch.cat((values, v), 2)


def with_floats(q, *past):
    """One query a row, q (B, H, 1, D), over a cache's past: (B, H, 1, D). As sums: a compiler joins them with
    the making of the floats, which then never reach memory. Not compiled, they do."""
    k, v = (x.unsqueeze(2) for x in floats(*past))  # (B, K, 1, S, D)
    q = q.unflatten(1, (k.size(1), -1))  # (B, K, g, 1, D)
    p = ((q * k).sum(-1) * q.size(-1) ** -0.5).softmax(-1)  # (B, K, g, S)
    return (p.unsqueeze(-1) * v).sum(-2).flatten(1, 2).unsqueeze(2)


# ---- the fast way: codes as they lie in memory ----


@exercise
def read(q, cache, product=scores):
    """One query a row, q (B, H, 1, D), over a QuantizedCache with at least one closed group: (B, H, 1, D).

    `product` for codes, a matrix product for what is none, one softmax over both; then `sums`, likewise.
    """
    _, _, k, v = cache.past
    x = (q.squeeze(2) * q.size(3) ** -0.5).unflatten(1, (k.size(1), -1))  # (B, K, g, D)
    p = torch.cat((product(x, cache.keys, cache.closed), x @ k.transpose(-2, -1)), -1).softmax(-1)
    y = sums(p[..., : cache.rounded], cache.values) + p[..., cache.rounded :] @ v  # (B, K, g, D)
    return y.flatten(1, 2).unsqueeze(2)


def reading(step, takes=lambda q: True):
    """An attend for the seam: single queries read a QuantizedCache by step(q, cache) where takes(q), without
    gradients; all else goes through `update`."""

    def attend(q, k, v, *, positions, cache=None, mask=None):
        codes = isinstance(cache, QuantizedCache) and cache.closed and mask is None and q.size(2) == 1
        if not codes or q.requires_grad or not takes(q):
            return attend_to_all(q, k, v, positions=positions, cache=cache, mask=mask)
        cache.check(k, positions)
        cache.put(k, v)
        y = step(q, cache)
        cache.settle()
        return y

    return attend


def on_cpu(q):
    """What torch multiplies with rows of codes."""
    return q.device.type == "cpu" and q.dtype == torch.float32


attend = reading(read, on_cpu)


def compiled(backend="inductor"):
    """An attend that compiles `with_floats`: for GPUs, where torch has no bags of codes. The first steps take
    a minute."""
    step = torch.compile(with_floats, dynamic=True, fullgraph=True, backend=backend)
    return reading(lambda q, cache: step(q, *cache.past))
