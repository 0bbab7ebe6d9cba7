"""See: where tokens leave, what that costs and saves, how many guesses hold, batches, pruned prompts."""

import torch
import torch.nn.functional as F

from common import plots
from common.generate import Sampling
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text

from ._model import read_on
from .exits import Patience, Rule, Sure, early_exit, exit_logits
from .kv_fill import Lagging, bound, decode_early
from .self_speculation import self_speculate
from .token_pruning import importance, prefill

SHADES = ("#FFF3C4", "#FFD98A", "#F9B572", "#EE8A62", "#D9655B", "#B34A66", "#7D3C72", "#4B2E6B")


def shown(words, id):
    """A token as it may stand in a picture."""
    text = words.decode([id]).replace("\n", "¶").replace("$", "S")
    return "".join(letter if letter.isprintable() and letter != "\ufffd" else "·" for letter in text)


def page(words, ids, left, top, columns=92):
    """A text whose tokens are shaded by after how many blocks they were decided."""
    fig, ((ax,),) = plots.figure(width=12.0, height=5.6)
    line = width = 0
    for id, depth in zip(ids, left, strict=True):
        text = shown(words, id)
        if width + len(text) > columns:
            line, width = line + 1, 0
        shade = min(len(SHADES) - 1, round((depth - 1) * (len(SHADES) - 2) / max(1, top - 1)))
        ax.text(width, -line, text, family="monospace", fontsize=10.5, va="center",
                color="white" if shade > 4 else plots.INK,
                bbox={"facecolor": SHADES[shade], "edgecolor": "none",
                      "boxstyle": "square,pad=0.12"})  # fmt: skip
        width += max(1, len(text))
    for depth in sorted({*left}):
        shade = min(len(SHADES) - 1, round((depth - 1) * (len(SHADES) - 2) / max(1, top - 1)))
        share = left.count(depth) / len(left)
        ax.scatter([], [], s=130, marker="s", color=SHADES[shade], label=f"block {depth}, {share:.0%}")
    ax.set(xlim=(-1, columns + 2), ylim=(-line - 0.8, 0.8))
    ax.axis("off")
    fig.legend(loc="outside lower center", ncols=8, frameon=False, fontsize=11)
    return fig


def heat(lab):
    """A page of unseen text: after how many blocks each token was decided."""
    ids = lab.pages(1, lab.config.page)[0]
    rule = Sure("probe", lab.config.threshold)
    logits, left = early_exit(lab.model, ids[None], rule)
    # what stands at place t was said at place t - 1, so that is where its depth was
    depths = left[0, :-1].tolist()
    lab.save(page(lab.words, ids[1:].tolist(), depths, lab.top), "heat.png")
    right = (logits[0, :-1].argmax(-1) == ids[1:]).float()
    for n in sorted({*depths}):
        at = left[0, :-1] == n
        share = at.float().mean()
        lab.say(f"  after {n} blocks: {share:.0%} of the tokens, {right[at].mean():.0%} as in the text")
    return {"depth": sum(depths) / len(depths), "right": right.mean().item()}


def curve(lab):
    """Blocks a token against perplexity, for each measure and for patience."""
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    found = {}
    for name in ("probe", "confidence", "margin", "certainty", "patience"):
        steps = range(len(lab.ways), 0, -1) if name == "patience" else lab.config.thresholds
        rows = [lab.quality(Patience(t) if name == "patience" else Sure(name, t)) for t in steps]
        depths = [row["depth"] for row in rows]
        left.plot(depths, [row["perplexity"] for row in rows], "o-", label=name, markersize=4)
        right.plot(depths, [row["same"] for row in rows], "o-", label=name, markersize=4)
        for step, row in zip(steps, rows, strict=True):
            lab.say(f"  {name:11} {step:<6g} {row['depth']:.2f} blocks a token, {row['perplexity']:.4f} "
                    f"times the perplexity, {row['same']:.2%} the same")  # fmt: skip
            found |= {f"{name} {step:g}, {key}": row[key] for key in ("depth", "perplexity", "same")}
    plots.level(left, 1.02, "2 % more")
    left.set(xlabel="blocks a token", ylabel="perplexity, over the full model's")
    right.set(xlabel="blocks a token", ylabel="tokens that come out the same")
    plots.legend(left)
    lab.save(fig, "curve.png")
    return found


