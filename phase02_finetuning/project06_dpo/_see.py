"""What preferences change: three losses, KL against reward, and reinforcement beside them."""

from common import plots

from ._pictures import smooth


def methods(lab):
    """DPO, IPO and SimPO from one reference: the margin on held-out pairs, and where both answers go."""
    fig, axes = plots.figure(1, 3, width=12.0, height=3.8)
    table = {"the reference": lab.judged(lab.reference)}
    for ax, name in zip(axes[0], ("dpo", "ipo", "simpo"), strict=True):
        model, history = lab.prefer(method=name)
        for kind, colour in (("chosen", 2), ("rejected", 1)):
            ax.plot(*history.series(kind), marker="o", color=plots.COLOURS[colour], label=kind)
        plots.level(ax, 0.0, "the reference")
        ax.set(title=name, xlabel="update")
        table[name] = lab.judged(model)
    axes[0][0].set(ylabel="nats more than the reference")
    plots.legend(axes[0][0])
    lab.save(fig, "methods.png")
    lab.show(table, "accuracy", "reward", "correct", "polite", "rude", "kl")
    lab.run.say("Learning from a pair mostly pushes the rejected answer down; the chosen one may fall too.")
    return {f"{name} {key}": row[key] for name, row in table.items() for key in ("accuracy", "reward", "kl")}


def frontier(lab):
    """Reward against KL for several beta: what is gained, and how far one has to go for it."""
    fig, ((ax,),) = plots.figure()
    table, start = {}, lab.mean_reward(lab.reference)
    for beta in (0.03, 0.1, 0.3, 1.0):
        model, _ = lab.prefer(beta=beta)
        table[f"beta {beta}"] = {**lab.judged(model), "drawn": lab.mean_reward(model)}
    points = [(row["kl"], row["drawn"]) for row in table.values()]
    ax.plot(*zip((0, start), *sorted(points), strict=True), color=plots.GRID, zorder=0)
    for (name, _), point in zip(table.items(), points, strict=True):
        ax.plot(*point, "o", markersize=9)
        ax.annotate(name, point, xytext=(8, -4), textcoords="offset points", fontsize=11)
    ax.plot(0, start, "s", markersize=8, color=plots.QUIET)
    ax.annotate("the reference", (0, start), xytext=(8, -4), textcoords="offset points", fontsize=11)
    ax.set(xlabel="KL from the reference, nats an answer", ylabel="mean reward of drawn answers",
           title="What a preference buys, and what it costs")  # fmt: skip
    ax.margins(0.15)
    lab.save(fig, "frontier.png")
    lab.show(table, "drawn", "kl", "accuracy", "correct", "polite")
    return {f"{name} {key}": row[key] for name, row in table.items() for key in ("drawn", "kl")}


def reinforce(lab):
    """PPO and GRPO hear the judge about answers of their own: reward and KL against phases."""
    fig, ((gain, kl),) = plots.figure(1, 2, width=10.0, height=3.8)
    found = {}
    for name, colour in (("ppo", 0), ("grpo", 1)):
        model, log = lab.reinforce(method=name)
        width, look = max(1, len(log) // 12), {"color": plots.COLOURS[colour]}
        gain.plot([row["reward"] for row in log], alpha=0.25, linewidth=0.8, **look)
        gain.plot(smooth([row["reward"] for row in log], width), label=name, linewidth=2, **look)
        kl.plot(smooth([row["kl"] for row in log], width), label=name, linewidth=2, **look)
        part = max(1, len(log) // 4)
        first, last = (sum(row["reward"] for row in some) / part for some in (log[:part], log[-part:]))
        found |= {f"{name} first": first, f"{name} last": last, f"{name} kl": log[-1]["kl"]}
        greedy = lab.judged(model)["reward"]
        lab.run.say(f"  {name}: mean reward {first:+.2f} in the first quarter, {last:+.2f} in the last; "
                    f"KL {log[-1]['kl']:.1f} nats an answer; greedy {greedy:+.2f}")  # fmt: skip
    gain.set(title="mean reward of drawn answers", xlabel="phase")
    kl.set(title="KL from the reference", xlabel="phase", ylabel="nats an answer", ylim=(0, None))
    plots.legend(gain)
    lab.save(fig, "reinforce.png")
    return found
