"""One micro-batch, stages that are not alike, weights that move under a gradient, copies that part."""

import copy
from functools import partial

import torch
from torch.func import functional_call

from common import plots
from common.model import GPT
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism.crew import Crew
from phase08_parallelism.project23_tensor_parallelism.threads import ranks

from ._lab import timelines
from ._see import gantt
from .pipedream import PipeDream
from .pipeline import Pipeline
from .schedules import schedule
from .simulator import UNIT, bubble, simulate
from .stages import cut


def micro(lab):
    """From one micro-batch to sixteen: how much of two processes' time is a bubble."""
    counts, found = (1, 2, 4, 8, 16), {}
    cases = {f"{name} {m}": (name, m, 1, None) for name in ("1f1b", "zb-h1") for m in counts}
    with Crew(2, timelines, lab.sizes, cases) as crew:
        for case in cases:
            runs = sorted(crew(case).bubble for _ in range(lab.config.repeats))
            found[case] = runs[len(runs) // 2]
    fig, ((ax,),) = plots.figure(width=8)
    for name, label, colour in (("1f1b", "1F1B", 1), ("zb-h1", "ZB-H1", 2)):
        colour = plots.COLOURS[colour]
        ax.plot(counts, [100 * bubble(name, 2, m) for m in counts], color=colour, label=f"{label}, formula")
        ax.plot(
            counts,
            [100 * found[f"{name} {m}"] for m in counts],
            "o",
            color=colour,
            label=f"{label}, measured",
        )
        for m in counts:
            lab.say(f"  {label}, {m} micro-batches: bubble {found[f'{name} {m}']:.1%}, by the formula "
                    f"{bubble(name, 2, m):.1%}")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, map(str, counts))
    ax.set(xlabel="micro-batches", ylabel="bubble, % of the time", ylim=(0, None))
    plots.legend(ax)
    lab.save(fig, "micro.png")
    return found


def unbalanced(lab):
    """One of four stages takes twice as long; and two processes with one block and three in place of two."""
    orders, fig_axes = schedule("1f1b", 4, 8), plots.figure(2, 1, width=12, height=4.6)
    fig, axes = fig_axes
    even = simulate(orders, UNIT.of)
    found = {"even, time": even.total}
    for ax, slow in zip(axes[:, 0], (None, 2), strict=True):
        run = simulate(orders, lambda action, slow=slow: UNIT.of(action) * (1 + (action.stage == slow)))
        name = "four stages alike" if slow is None else "stage 2 takes twice as long"
        gantt(ax, run, f"{name}: time {run.total:g}, bubble {run.bubble:.0%}", 2 * even.total)
        ax.set_xticks([])
        found[f"{name}, bubble"] = run.bubble
        lab.say(f"  {name}: time {run.total:g}, bubble {run.bubble:.1%}")
    lab.save(fig, "unbalanced.png")
    cases = {
        "two and two": ("1f1b", 8, 1, [(0, 2), (2, 4)]),
        "one and three": ("1f1b", 8, 1, [(0, 1), (1, 4)]),
    }
    with Crew(2, timelines, lab.sizes, cases) as crew:
        for name in cases:
            run = min((crew(name) for _ in range(lab.config.repeats)), key=lambda run: run.total)
            found |= {f"{name}, seconds": run.total, f"{name}, measured bubble": run.bubble}
            lab.say(f"  blocks {name}, two processes: {run.total:.3f} s, bubble {run.bubble:.1%}")
    return found


# ---- no stash ----


class Watched(PipeDream):
    """PipeDream that also computes each gradient with the weights as they are when it comes back, as if there
    were no stash: `errors` says how far that is off. stash=False: the update is made with that one."""

    def __init__(self, *parts, stash=True):
        super().__init__(*parts)
        self.stash, self.errors = stash, []

    def through(self, weights, number, micro, x):
        """(input, output) of the stage with these weights."""
        stage = self.stages[number]
        x = self.tokens[micro] if stage.first else x.detach().clone().requires_grad_()
        given = (x, self.targets[micro]) if stage.last else x
        return x, functional_call(self.module, weights, (given,))

    def forward(self, number, micro, x):
        copies = {name: p.detach().clone().requires_grad_() for name, p in self.module.named_parameters()}
        shared = {name: p.data.requires_grad_() for name, p in self.module.named_parameters()}
        # .data: the update writes into these numbers, and autograd is not told
        kept = [(*self.through(weights, number, micro, x), weights) for weights in (copies, shared)]
        y = kept[0][1]
        if self.stages[number].last:
            self.losses.append(y.item())
        self.kept[number, micro] = kept
        return y.detach()

    def backward(self, number, micro, dy):
        grads, back = [], []
        for x, y, weights in self.kept.pop((number, micro)):
            torch.autograd.backward(y, dy)
            grads.append([weights[name].grad for name, _ in self.module.named_parameters()])
            back.append(x.grad)
        right, wrong = (torch.cat([g.flatten() for g in each]) for each in grads)
        self.errors.append(((wrong - right).norm() / right.norm()).item())
        for p, grad in zip(self.module.parameters(), grads[0 if self.stash else 1], strict=True):
            p.grad = grad
        self.optimizer.step()
        self.optimizer.zero_grad()
        return back[0 if self.stash else 1]


