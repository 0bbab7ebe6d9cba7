"""Project 13's pages with codes in them: a page is closed when it is full and lies behind the window.

Came before: `PagedStore`, whose pages hold floats from the first token to the last. New here: a page that is
being written lies among the *open* ones, as floats; closed, it becomes codes, with its scales, in its own
place of the pool. Scales belong to the page, so whoever shares it shares them, and a copy has them too. That
is why a page must hold whole groups of tokens.

    pool of codes     [0] [1] [2] [3] [4] ...      scales beside each
    open pages            [1]     [3]              floats; as many as are being written, and a window's worth

Seams: project 12's Store, by way of project 13's BlockManager, whose tables, counts, forks and prefix index
work as they do; and the contract (an addressed cache, made anew each forward). Kwon et al. 2023, 2309.06180.
"""

import torch

from common.errors import demand
from common.exercise import exercise
from phase04_advanced_inference.project13_paged_attention.block_manager import BlockManager
from phase04_advanced_inference.project13_paged_attention.paged_attention import View

from .rows import INT8, Rows, dequantize, key_rows, keys_of, quantize, room, value_rows


class Layer:
    """The memory of one block of the model. keys, values: tables of Rows, (pages, K, size / G, D, …) and
    (pages, K, size, D / g, …). k, v (open pages, K, size, D): floats."""

    def __init__(self, blocks, size, K, D, form, like):
        self.form, self.g = form, form.channels(D)
        self.keys = room((blocks, K, size // form.group, D, form.group), form.bits, like).table
        self.values = room((blocks, K, size, D // self.g, self.g), form.bits, like).table
        self.k, self.v = (like.new_zeros(0, K, size, D) for _ in "kv")

    @property
    def nbytes(self):
        """Pages of codes, and the open ones."""
        return sum(x.nbytes for x in (self.keys, self.values, self.k, self.v))

    def closed(self, pages):
        """Pages as floats, from their codes: keys and values (…, K, size, D). pages: numbers, (…)."""
        keys, values = (dequantize(Rows(x[pages], self.form.bits), self.k.dtype) for x in self.codes)
        return keys_of(keys), values.flatten(-2)

    def close(self, page, place):
        """Codes of an open page into the pool."""
        self.keys[page] = quantize(key_rows(self.k[place], self.form.group), self.form.bits).table
        self.values[page] = quantize(value_rows(self.v[place], self.g), self.form.bits).table

    @property
    def codes(self):
        """Both tables."""
        return self.keys, self.values

    def floats(self, page, place):
        """One page, keys and values (K, size, D): as it is among the open ones, or from its codes (None)."""
        return self.closed(page) if place is None else (self.k[place], self.v[place])

    def grow(self, pages):
        """Room for so many more open pages."""
        self.k, self.v = (torch.cat((x, x.new_zeros(pages, *x.shape[1:]))) for x in (self.k, self.v))


class QuantizedPages:
    """One block's keys and values for one forward. places (blocks,): where a page is open, or -1."""

    def __init__(self, layer, view, places):
        self.layer, self.view, self.places = layer, view, places

    def update(self, k, v, positions):
        """Write k and v (B, K, T, D) at positions (B, T) into open pages; return all tokens of the rows as
        floats, (B, K, S, D). UserError for positions other than the view's."""
        layer, view = self.layer, self.view
        demand(positions.shape == (k.size(0), k.size(2)), f"pages take positions ({k.size(0)}, {k.size(2)}), "
               f"not {tuple(positions.shape)}")  # fmt: skip
        demand(torch.equal(positions, view.positions), "the view was made for other positions than these")
        places = self.places[view.tables]  # (B, pages)
        at, inside = places.gather(1, positions // view.size), positions % view.size  # (B, T)
        layer.k[at, :, inside], layer.v[at, :, inside] = k.transpose(1, 2), v.transpose(1, 2)
        is_open = (places >= 0)[..., None, None, None]  # (B, pages, 1, 1, 1)
        found = []
        for codes, floats in zip(layer.closed(view.tables), (layer.k, layer.v), strict=True):
            pages = torch.where(is_open, floats[places.clamp(min=0)], codes)  # (B, pages, K, size, D)
            found.append(pages.transpose(1, 2).flatten(2, 3)[:, :, : int(positions.max()) + 1])
        return tuple(found)


class QuantizedStore(BlockManager):
    """Project 12's Store: `blocks` pages of `size` tokens, in codes where they are closed.

    floating: {page: its place among the open ones}. coded: pages whose codes are valid. UserError where a
    page does not hold whole groups.
    """

    def __init__(self, model, blocks, size=64, *, form=INT8, away=0):
        super().__init__(blocks, size, away=away)
        demand(size % form.group == 0, f"pages of {size} tokens do not hold whole groups of {form.group}: a "
               "page needs scales of its own, as it may be shared")  # fmt: skip
        self.form, self.floating, self.coded, self.spare, self.saved = form, {}, set(), [], {}
        self.layers = []
        for block in model.blocks:
            weight, D = block.attn.wk.weight, block.attn.head_dim
            self.layers.append(Layer(blocks, size, len(weight) // D, D, form, weight.new_empty(0)))

    @property
    def nbytes(self):
        """All memory that it takes, open pages too."""
        return sum(layer.nbytes for layer in self.layers)

    # ---- pages open and close ----

    def unlock(self, page):
        """See that a page is open; if it was closed, with what its codes say, else with zeros."""
        if page in self.floating:
            return
        if not self.spare:
            first = len(self.layers[0].k)
            self.spare = list(range(first, first + 4))
            for layer in self.layers:
                layer.grow(4)
        place = self.floating[page] = self.spare.pop()
        for layer in self.layers:
            layer.k[place], layer.v[place] = layer.closed(page) if page in self.coded else (0, 0)
        self.coded.discard(page)

    @exercise
    def settle(self, id, n):
        """Close the open pages of a sequence whose tokens all lie among its first n: codes, and the place is
        spare."""
        for page in self.tables[id][: n // self.size]:
            if page in self.floating:
                place = self.floating.pop(page)
                for layer in self.layers:
                    layer.close(page, place)
                self.spare.append(place)
                self.coded.add(page)

    def caches(self, step):
        """Project 12's: one addressed cache for each block of the model."""
        for id, start in zip(step.ids, step.positions.amin(1).tolist(), strict=True):
            self.settle(id, max(0, start - self.form.window))
            for page in self.tables[id][start // self.size : -(-self.held[id] // self.size)]:
                self.unlock(page)
        view = View([self.tables[id] for id in step.ids], self.size, step.positions)
        places = torch.full((len(self.refs),), -1)
        places[list(self.floating)] = torch.tensor(list(self.floating.values()))
        places = places.to(step.positions.device)
        return [QuantizedPages(layer, view, places) for layer in self.layers]

    def held_by(self, layer, page):
        """What a layer has of a page, as views: floats if it is open, else codes."""
        place = self.floating.get(page)
        return [x[page] for x in layer.codes] if place is None else [layer.k[place], layer.v[place]]

    # ---- what BlockManager asks of a store with real memory ----

    def drop(self, blocks):
        super().drop(blocks)
        for page in blocks:
            if self.refs[page] == 0:
                self.coded.discard(page)
                if page in self.floating:
                    self.spare.append(self.floating.pop(page))

    def close(self, id):
        """What the prefix index keeps of it must not stay open."""
        self.settle(id, self.held[id])
        super().close(id)

    def copy(self, source, target):
        self.unlock(target)
        for layer in self.layers:
            at = self.floating[target]
            layer.k[at], layer.v[at] = layer.floats(source, self.floating.get(source))

    def save(self, id, blocks):
        """Of each page whether it is open, and copies: floats of open ones, codes of closed ones."""
        self.saved[id] = [(page in self.floating, [[x.to("cpu", copy=True) for x in self.held_by(layer, page)]
                                               for layer in self.layers]) for page in blocks]  # fmt: skip

    def load(self, id, blocks):
        for page, (is_open, layers) in zip(blocks, self.saved.pop(id), strict=True):
            if is_open:
                self.unlock(page)
            else:
                self.coded.add(page)
            for layer, saved in zip(self.layers, layers, strict=True):
                for x, mine in zip(self.held_by(layer, page), saved, strict=True):
                    x.copy_(mine)

    def lose(self, id):
        del self.saved[id]
