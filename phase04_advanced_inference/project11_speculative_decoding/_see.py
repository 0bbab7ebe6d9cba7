"""See: how many guesses hold, which, what that brings for each number of guesses, who guesses best, and from
which batch on it does not pay."""

import time
from collections import Counter

import numpy as np

from common import plots
from common.cli import explore
from common.device import synchronize
from common.generate import Sampling

from ._pair import Counted, one_forward, steady, written
from .speculative import Draft, expected_tokens, speedup

NAMES = {"model": "small model", "lookup": "the text itself", "heads": "heads"}


class Lab(explore.Album):
    """What the experiments share: the pair, prompts, greedy texts, clocks, pictures."""

    def __init__(self, config, run, pair):
        self.config, self.run, self.pair, self.say = config, run, pair, run.say
        self.model, self.device = pair.model, run.device
        context = self.model.config.max_seq_len
        self.T = min(config.prompt, context // 4)
        self.n = min(config.new, context - 3 * self.T - 20)

    @property
    def greedy(self):
        return Sampling(max_tokens=self.n, temperature=0, ignore_eos=True)

    def prompts(self, count=None):
        return self.pair.prompts(count or self.config.prompts, self.T)

    def each(self, make, prompts):
        """Every prompt alone: [(new ids, what each round took, the draft)], and the seconds of all."""
        found, spent = [], 0.0
        for ids in prompts:
            draft = Counted(make())
            start = self.now()
            [new], taken = written(self.model, [ids], [self.greedy], draft)
            spent += self.now() - start
            found.append((new, [took[0] for took in taken], draft))
        return found, spent

    def now(self):
        synchronize(self.device)
        return time.perf_counter()

    def seconds(self, call, repeats=9):
        """The shortest time of a call, warm: who else is at work only ever adds."""
        call()
        spent = []
        for _ in range(repeats):
            start = self.now()
            call()
            spent.append(self.now() - start)
        return min(spent)


def forward_seconds(lab, model, tokens):
    """Seconds of a forward of so many tokens, behind as many as a prompt has, and of its head."""
    return lab.seconds(one_forward(model, tokens, lab.T))


def means(found):
    """(acceptance, tokens a round) over several texts."""
    counted = [draft for _, _, draft in found]
    right, asked, rounds = (sum(getattr(d, name) for d in counted) for name in ("right", "asked", "rounds"))
    return right / max(1, asked), 1 + right / max(1, rounds)


def shown(words, id):
    """A token as it may stand in a picture."""
    text = words.decode([id]).replace("\n", "¶").replace("$", "S")
    return "".join(letter if letter.isprintable() and letter != "\ufffd" else "·" for letter in text)


def rounds(lab) -> dict:
    """How many tokens a round brings: counted, and as if every guess held with the same chance."""
    K = lab.config.k
    found, _ = lab.each(lambda: lab.pair.draft("model", K, size=lab.T + lab.n), lab.prompts())
    a, length = means(found)
    lengths = Counter(took for _, taken, _ in found for took in taken[:-1])
    total = max(1, sum(lengths.values()))
    due = [a**i * (1 - a) for i in range(K)] + [a**K]
    fig, ((ax,),) = plots.figure(width=8.0)
    places = np.arange(1, K + 2)
    ax.bar(places - 0.2, [lengths[i] / total for i in places], width=0.38, label="counted")
    ax.bar(places + 0.2, due, width=0.38, label=f"each guess right with {a:.2f}")
    ax.set(title=f"Tokens of a round with {K} guesses", xlabel="tokens", ylabel="share of the rounds")
    ax.set_xticks(places)
    plots.legend(ax)
    lab.save(fig, "rounds.png")
    lab.say(f"  {a:.0%} of the guesses looked at held; {length:.2f} tokens a round, the formula says "
            f"{expected_tokens(a, K):.2f}")  # fmt: skip
    return {"acceptance": a, "tokens a round": length, "formula": expected_tokens(a, K)}


def timeline(lab) -> dict:
    """One text, round by round: which tokens were guessed, which the large model had to say itself."""
    K, [ids] = lab.config.k, lab.prompts(1)
    [(new, taken, _)], _ = lab.each(lambda: lab.pair.draft("model", K, size=lab.T + lab.n), [ids])
    kept, line = [], 0
    fig, ((ax,),) = plots.figure(width=12.0, height=5.4)
    at = width = 0
    for took in taken:
        for i, id in enumerate(new[at : at + took]):
            text = shown(lab.pair.words, id)
            span = max(1, len(text))
            if width + span > 92:
                line, width = line + 1, 0
            kept.append(i < took - 1)
            ax.text(width, -line, text, family="monospace", fontsize=10.5, va="center", color=plots.INK,
                    bbox={"facecolor": "#BFE3D5" if kept[-1] else "#F6D9C4", "edgecolor": "none",
                          "boxstyle": "square,pad=0.12"})  # fmt: skip
            width += span
        at += took
        if line > 12:
            break
    ax.set(xlim=(0, 94), ylim=(-line - 0.8, 0.9), title="Green: guessed by the small model and kept. "
           "Orange: said by the large one, a forward each")  # fmt: skip
    ax.axis("off")
    lab.save(fig, "timeline.png")
    lab.say(f"  {sum(kept)} of {len(kept)} tokens were guesses that held")
    return {"guessed": sum(kept) / len(kept)}


def by_k(lab) -> dict:
    """Speed-up against the number of guesses: measured, and by the formula with measured a, c and v."""
    prompts, size = lab.prompts(), lab.T + lab.n
    step = forward_seconds(lab, lab.model, 1)
    c = forward_seconds(lab, lab.pair.small, 1) / step
    lab.each(Draft, prompts[:1])
    _, plain = lab.each(Draft, prompts)
    measured, classic, costed, shares = [], [], [], []
    for K in lab.config.ks:
        found, spent = lab.each(lambda K=K: lab.pair.draft("model", K, size=size), prompts)
        a, _ = means(found)
        v = forward_seconds(lab, lab.model, K + 1) / step
        measured.append(plain / spent)
        classic.append(speedup(a, K, c))
        costed.append(speedup(a, K, c, v))
        shares.append(a)
        lab.say(f"  {K:2} guesses: a {a:.2f}  c {c:.2f}  v {v:.2f}   formula {classic[-1]:.2f}, with v "
                f"{costed[-1]:.2f}, measured {measured[-1]:.2f}")  # fmt: skip
    fig, ((ax,),) = plots.figure(width=8.0)
    ax.plot(lab.config.ks, measured, "o-", label="measured")
    ax.plot(lab.config.ks, costed, "--", label="formula, checks at their price")
    ax.plot(lab.config.ks, classic, ":", label="formula, checks for nothing")
    plots.level(ax, 1, "one by one")
    ax.set(title="Too few guesses gain little, too many cost more than they bring",
           xlabel="guesses a round", ylabel="times as fast", ylim=(0, None))  # fmt: skip
    plots.legend(ax)
    lab.save(fig, "k.png")
    best = int(np.argmax(measured))
    return {"best": lab.config.ks[best], "speed-up": measured[best], "acceptance": shares[best], "c": c}


def compare(lab, prompts, hows, title, name) -> dict:
    """Bars of speed-up and tokens a round of several guessers on the same prompts."""
    lab.each(Draft, prompts[:1])
    plain, base = lab.each(Draft, prompts)
    found, same = {}, 0
    for how in hows:
        K, size = lab.config.k * (2 if how == "lookup" else 1), len(prompts[0]) + lab.n
        got, spent = lab.each(lambda h=how, K=K, s=size: lab.pair.draft(h, K, size=s), prompts)
        same += sum(x == y for (x, *_), (y, *_) in zip(plain, got, strict=True))
        a, length = means(got)
        found[NAMES[how]] = {"times as fast": base / spent, "tokens a round": length}
        lab.say(f"  {NAMES[how]:16} a {a:.2f}   {length:.2f} tokens a round   {base / spent:.2f} times as "
                "fast")  # fmt: skip
    lab.say(f"  {same} of {len(hows) * len(prompts)} texts are those of one by one")
    fig, ((ax,),) = plots.figure(width=8.0)
    plots.bars(ax, found, label="{:.2f}")
    plots.level(ax, 1, "one by one")
    ax.set_title(title)
    plots.legend(ax, loc="upper left")
    ax.margins(y=0.3)
    lab.save(fig, name)
    return {"same": same, "of": len(hows) * len(prompts),
            **{f"{key}, {who}": v for who, values in found.items() for key, v in values.items()}}  # fmt: skip


def drafts(lab) -> dict:
    """Who guesses best in new text: a small model, the text itself, heads."""
    return compare(lab, lab.prompts(), ("model", "heads", "lookup"), "New text", "drafts.png")


def copy(lab) -> dict:
    """The same where the text repeats itself: what stood there before is the best guess."""
    n = min(48, lab.n)
    prompts = [ids for ids, _ in lab.pair.copying(lab.config.prompts, max(4, lab.T // 2), n)]
    room = lab.model.config.max_seq_len - lab.n
    prompts = [ids[-room:] for ids in prompts]
    return compare(lab, prompts, ("lookup", "model"), "Text that comes again", "copy.png")


def batch(lab) -> dict:
    """Tokens a second against the number of texts in a forward: guessing buys latency, not throughput."""
    rates = {"one by one": [], "guesses": []}
    steps, K = max(4, lab.n // 4), lab.config.k
    for B in lab.config.batches:
        prompts, samplings = lab.prompts(B), [lab.greedy] * B
        for name in rates:
            rounds, best = (steps if name == "one by one" else max(2, steps // 2)), []
            for _ in range(3):
                draft = Draft() if name == "one by one" else lab.pair.draft("model", K, B, lab.T + lab.n)
                best.append(steady(lab.model, prompts, samplings, draft, rounds, lab.now))
            rates[name].append(max(best))
        lab.say(f"  {B:3} texts: " + "   ".join(f"{name} {values[-1]:8.1f} tokens/s"
                for name, values in rates.items()))  # fmt: skip
    gain = [g / p for p, g in zip(*rates.values(), strict=True)]
    fig, ((left, right),) = plots.figure(1, 2, width=11.0)
    for name, values in rates.items():
        left.plot(lab.config.batches, values, "o-", label=name)
    left.set(title="All texts together", xlabel="texts in a forward", ylabel="tokens/s", xscale="log")
    right.plot(lab.config.batches, gain, "o-")
    plots.level(right, 1, "one by one")
    right.set(title="Times as fast", xlabel="texts in a forward", xscale="log", ylim=(0, None))
    for ax in (left, right):
        ax.set_xticks(lab.config.batches, lab.config.batches)
        ax.minorticks_off()
    plots.legend(left)
    lab.save(fig, "batch.png")
    return {f"times as fast, {B} texts": g for B, g in zip(lab.config.batches, gain, strict=True)}
