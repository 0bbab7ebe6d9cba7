"""Races at equal budgets: objectives on a common probe, optimisers tuned alike, and sizes."""

import math
import time

import torch

from common import plots
from common.device import peak_memory, reset_peak

from ._build import OPTIMIZERS
from ._lab import Lab, score, smooth
from .objectives import CausalLM, MaskedLM, PrefixLM, prefix_mask
from .scaling import fit as fit_law

RATES = {"adamw": (1e-3, 3e-3, 1e-2, 3e-2), "muon": (3e-3, 1e-2, 3e-2, 1e-1),
         "lion": (3e-4, 1e-3, 3e-3, 1e-2), "ademamix": (1e-3, 3e-3, 1e-2, 3e-2)}  # fmt: skip
WIDTHS = (16, 24, 32, 48, 64)  # to fit by
PREDICTED = 96


@torch.no_grad()
def last_token(lab: Lab, model, kind: str, mask_id: int) -> float:
    """Nats for the last token of unseen windows, given those before it: what every objective can answer.

    The causal model guesses it from the token before. The prefix model has all before it as its prefix. The
    masked one sees the windows with a hidden token in the last place. The same tokens, the same knowledge.
    """
    nats, count = 0.0, 0
    for inputs, targets in lab.windows():
        given, asked = inputs.to(lab.run.device), targets[:, -1].to(lab.run.device)  # (B, T), (B,)
        B, T = given.shape
        if kind == "masked":
            given = torch.cat((given[:, 1:], torch.full_like(asked, mask_id)[:, None]), dim=1)
        full = torch.full((B,), T, device=given.device)
        logits = model(given, mask=None if kind == "causal" else prefix_mask(full, T))[:, -1].float()
        nats += torch.nn.functional.cross_entropy(logits, asked, reduction="sum").item()
        count += B
    return nats / count


def objectives(lab: Lab) -> dict:
    """Causal, prefix and masked: each one's own loss, which cannot be compared, and one probe, which can."""
    mask_id = lab.tokenizer.special["<|pad|>"]
    kinds = {"causal": CausalLM, "prefix": PrefixLM, "masked": lambda model: MaskedLM(model, mask_id)}
    fig, ((ax,),) = plots.figure()
    found = {}
    for name, objective in kinds.items():
        model, losses = lab.trained(objective=objective)
        own, probed = sum(losses[-20:]) / len(losses[-20:]), last_token(lab, model.eval(), name, mask_id)
        found |= {f"own loss, {name}": own, f"probe, {name}": probed}
        ax.plot(smooth(losses), label=f"{name}: probe {probed:.2f}")
        lab.run.say(f"  {name:8} own loss {own:.3f}   next token of unseen text {probed:.3f} nats")
    ax.set(title="Three objectives, each in a unit of its own", xlabel="update", ylabel="own loss, nats")
    plots.legend(ax)
    lab.save(fig, "objectives.png")
    return found


def optimizers(lab: Lab) -> dict:
    """Four optimisers, the same model, text and number of updates; each may try four learning rates."""
    fig, ((ax,),) = plots.figure()
    found = {}
    for name, rates in RATES.items():
        tried = {}
        for rate in rates:
            runs = [
                lab.trained(seed, OPTIMIZERS[name], learning_rate=rate) for seed in range(lab.config.seeds)
            ]
            tried[rate] = (sum(lab.loss(model) for model, _ in runs) / len(runs), runs[0][1])
        best = min(tried, key=lambda rate: tried[rate][0])
        found[f"loss, {name}"], found[f"rate, {name}"] = tried[best][0], best
        ax.plot(smooth(tried[best][1]), label=f"{name} at {best:g}: {tried[best][0]:.3f}")
        edge = "" if best not in (rates[0], rates[-1]) else "   (the end of its row: try further)"
        row = "  ".join(f"{rate:g}: {loss:.3f}" for rate, (loss, _) in tried.items())
        lab.run.say(f"  {name:9} {row}{edge}")
    ax.set(
        title="Optimisers at equal budget, each at its best rate", xlabel="update", ylabel="nats per token"
    )
    plots.legend(ax)
    lab.save(fig, "optimizers.png")
    return found


def scaling(lab: Lab) -> dict:
    """Five widths: fit L(N) = E + A / N^α to them, predict a larger one, and train that too."""
    rows = {}
    for width in (*WIDTHS, PREDICTED):
        reset_peak(lab.run.device)
        began = time.perf_counter()
        model, losses = lab.trained(sizes={"d_model": width, "d_ff": 5 * width // 2})
        seconds = time.perf_counter() - began
        n, loss = sum(p.numel() for p in model.parameters()), lab.loss(model)
        grammar, _ = score(lab, model)
        rows[width] = (n, loss)
        speed, memory = len(losses) * lab.rows * lab.context / seconds, peak_memory(lab.run.device) / 1e9
        lab.run.say(f"  {n:9,} weights  {loss:.3f} nats  {speed:9,.0f} tokens/s  {seconds:5.1f} s  "
                    f"{memory:.2f} GB  grammar {grammar:.0%}")  # fmt: skip
    sizes, values = zip(*(rows[width] for width in WIDTHS), strict=True)
    law, (n, loss) = fit_law(sizes, values), rows[PREDICTED]
    formula = f"L(N) = {law.E:.3f} + {law.A:.3g} / N^{law.alpha:.3f}"
    lab.run.say(f"  {formula} predicts {float(law(n)):.3f} for {n:,} weights; trained, it has {loss:.3f}")
    fig, ((ax,),) = plots.figure()
    line = torch.logspace(math.log10(sizes[0]), math.log10(n), 50).numpy()
    ax.plot(line, law(line), color=plots.COLOURS[0], label="the law, fitted to the dots")
    ax.plot(sizes, values, "o", color=plots.COLOURS[0])
    ax.plot([n], [loss], "D", color=plots.COLOURS[1], markersize=8, label="not in the fit")
    ax.set(xscale="log", xlabel="weights", ylabel="nats per token, unseen", title="Loss against size")
    plots.legend(ax)
    lab.save(fig, "scaling.png")
    return {"predicted": float(law(n)), "trained": loss, "E": law.E, "alpha": law.alpha}
