"""What a teacher says, what a student makes of it, how near it comes, and what that is good for."""

import copy
import math

import numpy as np
import torch

from common import hub, plots
from common.cli import chain
from phase01_foundation.project03_pretrain import probe

from . import _draft
from ._answers import Answers
from .feature_kd import relation, relation_loss, sides, taps
from .logit_kd import Teacher, soft_loss, soften
from .multi_teacher import Teachers
from .on_policy import OnPolicy, reverse_loss


def shown(lab, id):
    """A token as it may stand in a picture."""
    text = lab.tokenizer.decode([id]).replace("\n", "¶").replace(" ", "␣").replace("$", "S")
    return "".join(letter if letter.isprintable() and letter != "\ufffd" else "·" for letter in text)


@torch.no_grad()
def soft(lab):
    """What the teacher says beside the one right answer, at three temperatures."""
    inputs, targets = lab.held[0]
    log_p = soften(lab.teacher(inputs), 1.0)  # (B, T, V)
    entropy = -(log_p.exp() * log_p).sum(-1).flatten()
    order = (entropy - 1.4).abs().argsort().tolist()  # places where there is something to choose
    chosen = [place for place in order if place % inputs.size(1) > 8][:3]
    fig, axes = plots.figure(1, 3, width=12, height=4)
    for ax, place in zip(axes[0], chosen, strict=True):
        b, t = divmod(place, inputs.size(1))
        best = log_p[b, t].topk(6).indices.tolist()
        for k, T in enumerate((1.0, 2.0, 4.0)):
            shares = soften(log_p[b, t], T).exp()[best].tolist()
            ax.barh([-i - 0.27 * (k - 1) for i in range(6)], shares, height=0.25, label=f"T {T:.0f}")
        ax.set_yticks([-i for i in range(6)], [shown(lab, i) for i in best])
        ax.grid(False, axis="y")
        before = lab.tokenizer.decode(inputs[b, max(0, t - 8) : t + 1].tolist()).replace("\n", "¶")
        ax.set_title(f"…{before[-34:]} [{shown(lab, targets[b, t].item())}]".replace("$", "S"), fontsize=10.5)
        ax.set(xlabel="share")
    plots.legend(axes[0][0], loc="lower right")
    lab.save(fig, "soft.png")
    lab.say(f"  on unseen text the teacher hesitates among {entropy.mean().exp():.2f} tokens, on average")
    return {"entropy": entropy.mean().item()}


def decomposition(lab):
    """The loss with a teacher has a floor that no student passes: the teacher's own entropy."""
    rows = []

    def watch(step, model):
        found = lab.beside(model)
        rows.append((step, found["loss"], found["kl"]))

    objective, every = lab.taught(lab.student()), max(1, lab.config.steps // 10)
    lab.distilled = lab.trained(objective, on_eval=watch, every=every)
    hardest = lab.beside(lab.teacher)["loss"]
    sums, N = 0.0, 0
    with torch.no_grad():
        for inputs, _ in lab.held:
            log_p = soften(lab.teacher(inputs), 1.0)
            sums, N = sums - (log_p.exp() * log_p).sum().item(), N + inputs.numel()
    entropy, (steps, hard, kl) = sums / N, np.array(rows).T
    fig, ((ax,),) = plots.figure()
    ax.stackplot(steps, [entropy] * len(steps), kl, colors=("#BFD7EA", "#F6D9C4"),
                 labels=("entropy of the teacher", "distance to the teacher"))  # fmt: skip
    ax.plot(steps, hard, color=plots.INK, linewidth=1.8, label="surprise at the true tokens")
    plots.level(ax, hardest, "the teacher's own surprise")
    top = 1.1 * max(hard[0], entropy + kl[0])
    ax.set(xlabel="update", ylabel="nats a token of unseen pages", ylim=(0, top))
    plots.legend(ax)
    lab.save(fig, "decomposition.png")
    lab.say(f"  entropy of the teacher {entropy:.3f}; distance {kl[0]:.3f} → {kl[-1]:.3f}; surprise at the "
            f"true tokens {hard[0]:.3f} → {hard[-1]:.3f}, the teacher's {hardest:.3f}")  # fmt: skip
    return {"entropy": entropy, "kl first": kl[0], "kl last": kl[-1], "hard last": hard[-1]}


TEMPERATURES = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)