def clock(lab):
    """What blocks left out are worth on the clock, beside what they would be if nothing else took time."""
    ids, T = lab.pages(1, lab.config.page)[0], lab.config.page // 4
    block, head, look, turn = prices(lab)
    points, found = [], {"head": head, "look": look, "translator": turn}
    rules = {f"{t:g}": Sure("probe", t) for t in lab.config.thresholds}
    plain = lab.seconds(lambda: read_on(Lagging(lab.model, 1, len(ids)), ids, T, Rule()), 3)
    for name, rule in rules.items():
        left = read_on(Lagging(lab.model, 1, len(ids)), ids, T, rule)[2]
        spent = lab.seconds(lambda r=rule: read_on(Lagging(lab.model, 1, len(ids)), ids, T, r), 3)
        checks = sum(sum(n <= depth for n in lab.ways) for depth in left) / len(left)
        points.append((sum(left) / len(left), plain / spent, bound(left, lab.top),
                       bound(left, lab.top, head, look, checks, turn)))  # fmt: skip
        depth, gain, most, due = points[-1]
        lab.say(f"  from {name}: {depth:.2f} blocks a token, {gain:.2f} times as fast; blocks alone allow "
                f"{most:.2f}, with head and looks {due:.2f}")  # fmt: skip
        found |= {f"{name}, depth": depth, f"{name}, speed-up": gain, f"{name}, formula": due}
    points.sort()
    depths, *lines = zip(*points, strict=True)
    fig, ((ax,),) = plots.figure()
    names = ("measured", "blocks alone", "with head and looks")
    for name, style, line in zip(names, ("o-", ":", "--"), lines, strict=True):
        ax.plot(depths, line, style, label=name)
    ax.set(xlabel="blocks a token", ylabel="times as fast as to the top")
    plots.legend(ax)
    lab.save(fig, "clock.png")
    lab.say(f"  a block {block * 1e6:.0f} µs; of that the head {head:.2f}, a look {look:.2f}, a translator "
            f"{turn:.2f}")  # fmt: skip
    return found


@torch.no_grad()
def prices(lab, T=32):
    """(seconds of a block for one token; the head, a look with the probe and a translator, in blocks)"""
    model, caches = lab.model, Lagging(lab.model, 1, T + 1)
    caches.prefill(lab.pages(1, T)[0][None])
    positions = torch.tensor([T], device=lab.device)
    x, rope = model.embed(positions[None], positions), model.rope(positions)
    n, cache = lab.ways[0], caches.caches[0]

    def block():
        cache.length = T
        return model.blocks[0](x, rope=rope, positions=positions, cache=cache)

    spent = lab.seconds(block, 25)
    head = lab.seconds(lambda: model.head(model.norm(x)), 25)
    look = lab.seconds(lambda: bool((model.exits.probe[str(n)](x).squeeze(-1).sigmoid() >= 0.5).all()), 25)
    out = lab.seconds(lambda: exit_logits(model, n, x), 25)
    return spent, head / spent, look / spent, max(0.0, out - head) / spent


def guesses(lab):
    """Self-speculation: how many guesses hold at each way out, and what each number of them brings."""
    prompts = [ids.tolist() for ids in lab.pages(lab.config.prompts, lab.config.prompt)]
    few, found = lab.source.frequent(lab.config.few), {}
    greedy = Sampling(max_tokens=lab.config.new, temperature=0, ignore_eos=True)

    def write(n, K):
        taken = []
        for ids in prompts:
            taken += [t[0] for t in self_speculate(lab.model, [Text(0, ids, greedy, lab.model)], n, K, few)]
        return taken

    def plain():
        for ids in prompts:
            decode_early(lab.model, torch.tensor([ids], device=lab.device), lab.config.new, Rule())

    base = lab.seconds(plain, 2)
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    for n in lab.ways:
        lengths, gains = [], []
        for K in lab.config.ks:
            taken = write(n, K)
            lengths.append(sum(taken) / len(taken))
            gains.append(base / lab.seconds(lambda n=n, K=K: write(n, K), 2))
            lab.say(f"  after {n} blocks, {K} guesses: {lengths[-1]:.2f} tokens a round, {gains[-1]:.2f} "
                    "times as fast")  # fmt: skip
            found |= {f"after {n}, {K}: tokens": lengths[-1], f"after {n}, {K}: speed-up": gains[-1]}
        left.plot(lab.config.ks, lengths, "o-", label=f"after {n} blocks")
        right.plot(lab.config.ks, gains, "o-", label=f"after {n} blocks")
    left.plot(
        lab.config.ks, [K + 1 for K in lab.config.ks], ":", color=plots.QUIET, label="every guess holds"
    )
    left.set(xlabel="guesses a round", ylabel="tokens a round")
    right.set(xlabel="guesses a round", ylabel="times as fast as one by one")
    plots.level(right, 1, "one by one")
    plots.legend(left)
    lab.save(fig, "guesses.png")
    return found


