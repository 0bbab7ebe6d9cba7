"""Break: keys that nobody made, thresholds that somebody picked, ways out that never learned."""

import copy

import torch

from common import plots
from common.model import Cache

from ._model import read_on
from .exits import MEASURES, Look, Rule, restore
from .kv_fill import Lagging
from .train import rules_of

# ---- what a block finds of tokens that left below it ----


class Holes(Lagging):
    """Nothing: their places are left out."""

    def __init__(self, model, B, size):
        super().__init__(model, B, size)
        self.caches = [Cache() for _ in model.blocks]  # project 8's would notice

    def catch_up(self, i):
        """Nobody made any keys."""


class Zeros(Lagging):
    """Keys and values of zeros, as a cache holds them that was made for all and never written."""

    def catch_up(self, i):
        cache, lacks = self.caches[i], self.length - self.caches[i].length
        if lacks:
            k = cache.k.new_zeros(*cache.k.shape[:2], lacks, cache.k.size(3))
            cache.update(k, k, torch.arange(cache.length, self.length, device=k.device))


class Recomputed(Lagging):
    """Their true keys: who left climbs after all, later, many at a time. Exact, and no longer for nothing."""

    def catch_up(self, i):
        cache, first = self.caches[i], self.caches[i].length
        if first < self.length:
            places = torch.arange(first, self.length, device=self.states.device)
            x = self.states[:, first : self.length]
            where = {"rope": self.model.rope(places), "positions": places, "cache": cache}
            self.states[:, first : self.length] = self.model.blocks[i](x, **where)


class Some(Rule):
    """Whoever the dice let go, the same tokens for every way to fill, at the first way out."""

    def __init__(self, share):
        self.share, self.dice = share, torch.Generator()

    def start(self):
        self.dice.manual_seed(0)
        return self

    def begin(self):
        self.goes = torch.rand((), generator=self.dice).item() < self.share

    def __call__(self, look):
        return torch.full(look.x.shape[:-1], self.goes, device=look.x.device)


def fill(lab):
    """A page read token by token, while some tokens leave: what the others are told of them."""
    kinds = {"copied": Lagging, "nothing": Holes, "zeros": Zeros, "recomputed": Recomputed}
    pages, T = lab.pages(lab.config.prompts, lab.config.page), lab.config.page // 4
    full = [read_on(Lagging(lab.model, 1, len(ids)), ids, T, Rule()) for ids in pages]
    found = {"to the top": sum(nats for nats, _, _ in full) / len(full)}
    stay = {}
    for name, kind in kinds.items():
        seen, stayed = [], []
        for ids in pages:
            rule = Some(lab.config.leaving).start()
            caches = kind(lab.model, 1, len(ids))
            nats, left = climbers(lab, caches, ids, T, rule)
            seen.append(nats)
            stayed.append(len(left))
        stay[name] = sum(seen) / len(seen)
        lab.say(f"  {name:11} {stay[name]:.4f} nats a token that climbed to the top, of {sum(stayed)}")
    some = [climbers(lab, Lagging(lab.model, 1, len(ids)), ids, T, Some(lab.config.leaving).start(),
                     Rule())[0] for ids in pages]  # fmt: skip
    stay["nobody left"] = sum(some) / len(some)
    lab.say(f"  nobody left {stay['nobody left']:.4f} nats for the same tokens")
    fig, ((ax,),) = plots.figure(width=8.0, height=3.6)
    colours = [plots.COLOURS[i] for i in (0, 1, 1, 2, 6)]
    drawn = ax.barh([-i for i in range(len(stay))], list(stay.values()), color=colours, height=0.6)
    ax.bar_label(drawn, [f"{value:.3f}" for value in stay.values()], padding=4, fontsize=11, color=plots.INK)
    ax.set_yticks([-i for i in range(len(stay))], list(stay))
    ax.grid(False, axis="y")
    ax.set(xlabel="nats a token, of those that climbed to the top", xlim=(0, 1.15 * max(stay.values())))
    lab.save(fig, "fill.png")
    return found | stay


def climbers(lab, caches, ids, T, some, rule=None):
    """(nats a token of those that do not leave by `some`, which they are); rule: who leaves, if not they."""
    logits, nats, stayed = caches.prefill(ids[None, :T]), [], []
    for i in range(T, len(ids) - 1):
        logits, _ = caches.step(ids[None, i : i + 1], rule or some)
        if rule is not None:
            some.begin()
        if not some.goes:
            nats.append(-logits.float().log_softmax(-1)[0, ids[i + 1]].item())
            stayed.append(i)
    return sum(nats) / max(1, len(nats)), stayed


# ---- thresholds ----


@torch.no_grad()
def picked(lab):
    """Is 0.9 right nine times in ten? What each measure says, how often it is right; a promise kept."""
    tokens = lab.held[: len(lab.held) // lab.config.context * lab.config.context].view(-1, lab.config.context)
    fig, ((ax,),) = plots.figure()
    n, found = lab.ways[len(lab.ways) // 2], {}
    states = lab.states(lab.model, tokens)
    look = Look(lab.model, n, states[n])
    same = (look.logits.argmax(-1) == lab.model(tokens).argmax(-1)).flatten().float()
    for name, measure in MEASURES.items():
        score = measure(look).flatten()
        groups = [part for part in score.argsort().chunk(10) if len(part)]
        points = [(score[part].mean().item(), same[part].mean().item()) for part in groups]
        ax.plot(*zip(*points, strict=True), "o-", label=name, markersize=4)
        at = score >= 0.9
        right = same[at].mean().item() if at.any() else float("nan")
        lab.say(
            f"  {name:11} from 0.9: {at.float().mean():.1%} of the tokens, of which {right:.1%} are the top's"
        )
        found |= {f"{name}, off by": sum(abs(a - b) for a, b in points) / len(points)}
    ax.plot([0, 1], [0, 1], ":", color=plots.QUIET)
    ax.set(xlabel=f"what is said after {n} blocks", ylabel="share that the top would not change")
    plots.legend(ax)
    lab.save(fig, "picked.png")
    for name, (threshold, rule) in rules_of(lab.model, lab.town, lab.config, ("probe", "confidence")).items():
        lost = 1 - lab.quality(rule)["same"]
        lab.say(
            f"  {name}: {threshold} is certified for {lab.config.tolerance:.1%}; on fresh pages {lost:.2%}"
        )
        found[f"{name}, lost"] = lost
    return found


@torch.no_grad()
def untrained(lab):
    """Ways out of the base, which never learned any, beside those that did."""
    base = restore(copy.deepcopy(lab.source.base), list(lab.ways))
    tokens = lab.held[: len(lab.held) // lab.config.context * lab.config.context].view(-1, lab.config.context)
    groups, found = {}, {}
    for name, model in (("never learned", base), ("learned", lab.model)):
        states, top = lab.states(model, tokens), model(tokens).argmax(-1)
        for n in lab.ways:
            same = (Look(model, n, states[n]).logits.argmax(-1) == top).float().mean().item()
            groups.setdefault(f"after {n}", {})[name] = same
            found[f"{name}, after {n}"] = same
        lab.say(f"  {name}: " + ", ".join(f"after {n} {found[f'{name}, after {n}']:.1%}" for n in lab.ways))
    fig, ((ax,),) = plots.figure(height=3.8)
    plots.bars(ax, groups, label="{:.2f}")
    ax.set(ylabel="likeliest tokens that are the top's", ylim=(0, 1.05))
    plots.legend(ax, loc="upper left")
    lab.save(fig, "untrained.png")
    return found