def agreement(lab):
    """How much of their distributions teacher and student share, and how many of its guesses are kept."""
    sides = {"alone": lab.alone, "distilled": lab.distilled}
    asked = _draft.prompts(lab.tokenizer, lab.config.drafts, min(16, lab.config.context // 2))
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    bars, found = {}, {}
    for name, model in sides.items():
        shared = [lab.beside(model, T)["overlap"] for T in TEMPERATURES]
        same = lab.beside(model)["agreement"]
        (line,) = left.plot(TEMPERATURES, shared, "o-", label=f"{name}: shared")
        left.axhline(same, color=line.get_color(), linewidth=1.2, linestyle=":", label=f"{name}: same best")
        for T in (1.0, 0.0):
            draft = _draft.accepted(lab.teacher, model, asked, lab.config.new, temperature=T)
            bars.setdefault(f"drawn, T {T:.0f}" if T else "best token", {})[name] = draft["accepted"]
            found |= {f"{name}, accepted at {T:.0f}": draft["accepted"]}
        found |= {f"{name}, shared": shared[TEMPERATURES.index(1.0)], f"{name}, same": same}
    left.set_xscale("log")
    left.set_xticks(TEMPERATURES, [f"{T:g}" for T in TEMPERATURES])
    left.minorticks_off()
    left.set(xlabel="temperature of both", ylabel="share", title="On unseen pages")
    plots.legend(left)
    plots.bars(right, bars, label="{:.0%}")
    right.set(ylabel="guesses that the teacher keeps", title="As project 11's draft")
    plots.legend(right)
    lab.save(fig, "agreement.png")
    for name in sides:
        lab.say("  {}: {:.1%} shared at T 1, {:.1%} same best token; {:.1%} of drawn guesses kept".format(
            name, *(found[f"{name}, {key}"] for key in ("shared", "same", "accepted at 1"))))  # fmt: skip
    return found


def relations(lab):
    """Whose values are alike: by the teacher, by a student alone, and by one that was shown them."""
    tokens, heads = lab.held[0][0][:1, : min(32, lab.config.context)], lab.sizes.n_kv_head
    fig, axes = plots.figure(1, 3, width=12, height=4.8)
    models = {"teacher": lab.teacher, "student alone": lab.alone, "shown relations": lab.distilled}
    with torch.no_grad():
        maps = {name: relation(*sides(taps(model, tokens), "vv"), heads) for name, model in models.items()}
        theirs, far = maps["teacher"], {}
        for ax, (name, one) in zip(axes[0], maps.items(), strict=True):
            far[name] = relation_loss(one, theirs).item()
            title = f"{name}: {far[name]:.2f} nats away"
            plots.heatmap(ax, one[0, 0].exp().sqrt().cpu(), title=title, high=1.0)
            ax.set(xlabel="token looked at", xticks=[], yticks=[])
    axes[0][0].set_ylabel("token")
    lab.save(fig, "relations.png")
    for name, value in far.items():
        lab.say(f"  {name}: {value:.3f} nats a row from the teacher's")
    return far


def directions(lab):
    """A student of one hump, a teacher of two: what each direction makes of it."""
    places = torch.arange(81.0) / 2 - 20
    humps = [-0.5 * ((places - at) / 2) ** 2 + math.log(share) for at, share in ((8, 0.6), (-10, 0.4))]
    log_p = torch.logaddexp(*humps).log_softmax(-1)
    fig, ((ax,),) = plots.figure(width=8.5)
    ax.fill_between(places, log_p.exp(), color="#DDDDDD", linewidth=0, label="teacher")
    found = {}
    for name, loss in (("forward, KL(p ‖ q)", soft_loss), ("reverse, KL(q ‖ p)", reverse_loss)):
        centre, width = (torch.tensor(x, requires_grad=True) for x in (3.0, 1.5))
        optimizer = torch.optim.Adam([centre, width], lr=0.2)
        for _ in range(300):
            optimizer.zero_grad()
            loss((-0.5 * ((places - centre) / width.exp()) ** 2)[None], log_p[None], 1.0).backward()
            optimizer.step()
        shares = (-0.5 * ((places - centre) / width.exp()) ** 2).softmax(-1).detach()
        ax.plot(places, shares, label=name)
        found |= {f"{name}, centre": centre.item(), f"{name}, width": width.exp().item()}
    ax.set(xlabel="what is said", ylabel="share", yticks=[])
    plots.legend(ax)
    lab.save(fig, "directions.png")
    for name in ("forward, KL(p ‖ q)", "reverse, KL(q ‖ p)"):
        lab.say(f"  {name}: centre {found[f'{name}, centre']:.1f}, width {found[f'{name}, width']:.1f}")
    return found


@torch.no_grad()
def teachers(lab):
    """Two teachers, one of pages and one of answers: each alone, and what they say together."""
    folder = chain.find("sft", lab.config.second, say=lab.say)
    base, tuned = lab.teacher, hub.load(folder, device=lab.run.device)
    chats = Answers(lab.tokenizer, 1, lab.config.asked, lab.run.device).padded(lab.config.context)
    pages, bars = lab.held[0], {}
    ways = {"of pages": Teacher(base), "of answers": Teacher(tuned),
            "mean": Teachers([base, tuned]), "mean of ln": Teachers([base, tuned], "geometric"),
            "by confidence": Teachers([base, tuned], "arithmetic", "confidence")}  # fmt: skip
    for text, (inputs, targets) in {"pages": pages, "answers": chats[:2]}.items():
        keep = targets != -100
        for name, teacher in ways.items():
            log_p = teacher.read(inputs, 1.0, keep)(slice(None))  # (N, V)
            bars.setdefault(text, {})[name] = -log_p.gather(1, targets[keep][:, None]).mean().item()
    fig, ((ax,),) = plots.figure(width=9.0)
    plots.bars(ax, bars, label="{:.2f}")
    ax.set(ylabel="nats a token")
    plots.legend(ax)
    lab.save(fig, "teachers.png")
    for text, row in bars.items():
        lab.say(f"  {text}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    return {f"{text}, {name}": value for text, row in bars.items() for name, value in row.items()}


def policy(lab):
    """After distillation, some more updates: on pages as before, or on texts of the student's own."""
    config, few = lab.config, max(1, lab.config.steps // 4)
    rate, start = config.learning_rate / 10, max(1, config.context // 4)
    lesson = OnPolicy(copy.deepcopy(lab.distilled), Teacher(lab.teacher), config.new)
    models = {"before": lab.distilled,
              "more pages": lab.trained(lab.kd(copy.deepcopy(lab.distilled)), steps=few, learning_rate=rate),
              "own texts": lab.trained(lesson, steps=few, learning_rate=rate,
                                       batches=lambda plan: lab.town.prompts(plan, start))}  # fmt: skip
    prompts, found = lab.held[0][0][:, :start], {}
    for name, model in models.items():
        torch.manual_seed(0)
        judge = OnPolicy(model, Teacher(lab.teacher), config.new)
        with torch.no_grad():
            own = judge(prompts).item()
        found[name] = {"on its own texts, reverse": own, "pages, forward": lab.beside(model)["kl"]}
    fig, ((ax,),) = plots.figure(width=8.0)
    groups = {key: {name: row[key] for name, row in found.items()} for key in found["before"]}
    plots.bars(ax, groups, label="{:.2f}")
    ax.set(ylabel="distance to the teacher, nats a token")
    plots.legend(ax)
    lab.save(fig, "policy.png")
    for name, row in found.items():
        lab.say(f"  {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
        text = probe.write(models[name], lab.tokenizer, max_tokens=min(24, config.context // 2), seed=1)
        lab.say(f"    writes: {' '.join(text.split())}")
    return {f"{name}, {key}": value for name, row in found.items() for key, value in row.items()}
