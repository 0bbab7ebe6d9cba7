"""Take one thing away from a training that works: a norm, the bend, the warm-up, the clip, a number
format."""

import torch
import torch.nn.functional as F
from torch import nn

from common import plots
from common.model import RMSNorm, SwiGLU, swap
from common.variants import GeluFFN

from ._lab import Lab, activations, fit
from .objectives import IGNORE, CausalLM, token_loss

SMALLEST = 2.0**-14  # below it, float16 loses a digit with every halving, and below 2^-25 all of them
DEEP = {"n_layer": 4}


class FeedForward(nn.Module):
    """Two matrices, and between them whatever `bend` does, in SwiGLU's place."""

    def __init__(self, old, bend):
        super().__init__()
        self.w_up, self.w_down, self.bend = old.w_up, old.w_down, bend

    def forward(self, x):
        return self.w_down(self.bend(self.w_up(x)))


def bend(function):
    return lambda model: swap(model, SwiGLU, lambda old: FeedForward(old, function))


def whole(model):
    return model


def bare(model):
    return swap(model, RMSNorm, lambda old: nn.Identity())


def gelu(model):
    return swap(model, SwiGLU, GeluFFN)


LADDER = {  # what is different: (the model's dress, changes of the settings); the first one is whole
    "everything in place": (whole, {}),
    "no norm": (bare, {}),
    "GELU instead of SwiGLU": (gelu, {}),
    "ReLU instead of SwiGLU": (bend(F.relu), {}),
    "no bend: two matrices": (bend(lambda x: x), {}),
    "3 times the rate": (whole, {"learning_rate": 1e-2}),
    "3 times, no warm-up": (whole, {"learning_rate": 1e-2, "warmup": 0}),
    "3 times, no clipping": (whole, {"learning_rate": 1e-2, "clip": 0.0}),
    "3 times, no norm": (bare, {"learning_rate": 1e-2}),
}


def ablations(lab: Lab) -> dict:
    """One part taken away at a time: the loss on unseen pages, and what the activations look like."""
    fig, ((left, right),) = plots.figure(1, 2, width=11.0, height=4.6)
    found, batch = {}, next(iter(lab.windows()))
    for name, (dress, changes) in LADDER.items():
        model, losses = lab.trained(dress=dress, sizes=DEEP, **changes)
        found[name] = lab.loss(model)
        layers = activations(model, tuple(part.to(lab.run.device) for part in batch))
        sizes = [layer.square().mean().sqrt().item() for layer in layers]
        largest = max(layer.abs().max().item() for layer in layers)
        row = " ".join(f"{size:8.2f}" for size in sizes)
        lab.run.say(f"  {name:24} {found[name]:7.3f} nats   size by layer {row}   largest {largest:.1f}")
        if name in ("everything in place", "no norm", "3 times the rate"):
            left.plot(range(1, len(sizes) + 1), sizes, marker="o", label=name)
            values = layers[-2].cpu().numpy()
            right.hist(values, bins=120, range=(-8, 8), histtype="step", density=True, linewidth=1.6)
        if len(losses) < lab.config.steps:
            lab.run.say(f"    its loss was no number any more at update {len(losses)}")
    left.set(title="Size of what leaves each block", xlabel="block", ylabel="root mean square", yscale="log")
    left.set_yticks([0.1, 0.2, 0.5, 1, 2, 5], labels=["0.1", "0.2", "0.5", "1", "2", "5"], minor=False)
    left.minorticks_off()
    left.set_xticks(range(1, DEEP["n_layer"] + 2), [*map(str, range(1, DEEP["n_layer"] + 1)), "last norm"])
    right.set(title="What leaves the last block, from -8 to 8", xlabel="value", yscale="log",
              ylabel="density")
    plots.legend(left)
    lab.save(fig, "activations.png")
    return {f"loss, {name}": value for name, value in found.items() if value < float("inf")}


def half(lab: Lab) -> dict:
    """Gradients in float16: how many become zero, and what multiplying the loss first saves."""
    model, _ = lab.trained()
    CausalLM(model)(lab.batches()(0)).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    gradients, found = gradients[gradients != 0].abs(), {}
    for scale in (1, 2**8, 2**16):
        halves = (gradients * scale).half()
        poor = ((halves < SMALLEST) | halves.isinf()).float().mean().item()  # zero, or with fewer digits
        found[f"float16, loss times {scale}"] = poor
        zero = (halves == 0).float().mean().item()
        lab.run.say(
            f"  loss times {scale:6}: {zero:6.2%} of the gradients become zero, {poor:6.2%} lose digits"
        )
    zero = (gradients.bfloat16() == 0).float().mean().item()
    lab.run.say(f"  bfloat16 as it is: {zero:6.2%} become zero; it has float32's range, and fewer digits")
    return found


class CountsPadding(nn.Module):
    """CausalLM that asks for the padding as well, as if it were text."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        inputs, targets = batch
        return token_loss(
            self.model(inputs), targets.where(targets != IGNORE, self.model.config.vocab_size - 1)
        )


def padding(lab: Lab) -> dict:
    """Short pages, filled up with padding: what the loss says if the padding counts, and what was learned."""
    pad, T = lab.tokenizer.special["<|pad|>"], lab.context
    lines = [line for page in lab.pages for line in page.split("\n") if line]
    rows = [lab.tokenizer.encode(line)[: T + 1] for line in lines if len(line) > 8]
    table = torch.full((len(rows), T + 1), pad)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)

    def batch_at(step):
        draw = torch.Generator().manual_seed(step)
        part = table[torch.randint(len(table), (lab.rows,), generator=draw)].to(lab.run.device)
        return part[:, :-1], part[:, 1:].masked_fill(part[:, 1:] == pad, IGNORE)

    found = {}
    for name, objective in (("ignored", CausalLM), ("counted", CountsPadding)):
        model = lab.model()
        losses = fit(objective(model), batch_at, lab.settings())
        found[name] = (sum(losses[-20:]) / len(losses[-20:]), lab.loss(model))
        lab.run.say(f"  padding {name}: it reports {found[name][0]:.3f}, and on unseen pages it is "
                    f"{found[name][1]:.3f}")  # fmt: skip
    share = (table == pad).float().mean().item()
    lab.run.say(f"  {share:.0%} of the batch is padding, the easiest token there is")
    return {f"padding {name}, {what}": value for name, pair in found.items()
            for what, value in zip(("reported", "unseen"), pair, strict=True)}  # fmt: skip
