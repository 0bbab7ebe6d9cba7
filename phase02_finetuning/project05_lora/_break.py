"""Three mistakes with LoRA, each of which leaves a model that runs and is wrong."""

import copy

from torch import nn

from . import lora, nf4
from ._see import Lab


def rough(model):
    """B random as well: before the first update, every matrix is already another one."""
    for layer in lora.adapters(model).values():
        nn.init.kaiming_uniform_(layer.B, a=5**0.5)
    return model


def start(lab: Lab) -> dict:
    """B begins random instead of at zero: the model is damaged first, and then has to be repaired."""
    dress, rate = lab.adapters(lab.config.ranks[-1]), lab.tuned[1]
    found = {"base": lab.loss(lab.base)}
    for name, make in (("B at zero", dress), ("B random", lambda model: rough(dress(model)))):
        found[f"{name}, before training"] = lab.loss(make(copy.deepcopy(lab.base)))
        model, _ = lab.fit(make, rate)
        found[f"{name}, after"] = lab.loss(model)
        lab.run.say(f"  {name}: {found[f'{name}, before training']:.4f} nats before the first update, "
                    f"{found[f'{name}, after']:.4f} after the last")  # fmt: skip
    return found


def scale(lab: Lab) -> dict:
    """A trained adapter used with another scale than it was trained with: alpha forgotten, or not divided."""
    loss, _, model = lab.tuned
    r = next(iter(lora.adapters(model).values())).config.r
    found = {"as trained": loss}
    lab.run.say(f"  as trained, alpha / r = 2: {loss:.4f} nats")
    for name, factor in (("alpha forgotten (scale 1)", 0.5), (f"alpha not divided (scale {2 * r})", r)):
        other = copy.deepcopy(model)
        for layer in lora.adapters(other).values():
            layer.scale *= factor
        found[name] = lab.loss(other)
        lab.run.say(f"  {name}: {found[name]:.4f} nats; the base alone: {lab.loss(lab.base):.4f}")
    return found


def lost(layer) -> float:
    """How far codes of W + B A are from it, over the size of B A: 1 is as wrong as leaving B A out."""
    delta = layer.delta()
    change = nf4.NF4Linear(layer.merged()).weight - layer.base.weight
    return ((change - delta).norm() / delta.norm()).item()


def merge(lab: Lab) -> dict:
    """An adapter over 4-bit matrices, merged and rounded to 4 bits again: a small change is rounded away."""

    def dress(model):
        r = lab.config.ranks[len(lab.config.ranks) // 2]
        return lora.apply(nf4.apply(model), lora.LoRAConfig(r, 2.0 * r), kind=nf4.NF4Linear)

    found = {"4-bit base alone": lab.loss(nf4.apply(copy.deepcopy(lab.base)))}
    lab.run.say(f"  4-bit base alone: {found['4-bit base alone']:.4f} nats")
    for name, rate in (("gentle", lab.tuned[1] / 30), ("strong", lab.tuned[1])):
        model, _ = lab.fit(dress, rate)
        layers = lora.adapters(model).values()
        size = sum((layer.delta().norm() / layer.base.weight.norm()).item() for layer in layers) / len(layers)
        plain = lora.merge(copy.deepcopy(model))
        found |= {f"{name}, change over matrix": size, f"{name}, beside the codes": lab.loss(model),
                  f"{name}, merged in float32": lab.loss(plain),
                  f"{name}, merged into codes": lab.loss(nf4.apply(plain)),
                  f"{name}, error over change": sum(map(lost, layers)) / len(layers)}  # fmt: skip
        size, beside, whole, codes, error = (found[key] for key in list(found)[-5:])
        lab.run.say(f"  {name}, B A is {size:.1%} of W: {beside:.4f} nats; merged in float32 {whole:.4f}, "
                    f"into codes {codes:.4f}; rounding changes it by {error:.0%} of B A")  # fmt: skip
    return found
