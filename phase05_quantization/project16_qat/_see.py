"""What rounding looks like from both sides; quality against bits; how steps and ranges move."""

import torch

from common import plots
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe

from . import _tune
from .fake_quant import Observer, gradients, naive


def staircase(lab):
    """Three bits: what goes forward, and the slopes that are sent back to the number and to its step."""
    x, step = torch.linspace(-6, 6, 2401)[:, None], torch.ones(2401, 1)
    value = naive(x, step, 3)
    dx, dstep = gradients(torch.ones_like(x), x, value.to(torch.int8), step)
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    left.plot(x, value, label="what the product sees")
    left.plot(x, dx, label="slope that is sent back")
    left.plot(x, torch.zeros_like(x), label="its true slope, almost everywhere", color=plots.COLOURS[6],
              linewidth=1, linestyle=":")  # fmt: skip
    left.set(xlabel="number, in steps", ylabel="value, in steps", ylim=(-4.6, 6.6))
    right.plot(x, dstep, color=plots.COLOURS[2])
    right.set(xlabel="number, in steps", ylabel="slope that is sent to the step", ylim=(-4.6, 3.6))
    plots.legend(left, loc="upper left")
    lab.save(fig, "staircase.png")
    lab.say(f"  the slope to the number is 1 on {dx.sum() / 200:.0f} of 12 steps; that to the step is at "
            f"most half there, and {dstep.min():.0f} and {dstep.max():.0f} beyond")  # fmt: skip
    return {"through": dx.mean().item(), "step": dstep.max().item()}


def bits(lab):
    """From 8 bits to 2: rounded once (the control as well), or trained so; loss and answers."""
    control = lab.trained()[0]
    ways = {"rounded": lambda n: _tune.rounded(lab.base, n).values(),
            "GPTQ": lambda n: [_tune.by_gptq(lab.base, lab.town, lab.plan, n)],
            "control, rounded": lambda n: _tune.rounded(control, n).values(),
            "trained": lambda n: [lab.trained(lab.coarse(n))[0]]}  # fmt: skip

    def judge(models):
        made = [_tune.dense(model) for model in models]
        losses = [lab.loss(model) for model in made]
        best = made[losses.index(min(losses))]
        return min(losses), probe.knows(best, lab.tokenizer, TinyTown(), most=lab.config.asked)

    level = {"float": judge([lab.base]), "control": judge([control])}
    points = {name: {n: judge(way(n)) for n in lab.config.bits} for name, way in ways.items()}
    figures = draw_bits(lab, level, points)
    for n in lab.config.bits:
        share = _tune.recovery(points["rounded"][n][0], level["float"][0], points["trained"][n][0],
                               level["control"][0])  # fmt: skip
        damage = points["rounded"][n][0] - level["float"][0]
        said = f"{share:.1%} of the damage recovered" if damage > 0.005 else "no damage to speak of"
        lab.say(f"  {n} bits: {said}")
        figures[f"recovery, {n}"] = share
    return figures


def draw_bits(lab, level, points):
    """The picture, and what it shows in figures."""
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    for name, row in points.items():
        plain = level["float" if name in ("rounded", "GPTQ") else "control"][0]
        left.plot(range(len(row)), [loss - plain for loss, _ in row.values()], "o-", label=name)
        right.plot(range(len(row)), [knows for _, knows in row.values()], "o-", label=name)
    left.set_yscale("symlog", linthresh=0.01)
    left.set(ylabel="what rounding costs, nats a token")
    right.set(ylabel="right answers", ylim=(-0.03, 1.03))
    plots.level(right, level["control"][1], "control, in float")
    for ax in (left, right):
        ax.set_xticks(range(len(row)), [str(n) for n in row])
        ax.set(xlabel="bits of a weight")
    plots.legend(left)
    lab.save(fig, "bits.png")
    for name, (loss, knows) in level.items():
        lab.say(f"  {name:18}{'':8} {loss:.4f} nats   {knows:.0%}")
    figures = {name: loss for name, (loss, _) in level.items()}
    for name, row in points.items():
        for n, (loss, knows) in row.items():
            lab.say(f"  {name:18}{n} bits   {loss:.4f} nats   {knows:.0%}")
            figures |= {f"{name}, {n}": loss, f"{name}, {n}, knows": knows}
    return figures


def scales(lab):
    """How learned steps move in a training at 3 bits, matrix by matrix, against where they began."""
    kinds = {kind: [] for kind in ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")}
    updates, began = [], {}

    def watch(model, update):
        updates.append(update)
        for kind, line in kinds.items():
            now = torch.cat([p.detach().flatten() for name, p in model.named_parameters()
                             if name.endswith(f"{kind}.step")])  # fmt: skip
            began.setdefault(kind, now)
            line.append((now / began[kind]).quantile(torch.tensor([0.1, 0.5, 0.9], device=now.device)).cpu())

    lab.trained(lab.coarse(3), every=max(1, lab.config.steps // 20), on_eval=watch)
    fig, ((ax,),) = plots.figure(height=4.6)
    for kind, line in kinds.items():
        low, middle, high = torch.stack(line).numpy().T
        (drawn,) = ax.plot(updates, high, label=kind, linewidth=1.8)
        ax.plot(updates, low, color=drawn.get_color(), linewidth=1.8)
        ax.plot(updates, middle, color=drawn.get_color(), linewidth=1, linestyle=":")
    ax.set(xlabel="update", ylabel="step, over where it began",
           title="3 bits: one step in ten lies above, one below; the middle dotted")
    plots.legend(ax, ncols=2)
    lab.save(fig, "scales.png")
    for kind, line in kinds.items():
        lab.say(f"  {kind:8} middle {line[-1][1]:.3f}, 80 % from {line[-1][0]:.3f} to {line[-1][2]:.3f}")
    return {kind: line[-1][1].item() for kind, line in kinds.items()}


@torch.no_grad()
def ranges(lab):
    """One input, batch after batch: its own range, the widest so far, and an average that forgets."""
    seen, sizes, layer = [], [], lab.base.blocks[-1].ffn.w_down
    watched = {"widest so far": Observer(), "average, a tenth of the way": Observer(0.1)}
    hook = layer.register_forward_hook(lambda m, inputs, y: seen.append(inputs[0]))
    batch_at, lines = lab.town.batches(lab.plan), {"this batch": []} | {name: [] for name in watched}
    for i in range(min(60, lab.config.steps)):
        lab.base(batch_at(i)[0])
        x = seen.pop()
        lines["this batch"].append(x.abs().max().item())
        sizes.append(x.abs().median().item())
        for name, observer in watched.items():
            observer.to(x.device).see(x)
            lines[name].append(max(-observer.low.item(), observer.high.item()))
    hook.remove()
    fig, ((ax,),) = plots.figure()
    for (name, line), colour in zip(lines.items(), (plots.COLOURS[5], *plots.COLOURS[:2]), strict=True):
        ax.plot(range(1, len(line) + 1), line, label=name, color=colour,
                linewidth=1 if name == "this batch" else 2)  # fmt: skip
    ax.set(xlabel="batch", ylabel="largest input of the last w_down", ylim=(0, None))
    plots.legend(ax, loc="lower right")
    lab.save(fig, "ranges.png")
    found = {name: line[-1] for name, line in lines.items()} | {"middle number": sizes[-1]}
    lab.say("  " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    step = watched["widest so far"].step().item()
    lab.say(f"  a step of 8 bits: {step:.3g}, {step / sizes[-1]:.1f} times the middle number")
    return found
