"""The factor T² left out, a teacher of another tokenizer, and teachers that are not worth listening to."""

import torch
from torch import nn

from common import plots
from phase01_foundation.project03_pretrain.objectives import CausalLM

from .logit_kd import LogitKD, Teacher

TEMPERATURES = (1, 2, 4, 8, 16)


def slope(objective, batch):
    """The length of the gradient of all weights."""
    gradients = torch.autograd.grad(objective(batch), list(objective.model.parameters()))
    return torch.stack([g.square().sum() for g in gradients]).sum().sqrt().item()


def factor(lab):
    """Without the factor T² the teacher falls silent as the temperature rises."""
    batch, teacher = lab.town.batches(lab.plan)(0), Teacher(lab.teacher)
    hard = slope(LogitKD(lab.alone, teacher, 1.0, 0.0), batch)
    soft = [slope(LogitKD(lab.alone, teacher, float(T), 1.0), batch) for T in TEMPERATURES]
    alpha, lines = lab.config.alpha, {"with T²": soft}
    lines["without"] = [value / T**2 for value, T in zip(soft, TEMPERATURES, strict=True)]
    fig, ((ax,),) = plots.figure()
    found = {}
    for name, values in lines.items():
        shares = [alpha * value / (alpha * value + (1 - alpha) * hard) for value in values]
        ax.plot(TEMPERATURES, shares, "o-", label=name)
        at = dict(zip(TEMPERATURES, shares, strict=True))
        found |= {f"{name}, {T}": share for T, share in at.items()}
        lab.say(f"  {name}: " + ", ".join(f"T {T} {share:.1%}" for T, share in at.items()))
    ax.set_xscale("log", base=2)
    ax.set_xticks(TEMPERATURES, TEMPERATURES)
    plots.level(ax, alpha, f"alpha {alpha:g}: what was asked for")
    ax.set(xlabel="temperature", ylabel="the teacher's share of the gradient", ylim=(0, 1.08))
    plots.legend(ax, loc="lower left")
    lab.save(fig, "factor.png")
    return found


class Foreign(Teacher):
    """The same model behind another tokenizer: as many ids, other meanings."""

    def read(self, tokens, T, keep, **where):
        log_p = super().read(tokens, T, keep, **where)
        draw = torch.Generator().manual_seed(0)
        other = torch.randperm(self.model.config.vocab_size, generator=draw).to(tokens.device)
        return lambda rows: log_p(rows)[:, other]


class Louder(nn.Module):
    """A model that is surer than it has reason to be: every logit times four."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def hidden(self, tokens, **where):
        return self.model.hidden(tokens, **where)

    def head(self, x):
        return 4 * self.model.head(x)


def compared(lab, models, name):
    """A picture of the losses of these students on unseen pages."""
    found = {label: lab.beside(model)["loss"] for label, model in models.items()}
    fig, ((ax,),) = plots.figure(width=8.0, height=3.8)
    colours = [plots.COLOURS[6], plots.COLOURS[0], *[plots.COLOURS[1]] * (len(found) - 2)]
    drawn = ax.barh([-i for i in range(len(found))], list(found.values()), color=colours, height=0.6)
    ax.bar_label(drawn, [f"{value:.3f}" for value in found.values()], padding=4, fontsize=11, color=plots.INK)
    ax.set_yticks([-i for i in range(len(found))], list(found))
    ax.grid(False, axis="y")
    ax.set(xlabel="nats a token of unseen pages", xlim=(0, 1.12 * max(found.values())))
    lab.save(fig, name)
    for label, value in found.items():
        lab.say(f"  {label}: {value:.4f} nats")
    return found


def tokenizers(lab):
    """A teacher of another tokenizer, taken for one of the same: its shares stand at the wrong words."""
    foreign = lab.trained(lab.kd(lab.student(), Foreign(lab.teacher)))
    models = {"alone": lab.alone, "by logits": lab.by_logits, "from another tokenizer": foreign}
    return compared(lab, models, "tokenizers.png")


def teacher(lab):
    """A teacher that knows less than its student will, and one that is too sure."""
    poor = lab.trained(CausalLM(lab.student()), steps=max(1, lab.config.steps // 4))
    lab.say(f"  the poor teacher by itself: {lab.beside(poor)['loss']:.4f} nats")
    bad = {"from a poor teacher": poor, "from one too sure": Louder(lab.teacher)}
    models = {"alone": lab.alone, "by logits": lab.by_logits}
    models |= {name: lab.trained(lab.kd(lab.student(), Teacher(model))) for name, model in bad.items()}
    return compared(lab, models, "teacher.png")