class Told(PipeDream):
    """No stash and nothing hidden from autograd: it notices that weights have changed."""

    def forward(self, number, micro, x):
        x = self.tokens[micro] if self.stages[number].first else x.requires_grad_()
        y = self.module((x, self.targets[micro]) if self.stages[number].last else x)
        self.kept[number, micro] = x, y, dict(self.module.named_parameters())
        return y.detach()


def streamed(wire, lab, kind):
    """A rank's losses and errors, over all rows as one stream."""
    stages = cut(copy.deepcopy(lab.base), wire.world)
    objective = CausalLM(stages[-1]) if wire.rank == wire.world - 1 else None
    optimizer = torch.optim.AdamW(stages[wire.rank].parameters(), lr=lab.config.learning_rate)
    made = kind([stages[wire.rank]], wire, objective, optimizer)
    rows = lab.rows.flatten(0, 1)
    count = len(lab.rows)
    made.step((rows[:, :-1], rows[:, 1:]), schedule("1f1b", wire.world, count))
    return made.losses, getattr(made, "errors", [])


def stash(lab):
    """PipeDream with and without its copies of the weights: how wrong is the gradient, and does it learn?"""
    try:
        ranks(4, streamed, lab, Told)
        lab.say("  autograd did not notice that weights had changed")
    except RuntimeError as error:
        lab.say(f"  autograd, where it is told: {str(error).partition(':')[0]}")
    sides = {"no pipeline": ranks(1, streamed, lab, PipeDream)}
    for name, keep in (("PipeDream", True), ("no stash", False)):
        sides[name] = ranks(4, streamed, lab, partial(Watched, stash=keep))
    fig, ((left, right),) = plots.figure(1, 2, width=13, height=4.6)
    found, window = {}, max(1, len(lab.rows) // 20)
    for name, run in sides.items():
        losses = run[-1][0]
        smooth = [sum(losses[max(0, i - window + 1) : i + 1]) / len(losses[max(0, i - window + 1) : i + 1])
                  for i in range(len(losses))]  # fmt: skip
        left.plot(smooth, label=name)
        found[f"{name}, loss"] = smooth[-1]
        lab.say(f"  {name}: loss {smooth[-1]:.4f}")
    for rank, (_, errors) in enumerate(sides["no stash"]):
        right.plot([max(e, 1e-8) for e in errors], label=f"stage {rank}, {3 - rank} updates", linewidth=1)
        found[f"stage {rank}, error"] = sorted(errors)[len(errors) // 2]
        lab.say(f"  stage {rank}: without the stash a gradient is off by {found[f'stage {rank}, error']:.2g} "
                "of its length (median)")  # fmt: skip
    left.set(xlabel="micro-batch", ylabel="loss, nats a byte")
    right.set(xlabel="micro-batch", ylabel="error of the gradient, no stash", yscale="log")
    for ax in (left, right):
        plots.legend(ax)
    lab.save(fig, "stash.png")
    return found


# ---- a tied table ----


class Unsummed(Pipeline):
    """The two copies of a tied table go their own ways."""

    def sum_copies(self):
        """Nothing."""


def tied(wire, lab, kind):
    """(losses, how far the two copies of the table are apart, of its length) after each update."""
    torch.manual_seed(lab.config.seed)
    model = GPT(lab.tied_config)
    stages = cut(model, 2)
    objective = CausalLM(stages[1]) if wire.rank == 1 else None
    made = kind([copy.deepcopy(stages[wire.rank])] if wire.rank == 0 else [stages[1]], wire, objective)
    optimizer = torch.optim.AdamW(made.part.parameters(), lr=lab.config.learning_rate)
    losses, tables = [], []
    for row in lab.rows:
        loss = made.step((row[:, :-1], row[:, 1:]), schedule("1f1b", 2, len(row)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tables.append((made.part.embed if wire.rank == 0 else made.part.head).weight.detach().clone())
    return losses, tables


def copies(lab):
    """A tied table on the first and the last stage, its gradient summed and not."""
    found = {}
    for name, kind in (("summed", Pipeline), ("not summed", Unsummed)):
        (_, first), (losses, last) = ranks(2, tied, lab, kind)
        apart = ((first[-1] - last[-1]).norm() / first[-1].norm()).item()
        found |= {f"{name}, loss": losses[-1], f"{name}, apart": apart}
        lab.say(f"  {name}: loss {losses[-1]:.4f}; the copies lie {apart:.2g} of their length apart")
    return found
