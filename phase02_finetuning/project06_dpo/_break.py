"""One part taken away or turned round at a time."""

from itertools import islice

from common import plots
from data.tinytown import TinyTown
from data.town_asks import CLOSINGS
from data.town_checks import COURTESIES, remarks

from ._pictures import smooth


def reference(lab):
    """DPO without a reference: the loss is content once the chosen answer is the likelier one."""
    steps = 2 * lab.config.steps
    table = {"the reference": lab.judged(lab.reference), "dpo": lab.judged(lab.prefer(steps=steps)[0]),
             "no reference": lab.judged(lab.without_reference(steps))}  # fmt: skip
    lab.show(table, "accuracy", "reward", "correct", "polite", "kl")
    return {f"{name} {key}": row[key] for name, row in table.items() for key in ("accuracy", "reward", "kl")}


def beta(lab):
    """beta next to nothing, as usual, and huge: no pull back at all, or no way forward."""
    table = {}
    for value in (0.001, 0.1, 10.0):
        model, history = lab.prefer(beta=value)
        last = history.evals[-1]
        table[f"beta {value}"] = {**lab.judged(model), "chosen": last["chosen"], "rejected": last["rejected"]}
    lab.show(table, "accuracy", "reward", "chosen", "rejected", "kl")
    lab.run.say("At beta 0 itself the loss is ln 2 whatever the model does: train refuses it.")
    return {f"{name} {key}": row[key] for name, row in table.items() for key in ("accuracy", "reward", "kl")}


def flipped(lab):
    """Every label turned round, or four of ten: what is learned is what the labels say."""
    pairs, table = lab.first.found.pairs, {}
    for name, share in (("as they are", 0), ("4 of 10 flipped", 4), ("all flipped", 10)):
        turned = [pair._replace(chosen=pair.rejected, rejected=pair.chosen) if i % 10 < share else pair
                  for i, pair in enumerate(pairs)]  # fmt: skip
        table[name] = lab.judged(lab.prefer(pairs=turned)[0])
    lab.show(table, "accuracy", "reward", "correct", "polite", "rude")
    return {f"{name} {key}": row[key] for name, row in table.items() for key in ("accuracy", "reward")}


def length(lab):
    """Pairs whose chosen answer is always the longer one, and then pairs where longer is worse."""
    rows = islice((row for row in TinyTown().preferences("train", lab.config.seed) if row["flaw"] == "curt"),
                  lab.config.pairs)  # fmt: skip
    pairs = [lab.pair(row, row["chosen"], row["rejected"]) for row in rows]
    padded = [lab.pair(row, row["chosen"], " ".join([row["chosen"], *CLOSINGS[:3]])) for row in lab.rows]
    table = {}
    for name, changes in (("dpo", {}), ("simpo", {"method": "simpo"})):
        model, _ = lab.prefer(pairs=pairs, **changes)
        table[f"{name}, long is good"] = {**lab.judged(model), "padded": lab.accuracy(model, padded)}
    model, _ = lab.prefer()
    table["dpo, all pairs"] = {**lab.judged(model), "padded": lab.accuracy(model, padded)}
    lab.show(table, "accuracy", "padded", "words", "reward")
    lab.run.say("padded: how often the plain answer gains more than the same with three courtesies behind")
    return {f"{name} {key}": row[key] for name, row in table.items() for key in ("padded", "words")}


def courtesies(rows, texts, *_):
    """A reward that somebody might write: the number of courtesies in a reply."""
    return [float(sum(said in COURTESIES for said in remarks(text))) for text in texts]


def hacking(lab):
    """A reward of 1 for each courtesy: what is heard rises, and what is meant falls."""
    fig, ((gain, kl),) = plots.figure(1, 2, width=10.5, height=3.9)
    found, samples, room = {}, {}, {"max_tokens": 2 * lab.config.max_tokens}  # to ramble takes room
    for name, price, colour in (("no price on KL", 0.0, 1), ("KL at 0.5", 0.5, 0)):
        model, log = lab.reinforce(courtesies, method="grpo", beta=price, learning_rate=4e-4, **room)
        width, look = max(1, len(log) // 12), {"color": plots.COLOURS[colour]}
        gain.plot(smooth([row["score"] for row in log], width), label=f"heard, {name}", **look)
        deserved = smooth([row["reward"] for row in log], width)
        gain.plot(deserved, "--", label=f"deserved, {name}", **look)
        kl.plot(smooth([row["kl"] for row in log], width), label=name, **look)
        samples[name] = lab.replies(model)[0]
        found |= {f"{name}: {key}": log[-1][key] for key in ("score", "reward", "kl", "length")}
        lab.run.say(f"  {name}: heard {log[0]['score']:.2f} → {log[-1]['score']:.2f}, deserved "
                    f"{log[0]['reward']:+.2f} → {log[-1]['reward']:+.2f}, KL {log[-1]['kl']:.1f}")
        lab.run.say(f"    {lab.rows[0]['messages'][-1]['content']}\n    {samples[name]}")
    gain.set(title="a courtesy is worth 1", xlabel="phase", ylabel="mean reward")
    kl.set(title="KL from the reference", xlabel="phase", ylabel="nats an answer", ylim=(0, None))
    plots.legend(gain)
    plots.legend(kl)
    lab.save(fig, "hacking.png")
    return found