def batch(lab):
    """Rows of a batch leave together: the more there are, the later the last of them is sure."""
    rule, found, points = Sure("probe", lab.config.threshold), {}, []
    n, T = lab.config.new, lab.config.prompt
    for B in lab.config.batches:
        tokens = torch.stack(lab.pages(B, T))
        left = decode_early(lab.model, tokens, n, rule)[1]
        plain, early = (lab.seconds(lambda r=r, x=tokens: decode_early(lab.model, x, n, r), 2)
                        for r in (Rule(), rule))  # fmt: skip
        points.append((B, sum(left) / max(1, len(left)), plain / early))
        lab.say(f"  {B:3} rows: {points[-1][1]:.2f} blocks a token, {points[-1][2]:.2f} times as fast")
        found |= {f"{B}, depth": points[-1][1], f"{B}, speed-up": points[-1][2]}
    rows, depths, gains = zip(*points, strict=True)
    fig, ((left_ax, right),) = plots.figure(1, 2, width=11, height=3.8)
    left_ax.plot(rows, depths, "o-")
    right.plot(rows, gains, "o-", color=plots.COLOURS[1])
    plots.level(left_ax, lab.top, "all blocks")
    plots.level(right, 1, "to the top")
    for ax in (left_ax, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(rows, rows)
        ax.set_xlabel("rows of a batch")
    left_ax.set(ylabel="blocks a token", ylim=(0, lab.top + 0.6))
    right.set(ylabel="times as fast")
    lab.save(fig, "batch.png")
    return found


def by_chance(block, x, cache, rope):
    """Weights that say nothing."""
    return torch.rand(cache.length, generator=torch.Generator().manual_seed(cache.length)).to(x.device)


def latest(block, x, cache, rope):
    """Weights that rise towards the end."""
    return torch.arange(cache.length, device=x.device).float()


@torch.no_grad()
def prune(lab):
    """Prompts of which a share climbs on: the surprise at what follows, and the time to read them."""
    T, n, after = lab.config.context - lab.config.follow, lab.config.follow, lab.ways[len(lab.ways) // 2]
    pages, found = lab.pages(lab.config.prompts, T + n), {}
    ways = {"whom the last one looks at": importance, "the latest": latest, "by chance": by_chance}
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    for name, weigh in ways.items():
        losses = []
        for share in lab.config.shares:
            losses.append(sum(follow(lab.model, ids, T, {after: share}, weigh) for ids in pages) / len(pages))
            found[f"{name}, {share:g}"] = losses[-1]
        left.plot(lab.config.shares, losses, "o-", label=name)
        lab.say(
            f"  {name}: "
            + ", ".join(f"{s:.0%} {x:.3f}" for s, x in zip(lab.config.shares, losses, strict=True))
        )
    spent = [
        lab.seconds(lambda s=s: prefill(lab.model, pages[0][None, :T], {after: s})) for s in lab.config.shares
    ]
    whole = lab.seconds(lambda: lab.model.hidden(pages[0][None, :T]))
    right.plot(lab.config.shares, [whole / s for s in spent], "o-", color=plots.COLOURS[1])
    plots.level(right, 1, "not pruned")
    left.set(xlabel=f"share that climbs on after {after} blocks", ylabel=f"nats a token, of {n} that follow")
    right.set(xlabel=f"share that climbs on after {after} blocks", ylabel="prompt read, times as fast")
    plots.legend(left)
    lab.save(fig, "prune.png")
    return found | {f"speed-up, {s:g}": whole / t for s, t in zip(lab.config.shares, spent, strict=True)}


def follow(model, ids, T, shares, weigh):
    """Nats a token of what follows a prompt of T ids that was pruned."""
    hidden, caches, _ = prefill(model, ids[None, :T], shares, weigh)
    nats, logits = [], model.head(hidden)
    for i in range(T, len(ids)):
        nats.append(F.cross_entropy(logits.float(), ids[i : i + 1]).item())
        if i + 1 < len(ids):
            logits = model(ids[None, i : i + 1], caches=caches)[:, -1]
    return sum(nats) / len(nats)
