"""Break: scales along the wrong axis or for too much, keys rounded before they are turned, stale scales, no
window; and what is refused."""

import torch

from common import plots
from common.errors import UserError
from common.model import rotate
from phase03_core_inference.project08_kv_cache.kv_cache import caches_for

from ._lab import kind
from ._see import WAYS, off, rounded, whole
from .bags import integer_scores
from .kv_quant import QuantizedCache
from .paged_quant import QuantizedStore
from .rows import Format, Rows, dequantize, key_rows, keys_of, pack, quantize


def told(lab, name, change) -> float:
    """Say how much perplexity changes, in per cent; that."""
    lab.say(f"  {name:44} perplexity {100 * change:+9.3f} %")
    return 100 * change


def tensor(lab) -> dict:
    """One scale for all of a layer's keys, and one for its values: the loud ones decide."""
    found = {}
    for bits in (8, 4, 2):
        for name, ways in (("right", (WAYS[2], WAYS[1])), ("one scale", (WAYS[0], WAYS[0])),
                           ("axes swapped", (WAYS[1], WAYS[2]))):  # fmt: skip
            make = lab.rounding(*(lambda x, *_, way=way, bits=bits: rounded(x, bits, way) for way in ways))
            found[f"{bits} bits, {name}"] = told(lab, f"{bits} bits, {name}", lab.change(make))
    return found


def rope(lab) -> dict:
    """Keys rounded as the weights give them, and turned when they are read; or rounded after the turn."""
    found, losses = {}, {"before": [], "after": []}

    def before(k, start, bits):
        cos, sin = lab.model.rope(start + torch.arange(k.size(2), device=lab.device))
        return rotate(rounded(rotate(k, (cos, -sin)), bits, WAYS[2]), (cos, sin))

    def after(k, start, bits):
        return rounded(k, bits, WAYS[2])

    for bits in (4, 2):
        for _, plain, k, _ in lab.seen:
            plain, k = whole(plain), whole(k)
            losses["before"].append(off(plain, rounded(plain, bits, WAYS[2])))
            losses["after"].append(off(k, rounded(k, bits, WAYS[2])))
        for name, fn in (("before", before), ("after", after)):
            change = lab.change(lab.rounding(lambda k, start, _, fn=fn, bits=bits: fn(k, start, bits)))
            found[f"{bits} bits, {name}"] = told(lab, f"{bits} bits, keys rounded {name} RoPE", change)
            found[f"{bits} bits, {name}, keys off"] = 100 * losses[name][-1]
    fig, ((ax,),) = plots.figure(width=7.5, height=4.0)
    layers = len(lab.seen)
    last = {f"{name} RoPE": values[layers:] for name, values in losses.items()}  # those of 2 bits
    plots.bars(ax, {f"layer {i}": {name: 100 * own[i] for name, own in last.items()} for i in range(layers)})
    ax.set(title="Keys rounded to 2 bits", ylabel="error, % of the keys")
    plots.legend(ax)
    lab.save(fig, "rope.png")
    return found


def with_scales_of(first, rows, bits):
    """Rows (…, n, D, G) in the scales of others, (…, 1, D, G): what is beyond their range is cut off."""
    first, top = quantize(first, bits), 2**bits - 1
    codes = ((rows - first.low.float()) / first.scale.float()).round().clamp(0, top).to(torch.uint8)
    scales = first.table[..., first.codes.size(-1) :].expand(*rows.shape[:-1], -1)
    return Rows(torch.cat((pack(codes, bits), scales), -1), bits)


def stale(lab) -> dict:
    """Scales of the first group for all that follow: quick to compute, and wrong where a text changes."""
    found = {}

    def rounding(name, bits):
        def on_keys(k, start, first):
            first, rows = key_rows(first, 32), key_rows(k, 32)
            own = name == "own scales"
            return keys_of(dequantize(quantize(rows, bits) if own else with_scales_of(first, rows, bits)))

        return lab.rounding(on_keys)

    for bits in (8, 4):
        for name in ("own scales", "scales of the first"):
            make = rounding(name, bits)
            found[f"{bits} bits, {name}"] = told(lab, f"{bits} bits, keys in {name}", lab.change(make))
    return found


def window(lab) -> dict:
    """2 bits with and without the newest as they came. The newest are looked at most."""
    found = {}
    for size in (1, 16, 64, 128):
        change = lab.change(lab.quantised(Format(2, lab.two_bits, size)))
        found[f"window {size}"] = told(lab, f"2 bits, a window of {size}", change)
    return found


def edges(lab) -> dict:
    """What cannot be is refused, each in one line."""
    model, one = lab.model, torch.zeros(1, 1, 4, 64)
    cache = QuantizedCache(1, 1, 64, 8)
    cases = {
        "3 bits": lambda: Format(3),
        "a group of 30": lambda: Format(8, 30),
        "a window of 0": lambda: Format(8, 64, 0),
        "a window of -4": lambda: Format(8, 64, -4),
        "a group that does not divide": lambda: caches_for(model, kind(Format(8, 12)), 1, 8),
        "pages without whole groups": lambda: QuantizedStore(model, 4, 16, form=Format(8, 64)),
        "rows at different places": lambda: cache.update(one, one, torch.zeros(1, 4, dtype=torch.long)),
        "a cache that is full": lambda: cache.update(*2 * [one.repeat(1, 1, 3, 1)], torch.arange(12)),
        "rewound into the future": lambda: setattr(cache, "length", 2),
    }
    refused = 0
    for name, call in cases.items():
        try:
            call()
        except UserError as error:
            refused += 1
            lab.say(f"  {name:30} {error}")
        else:
            lab.say(f"  {name:30} WAS NOT REFUSED")
    return {"refused": float(refused), "asked": float(len(cases))}


def integers(lab) -> dict:
    """Products in whole numbers: the query is rounded as well. What does that add to the error?"""
    found = {}
    for q, _, k, _ in lab.seen:
        q, k, K = whole(q, 64)[:, :, -1:], whole(k, 64), k.size(1)
        x = q.squeeze(2).unflatten(1, (K, -1)).float()  # (1, K, g, D)
        keys, right = quantize(key_rows(k, 64), 8), x @ k.transpose(-2, -1).float()
        rounded_keys = x @ keys_of(dequantize(keys)).transpose(-2, -1)
        found.setdefault("keys in 8 bits", []).append(100 * off(right, rounded_keys))
        whole_numbers = integer_scores(x, keys, keys.table.size(2))
        found.setdefault("and the query too", []).append(100 * off(right, whole_numbers))
    for name, errors in found.items():
        lab.say(f"  {name:20} scores off by {sum(errors) / len(errors):.3f} %")
    return {name: sum(errors) / len(errors) for name, errors in found.items()}
