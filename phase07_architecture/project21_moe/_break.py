"""What happens without: no balance, no room for everybody, no softmax."""

import torch

from common import plots

from . import _lab, moe, router
from .moe import MoEConfig


def balance(lab) -> dict:
    """The load with a balance loss, with a bias, and with nothing: does it collapse?"""
    sides = {"loss": None, "bias": {"aux": 0.0, "rate": 0.003}, "nothing": {"aux": 0.0, "z": 0.0}}
    fig, axes = plots.figure(1, 3, width=12.5, height=4)
    found = {}
    for i, (name, settings) in enumerate(sides.items()):
        if settings is None:
            model, _, way = lab.usual
        else:
            way = []
            model, _ = lab.fit(lab.mixture(**settings), watch=lab.watch(way))
        counts, loss = lab.loads(model), lab.loss(model)
        share = (counts / counts.sum(1, keepdim=True) * counts.size(1)).sort(1, descending=True).values
        for layer, row in enumerate(share):
            axes[0][0].plot(row, color=plots.COLOURS[i], marker="o", linestyle=("-", ":")[layer % 2],
                            markersize=4, label=name if layer == 0 else None)  # fmt: skip
        cv, even = _lab.mean_cv(counts), sum(map(router.evenness, counts)) / len(counts)
        axes[0][1].plot(*zip(*[*way, (lab.plan.steps, cv)], strict=True), color=plots.COLOURS[i], marker="o")
        axes[0][2].bar(name, loss, color=plots.COLOURS[i])
        found |= {f"{name}, cv": cv, f"{name}, evenness": even, f"{name}, loss": loss}
        lab.say(f"  {name:8} CV {cv:.2f}   entropy {even:.1%} of the largest   loss {loss:.4f}")
    plots.level(axes[0][0], 1.0, "even")
    axes[0][0].set(xlabel="experts of a layer, busiest first", ylabel="load over its even share",
                   title="Who does the work")  # fmt: skip
    axes[0][1].set(xlabel="update", ylabel="CV, mean of layers", title="Unevenness on the way")
    low = min(found[f"{name}, loss"] for name in sides)
    axes[0][2].set(ylabel="nats a token, unseen", title="and what it costs", ylim=(0.9 * low, None))
    plots.legend(axes[0][0])
    lab.save(fig, "balance.png")
    return found


@torch.no_grad()
def lost(lab, model, factor):
    """The share of choices on unseen pages that experts with so much room would drop."""
    dropped = total = 0
    for inputs, _ in lab.town.windows(lab.plan.context, 64):
        model(inputs)
        for layer in moe.layers(model):
            config, experts = layer.config, layer.router.routing.experts
            most = moe.room(len(experts), MoEConfig(experts=config.experts, k=config.k, capacity=factor))
            dropped += (moe.drop(experts, most, config.experts) == config.experts).sum().item()
            total += experts.numel()
    return dropped / total


def capacity(lab) -> dict:
    """An expert takes no more than its even share times a factor: what is dropped, and what that costs."""
    found = {}
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    for name, factor in {"all": None, "1.25": 1.25, "1.0": 1.0, "0.5": 0.5}.items():
        model, _ = lab.usual[:2] if factor is None else lab.fit(lab.mixture(capacity=factor))
        rate, loss = lost(lab, model, factor) if factor else 0.0, lab.loss(model)
        left.bar(name, 100 * rate, color=plots.COLOURS[1])
        right.bar(name, loss, color=plots.COLOURS[0])
        found |= {f"{name}, dropped": rate, f"{name}, loss": loss}
        lab.say(f"  room for {name:5} {rate:6.1%} of the choices dropped   loss {loss:.4f}")
    model = lab.fit(lab.mixture(capacity=0.5), steps=max(1, lab.plan.steps // 5))[0]
    found["neighbours"] = neighbours(lab, model)
    lab.say(f"  dropping in use too: a row's logits move by {found['neighbours']:.2f} beside others")
    left.set(xlabel="room, over the even share", ylabel="% of the choices", title="Dropped")
    low = min(value for name, value in found.items() if name.endswith("loss"))
    right.set(xlabel="room in training", ylabel="nats a token, unseen", title="Loss", ylim=(0.9 * low, None))
    lab.save(fig, "capacity.png")
    return found


@torch.no_grad()
def neighbours(lab, model):
    """How far logits of a row move when it has neighbours, where capacity holds in use as well."""
    rows = next(iter(lab.town.windows(lab.plan.context, 8)))[0]
    model.train()  # the one thing that capacity asks for; there is no dropout here
    alone, beside = model(rows[-1:])[0], model(rows)[-1]
    model.eval()
    return (alone - beside).abs().max().item()


class Bare(router.Router):
    """The k largest logits themselves for weights: no softmax, not divided by their sum."""

    def forward(self, x):
        said = super().forward(x)
        experts = said.logits.topk(self.config.k, dim=-1).indices
        self.routing = said._replace(experts=experts, weights=said.logits.gather(-1, experts))
        return self.routing


def softmax(lab) -> dict:
    """Logits for weights: they begin near 0 and know no bound, where softmax has them add up to 2 (scale)."""
    broken, found = lab.mixture(), {}
    for layer in moe.layers(broken):
        layer.router.__class__ = Bare
    broken, curve = lab.fit(broken)
    fig, ((ax,),) = plots.figure()
    for name, (model, losses) in {"softmax": lab.usual[:2], "none": (broken, curve)}.items():
        sums, loss = weights(lab, model), lab.loss(model)
        ax.plot(*losses, linewidth=1.1, label=f"{name}: {loss:.3f} on unseen pages")
        found |= {f"{name}, loss": loss, f"{name}, lowest sum": sums.min().item(),
                  f"{name}, largest sum": sums.max().item()}  # fmt: skip
        lab.say(f"  {name:8} loss {loss:.4f}; the weights of a token add up to {sums.min():.2f} … "
                f"{sums.max():.2f}")  # fmt: skip
    ax.set(xlabel="update", ylabel="nats a token, and what routers add", title="Weights without a softmax")
    plots.legend(ax)
    lab.save(fig, "softmax.png")
    return found


@torch.no_grad()
def weights(lab, model):
    """The sum of each token's weights at the last mixture, (N,)."""
    sums = []
    for inputs, _ in lab.town.windows(lab.plan.context, 32):
        model(inputs)
        sums.append(moe.layers(model)[-1].router.routing.weights.sum(-1))
    return torch.cat(sums)
