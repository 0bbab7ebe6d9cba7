"""Fewer keys and values: what a step costs by the number of groups, and what the conversion costs in loss."""

import copy

import torch

from common import plots
from common.model import GPT, ModelConfig, set_attend

from ._lab import batches, fit, loss
from .gqa import cache_bytes, first_of, folded, pool_heads, regroup
from .kv_cache import KVCache, caches_for

HEADS, CONTEXT = 8, 64  # of the model that is trained and converted
ROWS = 16  # of the batch that is timed


def divisors(n):
    """1, …, n, of the numbers that divide n."""
    return [d for d in range(1, n + 1) if n % d == 0]


@torch.no_grad()
def step_seconds(lab, groups, rows, length) -> float:
    """The time of one decode step of `rows` texts of `length` tokens, in a model with so many groups."""
    model = set_attend(lab.build(groups), folded)
    caches = caches_for(model, KVCache, rows, length)
    for cache in caches:  # what is held does not change the time
        cache.k.zero_(), cache.v.zero_()
        cache._length = length - 1
    tokens = torch.zeros(rows, 1, dtype=torch.long, device=lab.device)

    def step():
        for cache in caches:
            cache.length = length - 1
        return model(tokens, caches=caches)

    return lab.seconds(step, 9)


def trained(lab) -> tuple[GPT, torch.Tensor, torch.Tensor]:
    """(a small model with a key and value head for each of its eight queries, ids to train on, held out)."""
    torch.manual_seed(0)
    cut = len(lab.pages) * 9 // 10
    model = GPT(ModelConfig(vocab_size=lab.model.config.vocab_size, n_layer=2, n_head=HEADS, n_kv_head=HEADS,
                            d_model=128, d_ff=256, max_seq_len=CONTEXT, tie_embeddings=True))  # fmt: skip
    ids, steps = lab.pages[:cut], lab.config.steps
    return fit(model.to(lab.device), batches(ids, CONTEXT), steps, 3e-3), ids, lab.pages[cut:]


def conversions(lab, model, ids, held_out, seed=0) -> dict[str, float]:
    """Nats a token: of the model, of its conversions at once, and after a tenth of the steps more."""
    steps, found = max(1, lab.config.steps // 10), {"all heads": loss(model, held_out, CONTEXT)}
    more = batches(ids, CONTEXT, seed=1 + seed)
    again = fit(copy.deepcopy(model), more, steps, 2e-3)
    found["all heads, trained on"] = loss(again, held_out, CONTEXT)
    for groups in divisors(HEADS)[:-1]:
        for name, pool in (("mean", pool_heads), ("first", first_of)):
            converted = regroup(copy.deepcopy(model), groups, pool)
            found[f"{groups} by {name}"] = loss(converted, held_out, CONTEXT)
            converted = fit(converted, more, steps, 2e-3)
            found[f"{groups} by {name}, re-trained"] = loss(converted, held_out, CONTEXT)
    return found


def groups(lab) -> dict:
    """Latency and memory against the number of key and value heads, and loss before and after re-training."""
    counts, length = divisors(lab.config.n_head), lab.config.context - 1
    rows = min(ROWS, max(1, lab.config.context // 16))
    times = {g: step_seconds(lab, g, rows, length) for g in counts}
    size = lab.timed.config.n_kv_head
    memory = {g: cache_bytes(lab.timed.config, length * rows) * g / size for g in counts}
    for g in counts:
        lab.say(f"  {g:2} groups: {1e3 * times[g]:7.2f} ms a step of {rows} rows at {length} tokens, "
                f"{rows / times[g]:7.1f} tokens/s, cache {memory[g] / 1e6:7.1f} MB")  # fmt: skip
    losses = conversions(lab, *trained(lab))
    for name, value in losses.items():
        lab.say(f"  {name:24} {value:.3f} nats a token")
    fig, ((left, right),) = plots.figure(1, 2, width=11.0, height=4.4)
    left.plot(counts, [times[g] / times[counts[-1]] for g in counts], "o-", label="time of a step")
    left.plot(counts, [memory[g] / memory[counts[-1]] for g in counts], "s:", label="memory of the cache")
    left.set(title=f"{rows} rows of {length} tokens", xlabel="key and value heads", xscale="log")
    left.set(ylabel="share of what all heads take")
    left.set_xticks(counts, counts)
    left.set_ylim(bottom=0)
    places = divisors(HEADS)[:-1]
    for name, style in (("mean", "o"), ("first", "s")):
        for end, line in ((" at once", ":"), (", re-trained", "-")):
            key = f" by {name}" + ("" if end == " at once" else end)
            right.plot(places, [losses[f"{g}{key}"] for g in places], style + line, label=name + end)
    plots.level(right, losses["all heads, trained on"], "8 heads, trained as long")
    right.set(title="Conversion of a trained model", xlabel="key and value heads", xscale="log")
    right.set(ylabel="nats a token, held out")
    right.set_xticks(places, places)
    left.minorticks_off()
    right.minorticks_off()
    plots.legend(left)
    plots.legend(right)
    lab.save(fig, "groups.png")
    return {**losses, **{f"ms, {g} groups": 1e3 * times[g] for g in counts}}
